"""Weights from safetensors files: exact conversion, the right places, bounded memory."""

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from python_layer.model.weight_loader import WeightLoader
from python_layer.model.weight_spec import WeightSpec
from python_layer.utils.errors import MiliError
from python_layer.utils.host_memory import HUGE_PAGE, anonymous_buffer
from tests.unit.safetensors_writer import error_of, float32, shards, whole, write

STORAGE = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.float16}
# --- conversion ---------------------------------------------------------------------------------------------


def patterns(dtype: str) -> NDArray[Any]:
    """Every 16-bit pattern; of float32 those near every bfloat16 and random ones (ties, subnormals, NaN)."""
    if dtype != "float32":
        return np.arange(1 << 16, dtype=np.uint16).view(STORAGE[dtype])
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    random = np.random.default_rng(0).integers(0, 1 << 32, 100_001, np.uint32)
    near = [upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    # Halfway between neighbouring float16 values, and just beside.
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = ((halves[1:] + halves[:-1]) / 2).view(np.uint32)
    return np.concatenate([*near, random, ties, ties + 1, ties - 1]).view(np.float32)


def to_float64(values: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def nearest(exact: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """The closest value of ``dtype`` by searching all of them; of two equally close the even one."""
    sign_bit, infinity = 0x8000, {"bfloat16": 0x7F80, "float16": 0x7C00}[dtype]
    grid = to_float64(np.arange(infinity, dtype=np.uint16).view(STORAGE[dtype]), dtype)
    limit = grid[-1] + (grid[-1] - grid[-2])  # where the next value would be: it stands for infinity
    grid = np.append(grid, limit)
    size = np.minimum(np.abs(exact), limit)
    above = np.clip(np.searchsorted(grid, size), 1, infinity)
    below = above - 1
    with np.errstate(invalid="ignore"):
        low, high = size - grid[below], grid[above] - size
    chosen = np.where((low < high) | ((low == high) & (below % 2 == 0)), below, above)
    bits = (chosen | np.where(np.signbit(exact), sign_bit, 0)).astype(np.uint16)
    rounded = to_float64(bits.view(STORAGE[dtype]), dtype)
    return np.where(np.isnan(exact), np.nan, rounded)


@pytest.mark.parametrize("target", STORAGE)
@pytest.mark.parametrize("source", STORAGE)
def test_every_conversion_rounds_to_the_nearest_value(tmp_path: Path, source: str, target: str) -> None:
    values = patterns(source)
    exact = to_float64(values, source)
    if target == "float16":  # finite values beyond it are refused: see below
        values = values[~(np.isfinite(exact) & (np.abs(exact) >= 65520))]
        exact = to_float64(values, source)
    write(tmp_path / "model.safetensors", {"x": (source, values)})
    weights = WeightLoader(tmp_path).load([whole("x", len(values))], target)
    assert weights.dtype_of("x") == target
    assert weights["x"].dtype == STORAGE[target]
    if source == target:
        assert weights["x"].tobytes() == values.tobytes()
        return
    expected = exact if target == "float32" else nearest(exact, target)
    result = to_float64(weights["x"], target)
    np.testing.assert_array_equal(result, expected)
    assert np.array_equal(np.signbit(result), np.signbit(exact))


@pytest.mark.parametrize("source", ["float32", "bfloat16"])
def test_a_finite_value_beyond_float16_is_refused(tmp_path: Path, source: str) -> None:
    values = np.ones(100_000, np.float32)
    values[70_000] = -65536.0
    stored = values if source == "float32" else (values.view(np.uint32) >> 16).astype(np.uint16)
    write(tmp_path / "model.safetensors", {"x": (source, stored)})
    message = error_of(tmp_path, whole("x", len(values)), dtype="float16")
    assert "x has values beyond float16" in message


@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_a_value_that_int16_cannot_stand_for_is_refused(tmp_path: Path, wrong: float) -> None:
    values = np.ones((3, 40), np.float32)
    values[1, 7] = wrong
    write(tmp_path / "model.safetensors", {"x": ("float32", values)})
    message = error_of(tmp_path, replace(whole("x", 3, 40), packed=True, scaled="int16"))
    assert "x has values that are not finite; take compute_dtype float32" in message


# --- loading ------------------------------------------------------------------------------------------------


def test_joins_sources_and_keeps_single_weights_in_their_own_type(tmp_path: Path) -> None:
    parts = {name: float32(rows, 37, seed=rows) for name, rows in (("q", 5), ("k", 3), ("v", 1))}
    write(tmp_path / "model.safetensors", {**parts, "norm": float32(37)})
    joined = WeightSpec("qkv", (9, 37), tuple((name, array.shape) for name, (_, array) in parts.items()))
    weights = WeightLoader(tmp_path).load([joined, whole("norm", 37, dtype="float32")], "bfloat16")
    assert list(weights) == ["qkv", "norm"] and len(weights) == 2
    assert (weights.dtype_of("qkv"), weights.dtype_of("norm")) == ("bfloat16", "float32")
    expected = np.concatenate([array for _, array in parts.values()])
    np.testing.assert_array_equal(to_float64(weights["qkv"], "bfloat16"), nearest(expected.astype(float), "bfloat16"))
    np.testing.assert_array_equal(weights["norm"], float32(37)[1])


def test_sources_that_do_not_fill_the_weight_are_a_defect() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        WeightSpec("x", (3, 4), (("a", (1, 4)), ("b", (1, 4))))
    with pytest.raises(ValueError, match="do not add up"):
        WeightSpec("x", (2, 4), (("a", (2, 5)),))


@pytest.mark.parametrize("padding", range(4))
def test_odd_sizes_and_unaligned_data(tmp_path: Path, padding: int) -> None:
    shapes = [(1,), (7, 13), (1, 1), (129, 3), (65,)]
    tensors = {f"w{i}": float32(*shape, seed=i) for i, shape in enumerate(shapes)}
    write(tmp_path / "model.safetensors", tensors, padding=padding)
    weights = WeightLoader(tmp_path).load([whole(f"w{i}", *shape) for i, shape in enumerate(shapes)], "float32")
    for name, (_, array) in tensors.items():
        np.testing.assert_array_equal(weights[name], array)
        assert weights[name].ctypes.data % 64 == 0
    assert weights["w0"].ctypes.data % HUGE_PAGE == 0
    assert weights.nbytes == sum(-(-array.nbytes // 64) * 64 for _, array in tensors.values())


def test_a_tensor_of_several_pieces_and_the_progress(tmp_path: Path) -> None:
    rows, columns = 3, 3_000_001  # more than two pieces, and none of a round size
    values = np.arange(rows * columns, dtype=np.uint32).astype(np.uint16).reshape(rows, columns)
    write(tmp_path / "model.safetensors", {"x": ("bfloat16", values)})
    reports: list[tuple[int, int]] = []
    loader = WeightLoader(tmp_path, progress=lambda done, total: reports.append((done, total)))
    weights = loader.load([whole("x", rows, columns)], "bfloat16")
    np.testing.assert_array_equal(weights["x"], values)
    assert len(reports) == 3
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})
    assert reports[-1] == (values.nbytes, values.nbytes)


def test_several_files(tmp_path: Path) -> None:
    tensors = shards(tmp_path)
    joined = WeightSpec("ca", (8, 5), (("c", (4, 5)), ("a", (4, 5))))
    weights = WeightLoader(tmp_path).load([joined, whole("b", 4, 5)], "float32")
    np.testing.assert_array_equal(weights["ca"], np.concatenate([tensors["c"][1], tensors["a"][1]]))
    np.testing.assert_array_equal(weights["b"], tensors["b"][1])


def test_tolerated_tensors(tmp_path: Path) -> None:
    extra = {"lm_head.weight": float32(2), "model.layers.0.self_attn.rotary_emb.inv_freq": float32(2)}
    write(tmp_path / "model.safetensors", {"x": float32(2), **extra})
    loader = WeightLoader(tmp_path)
    assert list(loader.load([whole("x", 2)], "float32", unused={"lm_head.weight"})) == ["x"]
    assert "lm_head.weight is unexpected" in error_of(tmp_path, whole("x", 2))


def test_weights_outlive_the_mapping_they_came_from(tmp_path: Path) -> None:
    kept = float32(50, 3)
    write(tmp_path / "model.safetensors", {"x": kept})
    array = WeightLoader(tmp_path).load([whole("x", 50, 3)], "float32")["x"]
    (tmp_path / "model.safetensors").unlink()
    gc.collect()
    np.testing.assert_array_equal(array, kept[1])
    array[0, 0] = 1.0  # the memory is the process's own


MEASURE = """
import sys
from python_layer.model.weight_loader import WeightLoader
from python_layer.model.weight_spec import WeightSpec

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

specs = [WeightSpec(f"w{i}", (5000, 2000), ((f"w{i}", (5000, 2000)),)) for i in range(10)]
before = status("VmRSS")
weights = WeightLoader(sys.argv[1]).load(specs, "bfloat16")
print(status("VmHWM") - before, status("RssFile"), weights.nbytes)
"""


def test_memory_stays_near_the_size_of_the_weights(tmp_path: Path) -> None:
    header = {
        f"w{i}": {
            "dtype": "BF16",
            "shape": [5000, 2000],
            "data_offsets": [i * 20_000_000, (i + 1) * 20_000_000],
        }
        for i in range(10)
    }
    file = tmp_path / "model.safetensors"
    write(file, {}, header)
    with file.open("r+b") as out:
        out.truncate(file.stat().st_size + 200_000_000)  # zeros, which take no room on the disk
    output = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    peak, mapped, weights = map(int, output.stdout.split())
    assert weights >= 200_000_000
    assert weights <= peak < weights + 80_000_000, "the file's pages must not pile up beside the weights"
    assert mapped < 80_000_000


def test_anonymous_buffers() -> None:
    for size in (0, 1, 4097, HUGE_PAGE + 3):
        buffer = anonymous_buffer(size)
        assert buffer.dtype == np.uint8 and buffer.shape == (size,) and not buffer.any()
        assert buffer.ctypes.data % HUGE_PAGE == 0 or size == 0
        buffer[:] = 255
    with pytest.raises(MiliError, match="refuses 4,611,686,018,427,387,904 bytes"):
        anonymous_buffer(1 << 62)
