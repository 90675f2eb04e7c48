"""The sampling op against its NumPy reference."""

from collections import Counter

import numpy as np
import pytest

from python_layer.model.compile_cache import CompileCache
from python_layer.model.kernels import default_cache_dir
from python_layer.model.sampler import Sampler, SamplingRow
from python_layer.model.sampling import SamplingParams
from tests.unit.kernels import sampling_reference

LOGITS = np.log(np.array([0.05, 0.4, 0.15, 0.3, 0.1], np.float32))


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(CompileCache(default_cache_dir()))


def one(sampler: Sampler, logits: np.ndarray, row: SamplingRow) -> int:
    return sampler.sample(logits[None].astype(np.float32), [row])[0].token


def random_row(rng: np.random.Generator, vocab: int) -> SamplingRow:
    output = rng.integers(0, vocab, int(rng.integers(0, 10))).tolist()
    biased = rng.integers(0, vocab, int(rng.integers(0, 4)))
    return SamplingRow(
        SamplingParams(
            temperature=float(rng.choice([0.0, 0.3, 1.0, 1.7])),
            top_k=int(rng.choice([0, 1, 5, 40, 10_000_000])),
            top_p=float(rng.choice([1.0, 0.95, 0.5, 0.01])),
            min_p=float(rng.choice([0.0, 0.02, 0.3])),
            repetition_penalty=float(rng.choice([1.0, 1.25, 0.75])),
            presence_penalty=float(rng.choice([0.0, 1.5, -1.0])),
            frequency_penalty=float(rng.choice([0.0, 0.75])),
            logit_bias={int(i): float(rng.integers(-8, 8)) for i in biased},
        ),
        seed=int(rng.integers(2**63)),
        index=len(output),
        seen=[*output, *rng.integers(0, vocab, 5).tolist()],
        counts=Counter(output),
        banned=rng.integers(0, vocab, int(rng.integers(0, 3)) if vocab > 3 else 0).tolist(),
        logprobs=rng.choice([None, 0, 3, 20]),
        mask=random_mask(rng, vocab) if rng.random() < 0.4 else None,
    )


