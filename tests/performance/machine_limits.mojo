"""What this machine can do at most: read bandwidth and float32 FMA rate, on all cores, as one JSON object."""

from std.ffi import external_call
from std.math import fma
from std.time import perf_counter_ns
from max.algorithm import sync_parallelize
from std.sys import num_physical_cores

from mojo_kernels.utils.simd import WIDTH, Vector

comptime BYTES = 1 << 30
comptime HUGE_PAGE = 1 << 21
comptime REPEATS = 9
comptime FMAS = 20_000_000


def median(var values: List[Float64]) -> Float64:
    sort(values)
    return values[len(values) // 2]


def read_bandwidth(threads: Int) raises -> Float64:
    """Bytes per second of reading a buffer far larger than the caches, in huge pages."""
    var address = external_call["mmap", Int](0, BYTES + HUGE_PAGE, Int32(3), Int32(0x22), Int32(-1), 0)
    address += -address % HUGE_PAGE
    _ = external_call["madvise", Int32](address, BYTES, Int32(14))
    var data = Pointer[Float32, MutUntrackedOrigin](unsafe_from_address=address)
    var count = BYTES // 4
    for i in range(0, count, WIDTH):
        data.unsafe_store(i, Vector(1))
    var sums = List[Float32](length=threads * 64, fill=0)
    var out_ = sums.unsafe_ptr()

    def read(t: Int) {var data, var out_, imm}:
        var acc = Array[Vector, 8](fill=Vector(0))
        for i in range(count // threads * t, count // threads * (t + 1), 8 * WIDTH):
            comptime for j in range(8):
                acc[j] += data.unsafe_load[width=WIDTH](i + j * WIDTH)
        var total = Vector(0)
        comptime for j in range(8):
            total += acc[j]
        out_[unsafe_offset=64 * t] = total.reduce_add()

    var rates = List[Float64]()
    for _ in range(REPEATS):
        var start = perf_counter_ns()
        sync_parallelize(read, threads)
        rates.append(Float64(BYTES) / Float64(perf_counter_ns() - start) * 1e9)
    if sums[0] == 0:
        raise Error("nothing was read")
    return median(rates^)


def fma_rate(threads: Int) raises -> Float64:
    """Floating-point operations per second of independent vector FMAs on registers."""
    var sums = List[Float32](length=threads * 64, fill=1.0)
    var out_ = sums.unsafe_ptr()

    def work(t: Int) {var out_, imm}:
        var seed = out_[unsafe_offset=64 * t]
        var factor = Vector(seed * 1.0000001)
        var acc = Array[Vector, 12](fill=Vector(seed))
        for _ in range(FMAS // 12):
            comptime for j in range(12):
                acc[j] = fma(acc[j], factor, Vector(0.5))
        var total = Vector(0)
        comptime for j in range(12):
            total += acc[j]
        out_[unsafe_offset=64 * t] = 1 + total.reduce_add() * 1e-30

    var rates = List[Float64]()
    for _ in range(REPEATS):
        var start = perf_counter_ns()
        sync_parallelize(work, threads)
        var seconds = Float64(perf_counter_ns() - start) / 1e9
        rates.append(Float64(threads * (FMAS // 12) * 12 * WIDTH * 2) / seconds)
    if sums[0] == 0:
        raise Error("nothing was computed")
    return median(rates^)


def main() raises:
    var threads = num_physical_cores()
    print(t'{{"bandwidth": {read_bandwidth(threads)}, "flops": {fma_rate(threads)}, "cores": {threads}}}')
