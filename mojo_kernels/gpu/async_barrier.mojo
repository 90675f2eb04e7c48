"""What a producer warp and consumer warpgroups of a block share on Hopper: barriers in shared memory, copies that
report to them, and registers (PTX ISA, mbarrier, cp.async.bulk, fence.proxy, setmaxnreg; sm_90a)."""

from max.gpu.memory import AddressSpace
from std.sys import inlined_assembly

from .block import GpuRead
from .mma import SharedTile

comptime SharedBarrier = MutPointer[UInt64, _, address_space=AddressSpace.SHARED]
"""An mbarrier. Its phases are numbered from 0; it is waited for by a phase's lowest bit."""


@always_inline
def address_of(p: Pointer[_, _, address_space=AddressSpace.SHARED]) -> UInt32:
    """An address in shared memory, as its instructions take it."""
    return UInt32(Int(p))


@always_inline
def init_barrier(barrier: SharedBarrier, arrivals: Int):
    """Makes a barrier whose phases end after so many arrivals; one thread does, and then calls `publish_barriers`."""
    inlined_assembly["mbarrier.init.shared::cta.b64 [$0], $1;", NoneType, constraints="r,r,~{memory}", has_side_effect=True](
        address_of(barrier), UInt32(arrivals)
    )


@always_inline
def publish_barriers():
    """Shows the new barriers to copies and to other threads, which meet this one before they use them."""
    inlined_assembly["fence.mbarrier_init.release.cluster;", NoneType, constraints="~{memory}", has_side_effect=True]()


@always_inline
def arrive(barrier: SharedBarrier, counts: Bool):
    """Counts this thread's arrival, if it counts; what it did before is seen by those who wait.

    Not a branch, so that the warp stays together for its products.
    """
    inlined_assembly[
        "{\n.reg .pred %p_counts;\nsetp.ne.b32 %p_counts, $1, 0;\n"
        "@%p_counts mbarrier.arrive.release.cta.shared::cta.b64 _, [$0];\n}",
        NoneType,
        constraints="r,r,~{memory}",
        has_side_effect=True,
    ](address_of(barrier), UInt32(counts))


@always_inline
def arrive_expecting(barrier: SharedBarrier, bytes: Int32, counts: Bool):
    """Counts this thread's arrival, if it counts, and lets the phase end only after so many bytes have landed too."""
    inlined_assembly[
        "{\n.reg .pred %p_counts;\nsetp.ne.b32 %p_counts, $2, 0;\n"
        "@%p_counts mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [$0], $1;\n}",
        NoneType,
        constraints="r,r,r,~{memory}",
        has_side_effect=True,
    ](address_of(barrier), UInt32(bytes), UInt32(counts))


@always_inline
def wait(barrier: SharedBarrier, phase: Int32):
    """Waits until a phase has ended, given its number, of which the lowest bit counts; phase -1 has."""
    while (
        inlined_assembly[
            "{\n.reg .pred %p_done;\n"
            "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p_done, [$1], $2;\n"
            "selp.b32 $0, 1, 0, %p_done;\n}",
            UInt32,
            constraints="=r,r,r,~{memory}",
            has_side_effect=True,
        ](address_of(barrier), UInt32(phase & 1))
        == 0
    ):
        pass


@always_inline
def copy_bulk(target: SharedTile, source: GpuRead[DType.bfloat16], bytes: Int32, barrier: SharedBarrier):
    """Begins to copy so many bytes, a multiple of 16, to shared memory; the barrier's phase ends after they have
    landed.

    Both addresses are multiples of 16.
    """
    inlined_assembly[
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1], $2, [$3];",
        NoneType,
        constraints="r,l,r,r,~{memory}",
        has_side_effect=True,
    ](
        address_of(target),
        UInt64(Int(source)),
        UInt32(bytes),
        address_of(barrier),
    )


@always_inline
def arrive_when_copied(barrier: SharedBarrier):
    """Counts this thread's arrival once all copies by `cp.async` that it began have landed."""
    inlined_assembly[
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [$0];", NoneType, constraints="r,~{memory}", has_side_effect=True
    ](address_of(barrier))


@always_inline
def show_to_async():
    """Shows writes to shared memory, this thread's and those that it has waited for, to products and bulk copies, which go
    through another proxy."""
    inlined_assembly["fence.proxy.async.shared::cta;", NoneType, constraints="~{memory}", has_side_effect=True]()


@always_inline
def meet[threads: Int](barrier: Int):
    """Waits for so many threads that name the same barrier, 1 to 15."""
    inlined_assembly[
        "bar.sync $0, $1;", NoneType, constraints="r,n,~{memory}", has_side_effect=True
    ](UInt32(barrier), Int32(threads))


@always_inline
def give_registers[left: Int]():
    """Leaves this warpgroup's threads so many registers; the others go to the block's pool."""
    inlined_assembly["setmaxnreg.dec.sync.aligned.u32 $0;", NoneType, constraints="n", has_side_effect=True](Int32(left))


@always_inline
def take_registers[count: Int]():
    """Waits for the block's pool, until this warpgroup's threads can have so many registers."""
    inlined_assembly["setmaxnreg.inc.sync.aligned.u32 $0;", NoneType, constraints="n", has_side_effect=True](Int32(count))
