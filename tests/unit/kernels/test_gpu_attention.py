"""QK norm + RoPE + KV store, and attention, on GPUs against NumPy.

Everywhere the PTX of the kernels is interpreted; where MAX sees a GPU, they run on it too, through the ops.
"""

import re

import numpy as np
import pytest
from max.driver import Buffer, accelerator_count
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType, ops

from python_layer.model.device import resolve_device
from tests.ptx.compiled import compile_kernels
from tests.ptx.memory import bfloat16, from_bfloat16
from tests.ptx.program import parse
from tests.unit.kernels.harness import OpRunner
from tests.unit.kernels.harness import from_bfloat16 as buffer_values
from tests.unit.kernels.paged_requests import EPS, LAYER, LAYERS, Interpreted, Requests, Run, in_order

NEEDED = re.compile("attention|qk_norm")
"""In the names of kernels."""


class OnGPU:
    """The ops in a MAX graph on the first GPU."""

    def __init__(self) -> None:
        gpu = DeviceRef.GPU()

        def tensor(dtype: DType, *shape: int | str) -> TensorType:
            return TensorType(dtype, list(shape), gpu)

        def build(values: list) -> list:
            cache, *tensors = values
            qkv, q_gamma, k_gamma, rope, positions, offsets, table, like = (t.tensor for t in tensors)
            layer = ops.constant(LAYER, DType.int32, DeviceRef.CPU())
            batch = [positions, offsets, table, layer]
            norm = [qkv, q_gamma, k_gamma, rope, *batch, ops.constant(EPS, DType.float32, DeviceRef.CPU())]
            q = ops.inplace_custom("mili.qk_norm_rope_store", gpu, [cache.buffer, *norm], [like.type])[0].tensor
            either = {"head_dim": 0}
            return [
                q,
                ops.inplace_custom("mili.paged_attention", gpu, [cache.buffer, q, *batch], [like.type], either)[0],
            ]

        bfloat, gamma = DType.bfloat16, tensor(DType.float32, "head_dim")
        batch = [tensor(DType.int32, "T"), tensor(DType.int32, "B_plus_1"), tensor(DType.int32, "B", "P")]
        inputs = [tensor(bfloat, "T", "qkv"), gamma, gamma, tensor(DType.float32, "T", "head_dim"), *batch]
        shape = ["pages", LAYERS, 2, "kv_heads", "page_size", "head_dim"]
        cache = BufferType(bfloat, shape, gpu)
        self._device = resolve_device("gpu")
        self._run = OpRunner([cache, *inputs, tensor(bfloat, "T", "q")], build, self._device)

    def __call__(self, given: Requests, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        def bfloat(bits: np.ndarray) -> Buffer:
            return Buffer.from_numpy(bits).view(DType.bfloat16, bits.shape)

        cache = bfloat(given.cache).to(self._device.open())
        like = np.zeros((len(batch["qkv"]), given.q_heads * given.head_dim), np.uint16)
        rest = [batch[name] for name in ("rope", "positions", "row_offsets", "page_table")]
        q, y = self._run(cache, bfloat(batch["qkv"]), *given.gammas, *rest, bfloat(like))
        given.cache[:] = bfloat16(buffer_values(cache))
        shape = (-1, given.q_heads, given.head_dim)
        return q.reshape(shape), y.reshape(shape)


@pytest.fixture(scope="module", params=["sm_80", "sm_90a", "gpu"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param != "gpu":
        needed = {name: text for name, text in compile_kernels(request.param).items() if NEEDED.search(name)}
        return Interpreted({name: parse(text) for name, text in needed.items()}, request.param)
    if accelerator_count() == 0:
        pytest.skip("MAX sees no GPU here")
    return OnGPU()


# (query heads, kv heads, head_dim, page size, request lengths): one token and many, one split and several, groups
# that fill a tile and that do not, pages shorter than an atom and longer than a step.
CASES = [
    (4, 2, 64, 16, [5, 1, 33]),
    (8, 1, 128, 8, [31, 2]),
    (2, 1, 128, 16, [300]),
    (5, 1, 64, 64, [70, 3]),
    (2, 1, 64, 4, [19, 1]),
    (2, 1, 64, 256, [150]),
]


@pytest.mark.parametrize(("q_heads", "kv_heads", "head_dim", "page_size", "lengths"), CASES)
def test_whole_prompts(
    run: Run, q_heads: int, kv_heads: int, head_dim: int, page_size: int, lengths: list[int]
) -> None:
    requests = Requests(q_heads, kv_heads, head_dim, page_size, lengths)
    queries, attended = requests.step(run, [(r, 0, n) for r, n in enumerate(lengths)])
    cache = from_bfloat16(requests.cache)
    offset = 0
    for r, n in enumerate(lengths):
        q, k, v, out = requests.expected(r)
        np.testing.assert_allclose(queries[offset : offset + n], q, rtol=1e-2, atol=1e-5)
        np.testing.assert_allclose(attended[offset : offset + n], out, rtol=2e-2, atol=2e-2)
        offset += n
        for position in range(n):
            page, slot = requests.pages[r][position // page_size], position % page_size
            keys, values = (np.stack([in_order(b)[slot] for b in cache[page, LAYER, kind]]) for kind in range(2))
            np.testing.assert_allclose(keys, k[position], rtol=1e-2, atol=1e-5)
            np.testing.assert_array_equal(values, v[position].astype(np.float32))
    assert np.isnan(cache[:, 0]).all(), "a layer other than the one asked for was written"


def test_decode_has_the_bits_of_prefill(run: Run) -> None:
    lengths = [290, 40]
    whole = Requests(4, 2, 64, 16, lengths)
    together = np.split(whole.step(run, [(0, 0, 290), (1, 0, 40)])[1], [290])
    split = Requests(4, 2, 64, 16, lengths)
    steps = [
        [(0, 0, 100), (1, 0, 1)],  # many tokens beside one
        [(1, 1, 38), (0, 100, 287)],
        [(0, 287, 288), (1, 38, 39)],  # one token each: the host launches splits only
        [(1, 39, 40), (0, 288, 290)],
    ]
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for parts in steps:
        attended = split.step(run, parts)[1]
        ends = np.cumsum([b - a for _, a, b in parts])
        for (r, _, _), rows in zip(parts, np.split(attended, ends[:-1]), strict=True):
            seen[r].append(rows)
    for r in range(2):
        np.testing.assert_array_equal(np.concatenate(seen[r]), together[r])
