"""A change that is asked for again, since its answer was lost, is made once."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.controller import Controller


@pytest.fixture
def operator(controller: Controller) -> Iterator[httpx.Client]:
    with controller.client() as client:
        yield client


def key(value: str = "") -> dict[str, str]:
    return {"idempotency-key": value or f'"{secrets.token_hex(12)}"'}


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_the_same_key_with_the_same_request_has_the_same_answer(operator: httpx.Client) -> None:
    headers = key()
    first, again = [operator.post("/api/v1/tokens", json={}, headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["token"] == again.json()["token"]
    assert again.headers["idempotency-replayed"] == "true"
    other = operator.post("/api/v1/tokens", json={}, headers=key()).json()
    assert other["token"] != first.json()["token"]


def test_the_same_key_with_another_request_is_refused(operator: httpx.Client) -> None:
    headers = key()
    operator.post("/api/v1/tokens", json={}, headers=headers)
    assert code(operator.post("/api/v1/tokens", json={"life_s": 60}, headers=headers)) == (422, "key_reused")
    changed = {"selector": "idempotent=yes", "settings": {}}
    assert code(operator.patch("/api/v1/config", json=changed, headers=headers)) == (422, "key_reused")


def test_keys_of_two_operators_have_nothing_to_do_with_each_other(controller: Controller) -> None:
    headers = key()
    with controller.client(subject="one") as one, controller.client(subject="two") as two:
        answers = [client.post("/api/v1/tokens", json={}, headers=headers) for client in (one, two)]
    assert answers[0].json()["token"] != answers[1].json()["token"]


def test_of_many_at_once_one_is_done(controller: Controller) -> None:
    headers, answers = key(), []
    before = audited(controller, "token.made")

    def ask() -> None:
        with controller.client() as client:
            answers.append(client.post("/api/v1/tokens", json={}, headers=headers))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = {one.json()["token"] for one in answers if one.status_code == 201}
    assert len(made) == 1
    assert all(code(one) == (409, "under_way") for one in answers if one.status_code != 201)
    assert audited(controller, "token.made") == before + 1


def test_what_was_refused_may_be_tried_again_with_the_same_key(operator: httpx.Client) -> None:
    headers = key()
    asked = {"selector": "node:idempotent", "settings": {"max_batch_size": -1}}
    for _ in range(2):
        assert operator.patch("/api/v1/config", json=asked, headers=headers).status_code == 422
    asked["settings"] = {}
    assert operator.patch("/api/v1/config", json=asked, headers=headers).status_code == 200


@pytest.mark.parametrize("bad", ["short", "with space in it", '"unbalanced-quote-"-in-it"', "x" * 300])
def test_what_is_no_key_is_refused(operator: httpx.Client, bad: str) -> None:
    assert code(operator.post("/api/v1/tokens", json={}, headers=key(bad))) == (400, "bad_key")


async def test_nobody_who_reads_the_database_finds_an_answer_there(controller: Controller) -> None:
    headers = key()
    with controller.client() as client:
        token = client.post("/api/v1/tokens", json={}, headers=headers).json()["token"]
    kept = await controller.query("SELECT id, request, body FROM answers")
    secret = token.split(".")[1]
    assert kept
    assert not [
        row for row in kept if secret in str(row) or headers["idempotency-key"].strip('"') in str(row)
    ]


def test_the_command_asks_again_where_the_answer_was_lost_and_one_token_is_made(
    start_controller: Callable[..., Controller],
) -> None:
    one = start_controller()
    proxy = LosesOneAnswer(one.port, lambda: audited(one, "token.made") > 0)
    (one.data_dir / "port").write_text(str(proxy.port))
    done = one.run("token")
    assert proxy.connections == 2
    assert len(done.stdout.strip().split(".")) == 3
    assert audited(one, "token.made") == 1


def audited(controller: Controller, action: str) -> int:
    with controller.client() as client:
        rows = client.get("/api/v1/audit", params={"limit": 1000}).json()
    return len([row for row in rows if row["action"] == action])


class LosesOneAnswer:
    """Passes connections on; the first one is cut when `is_done`, and nothing comes back before that."""

    def __init__(self, port: int, is_done: Callable[[], bool]) -> None:
        self._target, self._is_done = port, is_done
        self._asked = threading.Event()
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for self.connections in (1, 2):
            client, _ = self._listener.accept()
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                there = threading.Thread(target=self._pass, args=(client, server, True), daemon=True)
                there.start()
                self._pass(server, client, False)
                there.join()
        self._listener.close()

    def _pass(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        chunks = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                chunks += 1
                if self.connections == 1 and is_request and chunks == 2:  # the handshake's first is behind
                    self._asked.set()
                if self.connections == 1 and not is_request and self._asked.is_set():
                    while not self._is_done():
                        time.sleep(0.02)
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
