"""Thirty days without a controller, with the time handed in, and what comes of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from cloud_sync.messages import Row
from cloud_sync.telemetry.outbox import Outbox
from cloud_sync.telemetry.rows import GAP, STREAMS, Entry, Worth
from tests.telemetry.controller import Kept

BEGIN, MINUTE, HOUR, DAY = 1_800_000_000.0, 60, 3600, 86400
QUOTA = 50 << 20
FLAPS = 20  # an hour
SERIES = [
    f'autoglm:{name}{{model_name="smollm2-135m-instruct",version="8c79d7a5ddf3"}}'
    for name in (
        *("num_requests_running", "num_requests_waiting", "num_tokens_waiting", "kv_cache_usage_perc"),
        *("prompt_tokens_total", "prompt_tokens_cached_total", "generation_tokens_total", "iterations_total"),
        *("request_queue_time_seconds", "time_to_first_token_seconds", "inter_token_latency_seconds"),
        *("e2e_request_latency_seconds", "iteration_seconds", "iteration_batch_size"),
    )
]


def busy_hour(began: float, chance: random.Random) -> Iterator[Entry]:
    """All that a busy node in trouble has to tell."""
    busy = {name: [1, *(round(chance.uniform(0, 1e6), 6) for _ in range(4))] for name in SERIES}
    for minute in range(60):
        at = began + minute * MINUTE
        asked = {"asked": [1, 1, minute, minute, minute]}
        yield Entry("metrics", at, "minute", {"period_s": 60, "series": busy | asked})
        if minute % 6 == 0:
            for raised in (True, False):
                told = {"alarm": "not_ready", "raised": raised}
                yield Entry("events", at + raised, "alarm", told, Worth.MORE, "alarm/not_ready")
            yield Entry("events", at, "clock_jumped", {"by_s": chance.random()})
            yield Entry("logs", at, "warning", {"event": "x" * 2000})
            yield Entry("samples", at, "prompt", {"prompt": "y" * 10_000})
    yield Entry("events", began, "desired_applied", {"generation": round(began)}, Worth.MORE)


def size(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.iterdir())


async def test_thirty_days_offline_fit_the_quota_and_what_matters_is_there(
    folder: Path, open_outbox: Callable[..., Outbox]
) -> None:
    outbox, chance, most = open_outbox(QUOTA), random.Random(1), 0
    hours = 30 * 24
    for hour in range(hours):
        await outbox.append(list(busy_hour(BEGIN + hour * HOUR, chance)))
        most = max(most, size(folder))
    assert most <= QUOTA
    full = size(folder)
    assert full > QUOTA / 2  # it was a question of room

    kept, order = Kept(), list[str]()
    while (batch := await outbox.offer(1 << 20)).streams:
        order += [stream for stream in batch.streams if stream not in order]
        assert await outbox.received(kept.keep(batch).received)
    assert order == list(STREAMS)  # the most valuable first
    assert size(folder) < full / 8
    await outbox.close()
    assert size(folder) < 1 << 20

    events = kept.all("events")
    updates = [row.body["generation"] for row in events if row.kind == "desired_applied"]
    assert updates == [BEGIN + hour * HOUR for hour in range(hours)]
    assert sum(row.body["count"] for row in events if row.kind == "alarm") == hours * FLAPS
    assert all(covered(kept.all(stream)) for stream in STREAMS)
    metrics = kept.all("metrics")
    assert metrics[-1].kind == "minute"
    assert Counter(row.kind for row in metrics)[GAP] == 0  # hours take little: none had to go
    assert sum(row.body["series"]["asked"][1] for row in metrics) == hours * 60
    first = metrics[0]
    assert (first.kind, first.first, first.seq, first.at) == ("hour", 1, 60, BEGIN)
    assert first.body["period_s"] == HOUR
    assert first.body["series"]["asked"] == [60, 60, 0, 59, 59]


def covered(rows: list[Row]) -> bool:
    """All numbers, each once."""
    ends = [(row.first or row.seq, row.seq) for row in rows]
    return [first for first, _ in ends] == [1, *(last + 1 for _, last in ends[:-1])]


async def test_the_least_valuable_goes_first_and_a_gap_takes_its_place(
    folder: Path, open_outbox: Callable[..., Outbox]
) -> None:
    """Under a quota that shrinks: samples, logs, hours, then events, of which Updates stay to the end."""
    outbox, chance = open_outbox(QUOTA), random.Random(2)
    for hour in range(30):
        await outbox.append(list(busy_hour(BEGIN + hour * HOUR, chance)))
    await outbox.append([Entry("events", BEGIN, "start", {"why": "z" * 200}) for _ in range(3000)])
    await outbox.close()
    gone: list[str] = []
    quota = size(folder)
    while "events" not in gone:
        quota -= 1 << 17
        outbox = open_outbox(quota)
        await outbox.append([Entry("events", BEGIN + 31 * HOUR, "start", {})])
        waits = outbox.backlog
        gone += [one for one, count in waits.given_up.items() if count and one not in gone]
        if "events" not in gone:
            await outbox.close()
    assert gone == ["samples", "logs", "metrics", "events"]
    assert waits.rows["samples"] == waits.rows["logs"] == 1  # a gap each
    events = (await outbox.offer(QUOTA)).streams["events"]
    assert Counter(row.kind for row in events)["desired_applied"] == 30
    assert covered(events)
