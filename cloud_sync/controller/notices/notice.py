"""What a receiver is told of an event."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloud_sync.controller.store.telemetry_tables import FleetEvent


class NotDelivered(Exception):
    """The receiver is away, or would not have it: it is tried again."""


@dataclass(frozen=True, slots=True)
class Notice:
    id: str
    """The same when it is delivered again, and of no other event even after a backup was restored."""
    node: str | None
    body: bytes
    """JSON: id, type, timestamp, node, data."""

    @classmethod
    def of(cls, event: FleetEvent) -> Notice:
        id = f"{event.id}-{round(event.at * 1e6):x}"
        told: dict[str, Any] = {
            "id": id,
            "type": event.kind,
            "timestamp": datetime.fromtimestamp(event.at, UTC).isoformat(),
            "node": event.node,
            "data": event.body,
        }
        return cls(id, event.node, json.dumps(told).encode())
