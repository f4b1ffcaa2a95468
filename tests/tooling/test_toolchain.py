"""Which compiler builds the engine: GCC 12 must never meet AMX. Scripts that say who they are stand in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "toolchain.sh"
TOOLS = ("bash", "cut", "grep", "head", "mktemp", "rm")
CHOOSE = f"""
can_install() {{ return 1; }}
as_root() {{ printf 'sudo '; }}
die() {{ echo "$*" >&2; exit 1; }}
. {SCRIPT}
choose_toolchain && echo "$CC;$CXX;$ENGINE_FLAGS;$TOOLCHAIN"
"""


def choose(tmp_path: Path, *, amx: bool, **compilers: str) -> subprocess.CompletedProcess[str]:
    """`gcc="12.2.0"` puts a gcc and a g++ of that version on PATH, and nothing else that compiles."""
    for tool in TOOLS:
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    for name, version in compilers.items():
        family = name.split("_")[0]
        for each in (family, {"gcc": "g++", "clang": "clang++"}[family]):
            path = tmp_path / name.replace(family, each).replace("_", "-")
            path.write_text(
                f'#!/bin/bash\n[ "$1" = -dumpversion ] && echo {version} || echo {family} version {version}\n'
            )
            path.chmod(0o755)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags : sse2 avx2 {'amx_tile amx_int8' if amx else ''}\n")
    environment = {"PATH": str(tmp_path), "CPUINFO": str(cpuinfo)}
    return subprocess.run(
        ["bash", "-c", CHOOSE], check=False, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("amx", [True, False])
def test_a_new_enough_clang_is_preferred(tmp_path: Path, amx: bool) -> None:
    told = choose(tmp_path, amx=amx, clang_16="16.0.6", gcc="13.2.0").stdout
    assert told == "clang-16;clang++-16;;clang version 16.0.6\n"


def test_an_old_clang_is_passed_over(tmp_path: Path) -> None:
    assert choose(tmp_path, amx=True, clang="14.0.6", gcc="13.2.0").stdout.startswith("gcc;g++;;")


def test_gcc_12_leaves_amx_out_and_says_what_it_costs(tmp_path: Path) -> None:
    _, _, flags, told = choose(tmp_path, amx=True, gcc="12.2.0").stdout.split(";")
    assert "-U__AMX_INT8__" in flags
    assert "half" in told


def test_gcc_12_costs_nothing_where_there_is_no_amx(tmp_path: Path) -> None:
    assert "half" not in choose(tmp_path, amx=False, gcc="12.2.0").stdout


def test_without_a_compiler_the_command_to_get_one_is_told(tmp_path: Path) -> None:
    told = choose(tmp_path, amx=True)
    assert told.returncode == 1
    assert "sudo apt-get install clang-16 libomp-16-dev" in told.stderr
