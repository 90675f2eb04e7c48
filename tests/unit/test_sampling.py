"""Sampling against its definition."""

import numpy as np
import pytest

from python_layer.model.sampling import Sampler, SamplingParams, log_probabilities, top_log_probabilities
from python_layer.utils.errors import InvalidRequestError

LOGITS = np.log(np.array([0.05, 0.4, 0.15, 0.3, 0.1], np.float32))


def draws(params: SamplingParams, count: int = 3000, logits: np.ndarray = LOGITS) -> np.ndarray:
    sampler = Sampler(params)
    return np.bincount([sampler.sample(logits, [], [0] * i) for i in range(count)], minlength=len(logits)) / count


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert Sampler(SamplingParams()).sample(np.array([1.0, 3.0, 3.0, 2.0]), [], []) == 1


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
    forwards = [first.sample(LOGITS, [], [0] * i) for i in range(50)]
    backwards = [second.sample(LOGITS, [], [0] * i) for i in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [Sampler(SamplingParams(1.0, seed=9), stream=1).sample(LOGITS, [], [0] * i) for i in range(50)]


def test_without_a_seed_draws_differ() -> None:
    logits = np.zeros(100000, np.float32)
    assert len({Sampler(SamplingParams(1.0)).sample(logits, [], []) for _ in range(5)}) > 1


def test_huge_logits_and_tiny_temperatures() -> None:
    logits = np.array([1e30, -1e30, 5e29], np.float32)
    assert Sampler(SamplingParams(1e-8, seed=0)).sample(logits, [], []) == 0


def reference(
    logits: np.ndarray, p: SamplingParams, prompt: list[int], output: list[int], banned: list[int]
) -> set[int]:
    """The tokens that may be chosen, written as the definition reads, one token at a time."""
    adjusted = {}
    for token, logit in enumerate(logits.tolist()):
        logit += p.logit_bias.get(token, 0.0)
        if token in prompt or token in output:
            logit = logit / p.repetition_penalty if logit > 0 else logit * p.repetition_penalty
        if token in output:
            logit -= p.presence_penalty + p.frequency_penalty * output.count(token)
        if token not in banned:
            adjusted[token] = logit / p.temperature
    order = sorted(adjusted, key=lambda token: (-adjusted[token], token))
    order = order[: p.top_k or None]
    largest = adjusted[order[0]]
    weights = {token: np.exp(adjusted[token] - largest) for token in order}
    total, mass, nucleus = sum(weights.values()), 0.0, []
    for token in order:
        nucleus.append(token)
        mass += weights[token]
        if mass >= p.top_p * total:
            break
    return {token for token in nucleus if weights[token] >= p.min_p}


def test_what_may_be_chosen_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        logits = rng.standard_normal(40).astype(np.float32) * 2
        prompt, output = rng.integers(0, 40, 6).tolist(), rng.integers(0, 40, int(rng.integers(0, 8))).tolist()
        banned = rng.integers(0, 40, int(rng.integers(0, 3))).tolist()
        params = SamplingParams(
            temperature=float(rng.uniform(0.3, 2)),
            top_k=int(rng.choice([0, 1, 5, 20, 100])),
            top_p=float(rng.choice([1.0, 0.9, 0.4])),
            min_p=float(rng.choice([0.0, 0.05, 0.3])),
            repetition_penalty=float(rng.choice([1.0, 1.3, 0.8])),
            presence_penalty=float(rng.choice([0.0, 1.5, -1])),
            frequency_penalty=float(rng.choice([0.0, 0.7])),
            logit_bias={int(i): float(rng.uniform(-5, 5)) for i in rng.integers(0, 40, int(rng.integers(0, 4)))},
            seed=int(rng.integers(2**32)),
        )
        allowed = reference(logits, params, prompt, output, banned)
        sampler = Sampler(params)
        chosen = {sampler.sample(logits, prompt, output, banned)}
        for stream in range(1, 400):
            chosen.add(Sampler(params, stream).sample(logits, prompt, output, banned))
        assert chosen <= allowed
        if len(allowed) <= 5:
            assert len(chosen) >= min(len(allowed), 2)


def test_greedy_heeds_bias_penalties_and_bans() -> None:
    logits = np.array([1.0, 3.0, 2.0, -1.0], np.float32)

    def greedy(output: list[int], banned: tuple[int, ...] = (), **fields: object) -> int:
        return Sampler(SamplingParams(**fields)).sample(logits, [], output, banned)

    assert greedy([]) == 1
    assert greedy([], (1,)) == 2
    assert greedy([], logit_bias={3: 10.0}) == 3
    assert greedy([1], repetition_penalty=2.0) == 2
    assert greedy([1], presence_penalty=1.5) == 2
    assert greedy([1], frequency_penalty=0.6) == 1
    assert greedy([1, 1], frequency_penalty=0.6) == 2
    np.testing.assert_array_equal(logits, [1, 3, 2, -1])


def test_top_p_beyond_the_first_look_sorts_everything() -> None:
    logits = np.zeros(5000, np.float32)
    tokens = {Sampler(SamplingParams(1.0, top_p=0.9, seed=i)).sample(logits, [], []) for i in range(300)}
    assert max(tokens) > 3000
    assert max(tokens) < 4500


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
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"presence_penalty": 2.5},
        {"frequency_penalty": float("nan")},
        {"logit_bias": {3: 101.0}},
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
