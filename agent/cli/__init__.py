"""The `autoglm` command. Modules load what they need when a command runs: `--help` is there at once."""

from agent.cli.app import main

__all__ = ["main"]
