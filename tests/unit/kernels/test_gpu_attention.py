"""QK norm + RoPE + KV store, and attention, on GPUs against NumPy.

Everywhere the PTX of the kernels is interpreted; where MAX sees a GPU, they run on it too, through the ops.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from max.driver import Buffer, accelerator_count
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType, ops

from python_layer.model.device import resolve_device
from tests.ptx.compiled import compile_kernels
from tests.ptx.machine import launch
from tests.ptx.memory import bfloat16, from_bfloat16
from tests.ptx.program import Program, parse
from tests.unit.kernels import reference
from tests.unit.kernels.harness import OpRunner
from tests.unit.kernels.harness import from_bfloat16 as buffer_values

Run = Callable[["Requests", dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
"""Runs both ops on a batch, writes the requests' cache, and gives queries and attention [T, q_heads, head_dim]."""
EPS = 1e-6
SPLIT, MOST_SPLIT_ROWS = 256, 16
"""As in mojo_kernels/gpu/attention_tiles.mojo."""
LAYERS, LAYER = 2, 1
NEEDED = re.compile("attention|qk_norm")
"""In the names of kernels."""


def rounded(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 numbers, as float64."""
    return from_bfloat16(bfloat16(values.astype(np.float32))).astype(np.float64)


@dataclass
class Requests:
    """Random requests with their whole projections, and an empty cache in pages that lie anywhere."""

    q_heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    lengths: list[int]

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.q_heads, self.head_dim, *self.lengths])
        width = (self.q_heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = [bfloat16((2 * rng.standard_normal((n, width))).astype(np.float32)) for n in self.lengths]
        self.gammas = (1 + 0.2 * rng.standard_normal((2, self.head_dim))).astype(np.float32)
        half = self.head_dim // 2
        self.frequencies = (1e6 ** (-np.arange(half) / half)).astype(np.float32)
        needed = [-(-n // self.page_size) for n in self.lengths]
        shuffled = list(rng.permutation(sum(needed) + 1))
        self.pages = [[int(shuffled.pop()) for _ in range(n)] for n in needed]
        # What no request wrote must never be used: NaN would show.
        shape = (sum(needed) + 1, LAYERS, 2, self.kv_heads, self.page_size, self.head_dim)
        self.cache = np.full(shape, 0x7FFF, np.uint16)

    def step(self, run: Run, parts: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """One batch of (request, from position, to position): queries and attention, [T, q_heads, head_dim]."""
        positions = np.concatenate([np.arange(a, b) for _, a, b in parts]).astype(np.int32)
        table = np.full((len(parts), max(len(self.pages[r]) for r, _, _ in parts)), -1, np.int32)
        for row, (r, _, _) in zip(table, parts, strict=True):
            row[: len(self.pages[r])] = self.pages[r]
        angles = positions[:, None].astype(np.float32) * self.frequencies
        batch = {
            "qkv": np.concatenate([self.qkv[r][a:b] for r, a, b in parts]),
            "rope": np.concatenate([np.cos(angles), np.sin(angles)], 1),
            "positions": positions,
            "row_offsets": np.cumsum([0, *(b - a for _, a, b in parts)]).astype(np.int32),
            "page_table": table,
        }
        return run(self, batch)

    def expected(self, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Queries, keys, values and attention of a request, with the roundings of the kernels' inputs."""
        heads = from_bfloat16(self.qkv[r]).astype(np.float64).reshape(self.lengths[r], -1, self.head_dim)
        q, k, v = np.split(heads, [self.q_heads, self.q_heads + self.kv_heads], axis=1)
        positions = np.arange(self.lengths[r])
        q = reference.rotate(reference.rms_norm(q, self.gammas[0], EPS), positions, self.frequencies)
        k = reference.rotate(reference.rms_norm(k, self.gammas[1], EPS), positions, self.frequencies)
        q, k = rounded(q), rounded(k)
        return q, k, v, reference.attention(q, k, v, positions)


def in_order(block: np.ndarray) -> np.ndarray:
    """A head's keys or values in a page, [page_size, head_dim], as mojo_kernels/gpu/pages.mojo says they lie."""
    size, head_dim = block.shape
    rows = min(8, size)
    atoms = block.reshape(size // rows, head_dim // 64, rows, 8, 8)
    row = np.arange(rows)[:, None]
    columns = atoms[:, :, row, np.arange(8) ^ row]
    return columns.transpose(0, 2, 1, 3, 4).reshape(size, head_dim)


@dataclass(frozen=True)
class Launch:
    """How attention's launcher starts the kernels of whole tiles and of splits.

    Attributes:
        name: Before theirs.
        rows: Query rows of a tile.
        threads: Of a block of each.
        shared: Rows of head_dim elements in the shared memory of each.
        more: Bytes of shared memory besides.
    """

    name: str
    rows: int
    threads: tuple[int, int]
    shared: tuple[int, int]
    more: tuple[int, int] = (0, 0)


EVERYWHERE = Launch("", 64, (128, 128), (4 * 64 + 64, 4 * 64 + 64))
HOPPER = Launch("hopper_", 128, (384, 160), (128 + 4 * 128, 64 + 3 * 128), (4 * 16 + 24, 3 * 16 + 24))


@dataclass
class Interpreted:
    """The PTX, with the grids of the kernels' launchers."""

    kernels: dict[str, Program]
    architecture: str

    def __call__(self, given: Requests, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rows, (requests, pages), head_dim = len(batch["qkv"]), batch["page_table"].shape, given.head_dim
        stride, bits = given.cache[0].size, given.page_size.bit_length() - 1
        q = np.zeros((rows, given.q_heads, head_dim), np.uint16)
        y = np.zeros_like(q)
        layer = given.cache.reshape(-1)[LAYER * given.cache[0, 0].size :]
        heads = [given.q_heads, given.kv_heads]
        where = [batch["positions"], batch["row_offsets"], batch["page_table"]]
        inputs = [q, layer, batch["qkv"], *given.gammas, batch["rope"], *where]
        threads = rows * (given.q_heads + 2 * given.kv_heads) * head_dim // 16
        store = self.kernels[f"qk_norm_rope_store_{head_dim}"]
        launch(store, (-(-threads // 256), 1, 1), 256, [*inputs, rows, requests, pages, *heads, stride, bits, EPS])

        group = given.q_heads // given.kv_heads
        splits = -(-(pages << bits) // SPLIT)
        partial = np.full(requests * given.kv_heads * splits * group * (head_dim + 2), np.nan, np.float32)
        sizes = [group, given.kv_heads, stride, bits]
        arguments = [y, partial, q, layer, *where, requests, pages, *sizes]
        how = HOPPER if self.architecture == "sm_90a" and given.page_size >= 8 else EVERYWHERE
        shared = [rows * head_dim * 2 + more for rows, more in zip(how.shared, how.more, strict=True)]
        if rows > requests or group > MOST_SPLIT_ROWS:
            grid = (rows * group // how.rows + requests, given.kv_heads, 1)
            launch(self.kernels[f"{how.name}attention_{head_dim}"], grid, how.threads[0], arguments, shared[0])
        if group <= MOST_SPLIT_ROWS:
            grid = (splits, given.kv_heads, requests)
            one_token = self.kernels[f"{how.name}attention_one_token_{head_dim}"]
            launch(one_token, grid, how.threads[1], arguments, shared[1])
            grid = (group, given.kv_heads, requests)
            merged = [y, partial, *where[:2], pages, group, given.kv_heads, bits]
            launch(self.kernels[f"attention_merge_{head_dim}"], grid, 32, merged)
        return from_bfloat16(q), from_bfloat16(y)


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
            return [q, ops.inplace_custom("mili.paged_attention", gpu, [cache.buffer, q, *batch], [like.type])[0]]

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
# that fill a tile and that do not.
CASES = [
    (4, 2, 64, 16, [5, 1, 33]),
    (8, 1, 128, 8, [31, 2]),
    (2, 1, 128, 16, [300]),
    (5, 1, 64, 64, [70, 3]),
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
