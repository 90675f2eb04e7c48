"""Unit tests of the helpers of the kernels."""

from std.math import exp, exp2
from std.runtime import parallelism_level
from std.testing import TestSuite, assert_almost_equal, assert_equal, assert_true
from std.utils.numerics import inf, nan, neg_inf

from mojo_kernels.core.activations import silu
from mojo_kernels.core.linear import linear_cpu
from mojo_kernels.core.normalization import rms_norm_row
from mojo_kernels.core.rope import rotate_half
from mojo_kernels.memory.batch import request_of
from mojo_kernels.utils.exp import exp2_vector, exp_vector
from mojo_kernels.utils.parallel import WorkQueue, parallel_queue, parallel_ranges, task_count
from mojo_kernels.utils.phases import PhaseQueue, Ticket, run_team
from mojo_kernels.utils.simd import larger, nearest, sum_of_squares
from mojo_kernels.utils.types import untracked


def test_request_of_finds_the_owner_of_every_row() raises:
    var offsets: List[Int32] = [0, 1, 4, 5, 12]
    var p = untracked(offsets.unsafe_ptr())
    for request in range(4):
        for row in range(Int(offsets[request]), Int(offsets[request + 1])):
            assert_equal(request_of(p, 4, row), request)
    _ = offsets^  # must outlive the pointer


def test_request_of_skips_requests_without_rows() raises:
    var offsets: List[Int32] = [0, 0, 3, 3, 4]
    var p = untracked(offsets.unsafe_ptr())
    assert_equal(request_of(p, 4, 0), 1)
    assert_equal(request_of(p, 4, 2), 1)
    assert_equal(request_of(p, 4, 3), 3)
    _ = offsets^  # must outlive the pointer


def test_small_work_stays_on_one_thread() raises:
    assert_equal(task_count(1, 1_000_000_000), 1)
    assert_equal(task_count(100, 10), 1)
    assert_equal(task_count(0, 10), 1)
    assert_equal(task_count(1000, 1_000_000), 1 if parallelism_level() == 1 else 2 * parallelism_level())


def test_ranges_cover_every_item_once() raises:
    for items in [0, 1, 2, 3, 5, 64, 1001]:
        var counts = List[Int](length=items + 1, fill=0)
        var p = counts.unsafe_ptr()

        def count(begin: Int, end: Int) {var p}:
            for i in range(begin, end):
                p[unsafe_offset=i] += 1

        parallel_ranges(items, 1_000_000, count)
        for i in range(items):
            assert_equal(counts[i], 1)


def test_a_queue_hands_out_every_item_once() raises:
    for items in [0, 1, 3, 1000]:
        var counts = List[Int](length=items + 1, fill=0)
        var p = counts.unsafe_ptr()

        def count(queue: WorkQueue) {var p}:
            var i = queue.take()
            while i < queue.items:
                p[unsafe_offset=i] += 1
                i = queue.take()

        parallel_queue(items, 100_000_000, count)
        for i in range(items):
            assert_equal(counts[i], 1)
        _ = counts^


def test_powers_of_two() raises:
    assert_equal(exp2_vector[1](Float32(0)), 1)
    assert_equal(exp2_vector[1](Float32(-125.5)), 0)
    assert_equal(exp2_vector[1](Float32(-126.5)), 0)
    assert_equal(exp2_vector[1](nan[DType.float32]()), 0)
    assert_equal(exp2_vector[1, bounded=False](neg_inf[DType.float32]()), 0)
    assert_equal(exp2_vector[1](neg_inf[DType.float32]()), 0)
    assert_equal(exp2_vector[1](Float32(500)), exp2_vector[1](Float32(127)))
    var worst = Float64(0)
    var x = Float32(-125.499)
    while x <= 127:
        var exact = exp2(x.cast[DType.float64]())
        worst = max(worst, abs(exp2_vector[1](x).cast[DType.float64]() / exact - 1))
        assert_equal(exp2_vector[1, bounded=False](x), exp2_vector[1](x))
        x += 0.00137
    assert_true(worst < 2.5e-7)


def test_nearest() raises:
    for pair in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (126.501, 127), (-127.0, -127), (32766.6, 32767)]:
        assert_equal(nearest[1](Float32(pair[0]) * 4, 0.25), Int32(pair[1]))
    assert_equal(nearest[1](inf[DType.float32](), 0.5).cast[DType.int16](), 0)


def test_larger() raises:
    assert_equal(larger[1](Float32(2), Float32(1)), 2)
    assert_equal(larger[1](Float32(1), Float32(2)), 2)
    assert_equal(larger[1](nan[DType.float32](), Float32(2)), 2)


