"""Which matrices of FP8 checkpoints stay e4m3 on a GPU, and how they lie in its memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from max.dtype import DType

from python_layer.model.config import Qwen3Config
from python_layer.model.device import parse_target
from python_layer.model.fp8 import Fp8Format
from python_layer.model.gpu_linear import multiplies_float8
from python_layer.model.graph_choice import model_graph
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.precision import Precision
from python_layer.model.quantization import FLOAT8_KINDS, describe, float8_kinds, float8_specs, matrix_formats
from python_layer.model.quantized import QuantFormat
from python_layer.model.weight_loader import WeightLoader
from python_layer.model.weight_spec import WeightSpec
from python_layer.model.weights import weight_specs
from python_layer.utils.errors import WeightError
from tests.unit.quantized_writer import e4m3, fp8
from tests.unit.test_quantized_checkpoint import FP8_CONFIG, save

CONFIG = Qwen3Config.from_pretrained(DEFAULT_MODEL)
SPECS = weight_specs(CONFIG, packed=False)
BLOCKS = Fp8Format((128, 128))
GIVEN = {name: BLOCKS for spec in SPECS if ".layers." in spec.sources[0][0] for name, _ in spec.sources}
"""All matrices of layers are FP8 (and norms, which are no matrices)."""
DOWN = "model.layers.2.mlp.down_proj.weight"


def test_kinds_that_are_e4m3_in_every_layer_stay_so() -> None:
    assert float8_kinds("auto", SPECS, GIVEN) == FLOAT8_KINDS
    assert float8_kinds("none", SPECS, GIVEN) == float8_kinds("auto", SPECS, {}) == ()
    for other in (None, QuantFormat(8, 128, False), Fp8Format((128, 64)), Fp8Format((100, 128))):
        assert float8_kinds("auto", SPECS, GIVEN | {DOWN: other}) == ("qkv", "o", "gate_up")
    assert float8_kinds("auto", SPECS, GIVEN | {DOWN: Fp8Format((64, 128))}) == FLOAT8_KINDS
    assert matrix_formats("auto", SPECS, GIVEN, "avx2") == {}  # a CPU dequantizes
    assert describe({}, "bfloat16", FLOAT8_KINDS) == "float8_e4m3"


def test_the_graph_of_a_gpu_has_them() -> None:
    for architecture, multiplied in (("sm_80", False), ("sm_89", False), ("sm_90a", True)):
        gpu = parse_target(f"cuda:{architecture}")
        graph = model_graph(CONFIG, gpu, Precision(compute_dtype="auto"), 16, GIVEN)
        assert (graph.isa, graph.float8, graph.dtype) == (architecture, FLOAT8_KINDS, DType.bfloat16)
        assert multiplies_float8(architecture) == multiplied
        plain = model_graph(CONFIG, gpu, Precision(compute_dtype="auto", quantization="none"), 16, GIVEN)
        assert plain.float8 == ()
        assert repr(plain) != repr(graph)  # of which the cache of compiled graphs takes its key


def test_numbers_and_scales_of_stacked_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two matrices whose blocks of rows do not end where the second begins, in several pieces."""
    rng = np.random.default_rng(5)
    layers = {name: fp8(rng.standard_normal((rows, 272), np.float32)) for name, rows in (("a", 136), ("b", 264))}
    save(tmp_path, FP8_CONFIG, **{name: layer.parts for name, layer in layers.items()})
    monkeypatch.setattr("python_layer.model.weight_loader.COMPUTED_PIECE", 50 * 272)
    spec = WeightSpec("x", (400, 272), (("a.weight", (136, 272)), ("b.weight", (264, 272))))
    reports: list[tuple[int, int]] = []
    loader = WeightLoader(tmp_path, progress=lambda done, total: reports.append((done, total)))
    assert loader.formats() == {"a.weight": BLOCKS, "b.weight": BLOCKS}
    weights = loader.load(float8_specs([replace(spec, name="layers.0.qkv")], ["qkv"]), "bfloat16")
    numbers, scales = weights["layers.0.qkv"], weights["layers.0.qkv_scales"]
    assert (weights.dtype_of("layers.0.qkv"), weights.dtype_of("layers.0.qkv_scales")) == ("uint8", "float32")
    assert numbers.shape == (400, 272) and scales.shape == (50, 3)
    meaning = np.array([e4m3(code) for code in range(256)])
    wide = np.repeat(np.repeat(scales.astype(np.float64), 8, 0), 128, 1)[:, :272]
    exact = np.concatenate([layers["a"].exact, layers["b"].exact])
    np.testing.assert_allclose(meaning[numbers] * wide, exact, rtol=1e-6)
    assert reports[-1][0] == reports[-1][1] > 0


def test_nan_is_refused(tmp_path: Path) -> None:
    layer = fp8(np.ones((8, 128), np.float32))
    layer.parts["weight"][1][3, 5] = 0xFF
    save(tmp_path, FP8_CONFIG, x=layer.parts)
    specs = float8_specs([WeightSpec("layers.0.o", (8, 128), (("x.weight", (8, 128)),))], ["o"])
    with pytest.raises(WeightError, match="hold NaN; the file is damaged"):
        WeightLoader(tmp_path).load(specs, "bfloat16")
    (plain,) = WeightLoader(tmp_path).load([replace(specs[0], float8=None)], "float32").values()
    assert np.isnan(plain).sum() == 1
