"""What the agent measures of itself, for Prometheus. Names follow vLLM's: its dashboards carry over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agent.frames import Beat, Ran
from agent.journal import Journal
from agent.statistics import Statistics
from cloud_sync.messages import Stream

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_TOKEN = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
_LIKENESS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999, 1)
_BATCH = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)

M = TypeVar("M", Counter, Gauge, Histogram)


class Telemetry:
    """One agent's metrics, and with the journal what else is told of it. No global state."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.journal = Journal()
        self._models: dict[tuple[str, str], ModelTelemetry] = {}
        self._families = _Families(self.registry)
        make = _Maker(self.registry)
        self.refused = make.counter("request_refused", "Requests refused at the door, by code.", "code")
        self.http_requests = make.counter("http_requests", "HTTP requests.", "route", "status")
        self.grpc_requests = make.counter("grpc_requests", "gRPC requests.", "method", "code")
        self.jwt_requests = make.counter(
            "jwt_requests",
            "Requests with a JWT, by whom it speaks for; beyond some, 'other'.",
            "tenant",
            "user",
        )
        self.mqtt_messages = make.counter("mqtt_messages", "MQTT messages, by what became of them.", "kind")
        self.mqtt_connected = make.gauge("mqtt_connected", "1 while the broker is connected.")
        self.outbox = OutboxTelemetry(make)

    def model(self, name: str, version: str) -> ModelTelemetry:
        """The metrics of one Version; the same at each call."""
        key = (name, version)
        if key not in self._models:
            self._models[key] = ModelTelemetry(self._families, self.journal, name, version)
        return self._models[key]

    def forget(self, name: str, version: str) -> None:
        """A Version serves no longer: what is of the moment goes; what was counted stays."""
        if gone := self._models.pop((name, version), None):
            gone.forget()

    def render(self) -> bytes:
        return generate_latest(self.registry)


@dataclass(slots=True)
class _Now:
    """Of one Worker, at this moment."""

    queued: tuple[int, int, float] = (0, 0, 0.0)  # requests that run, that wait, and their tokens
    kv_used: float = 0.0
    ready: bool = False


class ModelTelemetry:
    """One Version's metrics: each has the labels `model_name` and `version`."""

    def __init__(self, of: _Families, journal: Journal, name: str, version: str) -> None:
        self._families, self._journal = of, journal
        self._named = {"model": name, "version": version}
        self._labels = {"model_name": name, "version": version}
        self._finished = cache(lambda reason: of.finished.labels(**self._labels, finished_reason=reason))
        self.statistics = Statistics(version)
        self._running, self._waiting = self._mine(of.running), self._mine(of.waiting)
        self._waiting_tokens = self._mine(of.waiting_tokens)
        self.rerun, self.queue_time = self._mine(of.rerun), self._mine(of.queue_time)
        self.ttft, self.inter_token, self.e2e = map(self._mine, (of.ttft, of.inter_token, of.e2e))
        self._now: dict[int, _Now] = {}  # by the lane's identity
        self._up, self._load_time = self._mine(of.up), self._mine(of.load_time)
        self.likeness = self._mine(of.likeness)
        self._kv_use = self._mine(of.kv_use)
        self._prompt_tokens, self._cached_tokens = self._mine(of.prompt_tokens), self._mine(of.cached_tokens)
        self._generation_tokens, self._padded = self._mine(of.generation_tokens), self._mine(of.padded)
        self._steps = self._mine(of.steps)
        self._step_time, self._batch = self._mine(of.step_time), self._mine(of.batch)

    def forget(self) -> None:
        of = self._families
        for gauge in (of.running, of.waiting, of.waiting_tokens, of.kv_use, of.up, of.load_time):
            gauge.remove(*self._labels.values())

    def queued(self, lane: object, running: int, waiting: int, tokens: float) -> None:
        """What one of the Version's Workers has and will have; the metrics are the sums."""
        self._now_of(lane).queued = (running, waiting, tokens)
        sums = [sum(each) for each in zip(*(one.queued for one in self._now.values()), strict=True)]
        for gauge, value in zip((self._running, self._waiting, self._waiting_tokens), sums, strict=True):
            gauge.set(value)

    def ready(self, lane: object, ready: bool) -> None:
        """Whether one of the Version's Workers is; the metric is whether any is."""
        self._now_of(lane).ready = ready
        self._up.set(any(one.ready for one in self._now.values()))

    def left(self, lane: object) -> None:
        """One of its Workers is there no longer."""
        self._now.pop(id(lane), None)

    def _now_of(self, lane: object) -> _Now:
        return self._now.setdefault(id(lane), _Now())

    def finished(self, reason: str) -> None:
        self._finished(reason).inc()

    def failed(self, code: str) -> None:
        self._families.failed.labels(**self._labels, code=code).inc()

    def loaded(self, seconds: float) -> None:
        self._load_time.set(seconds)
        self._journal.event("model_loaded", **self._named, seconds=round(seconds, 3))

    def lost(self, reason: str, *, loading: bool) -> None:
        """A Worker, while it loaded the model or after."""
        self._families.restarts.labels(**self._labels, reason=reason.split(":")[0]).inc()
        self._journal.event("model_failed" if loading else "worker_lost", **self._named, reason=reason)

    def heard(self, lane: object, old: Beat, new: Beat) -> None:
        """What a Worker did between two of its heartbeats."""
        self._prompt_tokens.inc(max(0, new.prompt_tokens - old.prompt_tokens))
        self._cached_tokens.inc(max(0, new.cached_tokens - old.cached_tokens))
        self._generation_tokens.inc(max(0, new.generated_tokens - old.generated_tokens))
        self._padded.inc(max(0, new.padded - old.padded))
        self._now_of(lane).kv_used = new.kv_used
        self._kv_use.set(sum(one.kv_used for one in self._now.values()) / len(self._now))
        if new.steps > old.steps:
            self._steps.inc(new.steps - old.steps)
            self._step_time.observe(new.step_seconds)
            self._batch.observe(new.batch)

    def ran(self, news: Ran) -> None:
        """A batch of tensors was run."""
        if news.rows:
            self._steps.inc()
            self._step_time.observe(news.seconds)
            self._batch.observe(news.rows)

    def shadowed(self, outcome: str) -> None:
        """What became of a copy."""
        self._families.shadowed.labels(**self._labels, outcome=outcome).inc()

    def _mine(self, family: M) -> M:
        return family.labels(**self._labels)


