"""Linear layers on GPUs against NumPy, and that a row has the same bits in every kernel.

Everywhere the PTX of the kernels is interpreted; where MAX sees a GPU, the graph's linear layers run on it too.
"""

import numpy as np
import pytest
from max.driver import Buffer, accelerator_count
from max.dtype import DType
from max.graph import TensorType

from python_layer.model.device import resolve_device
from python_layer.model.gpu_linear import gpu_linear, multiplies_float8
from tests.ptx.compiled import LINEAR, compile_kernels
from tests.ptx.float8 import e4m3, from_e4m3
from tests.ptx.machine import launch
from tests.ptx.memory import bfloat16, from_bfloat16
from tests.ptx.program import Program, parse
from tests.unit.kernels.harness import OpRunner

STAGES = {"rows_2": 4, "rows_4": 4, "tile_64": 6, "tile_128": 3}
"""As in mojo_kernels/gpu/linear_rows.mojo and linear_tile.mojo."""
HOPPER_TILES = {"hopper_large": (2, 192, 5), "hopper_small": (1, 64, 6), "hopper_narrow": (1, 32, 8)}
"""Consumers, outputs and stages, as in mojo_kernels/gpu/linear_hopper.mojo."""
HOPPER_ROWS_SHARED = 12 * (7 * 1024 + 16)
"""As in mojo_kernels/gpu/linear_rows_hopper.mojo."""
ROUNDING = {
    "rows_2": "linear_rows_to_bf16",
    "tile_64": "linear_tile_to_bf16",
    "hopper_small": "hopper_linear_to_bf16",
}
"""The same kernels with outputs in bfloat16, which would hide most differences in the order of sums."""


@pytest.fixture(scope="module")
def ampere() -> dict[str, Program]:
    return {name: parse(text) for name, text in compile_kernels("sm_80", LINEAR).items()}


@pytest.fixture(scope="module")
def hopper() -> dict[str, Program]:
    return {name: parse(text) for name, text in compile_kernels("sm_90a", LINEAR).items()}