def random_mask(rng: np.random.Generator, vocab: int) -> np.ndarray:
    """Allows few tokens or most of them, the last three for certain: others are never all banned."""
    allowed = rng.random(32 * -(-vocab // 32)) < rng.choice([0.02, 0.9])
    allowed[max(0, vocab - 3) : vocab] = True
    return np.packbits(allowed, bitorder="little").view(np.uint32)


def test_only_allowed_tokens_are_drawn(sampler: Sampler) -> None:
    rng = np.random.default_rng(5)
    for vocab in (33, 1000):
        mask = random_mask(rng, vocab)
        logits = rng.standard_normal(vocab).astype(np.float32) + np.where(np.arange(vocab) < vocab - 3, 50, 0)
        for index in range(100):
            token = one(sampler, logits, SamplingRow(SamplingParams(1.5), 1, index, mask=mask))
            assert int(mask[token // 32]) >> (token % 32) & 1


@pytest.mark.parametrize(("vocab", "rows", "rounds"), [(1, 2, 5), (7, 5, 40), (600, 16, 40), (151_936, 6, 3)])
def test_agrees_with_the_reference(sampler: Sampler, vocab: int, rows: int, rounds: int) -> None:
    rng = np.random.default_rng(vocab)
    for _ in range(rounds):
        logits = (rng.standard_normal((rows, vocab)) * rng.choice([0.5, 3.0])).astype(np.float32)
        wanted = [random_row(rng, vocab) for _ in range(rows)]
        for row, source, sampled in zip(wanted, logits, sampler.sample(logits, wanted), strict=True):
            expected = sampling_reference.sample(source, row)
            assert sampled.token == expected.token, row
            if row.logprobs is None:
                assert (sampled.logprob, sampled.top) == (None, [])
            else:
                assert sampled.logprob == pytest.approx(expected.logprob, abs=1e-5)
                assert [token for token, _ in sampled.top] == [token for token, _ in expected.top]
                np.testing.assert_allclose([v for _, v in sampled.top], [v for _, v in expected.top], atol=1e-5)


def test_ties_go_by_id(sampler: Sampler) -> None:
    logits = np.array([1, 3, 3, 3, 0, 3], np.float32)
    assert one(sampler, logits, SamplingRow(SamplingParams(), 0, 0)) == 1
    seen = {one(sampler, logits, SamplingRow(SamplingParams(1.0, top_k=2), 0, i)) for i in range(100)}
    assert seen == {1, 2}
    seen = {one(sampler, logits, SamplingRow(SamplingParams(1.0, top_p=0.7), 0, i)) for i in range(200)}
    assert seen == {1, 2, 3}
    [sampled] = sampler.sample(logits[None], [SamplingRow(SamplingParams(), 0, 0, logprobs=5)])
    assert [token for token, _ in sampled.top] == [1, 2, 3, 5, 0]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(1.0), [0.05, 0.4, 0.15, 0.3, 0.1]),
        (SamplingParams(1.0, top_k=2), [0, 4 / 7, 0, 3 / 7, 0]),
        (SamplingParams(1.0, top_p=0.65), [0, 0.4 / 0.7, 0, 0.3 / 0.7, 0]),
        (SamplingParams(1.0, top_p=1e-9), [0, 1, 0, 0, 0]),
        # After top-k, 0.4 / 0.85 is 0.47: top-p counts within what top-k left.
        (SamplingParams(1.0, top_k=3, top_p=0.47), [0, 1, 0, 0, 0]),
        (SamplingParams(1.0, min_p=0.5), [0, 4 / 7, 0, 3 / 7, 0]),
        (SamplingParams(0.5), [0.0025 / 0.285, 0.16 / 0.285, 0.0225 / 0.285, 0.09 / 0.285, 0.01 / 0.285]),
    ],
)
def test_frequencies_follow_the_definition(sampler: Sampler, params: SamplingParams, expected: list[float]) -> None:
    count = 3000
    rows = [SamplingRow(params, seed=1, index=i) for i in range(count)]
    tokens = [sampled.token for sampled in sampler.sample(np.tile(LOGITS, (count, 1)), rows)]
    frequencies = np.bincount(tokens, minlength=5) / count
    np.testing.assert_allclose(frequencies, expected, atol=0.03)
    assert (frequencies[np.array(expected) == 0] == 0).all()


def test_rows_do_not_depend_on_their_neighbours(sampler: Sampler) -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((40, 3000)).astype(np.float32)
    rows = [random_row(rng, 3000) for _ in range(40)]
    together = sampler.sample(logits, rows)
    for i in range(40):
        assert sampler.sample(logits[i : i + 1], rows[i : i + 1]) == [together[i]]


def test_huge_logits_and_tiny_temperatures(sampler: Sampler) -> None:
    logits = np.array([1e30, -1e30, 5e29], np.float32)
    assert one(sampler, logits, SamplingRow(SamplingParams(1e-8), 0, 0)) == 0
    assert one(sampler, logits, SamplingRow(SamplingParams(1e-8, top_p=0.5, min_p=1.0), 0, 0)) == 0


def test_greedy_heeds_bias_penalties_and_bans(sampler: Sampler) -> None:
    logits = np.array([1.0, 3.0, 2.0, -1.0], np.float32)

    def greedy(output: list[int], banned: tuple[int, ...] = (), **fields: object) -> int:
        row = SamplingRow(SamplingParams(**fields), 0, 0, seen=output, counts=Counter(output), banned=banned)
        return one(sampler, logits, row)

    assert greedy([]) == 1
    assert greedy([], (1,)) == 2
    assert greedy([], (1,), logit_bias={1: 100.0}) == 2
    assert greedy([], logit_bias={3: 10.0}) == 3
    assert greedy([1], repetition_penalty=2.0) == 2
    assert greedy([1], presence_penalty=1.5) == 2
    assert greedy([1], frequency_penalty=0.6) == 1
    assert greedy([1, 1], frequency_penalty=0.6) == 2


def test_broken_logits_give_some_token(sampler: Sampler) -> None:
    for value in (np.nan, -np.inf, np.inf):
        params = SamplingParams(1.0, top_k=3, top_p=0.5, min_p=0.5)
        assert 0 <= one(sampler, np.full(9, value, np.float32), SamplingRow(params, 0, 0)) < 9


def test_no_rows(sampler: Sampler) -> None:
    assert sampler.sample(np.zeros((0, 5), np.float32), []) == []
