"""A minute of metrics: what happened, in few bytes; nothing of what did not."""

from __future__ import annotations

import zstandard

from agent.frames import Beat
from agent.rollup import AGAIN_S, Rollup
from agent.telemetry import Telemetry
from cloud_sync.messages import Row
from cloud_sync.messages import Telemetry as Batch


def close(rollup: Rollup, telemetry: Telemetry, now: float = 0.0) -> dict[str, list[float]]:
    return rollup.close(telemetry.registry.collect(), now)


def test_a_counter_is_told_by_what_it_grew() -> None:
    telemetry, rollup = Telemetry(), Rollup()
    telemetry.refused.labels(code="queue_full").inc(3)
    name = 'autoglm:request_refused_total{code="queue_full"}'
    assert close(rollup, telemetry)[name] == [1, 3, 3, 3, 3]
    assert name not in close(rollup, telemetry)
    telemetry.refused.labels(code="queue_full").inc()
    assert close(rollup, telemetry)[name] == [1, 1, 1, 1, 1]


def test_a_gauge_is_as_often_as_it_was_looked_at_and_silent_while_it_stays() -> None:
    telemetry, rollup = Telemetry(), Rollup()
    for value in (0, 1, 1):
        telemetry.mqtt_connected.set(value)
        rollup.look(telemetry.registry.collect())
    assert close(rollup, telemetry)["autoglm:mqtt_connected"] == [4, 3, 0, 1, 1]
    assert "autoglm:mqtt_connected" not in close(rollup, telemetry, 60)
    assert close(rollup, telemetry, AGAIN_S)["autoglm:mqtt_connected"] == [1, 1, 1, 1, 1]


def test_a_histogram_is_its_observations_between_bounds_of_its_buckets() -> None:
    telemetry, rollup = Telemetry(), Rollup()
    model = telemetry.model("m", "v")
    for seconds in (0.03, 0.25, 0.3):
        model.e2e.observe(seconds)
    name = 'autoglm:e2e_request_latency_seconds{model_name="m",version="v"}'
    assert close(rollup, telemetry)[name] == [3, 0.58, 0.02, 0.5, 0.193333]
    assert name not in close(rollup, telemetry)
    model.e2e.observe(1000)
    assert close(rollup, telemetry)[name] == [1, 1000, 300, 1000, 1000]


def test_what_machines_ask_all_day_and_telemetry_itself_are_left_out() -> None:
    telemetry, rollup = Telemetry(), Rollup()
    close(rollup, telemetry)
    for route in ("/healthz", "/readyz", "/metrics", "/status"):
        telemetry.http_requests.labels(route=route, status="200").inc()
    telemetry.outbox.waits({"events": 7}, 3.0)
    assert close(rollup, telemetry) == {}


def test_labels_are_as_prometheus_writes_them() -> None:
    telemetry, rollup = Telemetry(), Rollup()
    telemetry.refused.labels(code='a"b\\c\nd').inc()
    assert 'autoglm:request_refused_total{code="a\\"b\\\\c\\nd"}' in close(rollup, telemetry)


def test_an_idle_node_has_next_to_nothing_to_tell() -> None:
    """A day of two loaded models that nobody uses: their Workers' heartbeats alone."""
    telemetry, rollup = Telemetry(), Rollup()
    for name in ("smollm2-135m-instruct", "magika"):
        telemetry.model(name, "8c79d7a5ddf3").loaded(2.0)
        telemetry.model(name, "8c79d7a5ddf3").ready(name, True)
    rows: list[Row] = []
    for minute in range(0, 24 * 60, 10):  # those between are as silent
        beat = Beat(steps=0)
        telemetry.model("magika", "8c79d7a5ddf3").heard("magika", beat, beat)
        if series := close(rollup, telemetry, 60.0 * minute):
            body = {"period_s": 60, "series": series}
            rows.append(Row(seq=len(rows) + 1, at=1.8e9 + 60 * minute, kind="minute", body=body))
    assert len(rows) == 4
    sent = [Batch(database="a0b1c2d3e4f5", sent_at=1.8e9, streams={"metrics": [row]}) for row in rows]
    assert sum(len(zstandard.compress(one.model_dump_json().encode())) for one in sent) < 4000
