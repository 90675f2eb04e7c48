"""Whole models on a GPU: golden logits, captured decodes, the engine. Skipped where MAX sees no GPU."""

from pathlib import Path

import numpy as np
import pytest
from max.driver import accelerator_count

from python_layer.inference.build import build_engine
from python_layer.inference.params import GenerationParams
from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.pages import make_pages
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.utils.settings import load_settings
from tests.golden.cases import GOLDEN, golden_folders, golden_prompts

pytestmark = pytest.mark.skipif(accelerator_count() == 0, reason="MAX sees no GPU here")
TOLERANCE = 2e-2


def on_gpu(folder: Path) -> Qwen3Model:
    return Qwen3Model.from_pretrained(folder, device="gpu", compute_dtype="auto")


@pytest.fixture(scope="module")
def tiny() -> Qwen3Model:
    return on_gpu(DEFAULT_MODEL)


@pytest.mark.parametrize("folder", golden_folders(GOLDEN), ids=lambda folder: folder.name)
def test_logits_match_transformers(folder: Path) -> None:
    model = on_gpu(folder)
    for golden in golden_prompts(folder):
        known = [*golden.prompt, *golden.greedy[:-1]]
        cache = model.allocate_cache(model.layout.pages_for(len(known)))
        wanted = range(len(golden.prompt) - 1, len(known))
        pages = range(model.layout.pages_for(len(known)))
        logits = model.forward(RaggedBatch.of([RequestRows(known, 0, pages, tuple(wanted))]), cache)
        for actual, expected in zip(logits, golden.logits, strict=True):
            assert np.linalg.norm(actual - expected) < TOLERANCE * np.linalg.norm(expected)


def test_captured_decodes_are_the_models(tiny: Qwen3Model) -> None:
    """Batches of 3 and 4 share a capture; what fills the smaller one up must not show."""
    cache = tiny.allocate_cache(9)
    prompts = [[5, 9, 3], [7] * 20, [1], [2, 4]]
    pages = [[0], [1, 2], [3], [4]]
    tiny.forward(RaggedBatch.of([RequestRows(p, 0, own) for p, own in zip(prompts, pages, strict=True)]), cache)
    captured = tiny.captured_decodes(cache, spare_page=8)
    for count in (4, 3, 1, 3):
        rows = [RequestRows([11], len(p), own) for p, own in zip(prompts[:count], pages, strict=False)]
        batch = RaggedBatch.of(rows)
        expected = tiny.forward(batch, cache)
        actual = captured.step(batch).to_numpy()
        assert np.linalg.norm(actual - expected) < TOLERANCE * np.linalg.norm(expected)


def test_logits_do_not_depend_on_the_company(tiny: Qwen3Model) -> None:
    """Bit by bit: a prompt whole, in chunks, and beside others."""
    prompt = [int(token) for token in np.random.default_rng(1).integers(0, 2000, 150)]
    pages = list(range(10))
    cache = tiny.allocate_cache(20)
    alone = tiny.forward(RaggedBatch.of([RequestRows(prompt, 0, pages)]), cache)
    for end in (1, 60, 149):
        tiny.forward(RaggedBatch.of([RequestRows(prompt[:end], 0, pages)]), cache)
        rest = RequestRows(prompt[end:], end, pages)
        other = RequestRows([7] * 33, 0, [15, 16, 17])
        beside = tiny.forward(RaggedBatch.of([other, rest]), cache)
        np.testing.assert_array_equal(beside[1], alone[0])


def test_pages_are_copied_and_swapped(tiny: Qwen3Model) -> None:
    pages = make_pages(tiny.layout, tiny.device, 3, swap_slots=1)
    batch = RaggedBatch.of([RequestRows([5, 9, 3], 0, [0])])
    tiny.forward(batch, pages.cache)
    following = [RaggedBatch.of([RequestRows([4], 3, [page])]) for page in (0, 1, 2)]
    expected = tiny.forward(following[0], pages.cache)
    pages.copy(0, 1)
    pages.swap_out(1, 0)
    pages.swap_in(0, 2)
    for other in following[1:]:
        np.testing.assert_array_equal(tiny.forward(other, pages.cache), expected)


def test_the_engine_answers(tiny: Qwen3Model) -> None:
    engine = build_engine(tiny, load_settings({"device": "gpu", "kv_cache_memory": 0.1}))
    try:
        params = GenerationParams(max_tokens=12, ignore_eos=True)
        answers = [outputs[0] for outputs in engine.generate_batch([[5, 9, 3]] * 3, params)]
        assert [len(answer.tokens) for answer in answers] == [12] * 3
        assert answers[0].tokens == answers[1].tokens == answers[2].tokens
    finally:
        engine.shutdown()
