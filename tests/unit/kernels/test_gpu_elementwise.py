"""The GPU kernels of rows and elements: their PTX, interpreted, against NumPy. Batches do not fill their blocks."""

import numpy as np
import pytest

from tests.ptx.compiled import compile_kernels
from tests.ptx.machine import launch
from tests.ptx.memory import bfloat16, from_bfloat16
from tests.ptx.program import Program, parse
from tests.unit.kernels import reference

EPS = 1e-6


@pytest.fixture(scope="module")
def kernels() -> dict[str, Program]:
    return {name: parse(text) for name, text in compile_kernels("sm_80").items()}


def random(*shape: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Random bfloat16 numbers: as bits, and as float64."""
    bits = bfloat16((scale * np.random.default_rng(shape).standard_normal(shape)).astype(np.float32))
    return bits, from_bfloat16(bits).astype(np.float64)


def test_rows_are_gathered(kernels: dict[str, Program]) -> None:
    table, values = random(10, 264)
    rows = np.array([3, 9, 0, 3], np.int32)
    y, same = np.full((4, 264), np.nan, np.float32), np.zeros((4, 264), np.uint16)
    launch(kernels["gather"], (4, 1, 1), 256, [y, table, rows, 264])
    launch(kernels["gather_bf16"], (4, 1, 1), 256, [same, table, rows, 264])
    np.testing.assert_array_equal(y, values[rows])
    np.testing.assert_array_equal(same, table[rows])


def test_swiglu(kernels: dict[str, Program]) -> None:
    gate_up, values = random(5, 2 * 264, scale=3)
    gate, up = np.split(values, 2, axis=1)
    y = np.zeros((5, 264), np.uint16)
    launch(kernels["swiglu"], (1, 1, 1), 256, [y, gate_up, 5, 264])
    np.testing.assert_allclose(from_bfloat16(y), gate / (1 + np.exp(-gate)) * up, rtol=1e-2, atol=1e-6)


def test_rope_table_far_away(kernels: dict[str, Program]) -> None:
    positions = np.array([0, 5, 40_959], np.int32)
    frequencies = (1e6 ** (-np.arange(64) / 64)).astype(np.float32)
    y = np.zeros((3, 128), np.float32)
    launch(kernels["rope_table"], (3, 1, 1), 64, [y, positions, frequencies, 64, 1.25])
    angles = (positions[:, None].astype(np.float32) * frequencies).astype(np.float64)
    np.testing.assert_allclose(y, 1.25 * np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-6)


@pytest.mark.parametrize(("chunks", "size"), [(1, 256), (1, 2048), (2, 2568), (4, 8192)])
def test_norms(kernels: dict[str, Program], chunks: int, size: int) -> None:
    x, values = random(3, size)
    residual = np.random.default_rng(size).standard_normal((3, size)).astype(np.float32)
    gamma = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    y, total = np.zeros((3, size), np.uint16), np.zeros((3, size), np.float32)
    launch(kernels[f"add_rms_norm_{chunks}"], (3, 1, 1), 256, [y, total, x, residual, gamma, size, EPS])
    np.testing.assert_allclose(total, values + residual, atol=1e-6)
    expected = reference.rms_norm(values + residual, gamma, EPS)
    np.testing.assert_allclose(from_bfloat16(y), expected, rtol=1e-2, atol=1e-6)
    launch(kernels[f"rms_norm_{chunks}"], (3, 1, 1), 256, [y, gamma, residual, gamma, gamma, size, EPS])
    expected = reference.rms_norm(residual.astype(np.float64), gamma, EPS)
    np.testing.assert_allclose(from_bfloat16(y), expected, rtol=1e-2, atol=1e-6)
