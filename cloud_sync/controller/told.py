"""What one node is told, and which layer each of its settings comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select

from cloud_sync.controller import desired
from cloud_sync.controller.joining import no_such_node
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.tables import Node
from cloud_sync.messages import Item


class Setting(BaseModel):
    path: list[str]
    value: Any
    source: str
    """The layer's selector."""
    state: str
    """What the node said became of it; empty: it has said nothing of it yet."""
    reason: str


class Told(BaseModel):
    generation: int
    observed_generation: int
    settings: dict[str, Any]
    """The document, as the layers give it."""
    sources: list[Setting]
    """Each of its values."""


async def told(store: Store, name: str) -> Told:
    """NotFound."""
    async with store.read() as session:
        node = await session.scalar(select(Node).where(Node.name == name, Node.state != "gone"))
        layers = await desired.layers(session)
    if node is None:
        raise no_such_node(name)
    mine = [(str(one), settings) for one, settings in layers if one.meets(node.name, node.labels)]
    items = {key: Item.model_validate(item) for key, item in node.reported.get("items", {}).items()}
    return Told(
        generation=node.generation,
        observed_generation=node.observed_generation,
        settings=node.desired,
        sources=[_setting(path, value, mine, items) for path, value in _values(node.desired)],
    )


def _setting(
    path: tuple[str, ...], value: Any, layers: list[tuple[str, dict[str, Any]]], items: dict[str, Item]
) -> Setting:
    source = next((selector for selector, settings in reversed(layers) if _has(settings, path)), "")
    says = next((items[name] for name in _names(path) if name in items), Item(state=""))
    return Setting(path=list(path), value=value, source=source, state=says.state, reason=says.reason)


def _values(settings: dict[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in sorted(settings.items()):
        if isinstance(value, dict):
            yield from _values(value, *above, name)
        else:
            yield (*above, name), value


def _has(settings: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(settings, dict) or name not in settings:
            return False
        settings = settings[name]
    return True


def _names(path: tuple[str, ...]) -> Iterator[str]:
    """Under which a node may tell of it, the nearest first."""
    for length in range(len(path), 0, -1):
        yield ".".join(path[:length])
