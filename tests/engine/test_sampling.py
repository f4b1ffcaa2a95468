"""Drawing tokens: exact filters, fair draws, the same seed the same tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.engines.sampling import NumpySampler, greatest, log_softmax
from agent.request import Sampling

NONE = np.array([], np.intp)
VOCABULARY = 5000


def logits(seed: int, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(VOCABULARY) * spread).astype(np.float32)


def kept(row: np.ndarray, sampling: Sampling) -> dict[int, float]:
    """Tokens and probabilities that llama.cpp's chain leaves, worked out the long way."""
    order = np.argsort(-row, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    values = row[order].astype(np.float64)
    mass = np.exp(values - values[0])
    mass /= mass.sum()
    if sampling.top_p < 1:
        order = order[: int(np.searchsorted(mass.cumsum(), sampling.top_p)) + 1]
    if sampling.min_p:
        order = order[row[order] >= row.max() + np.log(sampling.min_p)]
    weights = np.exp((row[order].astype(np.float64) - row.max()) / sampling.temperature)
    return dict(zip(order.tolist(), (weights / weights.sum()).tolist(), strict=True))


@given(st.integers(0, 1000), st.integers(1, 200))
def test_the_greatest_logits_are_found_exactly(seed: int, count: int) -> None:
    row = np.round(logits(seed))  # many equal ones
    assert greatest(row, count).tolist() == np.argsort(-row, kind="stable")[:count].tolist()


@settings(max_examples=30)
@given(
    st.integers(0, 1000),
    st.sampled_from([0, 1, 5, 40]),
    st.sampled_from([0.1, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([0.2, 0.8, 2.0]),
)
def test_only_tokens_that_the_filters_leave_are_drawn(
    seed: int, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    sampling = Sampling(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature, seed=seed)
    row = logits(seed)
    left = kept(row, sampling)
    sampler = NumpySampler(sampling, [], 0, NONE)
    assert {sampler.draw(row) for _ in range(100)} <= left.keys()


def test_draws_follow_the_probabilities() -> None:
    sampling = Sampling(top_k=5, top_p=1.0, min_p=0.0, temperature=1.5, seed=1)
    row = logits(3)
    expected = kept(row, sampling)
    sampler = NumpySampler(sampling, [], 0, NONE)
    draws = [sampler.draw(row) for _ in range(20_000)]
    for token, probability in expected.items():
        assert draws.count(token) / len(draws) == pytest.approx(probability, abs=0.015)


def test_the_same_seed_draws_the_same_tokens_and_each_answer_its_own() -> None:
    rows = [logits(seed) for seed in range(50)]

    def draws(seed: int, index: int) -> list[int]:
        sampler = NumpySampler(Sampling(temperature=2.0, seed=seed), [], index, NONE)
        return [sampler.draw(row) for row in rows]

    assert draws(7, 0) == draws(7, 0)
    assert draws(7, 0) != draws(8, 0)
    assert draws(7, 0) != draws(7, 1)


def test_bias_bans_and_forces_tokens() -> None:
    row = logits(1)
    best = int(row.argmax())
    sampler = NumpySampler(Sampling(temperature=0, logit_bias={best: -100.0, 17: 100.0}), [], 0, NONE)
    sampler.shape(row)
    assert sampler.draw(row) == 17


def test_ignored_ends_are_never_drawn() -> None:
    row = logits(1)
    best = int(row.argmax())
    sampler = NumpySampler(Sampling(temperature=0, ignore_eos=True), [], 0, np.array([best], np.intp))
    sampler.shape(row)
    assert sampler.draw(row) != best


def test_ignored_ends_stay_banned_whatever_the_penalties_do() -> None:
    sampling = Sampling(ignore_eos=True, repeat_penalty=0.01, top_k=0, top_p=1.0, min_p=0.05)
    row = logits(1)
    sampler = NumpySampler(sampling, [7, 7], 0, np.array([7], np.intp))
    sampler.shape(row)
    assert all(sampler.draw(row) != 7 for _ in range(50))


def test_a_peaked_row_does_not_narrow_the_next_flat_one() -> None:
    sampling = Sampling(top_k=0, top_p=0.9, min_p=0.0, temperature=1.0, seed=3)
    sampler = NumpySampler(sampling, [], 0, NONE)
    sampler.draw(logits(1, spread=30))
    flat = np.zeros(VOCABULARY, np.float32)
    assert len({sampler.draw(flat) for _ in range(50)}) > 40


def test_penalties_are_llama_cpps() -> None:
    sampling = Sampling(repeat_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25, penalty_last_n=4)
    sampler = NumpySampler(sampling, [9, 1, 1, 2], 0, NONE)
    sampler.accept(1)  # pushes 9 out of the window
    row = np.array([1.0, 4.0, -4.0] + [0.0] * 7, np.float32)
    sampler.shape(row)
    assert row[:3].tolist() == [1.0, 4.0 / 2 - 3 * 0.5 - 0.25, -4.0 * 2 - 0.5 - 0.25]
    assert row[9] == 0.0


def test_logprobs_are_natural_logarithms_of_probabilities() -> None:
    assert np.exp(log_softmax(logits(5)).astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-4)
