"""From logits to tokens on a GPU, a block per row: the order of `core/sampling.mojo`."""

from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from max.gpu.sync import barrier
from std.math import log
from std.memory import stack_allocation
from std.utils.numerics import neg_inf

from ..utils.types import ReadPtr
from .block import GpuRead, GpuWrite
from .token_weights import BUCKETS, ONE, THREADS, Weights, highest_below, logit_of, token_of


def sample_kernel(
    tokens: GpuWrite[DType.int32],
    logprobs: GpuWrite[DType.float64],
    top_ids: GpuWrite[DType.int32],
    top_logprobs: GpuWrite[DType.float64],
    edited: GpuWrite[DType.float32],
    logits: GpuRead[DType.float32],
    params: GpuRead[DType.float32],
    top_k: GpuRead[DType.int32],
    uniform: GpuRead[DType.float64],
    wanted: GpuRead[DType.int32],
    edit_offsets: GpuRead[DType.int32],
    edit_tokens: GpuRead[DType.int32],
    edit_bias: GpuRead[DType.float32],
    edit_seen: GpuRead[DType.int32],
    edit_counts: GpuRead[DType.int32],
    mask_of: GpuRead[DType.int32],
    masks: GpuRead[DType.uint32],
    vocabulary: Int32,
    most: Int32,
    words: Int32,
):
    """One row; the arguments are those of `mili.sample` and `edited` [R, V], which rows with edits or a mask fill."""
    comptime everything = UInt64(0xFFFF_FFFF_FFFF_FFFF)
    var histogram = stack_allocation[BUCKETS + 2, UInt64, address_space=AddressSpace.SHARED]()
    var size = Int(vocabulary)
    var r = block_idx.x
    var raw = logits.unsafe_offset(r * size).unsafe_origin_cast[ImmUntrackedOrigin]()
    var source = raw
    var first = Int(edit_offsets[unsafe_offset=r])
    var last = Int(edit_offsets[unsafe_offset=r + 1])
    var mask = Int(mask_of[unsafe_offset=r])
    var row = params.unsafe_offset(6 * r)
    if first < last or mask >= 0:
        var target = edited.unsafe_offset(r * size)
        for token in range(thread_idx.x, size, THREADS):
            var allowed = True
            if mask >= 0:
                var word = masks[unsafe_offset=mask * Int(words) + token // 32]
                allowed = word >> UInt32(token % 32) & 1 != 0
            target[unsafe_offset=token] = raw[unsafe_offset=token] if allowed else neg_inf[DType.float32]()
        barrier()
        for e in range(first + thread_idx.x, last, THREADS):
            var token = Int(edit_tokens[unsafe_offset=e])
            var y = target[unsafe_offset=token] + edit_bias[unsafe_offset=e]
            if edit_seen[unsafe_offset=e] != 0:
                var penalty = row[unsafe_offset=3]
                y = y / penalty if y > 0 else y * penalty
            var count = edit_counts[unsafe_offset=e]
            if count > 0:
                y -= row[unsafe_offset=4] + row[unsafe_offset=5] * count.cast[DType.float32]()
            target[unsafe_offset=token] = y
        barrier()
        source = ReadPtr[DType.float32](target.unsafe_origin_cast[MutUntrackedOrigin]())
    var best = highest_below(source, size, everything)
    var token = token_of(best)
    var temperature = row[unsafe_offset=0]
    if temperature > 0:
        var weights = Weights(source, size, logit_of(best), 1 / temperature, 0, 0)
        var k = Int(top_k[unsafe_offset=r])
        if 0 < k and k < size:
            weights.keep[False](UInt64(k), histogram)
        var total = weights.total()
        var top_p = row[unsafe_offset=1].cast[DType.float64]()
        if top_p < 1 and total > 0:
            var exact = top_p * total.cast[DType.float64]()
            var target = exact.cast[DType.uint64]()
            target += UInt64(target.cast[DType.float64]() < exact)
            weights.keep[True](min(max(target, 1), total), histogram)
        weights.least = row[unsafe_offset=2]
        total = weights.total()
        if total > 0:
            token = weights.draw(uniform[unsafe_offset=r], total, histogram)
    var count = min(Int(wanted[unsafe_offset=r]), size)
    if thread_idx.x == 0:
        tokens[unsafe_offset=r] = Int32(token)
        logprobs[unsafe_offset=r] = 0
    if count < 0:
        return
    var highest = highest_below(raw, size, everything)
    var maximum = logit_of(highest)
    var total = Weights(raw, size, maximum, 1, 0, 0).total()
    var normalizer = maximum.cast[DType.float64]() + log(total.cast[DType.float32]() / ONE).cast[DType.float64]()
    if thread_idx.x == 0:
        logprobs[unsafe_offset=r] = raw[unsafe_offset=token].cast[DType.float64]() - normalizer
    for i in range(count):
        if thread_idx.x == 0:
            top_ids[unsafe_offset=r * Int(most) + i] = Int32(token_of(highest))
            top_logprobs[unsafe_offset=r * Int(most) + i] = logit_of(highest).cast[DType.float64]() - normalizer
        highest = highest_below(raw, size, highest)


def launch_sample(
    tokens: GpuWrite[DType.int32],
    logprobs: GpuWrite[DType.float64],
    top_ids: GpuWrite[DType.int32],
    top_logprobs: GpuWrite[DType.float64],
    logits: GpuRead[DType.float32],
    params: GpuRead[DType.float32],
    top_k: GpuRead[DType.int32],
    uniform: GpuRead[DType.float64],
    wanted: GpuRead[DType.int32],
    edit_offsets: GpuRead[DType.int32],
    edit_tokens: GpuRead[DType.int32],
    edit_bias: GpuRead[DType.float32],
    edit_seen: GpuRead[DType.int32],
    edit_counts: GpuRead[DType.int32],
    mask_of: GpuRead[DType.int32],
    masks: GpuRead[DType.uint32],
    rows: Int,
    size: Int,
    most: Int,
    words: Int,
    ctx: DeviceContext,
) raises:
    """Launches the kernel for `rows` rows of `size` logits."""
    var edited = ctx.enqueue_create_buffer[DType.float32](rows * size)
    ctx.enqueue_function[sample_kernel](
        tokens,
        logprobs,
        top_ids,
        top_logprobs,
        edited,
        logits,
        params,
        top_k,
        uniform,
        wanted,
        edit_offsets,
        edit_tokens,
        edit_bias,
        edit_seen,
        edit_counts,
        mask_of,
        masks,
        Int32(size),
        Int32(most),
        Int32(words),
        grid_dim=rows,
        block_dim=THREADS,
    )
    _ = edited^