def hopper_shared(kernel: str, kind: str) -> int:
    """Bytes of a block's dynamic shared memory, as in mojo_kernels/gpu/linear_hopper.mojo."""
    consumers, outputs, stages = HOPPER_TILES[kernel]
    scales = 4 * (64 * consumers + outputs // 8) if kind == "fp8" else 0
    return stages * ((64 * consumers + outputs) * 128 + -(-scales // 1024) * 1024 + 16) + 8


class Layer:
    """A random layer and its input, as a GPU has them."""

    def __init__(self, rows: int, outputs: int, columns: int, kind: str) -> None:
        rng = np.random.default_rng([rows, outputs, columns])
        groups = -(-columns // 128)
        self.kind, self.columns = kind, columns
        self.x = bfloat16(rng.standard_normal((rows, columns)).astype(np.float32))
        self.x_scales = self.w_scales = np.ones((1, 1), np.float32)
        weights = rng.standard_normal((outputs, columns)).astype(np.float32)
        if kind == "bf16":
            self.w = bfloat16(weights)
            self.exact_w = from_bfloat16(self.w).astype(np.float64)
            return
        self.w = e4m3(100 * weights)
        self.w_scales = (0.01 * rng.uniform(0.5, 2, (-(-outputs // 8), groups))).astype(np.float32)
        wide = np.repeat(np.repeat(self.w_scales, 8, 0), 128, 1)[:outputs, :columns]
        self.exact_w = from_e4m3(self.w).astype(np.float64) * wide

    def rounded(self, kernels: dict[str, Program]) -> None:
        """Rounds the input to e4m3 by the kernel."""
        rows, groups = len(self.x), -(-self.columns // 128)
        values = np.full(self.x.shape, 255, np.uint8)
        self.x_scales = np.full((rows, groups), np.nan, np.float32)
        grid = (-(-rows * groups * 16 // 256), 1, 1)
        launch(kernels["quantize_float8"], grid, 256, [values, self.x_scales, self.x, rows, self.columns])
        self.x = values

    def exact(self) -> np.ndarray:
        """x @ w.T of what is multiplied."""
        if self.x.dtype == np.uint16:
            return from_bfloat16(self.x).astype(np.float64) @ self.exact_w.T
        wide = np.repeat(self.x_scales, 128, 1)[:, : self.columns]
        return from_e4m3(self.x).astype(np.float64) * wide @ self.exact_w.T

    def run(self, kernels: dict[str, Program], kernel: str, rows: slice = slice(None)) -> np.ndarray:
        """Some rows by a kernel, such as rows_2 or tile_64, with the grid of `launch_linear`, in float32."""
        x, x_scales = self.x[rows], self.x_scales[rows] if self.x.dtype == np.uint8 else self.x_scales
        outputs, scaled = len(self.w), self.kind == "fp8"
        y = np.full((len(x), outputs), np.nan, np.float32)
        group = 128 if scaled else -(-self.columns // 512) * 64
        sizes = [len(x), outputs, self.columns, group]
        arguments = [y, x, self.w, x_scales, self.w_scales, *sizes]
        shape, size = kernel.split("_")
        if kernel == "hopper_rows":
            blocks, threads, shared = -(-outputs // 32), 384, HOPPER_ROWS_SHARED
        elif shape == "hopper":
            consumers, across, _ = HOPPER_TILES[kernel]
            blocks = -(-len(x) // (64 * consumers)) * -(-outputs // across)
            threads, shared = 128 * (consumers + 1), hopper_shared(kernel, self.kind)
        elif shape == "rows":
            blocks, threads, shared = -(-outputs // (8 * int(size))), 256, STAGES[kernel] * int(size) * 256 * 16
        else:
            across = 64 if scaled else int(size)
            blocks = -(-len(x) // int(size)) * -(-outputs // across)
            threads = 256 if size == "128" else 128
            step = 128 // x.itemsize
            shared = STAGES[kernel] * (int(size) * 128 + across * step * self.w.itemsize)
        name = "hopper_linear" if shape == "hopper" else f"linear_{shape}"
        program = kernels[f"{name}_{self.kind}_{size}"]
        launch(program, (blocks, 1, 1), threads, arguments, shared)
        if kernel in ROUNDING and self.kind == "bf16":
            rounded = np.full(y.shape, 0x7FFF, np.uint16)
            launch(kernels[ROUNDING[kernel]], (blocks, 1, 1), threads, [rounded, *arguments[1:]], shared)
            np.testing.assert_array_equal(rounded, bfloat16(y))
        return y


def close(actual: np.ndarray, exact: np.ndarray) -> None:
    np.testing.assert_allclose(actual, exact, rtol=1e-5, atol=1e-6 * np.abs(exact).mean())


@pytest.mark.parametrize(("outputs", "columns"), [(40, 1160), (19, 64)])
def test_bfloat16(ampere: dict[str, Program], outputs: int, columns: int) -> None:
    """Columns that fill neither a group nor a step; outputs and rows that fill no tile."""
    layer = Layer(21, outputs, columns, "bf16")
    whole = layer.run(ampere, "tile_64")
    close(whole, layer.exact())
    np.testing.assert_array_equal(layer.run(ampere, "tile_128"), whole)
    for kernel, rows in (("rows_2", slice(0, 1)), ("rows_4", slice(5, 21)), ("rows_2", slice(12, 19))):
        np.testing.assert_array_equal(layer.run(ampere, kernel, rows), whole[rows])


@pytest.mark.parametrize(("rows", "outputs", "columns"), [(133, 21, 520), (7, 203, 72), (128, 192, 328)])
def test_warpgroups(hopper: dict[str, Program], rows: int, outputs: int, columns: int) -> None:
    """More and fewer steps than the ring has; a row has the bits that it has among few."""
    layer = Layer(rows, outputs, columns, "bf16")
    whole = layer.run(hopper, "hopper_large")
    close(whole, layer.exact())
    few = slice(max(0, rows - 12), rows)
    for kernel in ("rows_2", "rows_4"):
        np.testing.assert_array_equal(layer.run(hopper, kernel, few), whole[few])
    few = slice(max(0, rows - 40), rows)
    for kernel in ("tile_64", "hopper_small", "hopper_narrow"):
        np.testing.assert_array_equal(layer.run(hopper, kernel, few), whole[few])


def check_float8(layer: Layer, kernels: dict[str, Program]) -> None:
    whole = layer.run(kernels, "tile_64")
    close(whole, layer.exact())
    np.testing.assert_array_equal(layer.run(kernels, "tile_128"), whole)
    for kernel, rows in (("rows_2", slice(3, 4)), ("rows_4", slice(1, 17))):
        np.testing.assert_array_equal(layer.run(kernels, kernel, rows), whole[rows])


def test_float8_weights_are_widened(ampere: dict[str, Program]) -> None:
    check_float8(Layer(17, 40, 1168, "fp8"), ampere)


def test_float8_is_multiplied(hopper: dict[str, Program]) -> None:
    layer = Layer(17, 40, 1168, "fp8")
    layer.rounded(hopper)
    check_float8(layer, hopper)


@pytest.mark.parametrize(("rows", "outputs", "columns"), [(133, 21, 1168), (30, 203, 144), (7, 40, 2080)])
def test_warpgroups_multiply_float8(hopper: dict[str, Program], rows: int, outputs: int, columns: int) -> None:
    """As above; sums of a group have 13 bits behind the point, so that results are less exact."""
    layer = Layer(rows, outputs, columns, "fp8")
    layer.rounded(hopper)
    whole = layer.run(hopper, "hopper_large")
    exact = layer.exact()
    np.testing.assert_allclose(whole, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).mean())
    for kernel in ("hopper_small", "hopper_narrow"):
        np.testing.assert_array_equal(layer.run(hopper, kernel), whole)
    for few in (slice(0, 1), slice(max(0, rows - 16), rows)):
        np.testing.assert_array_equal(layer.run(hopper, "hopper_rows", few), whole[few])


def test_every_e4m3_is_widened_exactly(ampere: dict[str, Program]) -> None:
    layer = Layer(1, 8, 256, "fp8")
    codes = np.arange(256)
    layer.w[:] = np.where(codes & 127 == 127, 0, codes)  # the others are NaN
    layer.w_scales[:] = 1
    layer.x = bfloat16(np.zeros((16, 256), np.float32))
    layer.exact_w = from_e4m3(layer.w).astype(np.float64)
    seen = []
    for first in range(0, 256, 16):  # a row of x takes out one column
        layer.x[:] = 0
        layer.x[np.arange(16), first + np.arange(16)] = 0x3F80
        seen.append(layer.run(ampere, "rows_2")[:, 0])
    np.testing.assert_array_equal(np.concatenate(seen), layer.exact_w[0])


def test_activations_are_rounded(hopper: dict[str, Program]) -> None:
    layer = Layer(3, 8, 272, "fp8")
    layer.x[1, :128] = 0
    exact = from_bfloat16(layer.x).astype(np.float64)
    layer.rounded(hopper)
    padded = np.pad(abs(exact), ((0, 0), (0, 112))).reshape(3, 3, 128).max(2)
    np.testing.assert_allclose(layer.x_scales, np.where(padded > 0, padded / 448, 1), rtol=1e-6)
    wide = np.repeat(layer.x_scales, 128, 1)[:, :272]
    np.testing.assert_array_equal(layer.x, e4m3(exact.astype(np.float32) / wide))


@pytest.mark.skipif(accelerator_count() == 0, reason="MAX sees no GPU here")
@pytest.mark.parametrize("kind", ["bf16", "fp8"])
def test_on_a_gpu(kind: str) -> None:
    """Rows alone, in few and in many: every kernel, by the choice of the launcher."""
    device = resolve_device("gpu")
    layer = Layer(700, 2056, 1168, kind)
    shapes = [(DType.bfloat16, "T", 1168), (DType.bfloat16 if kind == "bf16" else DType.uint8, 2056, 1168)]
    shapes += [(DType.float32, *layer.w_scales.shape)] if kind == "fp8" else []
    inputs = [TensorType(dtype, shape, device.ref) for dtype, *shape in shapes]
    run = OpRunner(inputs, lambda v: [gpu_linear(v[0].tensor, v[1].tensor, device.architecture, *v[2:])], device)

    def bfloat(bits: np.ndarray) -> Buffer:
        return Buffer.from_numpy(bits).view(DType.bfloat16, bits.shape)

    weights = [bfloat(layer.w)] if kind == "bf16" else [Buffer.from_numpy(layer.w), Buffer.from_numpy(layer.w_scales)]
    (whole,) = run(bfloat(layer.x), *weights)
    exact = layer.exact()
    loose = 0.03 if kind == "fp8" and multiplies_float8(device.architecture) else 5e-3
    np.testing.assert_allclose(whole, exact, rtol=loose, atol=loose * np.abs(exact).mean() * 4)
    for rows in (slice(0, 1), slice(3, 19), slice(100, 130), slice(650, 700)):
        np.testing.assert_array_equal(run(bfloat(layer.x[rows]), *weights)[0], whole[rows])
