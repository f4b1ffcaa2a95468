"""Real controllers in processes of their own, as `autoglm cloud serve` starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from cloud_sync.controller import tokens
from cloud_sync.controller.store import open_store
from cloud_sync.transports.https import pinned
from tests.support.agent import free_port

AUTOGLM = str(Path(sys.executable).with_name("autoglm"))


@dataclass
class Controller:
    """A controller's process. `environment` holds AUTOGLM_CLOUD_* settings."""

    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        scheme = "http" if self.environment.get("AUTOGLM_CLOUD_TLS") == "false" else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.data_dir / "log").read_text(errors="replace")

    @property
    def variables(self) -> dict[str, str]:
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("AUTOGLM_")},
            "AUTOGLM_CLOUD_DATA_DIR": str(self.data_dir),
            "AUTOGLM_CLOUD_HOST": "127.0.0.1",
            "AUTOGLM_CLOUD_PORT": str(self.port),
            "XDG_CONFIG_HOME": str(self.data_dir / "config"),  # nobody is logged in
            **self.environment,
        }

    def start(self) -> Controller:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [AUTOGLM, "cloud", "serve"],
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert self.process.poll() is None, f"the controller ended:\n{self.log[-4000:]}"
            if (self.data_dir / "ca.pem").exists():
                try:
                    with self.client() as client:
                        if client.get("/healthz").status_code == 200:
                            return self
                except httpx.HTTPError:
                    pass
            time.sleep(0.05)
        raise AssertionError(f"the controller does not answer:\n{self.log[-4000:]}")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def client(
        self, identity: Path | None = None, role: tokens.Role | None = "admin", subject: str = "test"
    ) -> httpx.Client:
        """As an operator of that role, or as the node of that identity; None and None: as nobody."""
        headers = {}
        if identity is None and role is not None:
            key = (self.data_dir / "signing.key").read_bytes()
            headers["authorization"] = f"Bearer {tokens.sign(key, subject, role, time.time())}"
        verify = pinned((self.data_dir / "ca.pem").read_text(), identity)
        return httpx.Client(base_url=self.url, headers=headers, verify=verify, timeout=30, trust_env=False)

    def run(self, *arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`autoglm cloud ...` on the controller's machine."""
        done = subprocess.run(
            [AUTOGLM, "cloud", *arguments],
            env=self.variables,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def token(self, **labels: str) -> str:
        with self.client() as client:
            answer = client.post("/api/v1/tokens", json={"labels": labels})
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token

    def join(self, data_dir: Path, name: str, **labels: str) -> None:
        """`autoglm join` on a machine whose agent has this data folder."""
        done = self.try_to_join(data_dir, name, self.token(**labels))
        assert done.returncode == 0, done.stderr

    def try_to_join(
        self, data_dir: Path, name: str, token: str, *more: str, address: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AUTOGLM, "join", address or self.url, "--token", token, "--name", name, *more],
            env={**self.variables, "AUTOGLM_DATA_DIR": str(data_dir), **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def nodes(self) -> dict[str, dict[str, Any]]:
        with self.client() as client:
            return {row["name"]: row for row in client.get("/api/v1/nodes").json()}

    async def query(self, statement: str) -> list[Any]:
        """Rows, for whoever has the database itself."""
        store = await open_store(self.environment.get("AUTOGLM_CLOUD_DATABASE_URL", self._sqlite))
        try:
            async with store.read() as session:
                return list(await session.execute(text(statement)))
        finally:
            await store.close()

    async def execute(self, statement: str) -> None:
        """Whoever has the database itself may try."""
        store = await open_store(self.environment.get("AUTOGLM_CLOUD_DATABASE_URL", self._sqlite))
        try:
            async with store.write() as session:
                await session.execute(text(statement))
        finally:
            await store.close()

    @property
    def _sqlite(self) -> str:
        return f"sqlite:///{self.data_dir / 'controller.db'}"

    def configure(self, selector: str, **settings: Any) -> httpx.Response:
        with self.client() as client:
            return client.patch("/api/v1/config", json={"selector": selector, "settings": settings})

    def until(self, name: str, seconds: float = 60, **wanted: Any) -> dict[str, Any]:
        """The node's row, once its fields or those of its Reported document are so."""
        until = time.monotonic() + seconds
        while True:
            row = self.nodes().get(name, {})
            told = {**row.get("reported", {}), **row}
            if all(told.get(key) == value for key, value in wanted.items()):
                return row
            assert time.monotonic() < until, f"{wanted} never came: {json.dumps(row)}"
            time.sleep(0.05)

    def until_observed(self, name: str, seconds: float = 60) -> dict[str, Any]:
        """The node's row, once it has taken in its newest Desired document."""
        until = time.monotonic() + seconds
        while (row := self.nodes()[name])["observed_generation"] != row["generation"]:
            assert time.monotonic() < until, json.dumps(row)
            time.sleep(0.05)
        return row
