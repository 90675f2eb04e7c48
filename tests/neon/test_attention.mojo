"""Attention on Arm over caches of every type, against float64; a row's bits alone and in a batch."""

from std.math import ceildiv, exp, sqrt
from std.memory import bitcast
from std.testing import TestSuite
from std.utils.numerics import nan

from mojo_kernels.core.attention import paged_attention_cpu
from mojo_kernels.core.attention_tile import HeadRows
from mojo_kernels.memory.batch import RaggedQueries
from mojo_kernels.memory.kv_cache import PANEL, SCALE_BYTES, PagedKVCache, pair_size
from mojo_kernels.utils.types import untracked
from numbers import Numbers, assert_close, assert_same_bits


@fieldwise_init
struct Part(Copyable, Movable):
    """Some positions of a request, as rows of a batch."""

    var request: Int
    var begin: Int
    var end: Int


struct Requests[dtype: DType, D: Int]:
    """Random requests of some lengths, all in the cache, in pages that lie in no order."""

    comptime pair = pair_size[Self.dtype]()
    comptime row = Self.D + (SCALE_BYTES if Self.dtype == DType.int8 else 0)

    var kv_heads: Int
    var q_heads: Int
    var page_size: Int
    var pages: Int
    """Of a request."""
    var queries: List[List[Float32]]
    """Of each request: [positions, q_heads, D]."""
    var keys: List[List[Float32]]
    """Of each request: [positions, kv_heads, D]."""
    var values: List[List[Float32]]
    var table: List[Int32]
    """[requests, pages]."""
    var cache: List[Scalar[Self.dtype]]

    def __init__(out self, kv_heads: Int, group: Int, page_size: Int, lengths: List[Int]):
        var numbers = Numbers(kv_heads * 10000 + group * 1000 + page_size)
        var longest = 0
        for length in lengths:
            longest = max(longest, length)
        self.kv_heads = kv_heads
        self.q_heads = kv_heads * group
        self.page_size = page_size
        self.pages = ceildiv(longest, page_size)
        self.queries = {}
        self.keys = {}
        self.values = {}
        var count = len(lengths) * self.pages
        self.table = List[Int32](length=count, fill=0)
        for i in range(count):
            self.table[i] = Int32(i * 7 % count if count % 7 else count - 1 - i)
        # What no request wrote must never be read: NaN would show, in an int8 cache as a scale.
        var unwritten = Scalar[Self.dtype](-1)
        comptime if Self.dtype != DType.int8:
            unwritten = nan[Self.dtype]()
        self.cache = List[Scalar[Self.dtype]](length=count * 2 * kv_heads * page_size * Self.row, fill=unwritten)
        for length in lengths:
            self.queries.append(numbers.list[DType.float32](length * self.q_heads * Self.D, 3))
            self.keys.append(numbers.list[DType.float32](length * kv_heads * Self.D, 3))
            self.values.append(numbers.list[DType.float32](length * kv_heads * Self.D, 3))
        var kv = self.paged()
        for r in range(len(lengths)):
            for i in range(lengths[r] * kv_heads):
                var position, head = divmod(i, kv_heads)
                var page = Int(self.table[r * self.pages + position // page_size])
                var slot = position % page_size
                kv.store_key(page, head, slot, untracked(self.keys[r].unsafe_ptr()).unsafe_offset(i * Self.D))
                var value = untracked(self.values[r].unsafe_ptr()).unsafe_offset(i * Self.D)
                kv.store_value(page, head, slot, value)

    def paged(mut self) -> PagedKVCache[Self.dtype]:
        """The cache [pages, 2, kv_heads, page_size, row]."""
        var head_stride = self.page_size * Self.row
        var half = self.kv_heads * head_stride
        return {untracked(self.cache.unsafe_ptr()), 2 * half, half, head_stride, self.page_size, Self.D}

    def stored(self, r: Int, position: Int, head: Int, value: Bool, d: Int) -> Float64:
        """A number of a key or value as the cache holds it; where, `kv_cache.mojo` tells."""
        var page = Int(self.table[r * self.pages + position // self.page_size])
        var slot = position % self.page_size
        var part = (page * 2 + Int(value)) * self.kv_heads + head
        var rows = part * self.page_size * Self.row
        var at = rows + slot * Self.D + d
        if self.page_size % PANEL == 0:
            var panel, lane = divmod(slot, PANEL)
            var in_panel = (d // Self.pair * PANEL + lane) * Self.pair + d % Self.pair
            if value:
                in_panel = (lane // Self.pair * Self.D + d) * Self.pair + lane % Self.pair
            at = rows + panel * PANEL * Self.D + in_panel
        var number = self.cache[at].cast[DType.float64]()
        comptime if Self.dtype == DType.int8:
            var scale = SIMD[DType.int8, SCALE_BYTES](0)
            for i in range(SCALE_BYTES):
                scale[i] = self.cache[rows + self.page_size * Self.D + slot * SCALE_BYTES + i].cast[DType.int8]()
            number *= bitcast[DType.float32, 1](scale)[0].cast[DType.float64]()
        return number

    def attend(mut self, parts: List[Part]) -> List[Float32]:
        """One batch."""
        var q = List[Float32]()
        var positions = List[Int32]()
        var offsets: List[Int32] = [0]
        var table = List[Int32]()
        for part in parts:
            for position in range(part.begin, part.end):
                positions.append(Int32(position))
                for i in range(self.q_heads * Self.D):
                    q.append(self.queries[part.request][position * self.q_heads * Self.D + i])
            offsets.append(Int32(len(positions)))
            for page in range(self.pages):
                table.append(self.table[part.request * self.pages + page])
        var out = List[Float32](length=len(q), fill=nan[DType.float32]())
        var batch = RaggedQueries[DType.float32](
            q=untracked(q.unsafe_ptr()),
            positions=untracked(positions.unsafe_ptr()),
            row_offsets=untracked(offsets.unsafe_ptr()),
            page_table=untracked(table.unsafe_ptr()),
            requests=len(parts),
            pages_per_request=self.pages,
            q_size=self.q_heads * Self.D,
            group=self.q_heads // self.kv_heads,
        )
        paged_attention_cpu[Self.D, False](HeadRows(untracked(out.unsafe_ptr())), batch, self.paged(), self.kv_heads)
        _ = positions^  # must outlive the batch, as the others
        _ = offsets^
        _ = table^
        _ = q^
        return out^

    def check_stored(self, tolerance: Float64) raises:
        """Every number of the cache is that of its key or value, within a part of that one's largest."""
        for r in range(len(self.keys)):
            for i in range(len(self.keys[r]) // Self.D):
                for value in [False, True]:
                    var largest = Float64(0)
                    for d in range(Self.D):
                        var x = self.values[r][i * Self.D + d] if value else self.keys[r][i * Self.D + d]
                        largest = max(largest, abs(x.cast[DType.float64]()))
                    for d in range(Self.D):
                        var x = self.values[r][i * Self.D + d] if value else self.keys[r][i * Self.D + d]
                        var here = self.stored(r, i // self.kv_heads, i % self.kv_heads, value, d)
                        assert_close(x, here, tolerance * largest, String("request ", r, ", key or value ", i, ", ", d))

    def check_row(self, r: Int, position: Int, y: List[Float32], begin: Int, tolerance: Float64) raises:
        """A row of the output against softmax(q k^T / sqrt(D)) v of the numbers in the cache."""
        for head in range(self.q_heads):
            var kv_head = head * self.kv_heads // self.q_heads
            var scores = List[Float64]()
            var largest = Float64(-1e30)
            for i in range(position + 1):
                var score = Float64(0)
                for d in range(Self.D):
                    var q = self.queries[r][(position * self.q_heads + head) * Self.D + d].cast[DType.float64]()
                    score += q * self.stored(r, i, kv_head, False, d)
                scores.append(score / sqrt(Float64(Self.D)))
                largest = max(largest, scores[i])
            var total = Float64(0)
            for i in range(position + 1):
                scores[i] = exp(scores[i] - largest)
                total += scores[i]
            for d in range(Self.D):
                var sum = Float64(0)
                for i in range(position + 1):
                    sum += scores[i] * self.stored(r, i, kv_head, True, d)
                var what = String("position ", position, " of request ", r, ", head ", head, ", ", d)
                assert_close(y[begin + head * Self.D + d], sum / total, tolerance, what)


def check[
    dtype: DType, D: Int
](kv_heads: Int, group: Int, page_size: Int, rounding: Float64, tolerance: Float64) raises:
    """Decodes and chunks of requests of all kinds of lengths: right, and the same bits alone."""
    var requests = Requests[dtype, D](kv_heads, group, page_size, [520, 1, 40, 300])
    requests.check_stored(rounding)
    var parts: List[Part] = [Part(0, 513, 520), Part(1, 0, 1), Part(2, 0, 40), Part(3, 299, 300)]
    var together = requests.attend(parts)
    var size = requests.q_heads * D
    var row = 0
    for part in parts:
        var alone = requests.attend([part.copy()])
        assert_same_bits(alone, 0, together, row * size, (part.end - part.begin) * size, "a request alone")
        for position in range(part.begin, part.end):
            requests.check_row(part.request, position, together, row * size, tolerance)
            var one = requests.attend([Part(part.request, position, position + 1)])
            assert_same_bits(one, 0, together, row * size, size, "a row alone")
            row += 1


def check_type[dtype: DType](rounding: Float64, tolerance: Float64) raises:
    comptime for D in [64, 128]:
        check[dtype, D](2, 2, 16, rounding, tolerance)
        check[dtype, D](1, 5, 32, rounding, tolerance)
        check[dtype, D](2, 1, 7, rounding, tolerance)


def test_float32() raises:
    check_type[DType.float32](0, 1e-5)


def test_bfloat16() raises:
    check_type[DType.bfloat16](2.0**-8, 1e-5)


def test_int8() raises:
    check_type[DType.int8](0.5001 / 127, 1e-3)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
