"""Sampling on GPUs against the NumPy reference of `mili.sample`.

Everywhere the PTX of the kernel is interpreted; where MAX sees a GPU, it runs on it too.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from max.driver import accelerator_count

from python_layer.model.compile_cache import CompileCache
from python_layer.model.device import resolve_device
from python_layer.model.kernels import default_cache_dir
from python_layer.model.sampler import SampledToken, Sampler, SamplingRow, sampler_inputs
from python_layer.model.sampling import MOST_LOGPROBS, SamplingParams
from tests.ptx.compiled import compile_kernels
from tests.ptx.machine import launch
from tests.ptx.program import Program, parse
from tests.unit.kernels import sampling_reference
from tests.unit.kernels.test_sample import random_row

THREADS = 1024


Sample = Callable[[np.ndarray, list[SamplingRow]], list[SampledToken]]


@pytest.fixture(scope="module", params=["interpreted", "gpu"])
def sample(request: pytest.FixtureRequest) -> Sample:
    if request.param == "interpreted":
        return partial(interpret, parse(compile_kernels("sm_80")["sample"]))
    if accelerator_count() == 0:
        pytest.skip("MAX sees no GPU here")
    gpu = resolve_device("gpu")
    return Sampler(CompileCache(default_cache_dir(), gpu), gpu).sample


def interpret(kernel: Program, logits: np.ndarray, rows: list[SamplingRow]) -> list[SampledToken]:
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
def test_random_parameters(sample: Sample, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    rows = [random_row(rng, vocab) for _ in range(12)]
    # Few different values, so that thresholds fall on equal ones.
    logits = (rng.standard_normal((len(rows), vocab)) * 3).round(1).astype(np.float32)
    for i, (got, row) in enumerate(zip(sample(logits, rows), rows, strict=True)):
        expected = sampling_reference.sample(logits[i], row)
        assert got.token == expected.token, (i, row)
        assert (got.logprob is None) == (expected.logprob is None)
        if expected.logprob is not None:
            assert got.logprob == pytest.approx(expected.logprob, abs=1e-5)
            assert [token for token, _ in got.top] == [token for token, _ in expected.top]
            np.testing.assert_allclose([p for _, p in got.top], [p for _, p in expected.top], atol=1e-5)


def test_draws_follow_the_weights(sample: Sample) -> None:
    """Draws over many seeds hit each of four equal tokens about as often, and others never."""
    logits = np.full((64, 40), -np.inf, np.float32)
    logits[:, [3, 9, 31, 39]] = 1.0
    rows = [SamplingRow(SamplingParams(temperature=1.0), seed=seed, index=0) for seed in range(64)]
    drawn = [s.token for s in sample(logits, rows)]
    assert set(drawn) == {3, 9, 31, 39}
    expected = [sampling_reference.sample(given, row).token for given, row in zip(logits, rows, strict=True)]
    assert drawn == expected
