"""FP8, AWQ and GPTQ layers: the numbers that their formats define, exactly where the format allows it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from python_layer.model.checkpoint import open_checkpoint
from python_layer.model.fp8 import e4m3_values
from python_layer.model.quantized import QuantFormat
from python_layer.model.tensor_source import TensorSource, quantized_rows
from python_layer.model.weight_loader import WeightLoader
from python_layer.model.weight_spec import WeightSpec
from python_layer.utils.errors import WeightError
from tests.unit.quantized_writer import (
    AWQ_CONFIG,
    AWQ_LANES,
    FP8_CONFIG,
    GPTQ_CONFIG,
    Layer,
    Parts,
    awq,
    e4m3,
    fp8,
    gptq,
)
from tests.unit.safetensors_writer import error_of, float32, write, write_index

ROWS, COLUMNS = 72, 256
ORDER = np.random.default_rng(3).permutation(COLUMNS)


def values(seed: int = 0, rows: int = ROWS) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, COLUMNS), np.float32) / 30


LAYERS: dict[str, tuple[dict[str, Any], Callable[[], Layer], QuantFormat | None]] = {
    "awq 64": (AWQ_CONFIG, lambda: awq(values(), 64), QuantFormat(4, 64, True)),
    "awq 128": (AWQ_CONFIG | {"group_size": 128}, lambda: awq(values(), 128), QuantFormat(4, 128, True)),
    "gptq": (GPTQ_CONFIG, lambda: gptq(values(), 64), QuantFormat(4, 64, False)),
    "gptq 32, zeros": (
        GPTQ_CONFIG | {"group_size": 32, "sym": False},
        lambda: gptq(values(), 32, symmetric=False),
        QuantFormat(4, 32, True),
    ),
    "gptq of 8 bits": (GPTQ_CONFIG | {"bits": 8}, lambda: gptq(values(), 64, bits=8), QuantFormat(8, 64, False)),
    "gptq_v2": (
        GPTQ_CONFIG | {"checkpoint_format": "gptq_v2"},
        lambda: gptq(values(), 64, symmetric=False, shift=0),
        QuantFormat(4, 64, True),
    ),
    "gptq desc_act": (GPTQ_CONFIG | {"desc_act": True}, lambda: gptq(values(), 64, symmetric=False, order=ORDER), None),
    "fp8": (FP8_CONFIG, lambda: fp8(values()), None),
    "fp8 with bf16 scales, small blocks": (
        FP8_CONFIG | {"weight_block_size": [16, 100]},
        lambda: fp8(values(), (16, 100), "bfloat16"),
        None,
    ),
}


def save(folder: Path, config: dict[str, Any], **layers: Parts) -> Path:
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}), encoding="utf-8")
    tensors = {f"{name}.{part}": tensor for name, parts in layers.items() for part, tensor in parts.items()}
    write(folder / "model.safetensors", tensors)
    return folder


def opened(folder: Path, name: str = "x.weight") -> TensorSource:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.problems == ()
    assert set(checkpoint.tensors) == {name}
    return checkpoint.tensors[name]


@pytest.mark.parametrize("name", LAYERS)
def test_the_numbers_that_the_format_defines(tmp_path: Path, name: str) -> None:
    config, make, expected = LAYERS[name]
    layer = make()
    source = opened(save(tmp_path, config, x=layer.parts))
    assert source.shape == (ROWS, COLUMNS) and source.dtype == "float32"
    assert source.nbytes == sum(array.nbytes for part, (_, array) in layer.parts.items())
    assert source.format == expected
    np.testing.assert_allclose(source.rows(0, ROWS), layer.exact, rtol=1e-6, atol=1e-8)
    for start, stop in ((0, 1), (3, 21), (65, ROWS)):  # across words and blocks
        np.testing.assert_array_equal(source.rows(start, stop), source.rows(0, ROWS)[start:stop])


@pytest.mark.parametrize("name", [name for name, (_, _, kept) in LAYERS.items() if kept])
def test_quantized_rows_keep_the_integers_and_scales_of_the_file(tmp_path: Path, name: str) -> None:
    config, make, expected = LAYERS[name]
    layer = make()
    rows = opened(save(tmp_path, config, x=layer.parts)).quantized(5, 40)
    assert rows.format == expected
    np.testing.assert_array_equal(rows.scales, layer.parts["scales"][1].T[5:40])
    exact = layer.exact[5:40]
    if rows.offsets is None:
        np.testing.assert_allclose(rows.dequantize(), exact, rtol=1e-6, atol=1e-8)
    else:  # scale * zero is rounded to float16
        error = np.abs(rows.dequantize() - exact).reshape(35, -1, rows.group).max(2)
        assert (error <= np.abs(rows.offsets.astype(float)) * 2**-11 + 1e-7).all()


def test_awq_words_one_number_at_a_time(tmp_path: Path) -> None:
    layer = awq(values(), 64)
    words, zeros, scales = (layer.parts[part][1] for part in ("qweight", "qzeros", "scales"))
    rows = opened(save(tmp_path, AWQ_CONFIG, x=layer.parts)).rows(0, ROWS)
    for n, k in np.random.default_rng(1).integers((0, 0), (ROWS, COLUMNS), (300, 2)):
        shift = 4 * AWQ_LANES.index(n % 8)
        q, zero = int(words[k, n // 8]) >> shift & 15, int(zeros[k // 64, n // 8]) >> shift & 15
        assert rows[n, k] == pytest.approx((q - zero) * float(scales[k // 64, n]), rel=1e-6, abs=1e-8)


def test_gptq_words_one_number_at_a_time(tmp_path: Path) -> None:
    layer = gptq(values(), 64, symmetric=False, order=ORDER)
    words, zeros, scales, groups = (layer.parts[part][1] for part in ("qweight", "qzeros", "scales", "g_idx"))
    rows = opened(save(tmp_path, GPTQ_CONFIG | {"desc_act": True}, x=layer.parts)).rows(0, ROWS)
    for n, k in np.random.default_rng(1).integers((0, 0), (ROWS, COLUMNS), (300, 2)):
        q, zero = int(words[k // 8, n]) >> 4 * (k % 8) & 15, int(zeros[groups[k], n // 8]) >> 4 * (n % 8) & 15
        assert rows[n, k] == pytest.approx((q - (zero + 1) % 16) * float(scales[groups[k], n]), rel=1e-6, abs=1e-8)


def test_gptq_without_g_idx_takes_columns_in_order(tmp_path: Path) -> None:
    layer = gptq(values(), 64)
    parts = {part: tensor for part, tensor in layer.parts.items() if part != "g_idx"}
    source = opened(save(tmp_path, GPTQ_CONFIG, x=parts))
    assert source.format == QuantFormat(4, 64, False)
    np.testing.assert_allclose(source.rows(0, ROWS), layer.exact, rtol=1e-6, atol=1e-8)


def test_every_byte_of_fp8() -> None:
    np.testing.assert_array_equal(e4m3_values(), [e4m3(code) for code in range(256)])


@pytest.mark.parametrize("name", LAYERS)
def test_rounded_anew_where_another_format_is_wanted(tmp_path: Path, name: str) -> None:
    config, make, kept = LAYERS[name]
    layer = make()
    source = opened(save(tmp_path, config, x=layer.parts))
    rows = quantized_rows(source, 3, 50, QuantFormat(8, 32, True))
    assert rows.format == QuantFormat(8, 32, True)
    step = 2**-11 if kept else 0.6 / 127
    largest = np.abs(layer.exact).max()
    assert np.abs(rows.dequantize() - layer.exact[3:50]).max() <= largest * step * (2 if kept else 1)


def test_stacked_with_plain_tensors_in_any_type(tmp_path: Path) -> None:
    layer, plain = awq(values(), 64), float32(9, COLUMNS)
    save(tmp_path, AWQ_CONFIG, x=layer.parts, y={"weight": plain})
    spec = WeightSpec("xy", (ROWS + 9, COLUMNS), (("x.weight", (ROWS, COLUMNS)), ("y.weight", (9, COLUMNS))))
    expected = np.concatenate([layer.exact, plain[1]])
    loaded = WeightLoader(tmp_path).load([spec], "float32")["xy"]
    np.testing.assert_allclose(loaded, expected, rtol=1e-6, atol=1e-8)
    half = WeightLoader(tmp_path).load([spec], "float16")["xy"]
    np.testing.assert_allclose(half, expected, rtol=2**-11, atol=1e-7)


@pytest.mark.parametrize("name", ["awq 64", "gptq desc_act", "fp8"])
def test_a_matrix_of_several_pieces(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, make, _ = LAYERS[name]
    layer = make()
    save(tmp_path, config, x=layer.parts)
    monkeypatch.setattr("python_layer.model.weight_loader.COMPUTED_PIECE", 13 * COLUMNS)
    reports: list[tuple[int, int]] = []
    loader = WeightLoader(tmp_path, progress=lambda done, total: reports.append((done, total)))
    spec = WeightSpec("x", (ROWS, COLUMNS), (("x.weight", (ROWS, COLUMNS)),))
    np.testing.assert_allclose(loader.load([spec], "float32")["x"], layer.exact, rtol=1e-6, atol=1e-8)
    assert len(reports) == -(-ROWS // 13) and reports[-1][0] == reports[-1][1]


MEASURE = """
import sys
from python_layer.model.weight_loader import WeightLoader
from python_layer.model.weight_spec import WeightSpec

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

