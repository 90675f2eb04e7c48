"""The embedded model in every format that can be read, against the float path with the numbers that the file holds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.config import Qwen3Config
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.safetensors_file import SafetensorsFile
from python_layer.model.weight_loader import WeightLoader
from tests.golden.cases import GOLDEN
from tests.integration.server import mili
from tests.unit.gguf_writer import config_metadata, exact, gguf_name, stored, tokenizer_metadata, write_gguf
from tests.unit.quantized_writer import Layer, awq, fp8, gptq
from tests.unit.safetensors_writer import write

Weights = dict[str, NDArray[np.float32]]
RAW = json.loads((DEFAULT_MODEL / "config.json").read_text(encoding="utf-8"))
CONFIG = Qwen3Config.from_pretrained(DEFAULT_MODEL)
PROMPTS = [
    turn["prompt_tokens"]
    for conversation in json.loads((GOLDEN / "conversations.json").read_text(encoding="utf-8"))[:8]
    for turn in conversation["turns"][:1]
]
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}

# Most relative error of the logits against the model's own, and least agreement about the likeliest token, after every
# token of the prompts: the model was not trained to guess the questions, so there near ties are many.
BOUNDS = {
    "F16.gguf": (1e-5, 0.99),
    "Q8_0.gguf": (0.02, 0.98),
    "Q4_0.gguf": (0.2, 0.8),
    "awq": (0.2, 0.8),
    "gptq": (0.2, 0.8),
    "fp8": (0.10, 0.95),
}


@pytest.fixture(scope="module")
def original() -> Weights:
    """The embedded model's weights."""
    tensors = SafetensorsFile(DEFAULT_MODEL / "model.safetensors").tensors()
    return {
        name: (tensor.whole().astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
        for name, tensor in tensors.items()
    }


def save_gguf(folder: Path, weights: Weights, kind: str) -> tuple[Path, Weights]:
    """A GGUF file with every matrix in one type, and the weights it holds."""
    tensors = {name: stored(values, kind if values.ndim > 1 else "F32") for name, values in weights.items()}
    metadata = config_metadata(RAW) | tokenizer_metadata(DEFAULT_MODEL, RAW["vocab_size"])
    file = write_gguf(folder / "model.gguf", {gguf_name(name): t for name, t in tensors.items()}, metadata)
    return file, {name: exact(tensor) for name, tensor in tensors.items()}


def save_layers(
    folder: Path, weights: Weights, config: dict[str, Any], make: Callable[[NDArray[np.float32]], Layer]
) -> tuple[Path, Weights]:
    """A folder whose linear layers are quantized, and the weights it holds."""
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    held = dict(weights)
    for name, values in weights.items():
        if name.endswith("_proj.weight"):
            layer = make(values)
            tensors |= {name.removesuffix("weight") + part: tensor for part, tensor in layer.parts.items()}
            held[name] = layer.exact.astype(np.float32)
        else:
            tensors[name] = ("bfloat16", (values.view(np.uint32) >> 16).astype(np.uint16))
    write(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(RAW | {"quantization_config": config}), encoding="utf-8")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(DEFAULT_MODEL / file, folder)
    return folder, held


def save(folder: Path, weights: Weights, kind: str) -> tuple[Path, Weights]:
    if kind.endswith(".gguf"):
        return save_gguf(folder, weights, kind.removesuffix(".gguf"))
    config, make = {
        "awq": (AWQ, lambda values: awq(values, 64)),
        "gptq": (GPTQ, lambda values: gptq(values, 128)),
        "fp8": (FP8, fp8),
    }[kind]
    return save_layers(folder, weights, config, make)


def logits_of(path: Path, quantization: str = "none") -> NDArray[np.float32]:
    """Logits after every token of the prompts, [rows, vocabulary]; matrices that are not quantized are float32."""
    model = Qwen3Model(CONFIG, WeightLoader(path), dtype="float32", quantization=quantization)
    rows = []
    for prompt in PROMPTS:
        pages = model.layout.pages_for(len(prompt))
        step = RequestRows(prompt, 0, range(pages), logits=range(len(prompt)))
        rows.append(model.forward(RaggedBatch.of([step]), model.layout.allocate(pages)))
    return np.concatenate(rows)


def relative_error(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def own_logits() -> NDArray[np.float32]:
    return logits_of(DEFAULT_MODEL)


@pytest.mark.parametrize("kind", BOUNDS)
def test_logits_are_those_of_the_numbers_in_the_file(
    tmp_path: Path, original: Weights, own_logits: NDArray[np.float32], kind: str
) -> None:
    path, held = save(tmp_path, original, kind)
    actual = logits_of(path)
    plain = tmp_path / "plain"
    plain.mkdir()
    write(plain / "model.safetensors", {name: ("float32", values) for name, values in held.items()})
    assert relative_error(actual, logits_of(plain)) < 1e-5
    if kind == "awq":
        # On the file's own numbers: what differs is that activations are rounded to int8.
        assert relative_error(logits_of(path, "auto"), actual) < 0.02
    most, least = BOUNDS[kind]
    agreement = float((actual.argmax(1) == own_logits.argmax(1)).mean())
    assert relative_error(actual, own_logits) < most and agreement >= least
    assert Qwen3Config.from_pretrained(path).eos_token_ids == CONFIG.eos_token_ids


@pytest.mark.parametrize("kind", ["Q8_0.gguf", "fp8"])
def test_the_command_answers_from_it(tmp_path: Path, original: Weights, kind: str) -> None:
    path, _ = save(tmp_path, original, kind)
    result = mili("generate", "--chat", "--model", path, "What is the capital of France?")
    assert result.stdout == "The capital of France is Paris.\n", result.stderr
