"""What ``mili info`` says of a checkpoint: how its matrices are stored, and what becomes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from python_layer.model.summary import model_summary
from python_layer.utils.settings import load_settings
from tests.random_model import ensure_random_model
from tests.unit.gguf_writer import config_metadata, random_blocks, write_gguf
from tests.unit.quantized_writer import AWQ_CONFIG, FP8_CONFIG, GPTQ_CONFIG, Layer, awq, fp8, gptq
from tests.unit.safetensors_writer import write

Values = NDArray[np.float32]
ORDER = np.random.default_rng(3).permutation(128)
ROWS = {"q": 256, "k": 128, "v": 128}
SHAPES = {f"self_attn.{name}_proj": (rows, 128) for name, rows in ROWS.items()} | {"self_attn.o_proj": (128, 256)}
SHAPES |= {"mlp.gate_proj": (384, 128), "mlp.up_proj": (384, 128), "mlp.down_proj": (128, 384)}


def matrices(model: Path, **flags: Any) -> dict[str, str]:
    summary = model_summary(load_settings({"model": str(model), "compute_dtype": "float32", **flags}))
    return {name.removeprefix("matrices."): value for name, value in summary.items() if name.startswith("matrices.")}


def one_layer(folder: Path, quantization: dict[str, Any] | None = None) -> Path:
    """A model of random weights whose configuration says that it has one layer, and how that is quantized."""
    file = ensure_random_model(folder / "model") / "config.json"
    raw = json.loads(file.read_text()) | {"num_hidden_layers": 1}
    file.write_text(json.dumps(raw | ({"quantization_config": quantization} if quantization else {})))
    return file.parent


def test_floats(tmp_path: Path) -> None:
    folder = one_layer(tmp_path)
    kinds = ("embedding", "qkv", "o", "gate_up", "down")
    assert matrices(folder) == dict.fromkeys(kinds, "bfloat16 in the file, bfloat16 in memory")
    rounded = "bfloat16 in the file, int4 in groups of 32 in memory"
    assert matrices(folder, quantization="int4") == dict.fromkeys(kinds, rounded)
    (folder / "model.safetensors").unlink()
    assert matrices(folder)["o"] == "nothing that can be read in the file, bfloat16 in memory"


@pytest.mark.parametrize(("isa", "dtype"), [("avx512_fp16", "float16"), ("avx512_vnni", "int16")])
def test_cpus_that_multiply_another_type_keep_it_with_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isa: str, dtype: str
) -> None:
    monkeypatch.setattr("python_layer.model.precision.supported_isas", lambda: [isa, "portable"])
    folder = one_layer(tmp_path)
    assert matrices(folder, compute_dtype="auto")["o"] == (
        f"bfloat16 in the file, {dtype} with a scale for each row in memory"
    )
    assert matrices(folder, compute_dtype="auto", quantization="int4")["o"].endswith("int4 in groups of 32 in memory")
    assert matrices(folder, compute_dtype="auto", dtype="float32")["o"].endswith("float32 in memory")


@pytest.mark.parametrize(
    ("config", "make", "stored", "kept"),
    [
        (AWQ_CONFIG, lambda v: awq(v, 64), "AWQ of 4 bits in groups of 64", "int4 in groups of 64 with offsets"),
        (GPTQ_CONFIG, lambda v: gptq(v, 64), "GPTQ of 4 bits in groups of 64", "int4 in groups of 64"),
        (FP8_CONFIG, fp8, "FP8 in blocks of 128 x 128", "bfloat16"),
    ],
)
def test_quantized_layers(
    tmp_path: Path, config: dict[str, Any], make: Callable[[Values], Layer], stored: str, kept: str
) -> None:
    folder = one_layer(tmp_path, config)
    tensors = {
        f"model.layers.0.{name}.{part}": tensor
        for name, shape in SHAPES.items()
        for part, tensor in make(np.random.default_rng(0).standard_normal(shape, np.float32)).parts.items()
    }
    write(
        folder / "model.safetensors", tensors | {"model.embed_tokens.weight": ("float16", np.zeros((320, 128), "<f2"))}
    )
    found = matrices(folder)
    assert found.pop("embedding") == "float16 in the file, bfloat16 in memory"
    assert found == dict.fromkeys(("qkv", "o", "gate_up", "down"), f"{stored} in the file, {kept} in memory")
    assert matrices(folder, quantization="none")["down"] == f"{stored} in the file, bfloat16 in memory"


def test_scattered_columns_are_dequantized(tmp_path: Path) -> None:
    folder = one_layer(tmp_path, GPTQ_CONFIG | {"desc_act": True})
    layer = gptq(np.random.default_rng(0).standard_normal((384, 128), np.float32), 64, order=ORDER)
    names = [f"model.layers.0.mlp.{name}_proj.{part}" for name in ("gate", "up") for part in layer.parts]
    write(folder / "model.safetensors", dict(zip(names, [*layer.parts.values()] * 2, strict=True)))
    expected = "GPTQ of 4 bits in groups of 64 of scattered columns (desc_act) in the file, bfloat16 in memory"
    assert matrices(folder)["gate_up"] == expected


def test_a_mixture_of_blocks(tmp_path: Path) -> None:
    raw = json.loads((one_layer(tmp_path) / "config.json").read_text())
    kinds = {"token_embd": ("Q6_K", 512, 256), "blk.0.attn_q": ("Q4_K", 256, 256), "blk.0.attn_k": ("Q4_K", 128, 256)}
    kinds |= {"blk.0.attn_v": ("Q6_K", 128, 256), "blk.0.attn_output": ("Q4_0", 256, 256)}
    tensors = {f"{name}.weight": random_blocks(*kind) for name, kind in kinds.items()}
    found = matrices(write_gguf(tmp_path / "x.gguf", tensors, config_metadata(raw | {"hidden_size": 256})))
    assert found["embedding"] == "Q6_K in the file, int8 in groups of 32 in memory"
    assert found["qkv"] == "Q4_K and Q6_K in the file, int8 in groups of 32 with offsets in memory"
    assert found["o"] == "Q4_0 in the file, int4 in groups of 32 in memory"
