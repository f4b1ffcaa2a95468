"""What nodes tell of themselves is taken once, whatever the link does, and can be asked for."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from prometheus_client.parser import text_string_to_metric_families

from tests.support.controller import Controller
from tests.support.node import DATABASE, Member, event, gap, minute

SCRAPER = "a-token-for-prometheus"


@pytest.fixture(scope="module")
def controller(
    start_controller: Callable[..., Controller], database: Callable[[], dict[str, str]]
) -> Controller:
    return start_controller(
        AUTOGLM_CLOUD_METRICS_TOKEN=SCRAPER,
        AUTOGLM_CLOUD_METRICS_NODES="100",
        AUTOGLM_CLOUD_SERIES_PER_NODE="20",
        **database(),
    )


@pytest.fixture
def join(controller: Controller, tmp_path: Path) -> Iterator[Callable[..., Member]]:
    """`join(site="paris")`: a node with a name of its own."""
    made: list[Member] = []

    def join(**labels: str) -> Member:
        made.append(Member(controller, tmp_path, f"node-{secrets.token_hex(4)}", **labels))
        return made[-1]

    yield join
    for one in made:
        one.client.close()


@pytest.fixture
def member(join: Callable[..., Member]) -> Member:
    return join(site="paris")


def ask(controller: Controller, path: str, **parameters: Any) -> Any:
    with controller.client(role="viewer") as client:
        answer = client.get(f"/api/v1{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(controller: Controller, member: Member, **parameters: Any) -> list[dict[str, Any]]:
    """Its events but that it has joined, the oldest first."""
    found = ask(controller, "/events", node=member.name, **{"after": 0, **parameters})
    return [one for one in found if one["kind"] != "node.joined"]


def kinds(controller: Controller, member: Member) -> list[str]:
    return [one["kind"] for one in told(controller, member)]


def test_a_batch_that_comes_again_changes_nothing(controller: Controller, member: Member) -> None:
    rows = [event(1, "one"), event(2, "two")]
    assert member.send(events=rows) == {"events": 2}
    assert member.send(events=rows) == {"events": 2}
    assert member.send(events=[*rows, event(3, "three")]) == {"events": 3}
    assert kinds(controller, member) == ["one", "two", "three"]


def test_a_gap_counts_as_received_and_is_an_event(controller: Controller, member: Member) -> None:
    received = member.send(logs=[event(1, "warning"), gap(2, 40, why="quota"), event(41, "error")])
    assert received == {"logs": 41}
    assert member.send(logs=[gap(30, 45)]) == {"logs": 45}
    first, second = ask(controller, "/events", node=member.name, kind="telemetry.gap", after=0)
    assert first["body"] == {"stream": "logs", "first": 2, "last": 40, "why": "quota"}
    assert second["body"] == {"stream": "logs", "first": 42, "last": 45}
    assert [one["kind"] for one in ask(controller, "/logs", node=member.name, after=0)] == [
        "warning",
        "error",
    ]


def test_what_comes_out_of_order_is_acked_only_as_far_as_all_is_there(
    controller: Controller, member: Member
) -> None:
    one, two, three = event(1, "one"), event(2, "two"), event(3, "three")
    assert member.send(events=[three]) == {"events": 0}
    assert member.send(events=[two, one]) == {"events": 2}
    assert member.send(events=[three]) == {"events": 3}
    assert member.send(events=[one]) == {"events": 3}
    assert kinds(controller, member) == ["one", "two", "three"]


def test_what_a_restored_controller_lost_is_said_and_the_node_goes_on(
    controller: Controller, member: Member
) -> None:
    assert member.send(events=[event(1, "one")]) == {"events": 1}
    later = [event(8, "eight")]  # 2 to 7 were acked once, and are not on the node any more
    assert member.send(events=later) == {"events": 1}
    assert member.send(events=later) == {"events": 8}
    assert kinds(controller, member) == ["one", "telemetry.lost", "eight"]


def test_two_nodes_and_two_files_of_one_node_never_mix(
    controller: Controller, member: Member, join: Callable[..., Member]
) -> None:
    other = join()
    assert member.send(events=[event(1, "mine"), event(2, "mine")]) == {"events": 2}
    assert other.send(events=[event(1, "others")]) == {"events": 1}
    assert member.send("another-file", events=[event(1, "anew")]) == {"events": 1}
    assert kinds(controller, member) == ["mine", "mine", "anew"]
    assert kinds(controller, other) == ["others"]


def test_streams_are_acked_each_by_itself(member: Member) -> None:
    assert member.send(events=[event(1)], logs=[event(2)]) == {"events": 1, "logs": 0}
    assert member.send() == {}


def test_what_no_database_takes_as_it_is_does_not_stop_a_stream(
    controller: Controller, member: Member
) -> None:
    odd = event(1, "o\0dd", math.nan, nul="a\0b", number=math.nan, deep=[math.inf])
    one = [1, 1, 1, 1, 1]
    series = {"good": one, "few": [1], "no name": one, "text": ["1"] * 5, "huge": [10**400] * 5}
    received = member.send(events=[odd], metrics=[minute(1, 1e300, **series), event(2, "minute")])
    assert received == {"events": 1, "metrics": 2}
    [row] = told(controller, member)
    assert row["kind"] == "o\ufffddd"
    assert row["body"] == {"nul": "a\ufffdb", "number": None, "deep": [None]}
    names = ask(controller, "/series", selector=f"node:{member.name}")
    assert [one["name"] for one in names] == ["good"]


def refused(answer: httpx.Response) -> int:
    assert answer.json()["error"]["message"]
    return answer.status_code


def test_what_is_too_large_is_refused_compressed_or_not(controller: Controller, member: Member) -> None:
    packing = zstandard.ZstdCompressor().compressobj()
    bomb = b"".join([packing.compress(b" " * (1 << 20)) for _ in range(512)]) + packing.flush()
    assert len(bomb) < 100_000
    assert refused(member.post_as_it_is(bomb, "zstd")) == 413
    assert controller.process is not None
    status = Path("/proc", str(controller.process.pid), "status").read_text()
    [peak] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < 400 << 10, "kB: it never unpacked it all"
    assert refused(member.post(b" " * (9 << 20))) == 413
    assert refused(member.post_as_it_is(b" " * (50 << 20), "")) == 413
    assert member.send(events=[event(1)]) == {"events": 1}


def test_what_is_no_batch_is_refused(member: Member) -> None:
    good = {"database": DATABASE, "sent_at": 1.0, "streams": {"events": [event(1)]}}
    for encoding in ("zstd", ""):
        for body in (b"", b"[]", b"{", b"\xff", json.dumps({**good, "database": "x\0y" * 8}).encode()):
            assert refused(member.post(body, encoding)) == 422
    assert refused(member.post_as_it_is(b"no zstd", "zstd")) == 422
    assert refused(member.post_as_it_is(zstandard.compress(json.dumps(good).encode())[:-9], "zstd")) == 422
    assert refused(member.post(json.dumps(good).encode(), "gzip")) == 415
    many = {**good, "streams": {"events": [event(seq) for seq in range(1, 2002)]}}
    assert refused(member.post(json.dumps(many).encode())) == 422
    assert member.send(events=[event(1)]) == {"events": 1}


def test_only_a_node_brings_telemetry_and_only_operators_see_samples(
    controller: Controller, member: Member
) -> None:
    member.send(samples=[event(1, "prompt", text="secret?")])
    for role in (None, "admin"):
        with controller.client(role=role) as client:  # type: ignore[arg-type]
            assert client.post("/api/v1/node/telemetry", json={}).status_code == 401
    with controller.client(role="viewer") as client:
        assert client.get("/api/v1/samples").status_code == 403
        assert client.get("/api/v1/logs").status_code == 200
    with controller.client(role="operator") as client:
        [row] = client.get("/api/v1/samples", params={"node": member.name}).json()
    assert row["body"] == {"text": "secret?"}
    with controller.client(role="admin") as client:
        assert client.post(f"/api/v1/nodes/{member.name}/revoke").status_code == 204
    assert refused(member.post(b'{"database":"aaaaaaaa","sent_at":1,"streams":{}}')) == 403


def test_events_are_asked_for_by_node_kind_and_time_and_page_by_page(
    controller: Controller, member: Member
) -> None:
    begin = time.time()
    member.send(events=[event(n, "odd" if n % 2 else "even", begin + n, n=n) for n in range(1, 11)])

    def numbers(**parameters: Any) -> list[int]:
        found = ask(controller, "/events", node=member.name, **parameters)
        return [one["body"]["n"] for one in found if one["kind"] != "node.joined"]

    assert numbers() == list(range(10, 0, -1))
    assert numbers(kind="odd") == [9, 7, 5, 3, 1]
    assert numbers(kind=["odd", "even"], limit=2) == [10, 9]
    assert numbers(**{"from": begin + 3, "to": begin + 5.5}) == [5, 4, 3]
    [joined] = ask(controller, "/events", node=member.name, after=0, limit=1)
    first = ask(controller, "/events", node=member.name, after=joined["id"], limit=4)
    rest = ask(controller, "/events", node=member.name, after=first[-1]["id"])
    assert [one["body"]["n"] for one in (*first, *rest)] == list(range(1, 11))
    older = ask(controller, "/events", node=member.name, before=rest[0]["id"], limit=1)
    assert older == [first[-1]]
    with controller.client() as client:
        for wrong in ({"limit": 0}, {"node": "no/name"}, {"kind": "\0"}, {"colour": "red"}, {"from": "nan"}):
            assert client.get("/api/v1/events", params=wrong).status_code == 422


def test_series_are_asked_for_by_name_over_nodes_in_steps(
    controller: Controller, member: Member, join: Callable[..., Member]
) -> None:
    other = join(site="rome")
    begin = int(time.time()) // 600 * 600 - 600
    a, b = 'took_s{route="/a"}', 'took_s{route="/b"}'
    for node, times in ((member, 1), (other, 10)):
        node.send(
            metrics=[
                minute(
                    1,
                    begin,
                    **{a: [2, 3 * times, 1 * times, 2 * times, 2 * times], "up": [1.0, 1, 1, 1, 1]},
                ),
                minute(2, begin + 60, **{a: [1, 5 * times, 5 * times, 5 * times, 5 * times]}),
                minute(3, begin + 120.5, **{b: [1, 7 * times, 7 * times, 7 * times, 7 * times]}),
            ]
        )
    mine = f"node:{member.name}"
    assert [one["name"] for one in ask(controller, "/series", selector=mine)] == [a, b, "up"]

    def lines(**parameters: Any) -> list[tuple[str | None, str, list[Any]]]:
        over = {"name": "took_s", "from": begin, "to": begin + 300, "step_s": 60, **parameters}
        answer = ask(controller, "/series/query", **over)
        return [(one["node"], one["name"], one["points"]) for one in answer["lines"]]

    assert lines(selector=mine) == [
        (None, a, [[begin, 2, 3, 1, 2, 2], [begin + 60, 1, 5, 5, 5, 5]]),
        (None, b, [[begin + 120, 1, 7, 7, 7, 7]]),
    ]
    assert lines(selector=mine, name=a, step_s=300) == [(None, a, [[begin, 3, 8, 1, 5, 5]])]
    assert lines(selector=mine, by="metric", step_s=300) == [(None, "took_s", [[begin, 4, 15, 1, 7, 7]])]
    rome = lines(selector="site=rome", by="node", name=b)
    assert (other.name, b, [[begin + 120, 1, 70, 70, 70, 70]]) in rome
    assert all(not str(node).endswith(member.name) for node, _, _ in rome)
    with controller.client() as client:
        for wrong in ({"from": 0, "to": 10**9}, {"from": 5, "to": 5}, {"selector": "="}, {"step_s": 0}):
            answer = client.get("/api/v1/series/query", params={"name": "up", "step_s": 60, **wrong})
            assert answer.status_code == 422, answer.text


def test_a_node_has_only_so_many_series(controller: Controller, member: Member) -> None:
    many = {f"s{n:03}": [1, 1, 1, 1, 1] for n in range(30)}
    assert member.send(metrics=[minute(1, time.time(), **many)]) == {"metrics": 1}
    names = ask(controller, "/series", selector=f"node:{member.name}")
    assert [one["name"] for one in names] == sorted(many)[:20]


def test_a_clock_that_is_wrong_by_years_is_shown_and_what_it_says_is_put_right(
    controller: Controller, member: Member
) -> None:
    years = -10 * 365 * 86400
    now = time.time()
    rows = [event(1, "first", now + years - 30), event(2, "second", now)]
    member.send(sent_at=now + years, events=rows, metrics=[minute(1, now + years, up=[1, 1, 1, 1, 1])])
    first, second = told(controller, member)
    assert first["at"] == pytest.approx(now - 30, abs=20)
    assert first["told_at"] == pytest.approx(now + years - 30)
    assert second["at"] == second["received_at"] == pytest.approx(now, abs=30)
    [line] = ask(controller, "/series/query", name="up", selector=f"node:{member.name}")["lines"]
    assert len(line["points"]) == 1
    assert controller.nodes()[member.name]["clock_skew_s"] == pytest.approx(years, abs=20)
    member.send(events=[event(3)])
    assert controller.nodes()[member.name]["clock_skew_s"] == pytest.approx(0, abs=20)


def metrics(controller: Controller, token: str | None = None) -> dict[tuple[str, str], float]:
    """Sums, by name and the value of the first label."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with controller.client(role="viewer") as client:
        answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[tuple[str, str], float] = Counter()
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            name = sample.name.removeprefix("autoglm_cloud_")
            found[name, next(iter(sample.labels.values()), "")] += sample.value
    return found


def test_prometheus_sees_the_fleet_and_what_the_controller_has_taken(
    controller: Controller, member: Member
) -> None:
    before = metrics(controller)
    member.report(backlog={"events": 3, "logs": 4})
    member.send(events=[event(1), gap(2, 5)])
    member.send(events=[event(1)])
    found = metrics(controller, SCRAPER)
    assert found["nodes", "active"] >= 1
    assert found["node_backlog_rows", member.name] == 7
    assert found["node_generations_behind", member.name] == 1
    assert 0 <= found["node_silent_seconds", member.name] < 60
    assert abs(found["node_clock_skew_seconds", member.name]) < 60
    assert found["nodes_not_shown", ""] == 0

    def grew(name: str, label: str = "") -> float:
        return found[name, label] - before[name, label]

    assert grew("telemetry_batches_total") == 2
    assert grew("telemetry_rows_total", "events") == 2
    assert grew("telemetry_repeated_rows_total", "events") == 1
    assert grew("telemetry_given_up_rows_total", "events") == 4
    assert 0 < grew("telemetry_bytes_total") < 2000
    assert grew("http_requests_total", "POST") > 0
    with controller.client(role=None) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"authorization": "Bearer wrong"}).status_code == 401
