"""Clients that ask without a pause, and what became of each of their requests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.agent import NO_TLS, Agent


@contextmanager
def load(agent: Agent, clients: int = 2, **body: object) -> Iterator[Counter[str]]:
    """Inside, chats go on; the Counter has their statuses, or the names of errors. Whole once it is left."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        asked = {"messages": [{"role": "user", "content": "hello"}], **body}
        with httpx.Client(verify=NO_TLS, timeout=60) as client:
            while not over.is_set():
                try:
                    answer = client.post(f"{agent.base_url}/v1/chat/completions", json=asked)
                    seen[str(answer.status_code)] += 1
                except httpx.HTTPError as error:
                    seen[type(error).__name__] += 1
                over.wait(0.02)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
