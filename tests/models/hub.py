"""A hub with the real one's API: the paged listing of a repository's files, and their addresses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.models.files import sha256
from tests.models.site import Served, Site


@dataclass
class Hub:
    """`files` of repositories; `site` answers as the hub does, `network` holds the contents."""

    site: Site
    network: Site
    page: int = 2  # rows
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str = ""

    def add(self, repository: str, files: dict[str, bytes]) -> None:
        self.repositories[repository] = files
        listing = f"/api/models/{repository}/tree/main"
        self.site.dynamic = self._answer
        for path, data in files.items():
            at = f"/{repository}/resolve/main/{path}"
            digest = sha256(data)
            self.network.served[f"/{digest}"] = Served(data)
            self.site.served[at] = Served(
                redirect=f"{self.network.url}/{digest}?X-Amz-Signature=1",
                token=self.token,
                headers={"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{digest}"'},
            )
        assert listing not in self.site.served

    def _answer(self, target: str) -> Served | None:
        parts = urlsplit(target)
        repository = parts.path.removeprefix("/api/models/").removesuffix("/tree/main")
        if repository not in self.repositories:
            missing = {"X-Error-Message": "Repository not found", "X-Error-Code": "RepoNotFound"}
            return Served(statuses=[(401, missing)])
        rows = [_row(path, data) for path, data in sorted(self.repositories[repository].items())]
        start = int(parse_qs(parts.query).get("cursor", ["0"])[0])
        headers = {"Content-Type": "application/json"}
        if start + self.page < len(rows):
            following = f"{self.site.url}{parts.path}?recursive=true&cursor={start + self.page}"
            headers["Link"] = f'<{following}>; rel="next"'
        return Served(json.dumps(rows[start : start + self.page]).encode(), headers=headers, token=self.token)


def _row(path: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    row: dict[str, Any] = {"type": "file", "oid": oid, "size": len(data), "path": path}
    if path.endswith((".gguf", ".safetensors", ".onnx", ".onnx_data")):
        row |= {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}, "xetHash": "1" * 64}
    return row
