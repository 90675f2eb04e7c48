"""Sampling against its definition."""

import numpy as np
import pytest

from python_layer.model.sampling import Sampler, SamplingParams, log_probabilities, top_log_probabilities
from python_layer.utils.errors import InvalidRequestError

LOGITS = np.log(np.array([0.05, 0.4, 0.15, 0.3, 0.1], np.float32))


def draws(params: SamplingParams, count: int = 4000, logits: np.ndarray = LOGITS) -> np.ndarray:
    sampler = Sampler(params)
    return np.bincount([sampler.sample(logits, i) for i in range(count)], minlength=len(logits)) / count


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert Sampler(SamplingParams()).sample(np.array([1.0, 3.0, 3.0, 2.0]), 0) == 1


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(1.0, seed=1), [0.05, 0.4, 0.15, 0.3, 0.1]),
        (SamplingParams(1.0, top_k=2, seed=1), [0, 4 / 7, 0, 3 / 7, 0]),
        (SamplingParams(1.0, top_k=99, seed=1), [0.05, 0.4, 0.15, 0.3, 0.1]),
        (SamplingParams(1.0, top_p=0.65, seed=1), [0, 0.4 / 0.7, 0, 0.3 / 0.7, 0]),
        (SamplingParams(1.0, top_p=0.71, seed=1), [0, 0.4 / 0.85, 0.15 / 0.85, 0.3 / 0.85, 0]),
        (SamplingParams(1.0, top_p=1e-9, seed=1), [0, 1, 0, 0, 0]),
        # After top-k, 0.4 / 0.85 is 0.47: top-p counts within what top-k left.
        (SamplingParams(1.0, top_k=3, top_p=0.47, seed=1), [0, 1, 0, 0, 0]),
        (SamplingParams(0.5, seed=1), [0.0025 / 0.285, 0.16 / 0.285, 0.0225 / 0.285, 0.09 / 0.285, 0.01 / 0.285]),
    ],
)
def test_frequencies_follow_the_definition(params: SamplingParams, expected: list[float]) -> None:
    np.testing.assert_allclose(draws(params), expected, atol=0.025)
    impossible = np.array(expected) == 0
    assert (draws(params)[impossible] == 0).all()


def test_a_seed_fixes_every_draw_on_its_own() -> None:
    first, second = Sampler(SamplingParams(1.0, seed=9)), Sampler(SamplingParams(1.0, seed=9))
    assert [first.sample(LOGITS, i) for i in range(50)] == [second.sample(LOGITS, i) for i in reversed(range(50))][::-1]


def test_without_a_seed_draws_differ() -> None:
    logits = np.zeros(100000, np.float32)
    assert len({Sampler(SamplingParams(1.0)).sample(logits, 0) for _ in range(5)}) > 1


def test_huge_logits_and_tiny_temperatures() -> None:
    logits = np.array([1e30, -1e30, 5e29], np.float32)
    assert Sampler(SamplingParams(1e-8, seed=0)).sample(logits, 0) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_values_out_of_range_name_the_parameter(wrong: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**wrong)
    assert caught.value.param == next(iter(wrong))


def test_log_probabilities() -> None:
    logprobs = log_probabilities(LOGITS + 100)
    np.testing.assert_allclose(np.exp(logprobs), [0.05, 0.4, 0.15, 0.3, 0.1], rtol=1e-5)
    assert [token for token, _ in top_log_probabilities(logprobs, 3)] == [1, 3, 2]
    assert top_log_probabilities(logprobs, 0) == []
    assert len(top_log_probabilities(logprobs, 20)) == 5


def test_equal_tokens_are_ordered_by_id() -> None:
    assert [token for token, _ in top_log_probabilities(np.array([0.0, -1.0, 0.0, 0.0]), 2)] == [0, 2]
