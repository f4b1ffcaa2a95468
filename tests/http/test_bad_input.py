"""Bad input over the wire: a clear error in OpenAI's shape, and nothing else disturbed."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import pytest

from tests.http.wire import Answer, ask, dial, exchange, head, post, read_answer
from tests.support.agent import Agent

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def nothing_else_is_disturbed(echo_agent: Agent, guarded_agent: Agent) -> Iterator[None]:
    before = (echo_agent.pid, echo_agent.worker_pid)
    yield
    assert echo_agent.chat("still here").json()["choices"][0]["message"]["content"] == "still here"
    assert (echo_agent.pid, echo_agent.worker_pid) == before
    assert guarded_agent.process is not None
    assert guarded_agent.process.poll() is None


def curl(agent: Agent, path: str, data: bytes, *options: str) -> tuple[int, dict[str, Any]]:
    """As a person at a shell would: the status and the error."""
    command = ["curl", "-sS", "-m", "30", "-w", "\n%{http_code}", "-H", "Content-Type: application/json"]
    done = subprocess.run(
        [*command, "--data-binary", "@-", *options, agent.base_url + path],
        input=data,
        capture_output=True,
        check=True,
    )
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)["error"]


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (b'{"messages": [', None),
        (b"\xff\xfe", None),
        (b"", None),
        (b"[" * 50_000, None),
        (b'{"messages": []}', "messages"),
        (b'{"messages": "hello"}', "messages"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "\\ud800"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
        (json.dumps({"messages": HELLO, "max_tokens": 10**9}).encode(), "max_tokens"),
        (json.dumps({"messages": HELLO, "stop": ["x"] * 10_000}).encode(), "stop"),
        (json.dumps({"messages": HELLO, "grammar": "root ::= " + "(" * 60_000}).encode(), "grammar"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_a_bad_body_is_a_400_that_names_the_field(echo_agent: Agent, data: bytes, param: str | None) -> None:
    status, error = curl(echo_agent, CHAT, data)
    assert status == 400
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_an_unknown_model_is_a_404(echo_agent: Agent) -> None:
    status, error = curl(echo_agent, CHAT, json.dumps({"model": "nope", "messages": HELLO}).encode())
    assert (status, error["code"]) == (404, "model_not_found")


def test_an_empty_prompt_is_a_400(echo_agent: Agent) -> None:
    status, error = curl(echo_agent, "/v1/completions", b'{"prompt": ""}')
    assert (status, error["param"]) == (400, "prompt")


def test_a_gigabyte_is_refused_before_it_is_read(echo_agent: Agent) -> None:
    assert_too_large(ask(echo_agent, head(CHAT, "Content-Length: 1000000000"), b"{"))


def test_a_body_that_does_not_say_its_size_is_counted(echo_agent: Agent) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    assert_too_large(ask(echo_agent, head(CHAT, "Transfer-Encoding: chunked"), *repeat(chunk, 512)))


def test_an_endless_body_ends(echo_agent: Agent) -> None:
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        command = [
            "curl",
            "-sS",
            "-m",
            "30",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "POST",
            "-T",
            "-",
        ]
        done = subprocess.run(
            [*command, "-H", "Content-Type: application/json", echo_agent.base_url + CHAT],
            stdin=endless.stdout,
            capture_output=True,
            check=False,  # that it could not send all is an error to curl
        )
        endless.kill()
    assert done.stdout == b"413"


def assert_too_large(answer: Answer) -> None:
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"
    assert answer.headers["connection"] == "close"


def test_a_body_at_the_limit_is_read(guarded_agent: Agent) -> None:
    body = json.dumps({"prompt": "hello", "user": ""}).encode()
    padding = 65536 - len(body)
    key = "Authorization: Bearer key-all"
    fine = ask(guarded_agent, head("/v1/completions", key, "Content-Length: 65536"), body + b" " * padding)
    assert fine.status == 200
    assert ask(guarded_agent, head("/v1/completions", key, "Content-Length: 65537")).status == 413


def test_a_body_that_does_not_come_is_not_waited_for(guarded_agent: Agent) -> None:
    key = "Authorization: Bearer key-all"
    answer = ask(guarded_agent, head("/v1/completions", key, "Content-Length: 100"), b'{"prompt"')
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")


def test_bodies_on_their_way_are_bounded_together(echo_agent: Agent) -> None:
    """By eight of the largest; what is small and comes at once passes all the same."""
    size = 8 * 1024 * 1024
    almost = head("/v1/completions", f"Content-Length: {size}") + b" " * (size - 1)
    for _ in range(2):  # what is refused, or given up, leaves its room
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(dial(echo_agent)) for _ in range(9)]
            for client in clients:
                client.sendall(almost)
            [refused], _, _ = select.select(clients, [], [], 20)
            answer = read_answer(refused)
            assert (answer.status, answer.error["code"]) == (503, "too_many_bodies")
            assert answer.headers["retry-after"] == "1"
            assert echo_agent.chat("small").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("192.168.1.5", 403),
        ("[::1", 403),
        ("", 403),
        (None, 403),
    ],
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
def test_only_known_hosts_are_answered(echo_agent: Agent, path: str, host: str | None, status: int) -> None:
    answer = ask(echo_agent, head(path, method="GET", host=host))
    assert answer.status == status
    if status == 403:
        assert answer.error["code"] == "host_not_allowed"


def test_two_hosts_are_none(echo_agent: Agent) -> None:
    assert ask(echo_agent, head("/healthz", "Host: localhost", method="GET")).status == 403


def test_the_settings_add_hosts(guarded_agent: Agent) -> None:
    assert ask(guarded_agent, head("/healthz", method="GET", host="edge.example:80")).status == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost", 200), ("https://evil.example", 403), ("null", 403), ("http://[", 403)],
)
def test_pages_of_other_sites_may_not_post(echo_agent: Agent, origin: str, status: int) -> None:
    body = json.dumps({"messages": HELLO}).encode()
    answer = ask(echo_agent, head(CHAT, f"Origin: {origin}", f"Content-Length: {len(body)}") + body)
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers


def test_pages_of_allowed_hosts_may_post(guarded_agent: Agent) -> None:
    body = json.dumps({"messages": HELLO}).encode()
    fields = ("Origin: https://edge.example", "Authorization: Bearer key-all", f"Content-Length: {len(body)}")
    assert ask(guarded_agent, head(CHAT, *fields) + body).status == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_what_is_not_declared_as_json_is_refused(echo_agent: Agent, kind: str | None) -> None:
    fields = ["Content-Length: 2"] + ([f"Content-Type: {kind}"] if kind else [])
    answer = ask(echo_agent, head(CHAT, *fields, json_type=False) + b"{}")
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


def test_compressed_bodies_are_refused(echo_agent: Agent) -> None:
    assert ask(echo_agent, head(CHAT, "Content-Encoding: gzip", "Content-Length: 2") + b"{}").status == 415


def test_a_wrong_method_is_told_the_right_one(echo_agent: Agent) -> None:
    answer = ask(echo_agent, head(CHAT, method="GET"))
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.error["code"] == "method_not_allowed"


def test_an_unknown_path_is_a_404_in_the_same_shape(echo_agent: Agent) -> None:
    answer = ask(echo_agent, head("/v1/nothing", method="GET"))
    assert (answer.status, answer.error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "data",
    [
        b"NOT HTTP AT ALL\r\n\r\n",
        head("/" + "a" * 70_000, method="GET"),
        head("/healthz", "X-Long: " + "a" * 70_000, method="GET"),
        head(CHAT, "Content-Length: -1"),
        head(CHAT, "Content-Length: 1", "Transfer-Encoding: chunked"),
    ],
    ids=["garbage", "long path", "long header", "negative length", "two lengths"],
)
def test_what_is_not_http_is_a_400(echo_agent: Agent, data: bytes) -> None:
    answer = ask(echo_agent, data)
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")


def test_request_ids_are_echoed_if_sane_and_made_otherwise(echo_agent: Agent) -> None:
    def returned(*fields: str) -> str:
        return ask(echo_agent, head("/healthz", *fields, method="GET")).headers["x-request-id"]

    assert returned("X-Request-Id: abc-1") == "abc-1"
    assert returned() != returned()
    for insane in ("a b", "x" * 200, "é"):
        assert returned(f"X-Request-Id: {insane}").startswith("req-")


def test_a_connection_is_kept_for_the_next_request_even_after_an_error(echo_agent: Agent) -> None:
    with dial(echo_agent) as client:
        assert exchange(client, [post(CHAT, {"messages": []})]).status == 400
        assert exchange(client, [post(CHAT, {"messages": HELLO})]).status == 200
