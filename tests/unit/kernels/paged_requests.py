"""Random requests for the GPU's attention, and its kernels' PTX, interpreted with the grids of their launchers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.ptx.machine import launch
from tests.ptx.memory import bfloat16, from_bfloat16
from tests.ptx.program import Program
from tests.unit.kernels import reference

Run = Callable[["Requests", dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
"""Runs both ops on a batch, writes the requests' cache, and gives queries and attention [T, q_heads, head_dim]."""
EPS = 1e-6
SPLIT, MOST_SPLIT_ROWS = 256, 16
"""As in mojo_kernels/gpu/attention_tiles.mojo."""
LAYERS, LAYER = 2, 1


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
