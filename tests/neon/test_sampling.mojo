"""Passes over logits on Arm, and the tokens that are drawn from them, against a plain selection in float64."""

from std.math import exp
from std.testing import TestSuite, assert_equal

from mojo_kernels.core.logits import MINUS_INFINITY, LogitRow, total_of
from mojo_kernels.core.sampling import RowParams, copy_allowed, sample_row
from mojo_kernels.utils.types import ReadPtr, untracked
from numbers import Numbers, assert_close

comptime SIZES = [1, 3, 63, 70, 257, 1030]
"""Of vocabularies: none a multiple of a vector, of a chunk or of a span."""


def by_rank(logits: List[Float32]) -> List[Int]:
    """The tokens, largest logit first, equal ones by id."""
    var order = List[Int]()
    for token in range(len(logits)):
        var place = len(order)
        while place > 0 and logits[token] > logits[order[place - 1]]:
            place -= 1
        order.insert(place, token)
    return order^


def expected(logits: List[Float32], params: RowParams, top_k: Int, uniform: Float64) -> Int:
    """The token that top-k, top-p, min-p and one draw in the order of ids give."""
    var order = by_rank(logits)
    if params.temperature == 0:
        return order[0]
    var weights = List[Float64]()
    for token in range(len(logits)):
        weights.append(exp(Float64(logits[token] - logits[order[0]]) / params.temperature.cast[DType.float64]()))
    var most = top_k if top_k > 0 else len(order)
    var total = Float64(0)
    for i in range(min(most, len(order))):
        total += weights[order[i]]
    var kept = List[Bool](length=len(logits), fill=False)
    var mass = Float64(0)
    var drawable = Float64(0)
    for i in range(min(most, len(order))):
        if mass >= params.top_p.cast[DType.float64]() * total:
            break
        mass += weights[order[i]]
        if weights[order[i]] >= params.min_p.cast[DType.float64]():
            kept[order[i]] = True
            drawable += weights[order[i]]
    var sum = Float64(0)
    var last = 0
    for token in range(len(logits)):
        if kept[token]:
            sum += weights[token]
            last = token
            if sum > uniform * drawable:
                break
    return last


def test_draws() raises:
    for size in materialize[SIZES]():
        var numbers = Numbers(size)
        for trial in range(40):
            var logits = numbers.list[DType.float32](size, 6)
            var params = RowParams(Float32(0.8) if trial > 0 else 0, 1, 0, 1, 0, 0)
            var top_k = 0
            if trial % 2:
                params.top_p = 0.7
            if trial % 3 == 1:
                params.min_p = 0.05
            if trial % 5 == 2:
                top_k = min(size, 9)
            var uniform = Float64(numbers.below(1 << 20)) * 2.0**-20
            var row = LogitRow(untracked(logits.unsafe_ptr()), size)
            var token = sample_row(row, params, top_k, uniform)
            assert_equal(Int(token), expected(logits, params, top_k, uniform), String(size, " tokens, trial ", trial))
            _ = logits^


def test_sums_and_the_largest() raises:
    for size in materialize[SIZES]():
        var numbers = Numbers(size)
        var logits = numbers.list[DType.float32](size, 9)
        var row = LogitRow(untracked(logits.unsafe_ptr()), size)
        var order = by_rank(logits)
        assert_equal(row.maximum, logits[order[0]])
        var sum = Float64(0)
        for token in range(size):
            sum += exp(Float64(logits[token] - row.maximum))
        assert_close(total_of(row.span_sums(1)).cast[DType.float32](), sum, 2e-6 * sum, String("the sum of ", size))
        var count = min(size, 20)
        var ids = List[Int32](length=count, fill=-1)
        var values = List[Float64](length=count, fill=0)
        row.top(count, untracked(ids.unsafe_ptr()), untracked(values.unsafe_ptr()))
        for i in range(count):
            assert_equal(Int(ids[i]), order[i])
            assert_equal(values[i], logits[order[i]].cast[DType.float64]())
        _ = logits^


def test_masks() raises:
    for size in materialize[SIZES]():
        var numbers = Numbers(size)
        var logits = numbers.list[DType.float32](size)
        var words = List[UInt32]()
        for _ in range(size // 32 + 1):
            words.append(UInt32(numbers.below(1 << 32)))
        var edited = List[Float32](length=size, fill=0)
        var mask = ReadPtr[DType.uint32](untracked(words.unsafe_ptr()))
        copy_allowed(edited, untracked(logits.unsafe_ptr()), mask)
        for token in range(size):
            var allowed = (words[token // 32] >> UInt32(token % 32)) & 1 == 1
            assert_equal(edited[token], logits[token] if allowed else MINUS_INFINITY)
        _ = words^
        _ = logits^


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
