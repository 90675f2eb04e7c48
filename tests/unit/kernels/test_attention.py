"""QK norm + RoPE + KV store, and paged attention, over ragged batches."""

from dataclasses import dataclass

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph import ops

from python_layer.utils.cpu import multiplies_bfloat16
from tests.unit.kernels import reference
from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, cache_type, from_bfloat16, tensor, to_dtype

EPS = 1e-6
BF16 = DType.bfloat16


@dataclass(frozen=True)
class Types:
    """Types of the cache and of the queries, and how far attention may be from the reference with the same cache."""

    cache: DType
    queries: DType
    tolerance: float

    @property
    def pair(self) -> int:
        """Numbers that lie together in a panel."""
        return 1 if self.cache == FLOAT else 2


TYPES = {
    "float32": Types(FLOAT, FLOAT, 2e-5),
    "bfloat16": Types(BF16, FLOAT, 2e-5),
    "bfloat16 products": Types(BF16, BF16, 2e-2),
}


@pytest.fixture(scope="module", params=TYPES)
def types(request: pytest.FixtureRequest) -> Types:
    chosen = TYPES[request.param]
    if chosen.queries == BF16 and not multiplies_bfloat16():
        pytest.skip("the CPU lacks AVX512-BF16")
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
        return [ops.cast(q, FLOAT), ops.inplace_custom("mili.paged_attention", DEVICE, [cache, q, *batch], out)[0]]

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
        shape = (sum(needed) + 2, self.layers, 2, self.kv_heads, self.page_size, self.head_dim)
        # What no request wrote must never be read: NaN would show.
        self.cache, _ = to_dtype(np.full(shape, np.nan), self.types.cache)

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
        stored = from_bfloat16(self.cache) if self.types.cache == BF16 else self.cache.to_numpy()
        return reference.plain_pages(stored, self.types.pair)

    def expected(self, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Queries, keys, values and attention of a request; keys and values rounded as the cache does."""
        heads = self.qkv[r].astype(np.float64).reshape(self.lengths[r], -1, self.head_dim)
        q, k, v = np.split(heads, [self.q_heads, self.q_heads + self.kv_heads], axis=1)
        positions = np.arange(self.lengths[r])
        q = reference.rotate(reference.rms_norm(q, self.gammas[0], EPS), positions, self.frequencies)
        k = reference.rotate(reference.rms_norm(k, self.gammas[1], EPS), positions, self.frequencies)
        k, v = to_dtype(k, self.types.cache)[1], to_dtype(v, self.types.cache)[1]
        return q, k, v, reference.attention(q, k, v, positions)


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
]


@pytest.mark.parametrize(("q_heads", "kv_heads", "head_dim", "page_size", "lengths"), CASES)
def test_whole_prompts(
    run: OpRunner, types: Types, q_heads: int, kv_heads: int, head_dim: int, page_size: int, lengths: list[int]
) -> None:
    setup = Setup(q_heads, kv_heads, head_dim, page_size, lengths, types)
    queries, attended = setup.step(run, [(r, 0, n) for r, n in enumerate(lengths)])
    cache = setup.rows()
    offset = 0
    for r, n in enumerate(lengths):
        q, k, v, out = setup.expected(r)
        rows = slice(offset, offset + n)
        offset += n
        np.testing.assert_allclose(queries[rows], q.reshape(n, -1), rtol=5e-3 if types.queries == BF16 else 0, atol=2e-5)
        np.testing.assert_allclose(attended[rows], out.reshape(n, -1), atol=types.tolerance)
        for position in range(n):
            page, slot = setup.pages[r][position // page_size], position % page_size
            np.testing.assert_allclose(cache[page, 1, 0, :, slot], k[position], rtol=1e-2, atol=2e-5)
            np.testing.assert_array_equal(cache[page, 1, 1, :, slot], v[position].astype(np.float32))
    assert np.isnan(cache[:, 0]).all(), "a layer other than the one asked for was written"


def test_chunks_and_neighbours_change_no_bit(run: OpRunner, types: Types) -> None:
    lengths = [75, 40, 3]
    whole = Setup(4, 2, 64, 16, lengths, types)
    together = np.split(whole.step(run, [(0, 0, 75), (1, 0, 40), (2, 0, 3)])[1], [75, 115])

    split = Setup(4, 2, 64, 16, lengths, types)
    steps = [
        [(0, 0, 33)],
        [(2, 0, 1), (0, 33, 34)],
        [(0, 34, 51), (1, 0, 39), (2, 1, 2)],
        [(2, 2, 3), (1, 39, 40), (0, 51, 74)],
        [(0, 74, 75)],
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
    assert np.isnan(values[:, 1]).all()