class OutboxTelemetry:
    """Of what waits for the controller, by stream."""

    def __init__(self, make: _Maker) -> None:
        self._waiting = make.gauge("telemetry_rows_waiting", "Rows that the cloud has not got yet.", "stream")
        self._oldest = make.gauge("telemetry_oldest_seconds", "Age of the oldest of them.")
        self._given_up = make.counter("telemetry_rows_given_up", "Rows that went unsent, by quota.", "stream")
        self._lost = make.counter("telemetry_rows_lost", "Rows that the disk did not take.")
        self._batches = make.counter("telemetry_batches", "Batches that the cloud has.")
        self._bytes = make.counter("telemetry_sent_bytes", "Bytes of them, as they went.")
        self._told: dict[str, float] = {}

    def waits(self, rows: Mapping[Stream, int], oldest_s: float) -> None:
        for stream, count in rows.items():
            self._waiting.labels(stream=stream).set(count)
        self._oldest.set(oldest_s)

    def counted(self, given_up: Mapping[Stream, int], *, lost: int, batches: int, sent_bytes: int) -> None:
        """All so far."""
        for stream, count in given_up.items():
            self._given_up.labels(stream=stream).inc(self._more(stream, count))
        self._lost.inc(self._more("lost", lost))
        self._batches.inc(self._more("batches", batches))
        self._bytes.inc(self._more("bytes", sent_bytes))

    def _more(self, what: str, count: int) -> float:
        before, self._told[what] = self._told.get(what, 0), count
        return max(0, count - before)


class _Families:
    """The metrics that each Version has."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make = _Maker(registry, "model_name", "version")
        self.running = make.gauge("num_requests_running", "Requests handed to the Worker.")
        self.waiting = make.gauge("num_requests_waiting", "Requests in the queue.")
        self.waiting_tokens = make.gauge("num_tokens_waiting", "Estimated tokens in the queue.")
        self.finished = make.counter("request_success", "Answers ended well, by reason.", "finished_reason")
        self.failed = make.counter("request_failure", "Requests ended by an error, by code.", "code")
        self.rerun = make.counter("request_rerun", "Requests run again after a Worker's death.")
        self.queue_time = make.histogram("request_queue_time_seconds", "Time in the queue.", _LATENCY)
        self.ttft = make.histogram("time_to_first_token_seconds", "From submit to the first Chunk.", _LATENCY)
        self.inter_token = make.histogram("inter_token_latency_seconds", "Between Chunks.", _TOKEN)
        self.e2e = make.histogram("e2e_request_latency_seconds", "From submit to the end.", _LATENCY)
        self.prompt_tokens = make.counter("prompt_tokens", "Prompt tokens computed.")
        self.cached_tokens = make.counter("prompt_tokens_cached", "Prompt tokens found in the KV cache.")
        self.generation_tokens = make.counter("generation_tokens", "Tokens generated.")
        self.padded = make.counter("padded_tokens", "Throwaway rows that kept a Batch dense.")
        self.steps = make.counter("iterations", "Steps of the Worker's loop.")
        self.step_time = make.histogram("iteration_seconds", "Time of a step.", _TOKEN)
        self.batch = make.histogram("iteration_batch_size", "Sequences in a step.", _BATCH)
        self.kv_use = make.gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.")
        self.restarts = make.counter("worker_restarts", "Workers lost, by reason.", "reason")
        self.up = make.gauge("worker_ready", "1 while a Worker is ready.")
        self.shadowed = make.counter("shadow", "Copies for a shadow, by what became of them.", "outcome")
        self.likeness = make.histogram("shadow_likeness", "Of a shadow's answers, 0 to 1.", _LIKENESS)
        self.load_time = make.gauge("model_load_seconds", "How long the last load took.")


class _Maker:
    def __init__(self, registry: CollectorRegistry, *labels: str) -> None:
        self._registry, self._labels = registry, labels

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"autoglm:{name}", text, (*self._labels, *labels), registry=self._registry)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"autoglm:{name}", text, (*self._labels, *labels), registry=self._registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"autoglm:{name}", text, self._labels, registry=self._registry, buckets=buckets)
