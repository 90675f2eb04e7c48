"""The sampling kernel as compiled for GPUs: its PTX, interpreted, against the NumPy reference of `mili.sample`."""

import numpy as np
import pytest

from python_layer.model.sampler import MOST_LOGPROBS, SampledToken, SamplingRow, sampler_inputs
from python_layer.model.sampling import SamplingParams
from tests.ptx.compiled import compile_kernels
from tests.ptx.machine import launch
from tests.ptx.program import Program, parse
from tests.unit.kernels import sampling_reference
from tests.unit.kernels.test_sample import random_row

THREADS = 1024


@pytest.fixture(scope="module")
def kernel() -> Program:
    return parse(compile_kernels("sm_80")["sample"])


def sample(kernel: Program, logits: np.ndarray, rows: list[SamplingRow]) -> list[SampledToken]:
    count, vocab = logits.shape
    tokens, logprobs = np.full(count, -1, np.int32), np.zeros(count)
    top_ids, top = np.zeros((count, MOST_LOGPROBS), np.int32), np.zeros((count, MOST_LOGPROBS))
    edited = np.full_like(logits, np.nan)
    inputs = [np.ascontiguousarray(a) if a.size else np.zeros(1, a.dtype) for a in sampler_inputs(rows, vocab)]
    outputs = [tokens, logprobs, top_ids, top, edited]
    sizes = [vocab, MOST_LOGPROBS, inputs[-1].shape[1]]
    launch(kernel, (count, 1, 1), THREADS, [*outputs, logits, *inputs, *sizes])
    sampled = []
    for r, row in enumerate(rows):
        wanted = 0 if row.logprobs is None else min(row.logprobs, vocab)
        likeliest = list(zip(top_ids[r, :wanted].tolist(), top[r, :wanted].tolist(), strict=True))
        sampled.append(SampledToken(int(tokens[r]), None if row.logprobs is None else float(logprobs[r]), likeliest))
    return sampled


@pytest.mark.parametrize("vocab", [7, 1500])
def test_random_parameters(kernel: Program, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    rows = [random_row(rng, vocab) for _ in range(12)]
    # Few different values, so that thresholds fall on equal ones.
    logits = (rng.standard_normal((len(rows), vocab)) * 3).round(1).astype(np.float32)
    for i, (got, row) in enumerate(zip(sample(kernel, logits, rows), rows, strict=True)):
        expected = sampling_reference.sample(logits[i], row)
        assert got.token == expected.token, (i, row)
        assert (got.logprob is None) == (expected.logprob is None)
        if expected.logprob is not None:
            assert got.logprob == pytest.approx(expected.logprob, abs=1e-5)
            assert [token for token, _ in got.top] == [token for token, _ in expected.top]
            np.testing.assert_allclose([p for _, p in got.top], [p for _, p in expected.top], atol=1e-5)


def test_draws_follow_the_weights(kernel: Program) -> None:
    """Draws over many seeds hit each of four equal tokens about as often, and others never."""
    logits = np.full((64, 40), -np.inf, np.float32)
    logits[:, [3, 9, 31, 39]] = 1.0
    rows = [SamplingRow(SamplingParams(temperature=1.0), seed=seed, index=0) for seed in range(64)]
    drawn = [s.token for s in sample(kernel, logits, rows)]
    assert set(drawn) == {3, 9, 31, 39}
    expected = [sampling_reference.sample(given, row).token for given, row in zip(logits, rows, strict=True)]
    assert drawn == expected
