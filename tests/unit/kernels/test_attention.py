"""QK norm + RoPE + KV store, and paged attention, over ragged batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, ops

from python_layer.utils.cpu import multiplies, supported_isas
from tests.emulator.emulate import can_emulate, emulate
from tests.unit.kernels import reference
from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, from_bfloat16, tensor, to_dtype
from tests.unit.kernels.isas import HALVES

EPS = 1e-6
BF16, FP16, INT8, INT16 = DType.bfloat16, DType.float16, DType.int8, DType.int16
STORED = {FLOAT: 2e-5, BF16: 4e-3, FP16: 5e-4, INT8: 4.1e-3, INT16: 2.6e-4}
"""How much of a row's largest number rounding to the cache's type may cost."""


@dataclass(frozen=True)
class Types:
    """Types of the cache and of the queries, and how right attention is with them.

    Attributes:
        cache: Type of the cache.
        queries: Type of the queries.
        tolerance: Largest difference to the reference with the cache's own numbers.
        rounding: Relative error of whole outputs, to the reference with the numbers before they were rounded.
        amx: Whether AMX multiplies.
    """

    cache: DType
    queries: DType
    tolerance: float
    rounding: float
    amx: bool = False

    @property
    def scaled(self) -> bool:
        """Whether the cache's rows have scales."""
        return self.cache in (INT8, INT16)

    @property
    def pair(self) -> int:
        """Numbers that lie together in a panel."""
        return 1 if self.cache == FLOAT else 2

    def empty_cache(self, shape: tuple[int, ...], head_dim: int) -> Buffer:
        """What no request wrote must never be read: NaN would show, in a cache of integers as a scale."""
        if self.scaled:
            row = head_dim + 4 // self.cache.size_in_bytes
            return Buffer.from_numpy(np.full((*shape, row), -1, self.cache.to_numpy()))
        return to_dtype(np.full((*shape, head_dim), np.nan), self.cache)[0]


TYPES = {
    "float32": Types(FLOAT, FLOAT, 2e-5, 1e-5),
    "bfloat16": Types(BF16, FLOAT, 2e-5, 3e-3),
    "bfloat16 products": Types(BF16, BF16, 2e-2, 5e-3),
    "amx": Types(BF16, BF16, 2e-2, 5e-3, amx=True),
    "float16": Types(FP16, FLOAT, 2e-2, 3e-3),
    "int8": Types(INT8, FLOAT, 1e-3, 1e-2),
    "int16": Types(INT16, FLOAT, 2e-3, 1e-3),
}


def lacking(types: Types) -> str | None:
    """What these types need that the CPU lacks and that can't be emulated."""
    isas = supported_isas()
    if types.amx:
        return None if "amx" in isas or can_emulate("amx") else "AVX512-BF16"
    if types.queries == BF16 and "bfloat16" not in map(multiplies, isas):
        return "AVX512-BF16"
    return "AVX512-FP16" if types.cache == FP16 and not HALVES else None


POSSIBLE = [types for types in TYPES.values() if not lacking(types)]

Run = Callable[[Buffer, Sequence[np.ndarray], Sequence[np.ndarray]], list[np.ndarray]]


@pytest.fixture(scope="module", params=TYPES)
def types(request: pytest.FixtureRequest) -> Types:
    chosen = TYPES[request.param]
    if lacks := lacking(chosen):
        pytest.skip(f"the CPU lacks {lacks}")
    if chosen.amx:
        emulate("amx")
    return chosen


@pytest.fixture(scope="module")
def every_type() -> OpRunner:
    """Norms, frequencies, layer, cache and batch of each type -> rotated queries and attention of each, in a layer."""

    def build(values):
        q_gamma, k_gamma, frequencies, layer = (value.tensor for value in values[:4])
        eps, one = ops.constant(EPS, FLOAT, DEVICE), ops.constant(1.0, FLOAT, DEVICE)
        outputs = []
        for number, types in enumerate(POSSIBLE):
            cache, *tensors = values[4 + 6 * number : 10 + 6 * number]
            qkv, positions, offsets, table, like_q = (value.tensor for value in tensors)
            table_type = tensor(FLOAT, f"T{number}", "head_dim")
            rope = ops.custom("mili.rope_table", DEVICE, [positions, frequencies, one], [table_type])[0]
            batch = [positions, offsets, table, layer]
            q = ops.inplace_custom(
                "mili.qk_norm_rope_store",
                DEVICE,
                [cache, qkv, q_gamma, k_gamma, rope, *batch, eps],
                [tensor(types.queries, *like_q.shape)],
            )[0]
            either = {"head_dim": 0, "amx": types.amx}
            attended = ops.inplace_custom("mili.paged_attention", DEVICE, [cache, q, *batch], [like_q.type], either)[0]
            outputs += [ops.cast(q, FLOAT), attended]
        return outputs

    inputs: list[object] = [tensor(FLOAT, "head_dim"), tensor(FLOAT, "head_dim"), tensor(FLOAT, "half"), tensor(INT)]
    for number, types in enumerate(POSSIBLE):
        rows, requests = f"T{number}", f"B{number}"
        shape = [f"pages{number}", "layers", 2, "kv_heads", "page_size", f"row{number}"]
        inputs += [BufferType(types.cache, shape, DEVICE), tensor(FLOAT, rows, "qkv"), tensor(INT, rows)]
        inputs += [tensor(INT, f"{requests}_plus_1"), tensor(INT, requests, "P"), tensor(FLOAT, rows, "q")]
    return OpRunner(inputs, build)


