"""What this copy of the controller has taken since it started, for `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

PREFIX = "autoglm_cloud_"
_LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Counts:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.batches = self._counter("telemetry_batches", "Batches of telemetry that were taken.")
        self.bytes = self._counter("telemetry_bytes", "Bytes of batches, as they came.")
        self.rows = self._counter("telemetry_rows", "New rows of telemetry.", "stream")
        self.repeated = self._counter("telemetry_repeated_rows", "Rows that were here already.", "stream")
        self.given_up = self._counter("telemetry_given_up_rows", "Rows that nodes gave up.", "stream")
        self.points = self._counter("telemetry_points", "Points of series that were kept.")
        self.requests = self._counter("http_requests", "HTTP requests.", "method", "route", "status")
        self.seconds = Histogram(
            f"{PREFIX}http_request_seconds",
            "Until an answer began.",
            ["route"],
            registry=self.registry,
            buckets=_LATENCY,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)
