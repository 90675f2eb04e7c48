"""QK norm + RoPE + KV store, and attention, as compiled for GPUs: their PTX, interpreted, against NumPy."""

from dataclasses import dataclass

import numpy as np
import pytest

from tests.ptx.compiled import compile_kernels
from tests.ptx.machine import bfloat16, from_bfloat16, launch
from tests.ptx.program import Program, parse
from tests.unit.kernels import reference

EPS = 1e-6
SPLIT, FEW_ROWS, ROWS = 256, 16, 64
"""As in mojo_kernels/gpu/attention.mojo."""
LAYERS, LAYER = 2, 1


@pytest.fixture(scope="module")
def kernels() -> dict[str, Program]:
    return {name: parse(text) for name, text in compile_kernels("sm_80").items()}


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

    def step(self, kernels: dict[str, Program], parts: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """One batch of (request, from position, to position), with the grids of the kernels' launchers.

        Returns:
            Queries and attention, [T, q_heads, head_dim].
        """
        qkv = np.concatenate([self.qkv[r][a:b] for r, a, b in parts])
        positions = np.concatenate([np.arange(a, b) for _, a, b in parts]).astype(np.int32)
        offsets = np.cumsum([0, *(b - a for _, a, b in parts)]).astype(np.int32)
        table = np.full((len(parts), max(len(self.pages[r]) for r, _, _ in parts)), -1, np.int32)
        for row, (r, _, _) in zip(table, parts, strict=True):
            row[: len(self.pages[r])] = self.pages[r]
        angles = positions[:, None].astype(np.float32) * self.frequencies
        rope = np.concatenate([np.cos(angles), np.sin(angles)], 1)
        rows, requests, pages = len(qkv), len(parts), table.shape[1]
        stride, bits = self.cache[0].size, self.page_size.bit_length() - 1
        q = np.zeros((rows, self.q_heads, self.head_dim), np.uint16)
        y = np.zeros_like(q)
        layer = self.cache.reshape(-1)[LAYER * self.cache[0, 0].size :]
        heads = [self.q_heads, self.kv_heads]
        threads = rows * (self.q_heads + 2 * self.kv_heads) * self.head_dim // 16
        batch = [positions, offsets, table]
        launch(
            kernels[f"qk_norm_rope_store_{self.head_dim}"],
            (-(-threads // 256), 1, 1),
            256,
            [q, layer, qkv, *self.gammas, rope, *batch, rows, requests, pages, *heads, stride, bits, EPS],
        )
        group = self.q_heads // self.kv_heads
        capacity = min(group, FEW_ROWS) if rows == requests else FEW_ROWS
        splits = -(-(pages << bits) // SPLIT)
        partial = np.full(requests * self.kv_heads * splits * capacity * (self.head_dim + 2), np.nan, np.float32)
        sizes = [group, self.kv_heads, stride, bits, capacity]
        arguments = [y, partial, q, layer, *batch, requests, pages, *sizes]
        shared = (4 * 64 + ROWS) * self.head_dim * 2
        if rows > requests or group > FEW_ROWS:
            grid = (rows * group // ROWS + requests, self.kv_heads, 1)
            launch(kernels[f"attention_{self.head_dim}"], grid, 128, arguments, shared)
        if group <= FEW_ROWS:
            grid = (splits, self.kv_heads, requests)
            launch(kernels[f"attention_few_rows_{self.head_dim}"], grid, 128, arguments, shared)
            grid = (capacity, self.kv_heads, requests)
            merged = [y, partial, positions, offsets, pages, group, self.kv_heads, bits, capacity]
            launch(kernels[f"attention_merge_{self.head_dim}"], grid, 32, merged)
        return from_bfloat16(q), from_bfloat16(y)

    def expected(self, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Queries, keys, values and attention of a request, with the roundings of the kernels' inputs."""
        heads = from_bfloat16(self.qkv[r]).astype(np.float64).reshape(self.lengths[r], -1, self.head_dim)
        q, k, v = np.split(heads, [self.q_heads, self.q_heads + self.kv_heads], axis=1)
        positions = np.arange(self.lengths[r])
        q = reference.rotate(reference.rms_norm(q, self.gammas[0], EPS), positions, self.frequencies)
        k = reference.rotate(reference.rms_norm(k, self.gammas[1], EPS), positions, self.frequencies)
        q, k = rounded(q), rounded(k)
        return q, k, v, reference.attention(q, k, v, positions)


# (query heads, kv heads, head_dim, page size, request lengths): few rows and many, one split and several, groups
# that fill a tile and that do not.
CASES = [
    (4, 2, 64, 16, [5, 1, 33]),
    (8, 1, 128, 8, [31, 2]),
    (2, 1, 128, 16, [300]),
    (5, 1, 64, 64, [70, 3]),
]


@pytest.mark.parametrize(("q_heads", "kv_heads", "head_dim", "page_size", "lengths"), CASES)
def test_whole_prompts(
    kernels: dict[str, Program], q_heads: int, kv_heads: int, head_dim: int, page_size: int, lengths: list[int]
) -> None:
    requests = Requests(q_heads, kv_heads, head_dim, page_size, lengths)
    queries, attended = requests.step(kernels, [(r, 0, n) for r, n in enumerate(lengths)])
    cache = from_bfloat16(requests.cache)
    offset = 0
    for r, n in enumerate(lengths):
        q, k, v, out = requests.expected(r)
        np.testing.assert_allclose(queries[offset : offset + n], q, rtol=1e-2, atol=1e-5)
        np.testing.assert_allclose(attended[offset : offset + n], out, rtol=2e-2, atol=2e-2)
        offset += n
        for position in range(n):
            page, slot = requests.pages[r][position // page_size], position % page_size
            np.testing.assert_allclose(cache[page, LAYER, 0, :, slot], k[position], rtol=1e-2, atol=1e-5)
            np.testing.assert_array_equal(cache[page, LAYER, 1, :, slot], v[position].astype(np.float32))
    assert np.isnan(cache[:, 0]).all(), "a layer other than the one asked for was written"


def test_decode_has_the_bits_of_prefill(kernels: dict[str, Program]) -> None:
    lengths = [290, 40]
    whole = Requests(4, 2, 64, 16, lengths)
    together = np.split(whole.step(kernels, [(0, 0, 290), (1, 0, 40)])[1], [290])
    split = Requests(4, 2, 64, 16, lengths)
    steps = [
        [(0, 0, 100), (1, 0, 1)],  # many rows beside few
        [(1, 1, 38), (0, 100, 287)],
        [(0, 287, 288), (1, 38, 39)],  # one row each: the host launches splits only
        [(1, 39, 40), (0, 288, 290)],
    ]
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for parts in steps:
        attended = split.step(kernels, parts)[1]
        ends = np.cumsum([b - a for _, a, b in parts])
        for (r, _, _), rows in zip(parts, np.split(attended, ends[:-1]), strict=True):
            seen[r].append(rows)
    for r in range(2):
        np.testing.assert_array_equal(np.concatenate(seen[r]), together[r])