specs = [WeightSpec(f"w{i}", (8192, 2048), ((f"w{i}.weight", (8192, 2048)),)) for i in range(6)]
before = status("VmRSS")
weights = WeightLoader(sys.argv[1]).load(specs, "bfloat16")
print(status("VmHWM") - before, status("RssFile"), weights.nbytes)
"""


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (AWQ_CONFIG, {"qweight": ("I32", [2048, 1024]), "qzeros": ("I32", [32, 1024]), "scales": ("F16", [32, 8192])}),
        (FP8_CONFIG, {"weight": ("F8_E4M3", [8192, 2048]), "weight_scale_inv": ("F32", [64, 16])}),
    ],
    ids=["awq", "fp8"],
)
def test_memory_stays_near_the_size_of_the_weights(
    tmp_path: Path, config: dict[str, Any], parts: dict[str, Any]
) -> None:
    header, end = {}, 0
    for i in range(6):
        for part, (dtype, shape) in parts.items():
            begin, end = end, end + int(np.prod(shape)) * {"I32": 4, "F16": 2, "F8_E4M3": 1, "F32": 4}[dtype]
            header[f"w{i}.{part}"] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}), encoding="utf-8")
    file = tmp_path / "model.safetensors"
    write(file, {}, header)
    with file.open("r+b") as out:
        out.truncate(file.stat().st_size + end)  # zeros, which take no room on the disk
    output = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    peak, mapped, weights = map(int, output.stdout.split())
    assert weights == 6 * 8192 * 2048 * 2
    assert weights <= peak < weights + 80_000_000
    assert mapped < 80_000_000


# --- what is wrong is named ---------------------------------------------------------------------------------

X = WeightSpec("x", (ROWS, COLUMNS), (("x.weight", (ROWS, COLUMNS)),))


def without(parts: Parts, *names: str) -> Parts:
    return {part: tensor for part, tensor in parts.items() if part not in names}


BROKEN: dict[str, tuple[dict[str, Any], Callable[[], Parts], str]] = {
    "no scales": (AWQ_CONFIG, lambda: without(awq(values(), 64).parts, "scales"), "x.scales is missing"),
    "no zeros": (GPTQ_CONFIG, lambda: without(gptq(values(), 64).parts, "qzeros"), "x.qzeros is missing"),
    "no fp8 scales": (
        FP8_CONFIG,
        lambda: without(fp8(values()).parts, "weight_scale_inv"),
        "x.weight_scale_inv is missing",
    ),
    "another group": (
        AWQ_CONFIG,
        lambda: awq(values(), 32).parts,
        "x.qzeros has shape [8, 9]; it must be [4, 9]; x.scales has shape [8, 72]; it must be [4, 72]",
    ),
    "another block": (
        FP8_CONFIG,
        lambda: fp8(values(), (64, 64)).parts,
        "x.weight_scale_inv has shape [2, 4]; it must be [1, 2]",
    ),
    "scales of integers": (
        GPTQ_CONFIG,
        lambda: gptq(values(), 64).parts | {"scales": ("int32", np.zeros((4, ROWS), np.int32))},
        "x.scales has type int32; it must be float32 or bfloat16 or float16",
    ),
    "groups beyond the end": (
        GPTQ_CONFIG,
        lambda: gptq(values(), 64).parts | {"g_idx": ("int32", np.full(COLUMNS, 4, np.int32))},
        "x.g_idx points beyond the 4 groups there are",
    ),
    "columns that do not fit": (
        GPTQ_CONFIG,
        lambda: gptq(values()[:, :96], 32).parts,
        "x.qweight has 96 inputs and 72 outputs, which must be multiples of 64 and 8",
    ),
    "not a matrix": (
        AWQ_CONFIG,
        lambda: {"qweight": ("int32", np.zeros(64, np.int32))},
        "x.qweight has shape [64]; it must be a matrix",
    ),
    "fp8 not a matrix": (
        FP8_CONFIG,
        lambda: {"weight": ("float8_e4m3fn", np.zeros(64, np.uint8))},
        "x.weight has shape [64]; it must be a matrix",
    ),
    "too few rows": (
        GPTQ_CONFIG,
        lambda: gptq(values(rows=64), 64).parts,
        "x.weight has shape [64, 256], but the configuration asks for [72, 256]",
    ),
    "the other method": (AWQ_CONFIG, lambda: gptq(values(), 64).parts, "x.qweight has 32 inputs and 576 outputs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_quantized_layer_is_all_that_is_said(tmp_path: Path, name: str) -> None:
    config, make, expected = BROKEN[name]
    message = error_of(save(tmp_path, config, x=make()), X)
    assert message.removeprefix(f"the weights in {tmp_path} can't be used: ").startswith(expected)
    if name != "the other method":
        assert message.endswith(expected)


def test_scales_beyond_float16_are_named(tmp_path: Path) -> None:
    layer = awq(values(), 64)
    huge = ("float32", np.full((4, ROWS), 1e6, np.float32))
    source = opened(save(tmp_path, AWQ_CONFIG, x=layer.parts | {"scales": huge}))
    with pytest.raises(OverflowError):
        source.quantized(0, 8)
    with pytest.raises(WeightError, match=r"x\.weight has values beyond float16"):
        WeightLoader(tmp_path).load([X], "float16")


def test_a_shard_that_is_missing_hides_its_layers(tmp_path: Path) -> None:
    """Those that are in it whole, and those that have a part of theirs in it."""
    save(tmp_path, AWQ_CONFIG, x=without(awq(values(), 64).parts, "scales"))
    (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
    parts = dict.fromkeys(["x.qweight", "x.qzeros"], "one.safetensors")
    lost = dict.fromkeys(["x.scales", "y.qweight", "y.qzeros", "y.scales"], "two.safetensors")
    write_index(tmp_path, **parts, **lost)
    message = error_of(tmp_path, X, WeightSpec("y", (8, 64), (("y.weight", (8, 64)),)))
    assert message.endswith("can't be used: two.safetensors does not exist")


def test_parts_without_a_quantization_config_are_unexpected(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"x.qweight": ("int32", np.zeros((2, 2), np.int32))})
    message = error_of(tmp_path, X)
    assert "x.weight is missing" in message and "x.qweight is unexpected" in message
