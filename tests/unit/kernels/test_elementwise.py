"""RMSNorm, SwiGLU and the RoPE table."""

import numpy as np
import pytest
from max.graph import ops

from tests.unit.kernels import reference
from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, tensor

EPS = 1e-6
SCALE = 1.25


@pytest.fixture(scope="module")
def run() -> OpRunner:
    """x, residual, gamma, gate_up, an array of swiglu's output shape, positions, frequencies -> every op's outputs."""

    def build(values):
        x, residual, gamma, gate_up, like_half, positions, frequencies = (value.tensor for value in values)
        eps, scale = ops.constant(EPS, FLOAT, DEVICE), ops.constant(SCALE, FLOAT, DEVICE)
        rope_out = tensor(FLOAT, "T", frequencies.shape[0] * 2)
        return [
            ops.custom("mili.rms_norm", DEVICE, [x, gamma, eps], [x.type])[0],
            *ops.custom("mili.add_rms_norm", DEVICE, [x, residual, gamma, eps], [x.type, x.type]),
            ops.custom("mili.swiglu", DEVICE, [gate_up], [like_half.type])[0],
            ops.custom("mili.rope_table", DEVICE, [positions, frequencies, scale], [rope_out])[0],
        ]

    x, gate_up, half = tensor(FLOAT, "T", "D"), tensor(FLOAT, "T", "F_times_2"), tensor(FLOAT, "T", "F")
    return OpRunner([x, x, tensor(FLOAT, "D"), gate_up, half, tensor(INT, "T"), tensor(FLOAT, "H")], build)


@pytest.mark.parametrize(("rows", "size", "inner"), [(1, 1, 1), (1, 64, 3), (7, 100, 173), (300, 1024, 257)])
def test_match_references(run: OpRunner, rows: int, size: int, inner: int) -> None:
    rng = np.random.default_rng([rows, size])
    x, residual = rng.standard_normal((2, rows, size)).astype(np.float32) * 3
    gamma = rng.standard_normal(size).astype(np.float32)
    gate_up = rng.standard_normal((rows, 2 * inner)).astype(np.float32) * 5
    positions = rng.integers(0, 131072, rows).astype(np.int32)
    frequencies = (1e6 ** (-np.arange(32) / 32)).astype(np.float32)

    norm, add_norm, total, gated, rope = run(
        x, residual, gamma, gate_up, np.zeros((rows, inner), np.float32), positions, frequencies
    )

    exact = x.astype(np.float64)
    np.testing.assert_allclose(norm, reference.rms_norm(exact, gamma, EPS), rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(total, x + residual)
    np.testing.assert_allclose(add_norm, reference.rms_norm(total.astype(np.float64), gamma, EPS), rtol=2e-6, atol=1e-6)
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=1)
    np.testing.assert_allclose(gated, gate / (1 + np.exp(-gate)) * up, rtol=3e-6, atol=1e-6)
    angles = (positions.astype(np.float32)[:, None] * frequencies).astype(np.float64)
    np.testing.assert_allclose(rope, np.concatenate([np.cos(angles), np.sin(angles)], 1) * SCALE, atol=3e-7)


def test_extreme_values(run: OpRunner) -> None:
    x = np.zeros((2, 48), np.float32)
    x[1] = 1e15
    gate_up = np.array([[-1e4, 200.0, 1.0, 2.0], [0.0, -100.0, 5.0, 1.0]], np.float32)
    norm, _, _, gated, _ = run(
        x,
        np.zeros_like(x),
        np.ones(48, np.float32),
        gate_up,
        np.zeros((2, 2), np.float32),
        np.zeros(2, np.int32),
        np.ones(16, np.float32),
    )
    np.testing.assert_array_equal(norm[0], 0)
    np.testing.assert_allclose(norm[1], 1, rtol=1e-6)
    np.testing.assert_allclose(gated, [[0, 400], [0, 0]], atol=1e-30)
