"""Real agents in processes of their own, as `autoglm serve` starts them."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx: to read the system's certificates at each call costs more than most calls."""
PLUGINS = Path(__file__).parent.parent / "plugins" / "echo"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def two_ports() -> int:
    """The first of two free ports that follow each other."""
    while True:
        port = free_port()
        with socket.socket() as next_one:
            try:
                next_one.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


@dataclass
class Agent:
    """An agent's process and where it is found. `environment` holds AUTOGLM_* settings."""

    data_dir: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    cwd: Path | None = None  # where it is started; None: where the tests run

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        return self.data_dir / "agent.sock"

    @property
    def log(self) -> str:
        return (self.data_dir / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def worker_pid(self) -> int | None:
        pid: int | None = self.status()["worker"].get("pid")
        return pid

    def worker_pid_by_socket(self) -> int:
        """As `worker_pid`, where TCP has no room for another connection; 0: there is none."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket), verify=NO_TLS)) as client:
            return client.get("http://agent/status").json()["worker"].get("pid") or 0

    def start(self, *, ready: bool = True) -> Agent:
        """Start it and wait until it answers, and with `ready` until its model does."""
        self.begin()
        self.wait("/readyz" if ready else "/healthz")
        return self

    def begin(self) -> None:
        """Start it, and wait for nothing."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AUTOGLM_")}
        environment = {
            **inherited,
            "PYTHONPATH": str(PLUGINS),
            "AUTOGLM_DATA_DIR": str(self.data_dir),
            "AUTOGLM_HTTP_PORT": str(self.port),
            "AUTOGLM_GRPC_PORT": "none",
            "AUTOGLM_LOG_LEVEL": "debug",
            "AUTOGLM_CONFIG": os.devnull,
            **self.environment,
        }
        with (self.data_dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("autoglm")), "serve"],
                env=environment,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self, path: str, seconds: float = 60) -> None:
        """Until a GET of `path` is answered by 200."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"the agent ended:\n{self.log[-4000:]}")
            try:
                if httpx.get(self.base_url + path, timeout=5, verify=NO_TLS).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"no 200 from {path} in {seconds} s:\n{self.log[-4000:]}")

    def connected(self) -> Agent:
        """Waits until its broker has its subscriptions: what was published before that is lost."""
        until = time.monotonic() + 60
        while self.status()["doors"].get("mqtt") != "connected":
            assert time.monotonic() < until, self.log[-3000:]
            time.sleep(0.05)
        return self

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(self.base_url + "/status", timeout=10, verify=NO_TLS).json()
        return found

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; `autoglm:` is put before the name."""
        text = httpx.get(self.base_url + "/metrics", timeout=10, verify=NO_TLS).text
        found = [
            line for line in text.splitlines() if line.startswith((f"autoglm:{name}{{", f"autoglm:{name} "))
        ]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)

    def stop(self) -> int:
        """End it in good order: its exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def restart(self) -> Agent:
        """Start it again on the same folder and port, ended or killed as it may be."""
        self.stop()
        return self.start()

    def pull(self, file: Path, name: str) -> None:
        """Put a file on its shelf."""
        transport = httpx.HTTPTransport(uds=str(self.socket), verify=NO_TLS)
        with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
            answer = client.post("/api/pull", json={"source": str(file), "name": name})
        assert "version" in answer.text.splitlines()[-1], answer.text

    def chat(self, content: str, **body: Any) -> httpx.Response:
        message = {"role": "user", "content": content}
        return httpx.post(
            f"{self.base_url}/v1/chat/completions",
            json={"messages": [message], **body},
            timeout=60,
            verify=NO_TLS,
        )