def test_exponentials() raises:
    for x in [-80.0, -20.5, -1.0, -1e-3, 0.3, 7.7, 60.0]:
        assert_almost_equal(exp_vector[1](Float32(x)).cast[DType.float64](), exp(Float64(x)), rtol=2.5e-7 + 1e-7 * abs(x))


def test_sum_of_squares() raises:
    for size in [1, 7, 16, 33, 100]:
        var x = List[Float32](length=size, fill=0)
        var expected = 0.0
        for i in range(size):
            x[i] = Float32(i) * 0.5 - 3
            expected += Float64(x[i]) * Float64(x[i])
        assert_almost_equal(sum_of_squares(untracked(x.unsafe_ptr()), size).cast[DType.float64](), expected, rtol=1e-6)
        _ = x^


def test_rms_norm_row() raises:
    var x: List[Float32] = [3, -4, 0]
    var gamma: List[Float32] = [1, 2, 5]
    var y = List[Float32](length=3, fill=0)
    rms_norm_row(
        untracked(y.unsafe_ptr()), untracked(x.unsafe_ptr()), untracked(gamma.unsafe_ptr()), 3, 0
    )
    var rms = Float32(2.8867513)
    assert_almost_equal(y[0], 3 / rms, rtol=1e-6)
    assert_almost_equal(y[1], -8 / rms, rtol=1e-6)
    assert_equal(y[2], 0)
    _ = x^
    _ = gamma^


def test_rotation_keeps_lengths_and_turns_pairs() raises:
    comptime D = 64
    var x = List[Float32](length=D, fill=0)
    var rope = List[Float32](length=D, fill=0)
    for i in range(D):
        x[i] = Float32(i) - 20
        rope[i] = 0.6 if i < D // 2 else 0.8
    var before = x.copy()
    rotate_half(untracked(x.unsafe_ptr()), untracked(rope.unsafe_ptr()), D)
    for i in range(D // 2):
        assert_almost_equal(x[i], 0.6 * before[i] - 0.8 * before[i + D // 2], atol=1e-5)
        assert_almost_equal(x[i + D // 2], 0.6 * before[i + D // 2] + 0.8 * before[i], atol=1e-5)
    _ = rope^


def test_silu() raises:
    assert_equal(silu[1](Float32(0)), 0)
    assert_almost_equal(silu[1](Float32(1)), 0.7310586, rtol=1e-6)
    assert_almost_equal(silu[1](Float32(-20)), -4.1223073e-08, rtol=1e-4)


def test_linear_of_one_element() raises:
    var x: List[Float32] = [2]
    var w = List[BFloat16](length=128, fill=0)  # a panel: 64 rows, a pair of columns
    w[0] = -3
    var y: List[Float32] = [0]
    linear_cpu["portable"](untracked(y.unsafe_ptr()), untracked(x.unsafe_ptr()), untracked(w.unsafe_ptr()), 1, 1, 1)
    assert_equal(y[0], -6)
    _ = x^
    _ = w^


def test_a_phase_begins_when_all_before_it_is_done() raises:
    comptime phases = 5
    comptime rounds = 3
    comptime most = 100
    for threads in [1, 2, 7]:  # more than the pool has, too
        for _ in range(10):
            var units = Array[Int, phases](fill=most)
            units[0] = 0 if threads == 2 else most
            units[1] = 0
            units[3] = 1
            var slices = Array[Int, phases](fill=threads)
            slices[0] = 1
            slices[2] = min(threads, 3)
            var queue = PhaseQueue[phases](units, slices, threads, rounds)
            # How often each unit was done, and how many units of earlier phases were not done before it.
            var done = List[Int64](length=rounds * phases * most, fill=0)
            var early = List[Int64](length=threads, fill=0)
            var done_at = untracked(done.unsafe_ptr())
            var early_at = untracked(early.unsafe_ptr())

            def worker(thread: Int) {imm}:
                var ticket = Ticket(0, 0, 0, 0)
                while queue.take(thread, ticket):
                    queue.wait(ticket)
                    var step = ticket.round * phases + ticket.phase
                    for earlier in range(step):
                        for unit in range(units[earlier % phases]):
                            early_at[unsafe_offset=thread] += 1 - done_at[unsafe_offset=earlier * most + unit]
                    for unit in range(ticket.begin, ticket.end):
                        done_at[unsafe_offset=step * most + unit] += 1
                    queue.finish(ticket)

            run_team(threads, worker)
            for thread in range(threads):
                assert_equal(Int(early[thread]), 0)
            var wrong = 0
            for step in range(rounds * phases):
                for unit in range(most):
                    wrong += 1 if Int(done[step * most + unit]) != (1 if unit < units[step % phases] else 0) else 0
            assert_equal(wrong, 0)
            _ = queue^


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
