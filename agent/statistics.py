"""What a Version of tensors has done, as the Open Inference Protocol's statistics count it. Does no I/O."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Duration:
    """How often, and how long together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    def public(self) -> dict[str, int]:
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


@dataclass(slots=True)
class Statistics:
    """Of one Version, since the agent came to serve it."""

    version: str
    rows: int = 0  # of Inferences that went well
    batches: int = 0  # that were run for them
    last: float = 0.0  # when the last one was answered, unix seconds
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    by_size: defaultdict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    def ran(self, rows: int, seconds: float) -> None:
        """A batch was run, and answered somebody."""
        self.batches += 1
        self.by_size[rows].add(seconds)

    def answered(self, rows: int, seconds: float, computing: float, at: float) -> None:
        """An Inference went well: how long it took, and how much of that its batch was computed."""
        self.rows += rows
        self.last = at
        self.success.add(seconds)
        self.compute.add(computing)
        self.queue.add(max(0.0, seconds - computing))

    def failed(self, seconds: float) -> None:
        """An Inference ended by an error, or was cancelled."""
        self.fail.add(seconds)

    def public(self, name: str) -> dict[str, Any]:
        """In Triton's shape. `compute_infer` has the making of inputs and outputs in it; no cache."""
        nothing = Duration().public()
        moved = {"compute_input": nothing, "compute_output": nothing}
        return {
            "name": name,
            "version": self.version,
            "last_inference": round(self.last * 1000),
            "inference_count": self.rows,
            "execution_count": self.batches,
            "inference_stats": {
                "success": self.success.public(),
                "fail": self.fail.public(),
                "queue": self.queue.public(),
                "compute_infer": self.compute.public(),
                **moved,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {"batch_size": size, "compute_infer": took.public(), **moved}
                for size, took in sorted(self.by_size.items())
            ],
        }
