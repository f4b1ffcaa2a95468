"""Two agents by turns: what is told of each is the median of its own rounds."""

from __future__ import annotations

from bench.turns import FORMER, HEADS, NOW, Sample, rows


def sample(agent: str, per_s: float) -> Sample:
    figures = {"per_s": per_s, "p50": 1.234, "agent_us": 300.4, "worker_us": 99.6, "load_us": 15.0}
    return Sample("tiny", "http", 32, agent, figures)


def test_a_row_has_the_medians_of_one_agent() -> None:
    found = rows(
        [sample(FORMER, 10), sample(NOW, 30), sample(FORMER, 14), sample(NOW, 34), sample(FORMER, 12)]
    )
    assert found == [
        ["tiny", "http", "32", FORMER, "12", "1.23", "300", "100", "15"],
        ["tiny", "http", "32", NOW, "32", "1.23", "300", "100", "15"],
    ]
    assert all(len(row) == len(HEADS) for row in found)
