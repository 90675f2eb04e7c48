"""QK norm + RoPE + KV store, and paged attention, over ragged batches."""

from dataclasses import dataclass

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph import ops

from python_layer.utils.cpu import multiplies, supported_isas
from tests.emulator.emulate import emulate
from tests.unit.kernels import reference
from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, cache_type, from_bfloat16, tensor, to_dtype
from tests.unit.kernels.isas import HALVES

EPS = 1e-6
BF16, FP16, INT8 = DType.bfloat16, DType.float16, DType.int8
STORED = {FLOAT: 2e-5, BF16: 4e-3, FP16: 5e-4, INT8: 4.1e-3}
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
    def pair(self) -> int:
        """Numbers that lie together in a panel."""
        return 1 if self.cache == FLOAT else 2


TYPES = {
    "float32": Types(FLOAT, FLOAT, 2e-5, 1e-5),
    "bfloat16": Types(BF16, FLOAT, 2e-5, 3e-3),
    "bfloat16 products": Types(BF16, BF16, 2e-2, 5e-3),
    "amx": Types(BF16, BF16, 2e-2, 5e-3, amx=True),
    "float16": Types(FP16, FLOAT, 2e-2, 3e-3),
    "int8": Types(INT8, FLOAT, 1e-3, 1e-2),
}


@pytest.fixture(scope="module", params=TYPES)
def types(request: pytest.FixtureRequest) -> Types:
    chosen = TYPES[request.param]
    if chosen.queries == BF16 and "bfloat16" not in map(multiplies, supported_isas()):
        pytest.skip("the CPU lacks AVX512-BF16")
    if chosen.cache == FP16 and not HALVES:
        pytest.skip("the CPU lacks AVX512-FP16")
    if chosen.amx:
        emulate("amx")
    return chosen


@pytest.fixture(scope="module")
def run(types: Types) -> OpRunner:
    """One layer's attention: cache, qkv, norms, frequencies, batch, layer -> rotated queries, attention."""

    def build(values):
        cache, *tensors = values
        qkv, q_gamma, k_gamma, frequencies, positions, offsets, table, layer, like_q = (t.tensor for t in tensors)
        eps, one = ops.constant(EPS, FLOAT, DEVICE), ops.constant(1.0, FLOAT, DEVICE)
        table_type = tensor(FLOAT, "T", "head_dim")
        rope = ops.custom("mili.rope_table", DEVICE, [positions, frequencies, one], [table_type])[0]
        out = [like_q.type]
        batch = [positions, offsets, table, layer]
        q = ops.inplace_custom(
            "mili.qk_norm_rope_store",
            DEVICE,
            [cache, qkv, q_gamma, k_gamma, rope, positions, offsets, table, layer, eps],
            [tensor(types.queries, *like_q.shape)],
        )[0]
        either = {"head_dim": 0, "amx": types.amx}
        attended = ops.inplace_custom("mili.paged_attention", DEVICE, [cache, q, *batch], out, either)[0]
        return [ops.cast(q, FLOAT), attended]

    gamma, batch = tensor(FLOAT, "head_dim"), [tensor(INT, "T"), tensor(INT, "B_plus_1"), tensor(INT, "B", "P")]
    inputs = [tensor(FLOAT, "T", "qkv"), gamma, gamma, tensor(FLOAT, "half"), *batch, tensor(INT)]
    return OpRunner([cache_type(types.cache), *inputs, tensor(FLOAT, "T", "q")], build)


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
        row = self.head_dim + (4 if self.types.cache == INT8 else 0)
        shape = (sum(needed) + 2, self.layers, 2, self.kv_heads, self.page_size, row)
        # What no request wrote must never be read: NaN would show, in an int8 cache as a scale.
        if self.types.cache == INT8:
            self.cache = Buffer.from_numpy(np.full(shape, -1, np.int8))
        else:
            self.cache, _ = to_dtype(np.full(shape, np.nan), self.types.cache)
        self.qkv[0][-1, -self.head_dim :] = 0

    def step(self, run: OpRunner, parts: list[tuple[int, int, int]], layer: int = 1) -> list[np.ndarray]:
        """One batch of (request, from position, to position); returns [queries, attention]."""
        qkv = np.concatenate([self.qkv[r][a:b] for r, a, b in parts])
        positions = np.concatenate([np.arange(a, b) for _, a, b in parts]).astype(np.int32)
        offsets = np.cumsum([0, *(b - a for _, a, b in parts)]).astype(np.int32)
        table = np.full((len(parts), max(len(self.pages[r]) for r, _, _ in parts)), -1, np.int32)
        for row, (r, _, _) in zip(table, parts, strict=True):
            row[: len(self.pages[r])] = self.pages[r]
        like_q = np.zeros((len(qkv), self.q_heads * self.head_dim), np.float32)
        inputs = (qkv, *self.gammas, self.frequencies, positions, offsets, table, np.int32(layer), like_q)
        return run(self.cache, *(np.asarray(value) for value in inputs))

    def rows(self) -> np.ndarray:
        """The cache's keys and values as plain rows, float32."""
        if self.types.cache == INT8:
            numbers, scales = reference.int8_pages(self.cache.to_numpy())
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
    run: OpRunner, types: Types, q_heads: int, kv_heads: int, head_dim: int, page_size: int, lengths: list[int]
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
    if types.cache != INT8:
        assert np.isnan(setup.rows()[:, 0]).all(), "a layer other than the one asked for was written"


def test_chunks_and_neighbours_change_no_bit(run: OpRunner, types: Types) -> None:
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


def test_large_scores_do_not_overflow(run: OpRunner, types: Types) -> None:
    setup = Setup(2, 1, 64, 16, [48], types)
    setup.gammas = setup.gammas * 200
    _, attended = setup.step(run, [(0, 0, 48)])
    assert np.isfinite(attended).all()


def test_cache_is_written_in_place(run: OpRunner, types: Types) -> None:
    setup = Setup(2, 2, 64, 16, [20], types)
    before: Buffer = setup.cache
    setup.step(run, [(0, 0, 20)], layer=0)
    assert setup.cache is before
    values = setup.rows()
    assert np.isfinite(values[setup.pages[0][0], 0]).all()
    if types.cache != INT8:
        assert np.isnan(values[:, 1]).all()
