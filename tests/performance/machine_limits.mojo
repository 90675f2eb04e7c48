"""What all cores of the CPU can do at most, as one JSON object.

bandwidth: bytes read from memory per second, in huge pages. flops: operations per second of float32 FMAs; fp16_flops
of those of float16, bf16_flops and int8_ops of AMX, or else of vdpbf16ps and vpdpbusd, int16_ops of vpdpwssd or
vpmaddwd; 0 where the CPU lacks them.
fork_join_us: handing an empty task to each thread of the pool and waiting for all. threads: of the pool, one per core
that the process may run on.
"""

from std.ffi import external_call
from std.math import fma
from std.memory import bitcast
from std.pathlib import Path
from std.runtime import parallelism_level
from std.sys import inlined_assembly
from std.sys.intrinsics import PrefetchOptions, prefetch
from std.time import perf_counter_ns
from max.algorithm import sync_parallelize

from mojo_kernels.utils.isa import multiply_pairs
from mojo_kernels.utils.simd import WIDTH, Vector
from mojo_kernels.utils.tiles import add_bfloat16, add_int8, configure_tiles, release_tiles

comptime BYTES = 1 << 30
comptime HUGE_PAGE = 1 << 21
comptime LINE = 16
"""Floats of a cache line."""
comptime READ_AHEAD = PrefetchOptions().for_read().high_locality().to_data_cache()
comptime REPEATS = 9
comptime PRODUCTS = 20_000_000
comptime TILE_PRODUCTS = 1_000_000
comptime TILE_OPERATIONS = 2 * 16 * 16 * 64
"""Of a product of full tiles of bytes; of bfloat16 half as many."""
comptime FORKS = 200


