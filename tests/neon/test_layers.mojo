"""Transformer blocks on Arm, in phases on several threads: against float64, and whole against in chunks."""

from std.math import cos, exp, sin, sqrt
from std.testing import TestSuite
from std.utils.numerics import nan

from mojo_kernels.core.layer import LayerWork
from mojo_kernels.core.layer_memory import LayerSizes, LayerVectors, Scratch
from mojo_kernels.core.layers import run_layers
from mojo_kernels.core.matrix import Matrix
from mojo_kernels.memory.batch import RaggedSlots
from mojo_kernels.memory.kv_cache import PagedKVCache
from mojo_kernels.utils.types import untracked
from matrices import QuantizedWeights, pack
from numbers import Numbers, assert_same_bits

comptime LAYERS = 2
comptime HIDDEN = 160
comptime Q_HEADS = 4
comptime KV_HEADS = 2
comptime HEADS = Q_HEADS + 2 * KV_HEADS
comptime D = 64
comptime INNER = 224
comptime GROUP = 32
"""Columns that share a scale."""
comptime PAGE_SIZE = 16
comptime PAGES = 4
comptime LENGTH = 50
"""Positions of the only request."""
comptime EPS = Float32(1e-6)


struct Weights[dtype: DType, bits: Int]:
    """A random matrix, the same in each layer: packed, and its numbers in float64."""

    comptime Operand = Matrix["neon", Self.dtype, Self.bits, False, False]

    var n: Int
    var k: Int
    var packed: List[Scalar[Self.dtype]]
    """Of all layers."""
    var dense: List[Float64]
    """[n, k]."""

    def __init__(out self, mut numbers: Numbers, n: Int, k: Int):
        var scale = 2 / sqrt(Float64(k))
        self.n = n
        self.k = k
        self.dense = List[Float64](length=n * k, fill=0)
        comptime if Self.bits > 0:
            comptime zero = 1 << (Self.bits - 1)
            var w = QuantizedWeights[Self.bits, False](numbers, n, k // GROUP, GROUP, scale / Float64(zero))
            self.packed = List[Scalar[Self.dtype]](length=len(w.packed), fill=0)
            for i in range(len(w.packed)):
                self.packed[i] = w.packed[i].cast[Self.dtype]()
            for i in range(n * k):
                self.dense[i] = w.number(i // k, i % k)
        else:
            var w = numbers.list[Self.dtype](n * k, scale)
            self.packed = pack(w, n, k)
            for i in range(n * k):
                self.dense[i] = w[i].cast[DType.float64]()
        var size = len(self.packed)
        for i in range((LAYERS - 1) * size):
            self.packed.append(self.packed[i])

    def operand(mut self) -> Self.Operand:
        """The matrix as the block takes it."""
        return {untracked(self.packed.unsafe_ptr()), self.n, self.k, self.k // GROUP}

    def multiply(self, x: List[Float64]) -> List[Float64]:
        """The product with one row."""
        var y = List[Float64](length=self.n, fill=0)
        for o in range(self.n):
            for i in range(self.k):
                y[o] += self.dense[o * self.k + i] * x[i]
        return y^


def rms_norm(x: List[Float64], begin: Int, size: Int, gamma: List[Float32], layer: Int) -> List[Float64]:
    """`x / sqrt(mean(x^2) + eps) * gamma` over some numbers, with the layer's gamma."""
    var squares = Float64(0)
    for i in range(size):
        squares += x[begin + i] * x[begin + i]
    var root = sqrt(squares / Float64(size) + EPS.cast[DType.float64]())
    var y = List[Float64]()
    for i in range(size):
        y.append(x[begin + i] / root * gamma[layer * size + i].cast[DType.float64]())
    return y^


struct TransformerBlocks[dtype: DType, bits: Int, cache_type: DType]:
    """Blocks with random weights, and a request whose rows they compute."""

    comptime head_stride = PAGE_SIZE * D
    comptime value_offset = KV_HEADS * Self.head_stride

    var qkv: Weights[Self.dtype, Self.bits]
    var mix: Weights[Self.dtype, Self.bits]
    var gate_up: Weights[Self.dtype, Self.bits]
    var down: Weights[Self.dtype, Self.bits]
    var gamma: List[Float32]
    """[LAYERS HIDDEN]: of every norm, as far as it is long."""
    var biases: List[Float32]
    """[LAYERS HEADS D]: of queries, keys and values; the output's are the first of them."""
    var x: List[Float32]
    """[LENGTH, HIDDEN]."""
    var rope: List[Float32]
    """[LENGTH, D]."""
    var cache: List[Scalar[Self.cache_type]]
    """[PAGES, LAYERS, 2, KV_HEADS, PAGE_SIZE, D]."""

    def __init__(out self):
        var numbers = Numbers(Self.bits + 1)
        self.qkv = {numbers, HEADS * D, HIDDEN}
        self.mix = {numbers, HIDDEN, Q_HEADS * D}
        self.gate_up = {numbers, 2 * INNER, HIDDEN}
        self.down = {numbers, HIDDEN, INNER}
        self.gamma = numbers.list[DType.float32](LAYERS * HIDDEN)
        for i in range(LAYERS * HIDDEN):
            self.gamma[i] += 1.5
        self.biases = numbers.list[DType.float32](LAYERS * HEADS * D)
        self.x = numbers.list[DType.float32](LENGTH * HIDDEN, 2)
        self.rope = List[Float32](length=LENGTH * D, fill=0)
        for t in range(LENGTH):
            for i in range(D // 2):
                var angle = Float64(t) * exp(-0.2 * Float64(i))
                self.rope[t * D + i] = cos(angle).cast[DType.float32]()
                self.rope[t * D + D // 2 + i] = sin(angle).cast[DType.float32]()
        var size = PAGES * LAYERS * 2 * Self.value_offset
        self.cache = List[Scalar[Self.cache_type]](length=size, fill=nan[Self.cache_type]())

    def compute(mut self, begin: Int, end: Int) -> List[Float32]:
        """The blocks' output for some positions, those before which are in the cache."""
        var tokens = end - begin
        var sizes = LayerSizes(tokens, HIDDEN, Q_HEADS, KV_HEADS, D, INNER)
        var y = List[Float32](length=tokens * HIDDEN, fill=nan[DType.float32]())
        var memory = List[Float32](length=tokens * sizes.scratch(), fill=nan[DType.float32]())
        var positions = List[Int32]()
        for position in range(begin, end):
            positions.append(Int32(position))
        var offsets: List[Int32] = [0, Int32(tokens)]
        var table: List[Int32] = [2, 0, 3, 1]
        var gamma = untracked(self.gamma.unsafe_ptr())
        var biases = untracked(self.biases.unsafe_ptr())
        var work = LayerWork[Self.cache_type, DType.float32, D](
            sizes,
            untracked(self.x.unsafe_ptr()).unsafe_offset(begin * HIDDEN),
            untracked(y.unsafe_ptr()),
            untracked(self.rope.unsafe_ptr()).unsafe_offset(begin * D),
            Scratch(untracked(memory.unsafe_ptr()), sizes),
            LayerVectors(gamma, gamma, gamma, gamma, biases, biases, True, EPS),
            self.qkv.operand(),
            self.mix.operand(),
            self.gate_up.operand(),
            self.down.operand(),
            PagedKVCache[Self.cache_type](
                untracked(self.cache.unsafe_ptr()),
                LAYERS * 2 * Self.value_offset,
                Self.value_offset,
                Self.head_stride,
                PAGE_SIZE,
                D,
            ),
            RaggedSlots(
                untracked(positions.unsafe_ptr()),
                untracked(offsets.unsafe_ptr()),
                untracked(table.unsafe_ptr()),
                1,
                PAGES,
                PAGE_SIZE,
            ),
        )
        run_layers[amx=False](work, LAYERS)
        _ = memory^
        _ = positions^
        _ = offsets^
        _ = table^
        return y^

    def head(self, qkv: List[Float64], h: Int, t: Int, layer: Int) -> List[Float64]:
        """A normed and rotated head of queries or keys."""
        var x = rms_norm(qkv, h * D, D, self.gamma, layer)
        var y = List[Float64](length=D, fill=0)
        for i in range(D // 2):
            var c = self.rope[t * D + i].cast[DType.float64]()
            var s = self.rope[t * D + D // 2 + i].cast[DType.float64]()
            y[i] = x[i] * c - x[D // 2 + i] * s
            y[D // 2 + i] = x[D // 2 + i] * c + x[i] * s
        return y^

    def expected(self) -> List[Float64]:
        """What the blocks add to their input, [LENGTH, HIDDEN], in float64."""
        var x = List[Float64]()
        for i in range(LENGTH * HIDDEN):
            x.append(self.x[i].cast[DType.float64]())
        for layer in range(LAYERS):
            x = self.after(x, layer)
        for i in range(LENGTH * HIDDEN):
            x[i] -= self.x[i].cast[DType.float64]()
        return x^

    def after(self, inputs: List[Float64], layer: Int) -> List[Float64]:
        """One block's output."""
        var y = List[Float64]()
        var projected = List[List[Float64]]()
        var keys = List[List[Float64]]()  # [LENGTH KV_HEADS, D]
        for t in range(LENGTH):
            projected.append(self.qkv.multiply(rms_norm(inputs, t * HIDDEN, HIDDEN, self.gamma, layer)))
            for i in range(HEADS * D):
                projected[t][i] += self.biases[layer * HEADS * D + i].cast[DType.float64]()
            for h in range(KV_HEADS):
                keys.append(self.head(projected[t], Q_HEADS + h, t, layer))
            var attended = List[Float64](length=Q_HEADS * D, fill=0)
            for h in range(Q_HEADS):
                var query = self.head(projected[t], h, t, layer)
                var kv_head = h * KV_HEADS // Q_HEADS
                var weights = List[Float64]()
                var total = Float64(0)
                for s in range(t + 1):
                    var score = Float64(0)
                    for i in range(D):
                        score += query[i] * keys[s * KV_HEADS + kv_head][i]
                    weights.append(exp(score / sqrt(Float64(D))))
                    total += weights[s]
                for s in range(t + 1):
                    for i in range(D):
                        var value = projected[s][(Q_HEADS + KV_HEADS + kv_head) * D + i]
                        attended[h * D + i] += weights[s] / total * value
            var between = self.mix.multiply(attended)
            for i in range(HIDDEN):
                between[i] += inputs[t * HIDDEN + i] + self.biases[layer * HIDDEN + i].cast[DType.float64]()
            var gate_up = self.gate_up.multiply(rms_norm(between, 0, HIDDEN, self.gamma, layer))
            var gated = List[Float64]()
            for i in range(INNER):
                gated.append(gate_up[i] / (1 + exp(-gate_up[i])) * gate_up[INNER + i])
            var out = self.down.multiply(gated)
            for i in range(HIDDEN):
                y.append(out[i] + between[i])
        return y^


def check[dtype: DType, bits: Int, cache_type: DType](most: Float64) raises:
    """All positions at once against float64, within a part of what the blocks add; and against chunks of them."""
    var blocks = TransformerBlocks[dtype, bits, cache_type]()
    var whole = blocks.compute(0, LENGTH)
    var expected = blocks.expected()
    var errors = Float64(0)
    var size = Float64(0)
    for i in range(LENGTH * HIDDEN):
        var error = (whole[i] - blocks.x[i]).cast[DType.float64]() - expected[i]
        errors += error * error
        size += expected[i] * expected[i]
    if not sqrt(errors / size) <= most:
        raise Error("what the blocks add is wrong by ", sqrt(errors / size), " of it, more than ", most)
    for i in range(len(blocks.cache)):
        blocks.cache[i] = nan[cache_type]()
    var bounds: List[Int] = [0, 1, 17, 18, 23, 49, LENGTH]
    for i in range(len(bounds) - 1):
        var rows = bounds[i + 1] - bounds[i]
        var chunk = blocks.compute(bounds[i], bounds[i + 1])
        assert_same_bits(chunk, 0, whole, bounds[i] * HIDDEN, rows * HIDDEN, String(rows, " rows from ", bounds[i]))


def test_float32() raises:
    check[DType.float32, 0, DType.float32](1e-6)


def test_bfloat16() raises:
    check[DType.bfloat16, 0, DType.float32](1e-6)


def test_bfloat16_with_its_cache() raises:
    check[DType.bfloat16, 0, DType.bfloat16](5e-3)


def test_8_bits() raises:
    check[DType.uint8, 8, DType.float32](2e-2)


def test_4_bits() raises:
    check[DType.uint8, 4, DType.bfloat16](2e-2)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
