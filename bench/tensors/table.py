"""All contestants side by side: one table a model, medians of the rounds with their spread."""

from __future__ import annotations

from statistics import median

from bench.table import Row, spread
from bench.tensors.contestants import AGENT
from bench.tensors.measure import Sample

LIMIT = "onnxruntime alone"
HEADS = ["clients", "contestant", "by", "requests/s", "of limit", "of it unburned", "agent over it"]
HEADS += ["p50 ms", "p99 ms", "client µs", "errors"]
OVER = {"http": "http", "json": "http", "bytes": "http", "grpc": "grpc"}
"""By which protocol the agent is compared with one that is asked by this; and whose burned limit counts."""
BY = {"http": "HTTP, binary", "json": "HTTP, JSON", "bytes": "HTTP, bytes", "grpc": "gRPC", "": ""}


def rows(samples: list[Sample]) -> list[Row]:
    """Of the samples of one model."""
    kinds = dict.fromkeys((one.contestant, one.protocol) for one in samples)
    return [
        _row(of, samples)
        for clients in sorted({one.clients for one in samples})
        for name, protocol in kinds
        if (of := _of(samples, name, protocol, clients))
    ]


def by(one: Sample) -> str:
    """How it was asked; of the limit, whose load was burned beside it."""
    return f"burned: {BY[one.protocol]}" if one.contestant == LIMIT and one.protocol else BY[one.protocol]


def _of(samples: list[Sample], name: str, protocol: str, clients: int) -> list[Sample]:
    wanted = (name, protocol, clients)
    return [one for one in samples if (one.contestant, one.protocol, one.clients) == wanted]


def _row(of: list[Sample], samples: list[Sample]) -> Row:
    one = of[0]
    middles = [f"{median(each.figures[name] for each in of):.2f}" for name in ("p50", "p99")]
    return [
        str(one.clients),
        one.contestant,
        by(one),
        spread([each.figures["per_s"] for each in of], "{:.0f}".format),
        *_ratios(one, samples),
        *middles,
        f"{median(each.figures['load_us'] for each in of):.0f}",
        f"{sum(each.figures['errors'] for each in of):.0f}",
    ]


def _ratios(one: Sample, samples: list[Sample]) -> Row:
    if one.contestant == LIMIT:
        return ["", "", ""]
    kind, over = (one.contestant, one.protocol), OVER[one.protocol]
    others = [(kind, (LIMIT, over)), (kind, (LIMIT, "")), ((AGENT, over), kind)]
    found = [ratios(samples, *pair, one.clients) for pair in others]
    return [spread(of, "{:.2f}".format) if of else "" for of in found]


Kind = tuple[str, str]  # contestant and protocol


def pairs(
    samples: list[Sample], one: Kind, other: Kind, clients: int
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """The figures of two in the same rounds."""
    mine, theirs = (_of(samples, *kind, clients) for kind in (one, other))
    return [(a.figures, b.figures) for a, b in zip(mine, theirs, strict=False)]


def ratios(samples: list[Sample], one: Kind, other: Kind, clients: int) -> list[float]:
    """Of the requests a second of the same rounds; of a kind to itself: none."""
    if one == other:
        return []
    return [a["per_s"] / b["per_s"] for a, b in pairs(samples, one, other, clients)]
