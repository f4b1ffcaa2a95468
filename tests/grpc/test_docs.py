"""docs/inference-protocol.md: what it shows is run as it stands, but for the ports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.grpc.conftest import address
from tests.support.agent import Agent

DOCS = (Path(__file__).parents[2] / "docs" / "inference-protocol.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)


def told(agent: Agent, text: str) -> str:
    return text.replace("127.0.0.1:8081", address(agent)).replace("127.0.0.1:8080", f"127.0.0.1:{agent.port}")


def test_the_python_code_does_what_is_said(grpc_agent: Agent) -> None:
    code = told(grpc_agent, "".join(text for kind, text in BLOCKS if kind == "python"))
    lines = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).splitlines()
    assert lines[:6] == ["(1, 214)", "0", "1", "2", "(1, 214)", "4"]
    assert int(lines[6]) >= 5


def test_the_curl_commands_do_what_is_said(grpc_agent: Agent) -> None:
    (commands,) = (text for kind, text in BLOCKS if kind == "sh" and "curl" in text)
    shell = ["sh", "-ec", told(grpc_agent, commands)]
    answer = subprocess.check_output(shell, text=True, timeout=60, stderr=subprocess.DEVNULL)
    assert '"name":"magika"' in answer
    assert '"shape":[1,214]' in answer
