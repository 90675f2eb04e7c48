"""What the threads of a block do together: reductions in a fixed order, and 16-byte access to memory.

A reduction goes through the warp by xor and then over the warps in their order, so its result depends on the values
and the block's size only.
"""

from max.gpu import WARP_SIZE, lane_id, thread_idx, warp_id
from max.gpu.memory import AddressSpace
from max.gpu.primitives import warp
from max.gpu.sync import barrier
from std.memory import stack_allocation
from std.sys import size_of

comptime BLOCK = 256
"""Threads of a block of the kernels that work on rows."""
comptime GpuRead[dtype: DType] = Pointer[Scalar[dtype], ImmUnsafeAnyOrigin]
"""A kernel's argument that it reads."""
comptime GpuWrite[dtype: DType] = MutPointer[Scalar[dtype], MutUnsafeAnyOrigin]
"""A kernel's argument that it writes."""


@always_inline
def lanes[dtype: DType]() -> Int:
    """Elements in the 16 bytes that a thread reads at once."""
    return 16 // size_of[dtype]()


@always_inline
def load_floats[dtype: DType, //, width: Int](p: GpuRead[dtype], i: Int) -> SIMD[DType.float32, width]:
    """The `width` elements from `p + i` as float32; `p + i` is aligned to as many."""
    return p.unsafe_load[width=width, alignment=width * size_of[dtype]()](i).cast[DType.float32]()


@always_inline
def store_floats[
    dtype: DType, //, width: Int
](p: GpuWrite[dtype], i: Int, values: SIMD[DType.float32, width]):
    """Writes `width` elements to `p + i`, rounded to their type."""
    p.unsafe_store[alignment=width * size_of[dtype]()](i, values.cast[dtype]())


@always_inline
def shuffle_xor[dtype: DType](value: Scalar[dtype], offset: Int) -> Scalar[dtype]:
    """The value of the lane whose number differs in the bits of `offset`."""
    return warp.shuffle_xor(value, UInt32(offset))


@always_inline
def shuffle_up[dtype: DType](value: Scalar[dtype], offset: Int) -> Scalar[dtype]:
    """The value of the lane `offset` before this one, or its own."""
    return warp.shuffle_up(value, UInt32(offset))


@always_inline
def last_lane[dtype: DType](value: Scalar[dtype]) -> Scalar[dtype]:
    """The value of the warp's last lane."""
    return warp.shuffle_idx(value, UInt32(WARP_SIZE - 1))


@always_inline
def warp_sum[dtype: DType](value: Scalar[dtype]) -> Scalar[dtype]:
    """The sum over the warp, the same in every lane."""
    var sum = value
    comptime for step in range(5):
        sum += shuffle_xor(sum, 16 >> step)
    return sum


@always_inline
def block_sum[dtype: DType, //, threads: Int](value: Scalar[dtype]) -> Scalar[dtype]:
    """The sum over the block's threads, the same in each; all must call it."""
    comptime warps = threads // WARP_SIZE
    var parts = stack_allocation[warps, Scalar[dtype], address_space=AddressSpace.SHARED]()
    var sum = warp_sum(value)
    barrier()  # an earlier reduction may still be read
    if lane_id() == 0:
        parts[unsafe_offset=warp_id()] = sum
    barrier()
    var total = Scalar[dtype](0)
    comptime for w in range(warps):
        total += parts[unsafe_offset=w]
    return total


@always_inline
def block_max[dtype: DType, //, threads: Int](value: Scalar[dtype]) -> Scalar[dtype]:
    """The largest value of the block's threads, the same in each; all must call it."""
    comptime warps = threads // WARP_SIZE
    var parts = stack_allocation[warps, Scalar[dtype], address_space=AddressSpace.SHARED]()
    var most = value
    comptime for step in range(5):
        most = max(most, shuffle_xor(most, 16 >> step))
    barrier()  # an earlier reduction may still be read
    if lane_id() == 0:
        parts[unsafe_offset=warp_id()] = most
    barrier()
    var result = parts[unsafe_offset=0]
    comptime for w in range(1, warps):
        result = max(result, parts[unsafe_offset=w])
    return result
