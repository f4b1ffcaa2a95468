"""Which nodes a layer of settings is for: all, those with some labels, or one by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from cloud_sync.controller.errors import Invalid
from cloud_sync.messages import LABEL, NAME

ALL = "all"


class Selector(NamedTuple):
    """`node`: that one alone; else all nodes that have these `labels`."""

    labels: tuple[tuple[str, str], ...] = ()
    node: str | None = None

    @classmethod
    def parse(cls, text: str) -> Selector:
        """`all`, `key=value,key=value`, or `node:NAME`. Invalid."""
        if text == ALL:
            return cls()
        if text.startswith("node:"):
            if not re.fullmatch(NAME, name := text.removeprefix("node:")):
                raise Invalid("bad_selector", f"{name!r} is no node's name")
            return cls(node=name)
        pairs = [one.partition("=") for one in text.split(",")]
        if any(not re.fullmatch(LABEL, key) or not re.fullmatch(LABEL, value) for key, _, value in pairs):
            raise Invalid("bad_selector", f"{text!r} is neither `all`, `key=value,...` nor `node:NAME`")
        labels = {key: value for key, _, value in pairs}
        if len(labels) < len(pairs):
            raise Invalid("bad_selector", f"{text!r} names a label twice")
        return cls(tuple(sorted(labels.items())))

    def __str__(self) -> str:
        if self.node is not None:
            return f"node:{self.node}"
        return ",".join(f"{key}={value}" for key, value in self.labels) or ALL

    def meets(self, name: str, labels: Mapping[str, str]) -> bool:
        if self.node is not None:
            return self.node == name
        return all(labels.get(key) == value for key, value in self.labels)

    @property
    def rank(self) -> tuple[bool, int, str]:
        """Layers lie in this order, the lowest first: all, groups by how much they ask, the node's own."""
        return (self.node is not None, len(self.labels), str(self))
