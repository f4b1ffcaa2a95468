"""The topics of tunnels."""

from __future__ import annotations

PREFIX = "autoglm/cloud/v1"
COPY_GONE = f"{PREFIX}/gone"
OPENINGS = f"$share/controllers/{PREFIX}/+/up"
NODES_GONE = f"{PREFIX}/+/gone"


def up(node: str, copy: str = "") -> str:
    return f"{PREFIX}/{node}/up/{copy}".rstrip("/")


def down(node: str) -> str:
    return f"{PREFIX}/{node}/down"


def gone(node: str) -> str:
    return f"{PREFIX}/{node}/gone"


def node_of(topic: str) -> str:
    """Of one of a node's topics."""
    return topic.removeprefix(f"{PREFIX}/").partition("/")[0]
