"""`autoglm` as a user runs it: a process of its own, whose settings are its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

AUTOGLM = Path(sys.executable).with_name("autoglm")


def run(*arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AUTOGLM_")}
    environment = inherited | {"AUTOGLM_CONFIG": os.devnull} | settings
    return subprocess.run(
        [AUTOGLM, *arguments],
        check=False,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
    )