@pytest.fixture(scope="module")
def run(every_type: OpRunner, types: Types) -> Run:
    """Cache, what all types share, and batch of one -> its queries and attention; the others' batches are empty."""

    def one(cache: Buffer, shared: Sequence[np.ndarray], batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        qkv, positions, offsets, table, like_q = batch
        nothing = [qkv[:0], positions[:0], offsets[:1], table[:0], like_q[:0]]
        arguments = [*shared]
        for other in POSSIBLE:
            unused = other.empty_cache((1, *cache.shape[1:-1]), len(shared[0]))
            arguments += [cache, *batch] if other == types else [unused, *nothing]
        place = 2 * POSSIBLE.index(types)
        return every_type(*arguments)[place : place + 2]

    return one


@dataclass
class Setup:
    """Random requests of one shape: their projections, pages and cache."""

    q_heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    lengths: list[int]
    types: Types
    layers: int = 2

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.q_heads, self.kv_heads, self.head_dim, self.page_size])
        width = (self.q_heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = [self.rng.standard_normal((n, width)).astype(np.float32) * 2 for n in self.lengths]
        self.gammas = (1 + 0.2 * self.rng.standard_normal((2, self.head_dim))).astype(np.float32)
        half = self.head_dim // 2
        self.frequencies = (1e6 ** (-np.arange(half) / half)).astype(np.float32)
        needed = [-(-n // self.page_size) for n in self.lengths]
        shuffled = list(self.rng.permutation(sum(needed) + 2))
        self.pages = [[int(shuffled.pop()) for _ in range(n)] for n in needed]
        shape = (sum(needed) + 2, self.layers, 2, self.kv_heads, self.page_size)
        self.cache = self.types.empty_cache(shape, self.head_dim)
        self.qkv[0][-1, -self.head_dim :] = 0

    def step(self, run: Run, parts: list[tuple[int, int, int]], layer: int = 1) -> list[np.ndarray]:
        """One batch of (request, from position, to position); returns [queries, attention]."""
        qkv = np.concatenate([self.qkv[r][a:b] for r, a, b in parts])
        positions = np.concatenate([np.arange(a, b) for _, a, b in parts]).astype(np.int32)
        offsets = np.cumsum([0, *(b - a for _, a, b in parts)]).astype(np.int32)
        table = np.full((len(parts), max(len(self.pages[r]) for r, _, _ in parts)), -1, np.int32)
        for row, (r, _, _) in zip(table, parts, strict=True):
            row[: len(self.pages[r])] = self.pages[r]
        like_q = np.zeros((len(qkv), self.q_heads * self.head_dim), np.float32)
        shared = [*self.gammas, self.frequencies, np.asarray(np.int32(layer))]
        return run(self.cache, shared, [qkv, positions, offsets, table, like_q])

    def rows(self) -> np.ndarray:
        """The cache's keys and values as plain rows, float32."""
        if self.types.scaled:
            numbers, scales = reference.scaled_pages(self.cache.to_numpy())
            return reference.plain_pages(numbers, 2) * scales[..., None]
        stored = from_bfloat16(self.cache) if self.types.cache == BF16 else self.cache.to_numpy()
        if self.types.cache == FP16:
            stored = stored.astype(np.float32) * 16
        return reference.plain_pages(stored, self.types.pair)

    def stored(self, r: int) -> np.ndarray:
        """Keys and values of a request in layer 1, [2, positions, kv_heads, D], float64."""
        positions = np.arange(self.lengths[r])
        pages = np.array(self.pages[r])[positions // self.page_size]
        rows = self.rows()[pages, 1, :, :, positions % self.page_size]
        return np.moveaxis(rows.astype(np.float64), 1, 0)

    def expected(self, r: int) -> tuple[np.ndarray, np.ndarray]:
        """Queries [positions, q_heads, D], and keys and values as in `stored`, before any rounding."""
        heads = self.qkv[r].astype(np.float64).reshape(self.lengths[r], -1, self.head_dim)
        q, k, v = np.split(heads, [self.q_heads, self.q_heads + self.kv_heads], axis=1)
        positions = np.arange(self.lengths[r])
        q = reference.rotate(reference.rms_norm(q, self.gammas[0], EPS), positions, self.frequencies)
        k = reference.rotate(reference.rms_norm(k, self.gammas[1], EPS), positions, self.frequencies)
        return q, np.stack([k, v])


# (query heads, kv heads, head_dim, page size, request lengths): GQA 1, 2, 4, 8; pages smaller, equal, larger, odd.
CASES = [
    (2, 2, 64, 16, [1]),
    (4, 2, 64, 16, [5, 1, 33, 16]),
    (4, 1, 128, 16, [40, 17]),
    (8, 1, 128, 8, [31, 2, 64]),
    (16, 2, 64, 32, [70, 1]),
    (2, 1, 128, 7, [50, 15]),
    (24, 1, 64, 1, [9]),
    (4, 4, 64, 64, [130]),
    (4, 2, 128, 16, [300, 517]),
]


@pytest.mark.parametrize(("q_heads", "kv_heads", "head_dim", "page_size", "lengths"), CASES)
def test_whole_prompts(
    run: Run, types: Types, q_heads: int, kv_heads: int, head_dim: int, page_size: int, lengths: list[int]
) -> None:
    setup = Setup(q_heads, kv_heads, head_dim, page_size, lengths, types)
    queries, attended = setup.step(run, [(r, 0, n) for r, n in enumerate(lengths)])
    for r, rows in enumerate(np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])):
        q, kv = setup.expected(r)
        stored = setup.stored(r)
        largest = np.abs(kv).max(-1, keepdims=True)
        assert (np.abs(stored - kv) <= STORED[types.cache] * largest + 1e-6).all()
        rounding = 5e-3 if types.queries == BF16 else 0
        np.testing.assert_allclose(queries[rows], q.reshape(len(rows), -1), rtol=rounding, atol=2e-5)
        out = reference.attention(q, *stored, np.arange(len(rows))).reshape(len(rows), -1)
        np.testing.assert_allclose(attended[rows], out, atol=types.tolerance)
        exact = reference.attention(q, *kv, np.arange(len(rows))).reshape(len(rows), -1)
        assert np.linalg.norm(attended[rows] - exact) < types.rounding * np.linalg.norm(exact)
    if not types.scaled:
        assert np.isnan(setup.rows()[:, 0]).all(), "a layer other than the one asked for was written"


def test_chunks_and_neighbours_change_no_bit(run: Run, types: Types) -> None:
    lengths = [675, 40, 3]
    whole = Setup(4, 2, 64, 16, lengths, types)
    together = np.split(whole.step(run, [(0, 0, 675), (1, 0, 40), (2, 0, 3)])[1], [675, 715])

    split = Setup(4, 2, 64, 16, lengths, types)
    steps = [
        [(0, 0, 33)],
        [(2, 0, 1), (0, 33, 34)],
        [(0, 34, 51), (1, 0, 39), (2, 1, 2)],
        [(2, 2, 3), (1, 39, 40), (0, 51, 300)],
        [(0, 300, 511)],
        [(0, 511, 512)],
        [(0, 512, 513)],
        [(0, 513, 518)],
        [(0, 518, 674)],
        [(0, 674, 675)],
    ]
    seen: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for parts in steps:
        out = split.step(run, parts)[1]
        for (r, a, b), rows in zip(parts, np.split(out, np.cumsum([b - a for _, a, b in parts])[:-1]), strict=True):
            assert len(rows) == b - a
            seen[r].append(rows)
    for r in range(3):
        np.testing.assert_array_equal(np.concatenate(seen[r]), together[r])


def test_large_scores_do_not_overflow(run: Run, types: Types) -> None:
    setup = Setup(2, 1, 64, 16, [48], types)
    setup.gammas = setup.gammas * 200
    _, attended = setup.step(run, [(0, 0, 48)])
    assert np.isfinite(attended).all()


def test_the_largest_sums_do_not_overflow(run: Run, types: Types) -> None:
    """Of integers: every number of a query, key, value and weight is the largest."""
    setup = Setup(2, 1, 128, 16, [300], types)
    setup.frequencies = np.zeros_like(setup.frequencies)
    setup.gammas = np.ones_like(setup.gammas)
    setup.qkv = [np.ones_like(setup.qkv[0])]
    _, attended = setup.step(run, [(0, 0, 300)])
    np.testing.assert_allclose(attended, 1, rtol=5e-3)


def test_cache_is_written_in_place(run: Run, types: Types) -> None:
    setup = Setup(2, 2, 64, 16, [20], types)
    before: Buffer = setup.cache
    setup.step(run, [(0, 0, 20)], layer=0)
    assert setup.cache is before
    values = setup.rows()
    assert np.isfinite(values[setup.pages[0][0], 0]).all()
    if not types.scaled:
        assert np.isnan(values[:, 1]).all()