def median(var values: List[Float64]) -> Float64:
    sort(values)
    return values[len(values) // 2]


def read_bandwidth[ahead: Int](threads: Int) raises -> Float64:
    """Bytes per second of reading a buffer far larger than the caches; each line is asked for `ahead` floats before."""
    var mapping = external_call["mmap", Int](0, BYTES + HUGE_PAGE, Int32(3), Int32(0x22), Int32(-1), 0)
    var address = mapping + -mapping % HUGE_PAGE
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
            comptime if ahead > 0:
                comptime for j in range(0, 8 * WIDTH, LINE):
                    prefetch[READ_AHEAD](data.unsafe_offset(i + ahead + j))
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
    _ = external_call["munmap", Int32](mapping, BYTES + HUGE_PAGE)
    return median(rates^)


@always_inline
def multiply_add[instruction: StaticString](a: Vector, b: Vector, acc: Vector) -> Vector:
    """Adds products of a and b to acc; an empty `instruction` is the FMA of float32 numbers."""
    comptime if instruction == "":
        return fma(a, b, acc)
    elif instruction == "vpmaddwd":  # whose sums another instruction adds
        comptime Pairs = SIMD[DType.int16, 16]
        var x = rebind[Pairs](bitcast[DType.int16, 2 * WIDTH](a))
        var w = rebind[Pairs](bitcast[DType.int16, 2 * WIDTH](b))
        var sums = rebind[SIMD[DType.int32, 8]](bitcast[DType.int32, WIDTH](acc)) + multiply_pairs(x, w)
        return rebind[Vector](bitcast[DType.float32, 8](sums))
    else:
        comptime text = StaticString(instruction + " $2, $1, $0")
        return inlined_assembly[text, Vector, constraints="=v,v,v,0", has_side_effect=False](a, b, acc)


def product_rate[instruction: StaticString, operations: Int](threads: Int) raises -> Float64:
    """Operations per second of independent products on registers; an instruction makes `operations` per lane."""
    var sums = List[Float32](length=threads * 64, fill=1.0)
    var out_ = sums.unsafe_ptr()

    def work(t: Int) {var out_, imm}:
        var seed = out_[unsafe_offset=64 * t]
        var a = Vector(seed * 0.5)
        var b = Vector(seed * 1.0000001)
        var acc = Array[Vector, 12](fill=Vector(seed))
        for _ in range(PRODUCTS // 12):
            comptime for j in range(12):
                acc[j] = multiply_add[instruction](a, b, acc[j])
        var total = Vector(0)
        comptime for j in range(12):
            total += acc[j]
        out_[unsafe_offset=64 * t] = 2.0 if total.reduce_add() == 1.5 else 1.0

    var rates = List[Float64]()
    for _ in range(REPEATS):
        var start = perf_counter_ns()
        sync_parallelize(work, threads)
        var seconds = Float64(perf_counter_ns() - start) / 1e9
        rates.append(Float64(threads * (PRODUCTS // 12) * 12 * WIDTH * operations) / seconds)
    if sums[0] == 0:
        raise Error("nothing was computed")
    return median(rates^)


def cpu_has(feature: StaticString) raises -> Bool:
    """Whether Linux says that of the CPU."""
    return feature in Path("/proc/cpuinfo").read_text()


def may_use_tiles() -> Bool:
    """Asks Linux for the right to use AMX's tiles, of all threads; whether it was given."""
    return external_call["syscall", Int](Int(158), Int(0x1023), Int(18)) == 0


def tile_rate[int8: Bool](threads: Int) -> Float64:
    """Operations per second of AMX's products of full tiles of zeros."""

    def work(t: Int) {}:
        configure_tiles(16, 16)
        for _ in range(TILE_PRODUCTS // 4):
            comptime for c in range(4):
                comptime if int8:
                    add_int8[c, 4 + c // 2, 6 + c % 2]()
                else:
                    add_bfloat16[c, 4 + c // 2, 6 + c % 2]()
        release_tiles()

    var rates = List[Float64]()
    for _ in range(REPEATS):
        var start = perf_counter_ns()
        sync_parallelize(work, threads)
        var seconds = Float64(perf_counter_ns() - start) / 1e9
        rates.append(Float64(threads * TILE_PRODUCTS * TILE_OPERATIONS // (1 if int8 else 2)) / seconds)
    return median(rates^)


def fork_join_us(threads: Int) -> Float64:
    """Microseconds to hand an empty task to each thread and to wait for all."""

    def nothing(t: Int) {}:
        pass

    var times = List[Float64]()
    for _ in range(REPEATS):
        var start = perf_counter_ns()
        for _ in range(FORKS):
            sync_parallelize(nothing, threads)
        times.append(Float64(perf_counter_ns() - start) / 1e3 / FORKS)
    return median(times^)


def main() raises:
    var threads = parallelism_level()
    # Which of the two is faster depends on the CPU's own prefetching.
    var bandwidth = max(read_bandwidth[0](threads), read_bandwidth[2048](threads))
    var bf16 = 0.0
    var fp16 = 0.0
    var int8 = 0.0
    var int16 = 0.0
    comptime if WIDTH == 16:  # AVX-512
        if cpu_has("avx512_bf16"):
            bf16 = product_rate["vdpbf16ps", 4](threads)
        if cpu_has("avx512_fp16"):
            fp16 = product_rate["vfmadd231ph", 4](threads)
        if cpu_has("avx512_vnni"):
            int8 = product_rate["vpdpbusd", 8](threads)
            int16 = product_rate["vpdpwssd", 4](threads)
        if cpu_has("amx_bf16") and cpu_has("amx_int8") and may_use_tiles():
            bf16 = tile_rate[int8=False](threads)
            int8 = tile_rate[int8=True](threads)
    elif WIDTH == 8:
        if cpu_has("avx_vnni"):
            int8 = product_rate["{vex} vpdpbusd", 8](threads)
            int16 = product_rate["{vex} vpdpwssd", 4](threads)
        elif cpu_has("avx2"):
            int16 = product_rate["vpmaddwd", 4](threads)
    print(
        t'{{"bandwidth": {bandwidth}, "flops": {product_rate["", 2](threads)}, "fp16_flops": {fp16}, "bf16_flops": {bf16}, '
        t'"int8_ops": {int8}, "int16_ops": {int16}, "fork_join_us": {fork_join_us(threads)}, "threads": {threads}}}'
    )
