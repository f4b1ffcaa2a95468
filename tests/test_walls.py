"""The design's walls: who may import what. Read from the source: an import inside a function counts too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("agent", "cloud_sync", "models")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# Where a third-party library may be imported. One that is not listed may be imported nowhere.
HOMES: dict[str, tuple[str, ...]] = {
    "alembic": ("cloud_sync/controller/store/",),
    "argon2": ("cloud_sync/controller/passwords.py",),
    "asyncpg": ("cloud_sync/controller/hints.py",),
    "cryptography": (
        "cloud_sync/identity.py",
        "cloud_sync/controller/tokens.py",
        "cloud_sync/controller/answers.py",
    ),
    "fastapi": ("agent/doors/http/", "cloud_sync/controller/"),
    "fastapi_offline": ("agent/doors/http/schema.py", "cloud_sync/controller/app.py"),
    "starlette": ("agent/doors/http/", "cloud_sync/controller/"),
    "uvicorn": ("agent/doors/http/", "cloud_sync/controller/wire.py"),
    "google": ("agent/doors/grpc/",),
    "grpc": ("agent/doors/grpc/",),
    "grpc_health": ("agent/doors/grpc/",),
    "grpc_reflection": ("agent/doors/grpc/",),
    "httptools": ("agent/doors/http/",),
    "httpx": (
        "models/sources/",
        "agent/cli/node.py",
        "agent/cli/cloud/",
        "agent/engines/upstream.py",
        "cloud_sync/issuer.py",
        "cloud_sync/transports/",
        "cloud_sync/controller/notices/",
    ),
    "httpx_sse": ("cloud_sync/transports/",),
    "iotcore": ("agent/doors/mqtt/broker.py",),
    "jinja2": ("agent/templates.py",),
    "jwt": ("cloud_sync/controller/tokens.py", "cloud_sync/issuer.py"),
    "llama_cpp": ("agent/engines/llama",),
    "msgspec": ("agent/frames.py", "agent/doors/inference_protocol/", "agent/engines/"),
    "numpy": ("agent/engines/",),
    "onnxruntime": ("agent/engines/onnx.py", "agent/engines/int8.py"),
    "paho": (
        "agent/doors/mqtt/",
        "agent/cli/publish.py",
        "cloud_sync/controller/notices/",
        "cloud_sync/tunnel/broker.py",
    ),
    "prometheus_client": ("agent/telemetry.py", "cloud_sync/controller/telemetry/"),
    "PIL": ("agent/engines/image_classification.py",),
    "pydantic": (
        "agent/canaries.py",
        "agent/config",
        "agent/model_settings.py",
        "agent/doors/",
        "agent/engines/pipelines.py",
        "agent/cli/",
        "cloud_sync/",
        "models/",
    ),
    "pydantic_core": ("agent/doors/openai/",),
    "pydantic_settings": ("agent/config", "cloud_sync/controller/config.py"),
    "pynvml": ("agent/gpu.py",),
    "re2": ("cloud_sync/telemetry/redaction.py",),
    "rich": ("agent/cli/screen.py",),
    "sqlalchemy": ("cloud_sync/controller/",),
    "sqlite_utils": ("cloud_sync/",),
    "structlog": ("agent/", "cloud_sync/", "models/"),
    "tokenizers": ("agent/engines/text_embedding.py",),
    "typer": ("agent/cli/app.py", "agent/cli/cloud/commands.py", "agent/cli/cloud/account_commands.py"),
    "zstandard": (
        "cloud_sync/telemetry/drain.py",
        "cloud_sync/controller/telemetry/bodies.py",
    ),
    "uvloop": ("agent/cli/serve.py", "agent/cli/cloud/serve.py"),
}
DOES_IO = {
    "asyncio",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "select",
    "signal",
    "socket",
    "sqlite3",
} | {
    "ssl",
    "subprocess",
    "threading",
    "time",
    "urllib",
}


def imports(path: Path) -> Iterator[str]:
    """The full dotted names of all that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{each.name}" for each in node.names)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize(
    ("room", "never"),
    [("models", {"agent", "cloud_sync", "openautoglm"}), ("cloud_sync", {"agent", "openautoglm"})],
)
def test_imports_go_from_agent_to_cloud_sync_to_models_and_never_back(room: str, never: set[str]) -> None:
    wrong = [
        f"{name(path)} imports {each}"
        for path in (ROOT / room).rglob("*.py")
        for each in imports(path)
        if top(each) in never
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name)
def test_each_third_party_library_is_imported_in_its_home_alone(path: Path) -> None:
    known = {*ROOMS, *sys.stdlib_module_names}
    wrong = {
        each
        for each in imports(path)
        if top(each) not in known and not name(path).startswith(HOMES.get(top(each), ()))
    }
    assert not wrong, "give it its home, or add the new one to HOMES if it is natural"


def test_the_controller_runs_on_a_machine_without_the_agent() -> None:
    beside = ("cloud_sync.controller", "cloud_sync.messages", "cloud_sync.settings", "cloud_sync.identity")
    files = (
        "cloud_sync.backoff",
        "cloud_sync.issuer",
        "cloud_sync.join_token",
        "cloud_sync.tunnel",
        "cloud_sync.__version__",
        "models",
    )
    wrong = [
        f"{name(path)} imports {each}"
        for path in (ROOT / "cloud_sync/controller").rglob("*.py")
        for each in imports(path)
        if top(each) in ROOMS and not each.startswith((*beside, *files))
    ]
    assert not wrong


def test_only_a_worker_loads_the_native_engine() -> None:
    importers = {
        name(path) for path in FILES for each in imports(path) if each.startswith("agent.engines.llama")
    }
    assert importers <= {"agent/engines/llama.py", "agent/engines/llama_embed.py"}, (
        "Workers find Engines by their entry points"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "agent/doors").glob("*.py")), ids=name)
def test_a_door_never_touches_a_worker(path: Path) -> None:
    inner = (
        "agent.worker",
        "agent.supervisor",
        "agent.scheduler",
        "agent.slots",
        "agent.frames",
        "agent.engines",
    )
    assert not [each for each in imports(path) if each.startswith(inner)]


def test_only_remote_engines_have_a_way_to_the_network() -> None:
    importers = {
        name(path) for path in FILES for each in imports(path) if each.startswith("agent.engines.upstream")
    }
    assert importers == {"agent/engines/remote_openai.py", "agent/engines/remote_triton.py"}


@pytest.mark.parametrize(
    "file",
    [
        "agent/worker.py",
        "agent/tensor_worker.py",
        "agent/remote_worker.py",
        "agent/scheduler.py",
        "agent/slots.py",
        "agent/engines/llama.py",
        "agent/engines/onnx.py",
    ],
)
def test_a_worker_touches_neither_the_database_nor_the_network(file: str) -> None:
    never = {"sqlite3", "sqlite_utils", "cloud_sync", "httpx", "urllib", "http", "paho", "ssl"}
    assert not {top(each) for each in imports(ROOT / file)} & never


@pytest.mark.parametrize("file", ["agent/scheduler.py", "cloud_sync/twin.py"])
def test_what_decides_does_no_io_and_is_handed_the_clock(file: str) -> None:
    assert not {top(each) for each in imports(ROOT / file)} & DOES_IO


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_is_longer_than_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
