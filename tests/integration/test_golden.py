"""The whole model against Hugging Face transformers: logits after the prompt and at each of 32 decode steps.

``GOLDEN_DIR`` names a folder with more cases (``make_golden.py --out DIR --random N``).
"""

import os
from pathlib import Path

import numpy as np
import pytest

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.utils.cpu import supported_isas
from python_layer.utils.errors import ConfigError
from tests.emulator.emulate import emulate
from tests.golden.cases import GOLDEN, golden_folders, golden_prompts
from tests.unit.kernels.isas import WORDS

FOLDERS = golden_folders(GOLDEN) + golden_folders(Path(os.environ.get("GOLDEN_DIR", GOLDEN / "none")))
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module", params=TOLERANCE)
def model(request: pytest.FixtureRequest, folder: Path) -> Qwen3Model:
    """In bfloat16 with activations rounded as well as weights, where the CPU can."""
    return Qwen3Model.from_pretrained(folder, dtype=request.param, compute_dtype="auto")


@pytest.fixture(scope="module")
def exact_model(folder: Path) -> Qwen3Model:
    """With float32 weights, as transformers had them; rounded ones could break near ties another way."""
    return Qwen3Model.from_pretrained(folder, dtype="float32")


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def stepwise_logits(model: Qwen3Model, prompt: list[int], forced: list[int], chunk: int) -> np.ndarray:
    """Logits after the prompt, computed ``chunk`` tokens at a time, and after each forced token."""
    pages = model.layout.pages_for(len(prompt) + len(forced))
    cache = model.layout.allocate(pages)
    tokens, computed, rows = [*prompt, *forced], 0, []
    while computed < len(tokens):
        end = min(computed + chunk, len(prompt)) if computed < len(prompt) else computed + 1
        step = RequestRows(tokens[computed:end], computed, range(pages))
        logits = model.forward(RaggedBatch.of([step]), cache)
        computed = end
        if computed >= len(prompt):
            rows.append(logits[0])
    return np.stack(rows)


def test_logits_of_int8_matrices() -> None:
    """Against float32, over all steps; and the same bits in chunks and whole.

    This model has large random weights and multiplies an error of one matrix several times. The other cases' columns
    make no groups.
    """
    model = Qwen3Model.from_pretrained(GOLDEN / "tied", dtype="bfloat16", quantization="int8")
    assert model.matrix_format == "int8"
    actual, expected = [], []
    for golden in golden_prompts(GOLDEN / "tied"):
        logits = stepwise_logits(model, golden.prompt, golden.greedy[:-1], chunk=512)
        np.testing.assert_array_equal(stepwise_logits(model, golden.prompt, golden.greedy[:-1], chunk=7), logits)
        actual.append(logits)
        expected.append(golden.logits)
    assert relative_error(np.concatenate(actual), np.concatenate(expected)) < 0.05


def test_logits_by_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, and the same bits in chunks and whole; where the CPU has no AMX it is emulated."""
    emulate("amx")
    monkeypatch.setattr("python_layer.model.precision.supported_isas", lambda: ["amx", *supported_isas()])
    model = Qwen3Model.from_pretrained(GOLDEN / "tied", dtype="bfloat16", compute_dtype="auto")
    assert (model.isa, model.compute_dtype) == ("amx", "bfloat16")
    longest = max(golden_prompts(GOLDEN / "tied"), key=lambda golden: len(golden.prompt))
    logits = stepwise_logits(model, longest.prompt, longest.greedy[:-1], chunk=512)
    np.testing.assert_array_equal(stepwise_logits(model, longest.prompt, longest.greedy[:-1], chunk=23), logits)
    assert all(relative_error(*pair) < TOLERANCE["bfloat16"] for pair in zip(logits, longest.logits, strict=True))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_in_int16(folder: Path) -> None:
    """Matrices, activations and cache; and the same bits in chunks and whole."""
    if not WORDS:
        pytest.skip("the CPU has neither VNNI nor AVX2")
    model = Qwen3Model.from_pretrained(folder, dtype="bfloat16", compute_dtype="int16", cpu_isa=WORDS[0])
    assert model.kv_dtype == "int16"
    for golden in golden_prompts(folder):
        logits = stepwise_logits(model, golden.prompt, golden.greedy[:-1], chunk=512)
        assert all(relative_error(*pair) < TOLERANCE["bfloat16"] for pair in zip(logits, golden.logits, strict=True))
        np.testing.assert_array_equal(stepwise_logits(model, golden.prompt, golden.greedy[:-1], chunk=7), logits)


def test_logits_with_an_int8_cache() -> None:
    """All else in float32: what is lost is the cache's. And the same bits in chunks and whole."""
    case = GOLDEN / "tied"
    model = Qwen3Model.from_pretrained(case, dtype="float32", kv_dtype="int8")
    exact = Qwen3Model.from_pretrained(case, dtype="float32")
    assert model.layout.page_bytes < 0.3 * exact.layout.page_bytes
    for golden in golden_prompts(case):
        logits = stepwise_logits(model, golden.prompt, golden.greedy[:-1], chunk=512)
        assert all(relative_error(*pair) < 3e-2 for pair in zip(logits, golden.logits, strict=True))
        np.testing.assert_array_equal(stepwise_logits(model, golden.prompt, golden.greedy[:-1], chunk=7), logits)


def test_compute_dtype_must_fit() -> None:
    for arguments in ({"compute_dtype": "float16"}, {"compute_dtype": "bfloat16", "dtype": "float32"}):
        with pytest.raises(ConfigError, match="compute_dtype"):
            Qwen3Model.from_pretrained(GOLDEN / "tied", **arguments)


def test_logits_match_transformers(model: Qwen3Model, folder: Path) -> None:
    for golden in golden_prompts(folder):
        logits = stepwise_logits(model, golden.prompt, golden.greedy[:-1], chunk=512)
        for step, (actual, expected) in enumerate(zip(logits, golden.logits, strict=True)):
            error = relative_error(actual, expected)
            assert error < TOLERANCE[model.dtype], f"prompt of {len(golden.prompt)}, step {step}: {error}"


def test_greedy_tokens_match_transformers(exact_model: Qwen3Model, folder: Path) -> None:
    for golden in golden_prompts(folder):
        result = exact_model.generate(golden.prompt, max_tokens=len(golden.greedy), ignore_eos=True)
        assert result.tokens == golden.greedy


def test_chunks_and_neighbours_change_no_bit(model: Qwen3Model, folder: Path) -> None:
    prompts = [golden.prompt for golden in golden_prompts(folder)]
    alone = [stepwise_logits(model, prompt, [], chunk=512)[0] for prompt in prompts]
    for prompt, expected in zip(prompts, alone, strict=True):
        np.testing.assert_array_equal(stepwise_logits(model, prompt, [], chunk=7)[0], expected)

    requests, first_page = [], 0
    for prompt in prompts:
        pages = model.layout.pages_for(len(prompt))
        requests.append(RequestRows(prompt, 0, range(first_page, first_page + pages)))
        first_page += pages
    together = model.forward(RaggedBatch.of(requests[::-1]), model.layout.allocate(first_page))
    for actual, expected in zip(together[::-1], alone, strict=True):
        np.testing.assert_array_equal(actual, expected)
