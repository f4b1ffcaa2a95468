"""What the agent measures of itself, for Prometheus. Names follow vLLM's: its dashboards carry over."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agent.frames import Beat

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_TOKEN = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)
_BATCH = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)


class Telemetry:
    """One agent's metrics. Each agent has a registry of its own: no global state."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._serving()
        self._worker()
        self._doors()

    def _serving(self) -> None:
        self.running = self._gauge("num_requests_running", "Requests handed to the Worker.")
        self.waiting = self._gauge("num_requests_waiting", "Requests in the queue.")
        self.waiting_tokens = self._gauge("num_tokens_waiting", "Estimated tokens in the queue.")
        self.refused = self._counter("request_refused", "Requests refused at the door, by code.", "code")
        self.finished = self._counter("request_success", "Answers ended well, by reason.", "finished_reason")
        self.failed = self._counter("request_failure", "Requests ended by an error, by code.", "code")
        self.rerun = self._counter("request_rerun", "Requests run again after a Worker's death.")
        self.queue_time = self._histogram("request_queue_time_seconds", "Time in the queue.", _LATENCY)
        self.ttft = self._histogram(
            "time_to_first_token_seconds", "From submit to the first Chunk.", _LATENCY
        )
        self.inter_token = self._histogram("inter_token_latency_seconds", "Between Chunks.", _TOKEN)
        self.e2e = self._histogram("e2e_request_latency_seconds", "From submit to the end.", _LATENCY)

    def _worker(self) -> None:
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens computed.")
        self.cached_tokens = self._counter("prompt_tokens_cached", "Prompt tokens found in the KV cache.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.padded = self._counter("padded_tokens", "Throwaway rows that kept a Batch dense.")
        self.steps = self._counter("iterations", "Steps of the Worker's loop.")
        self.step_time = self._histogram("iteration_seconds", "Time of a step.", _TOKEN)
        self.batch = self._histogram("iteration_batch_size", "Sequences in a step.", _BATCH)
        self.kv_use = self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.")
        self.restarts = self._counter("worker_restarts", "Workers lost, by reason.", "reason")
        self.up = self._gauge("worker_ready", "1 while a Worker is ready.")
        self.load_time = self._gauge("model_load_seconds", "How long the last load took.")

    def _doors(self) -> None:
        self.http_requests = self._counter("http_requests", "HTTP requests.", "route", "status")
        self.mqtt_messages = self._counter("mqtt_messages", "MQTT messages, by what became of them.", "kind")
        self.mqtt_connected = self._gauge("mqtt_connected", "1 while the broker is connected.")

    def heard(self, old: Beat, new: Beat) -> None:
        """What a Worker did between two of its heartbeats."""
        self.prompt_tokens.inc(max(0, new.prompt_tokens - old.prompt_tokens))
        self.cached_tokens.inc(max(0, new.cached_tokens - old.cached_tokens))
        self.generation_tokens.inc(max(0, new.generated_tokens - old.generated_tokens))
        self.padded.inc(max(0, new.padded - old.padded))
        self.kv_use.set(new.kv_used)
        if new.steps > old.steps:
            self.steps.inc(new.steps - old.steps)
            self.step_time.observe(new.step_seconds)
            self.batch.observe(new.batch)

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"autoglm:{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"autoglm:{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"autoglm:{name}", text, registry=self.registry, buckets=buckets)
