"""A node's side of the controller's interface, by hand: an identity and what it sends."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import zstandard

from cloud_sync import identity
from tests.support.controller import Controller

DATABASE = "a0b1c2d3e4f5"


class Member:
    """A node that no agent runs."""

    def __init__(self, controller: Controller, folder: Path, name: str, **labels: str) -> None:
        self.name, self._number = name, 0
        key = identity.new_key()
        asked = {
            "token": controller.token(**labels),
            "csr": identity.request(key, name).decode(),
            "name": name,
        }
        with controller.client(role=None) as client:
            answer = client.post("/api/v1/join", json=asked)
        assert answer.status_code == 201, answer.text
        pem = folder / f"{name}.pem"
        pem.write_bytes(key + answer.json()["certificate"].encode())
        self.client: httpx.Client = controller.client(pem, role=None)

    def report(self, **fields: Any) -> None:
        self._number += 1
        body = {"boot": "boot-one", "number": self._number, "version": "0.1.0", **fields}
        answer = self.client.post("/api/v1/node/report", json=body)
        assert answer.status_code == 200, answer.text

    def send(self, database: str = DATABASE, sent_at: float | None = None, **streams: Any) -> dict[str, int]:
        """What is there after it, by stream."""
        body = {"database": database, "sent_at": sent_at or time.time(), "streams": streams}
        answer = self.post(json.dumps(body).encode())
        assert answer.status_code == 200, answer.text
        received: dict[str, int] = answer.json()["received"]
        return received

    def post(self, body: bytes, encoding: str = "zstd") -> httpx.Response:
        """Compressed here, if that is the encoding."""
        if encoding == "zstd":
            body = zstandard.compress(body)
        return self.post_as_it_is(body, encoding)

    def post_as_it_is(self, body: bytes, encoding: str) -> httpx.Response:
        headers = {"content-type": "application/json"}
        if encoding:
            headers["content-encoding"] = encoding
        return self.client.post("/api/v1/node/telemetry", content=body, headers=headers)


def event(seq: int, kind: str = "model.loaded", at: float | None = None, **body: Any) -> dict[str, Any]:
    return {"seq": seq, "at": time.time() if at is None else at, "kind": kind, "body": body}


def gap(first: int, seq: int, **body: Any) -> dict[str, Any]:
    return {**event(seq, "gap", **body), "first": first}


def minute(seq: int, at: float, **series: Any) -> dict[str, Any]:
    """Of each series: count, sum, min, max, last."""
    return event(seq, "minute", at, period_s=60, series=series)
