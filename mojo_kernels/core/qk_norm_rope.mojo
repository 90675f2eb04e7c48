"""What Qwen3 does between the QKV projection and attention, in one pass over the projection's output."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.memory import stack_allocation

from ..gpu.block import GpuRead
from ..gpu.pages import CacheShape
from ..gpu.qk_norm_rope import launch_qk_norm_rope_store
from ..memory.batch import RaggedSlots
from ..memory.kv_cache import PagedKVCache
from ..utils.parallel import parallel_ranges
from ..utils.simd import store_row
from ..utils.types import MutableInputTensor, floats, untracked
from .normalization import rms_norm_row
from .rope import rotate_half

comptime MAX_HEAD_DIM = 128


@extensibility.register("mili.qk_norm_rope_store")
struct QKNormRopeStore:
    """RMSNorm of each query and key head, RoPE, and the write of K and V into their pages.

    `qkv[T, (Hq + 2 Hkv) D]` holds queries, keys and values in each row. The rotated queries come out as
    `q[T, Hq D]`, in float32 or bfloat16; row t of request b writes to page `page_table[b, positions[t] / page_size]`.
    """

    @staticmethod
    def execute[
        target: StaticString
    ](
        q: OutputTensor[rank=2, ...],
        cache: MutableInputTensor[rank=6, ...],
        qkv: InputTensor[rank=2, ...],
        q_gamma: InputTensor[dtype=DType.float32, rank=1, ...],
        k_gamma: InputTensor[dtype=DType.float32, rank=1, ...],
        rope: InputTensor[dtype=DType.float32, rank=2, ...],
        positions: InputTensor[dtype=DType.int32, rank=1, ...],
        row_offsets: InputTensor[dtype=DType.int32, rank=1, ...],
        page_table: InputTensor[dtype=DType.int32, rank=2, ...],
        layer: Int32,
        eps: Float32,
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            comptime assert qkv.dtype == q.dtype, "on a GPU queries have the projection's type"
            var shape = CacheShape(cache.dim_size(1), cache.dim_size(3), cache.dim_size(4), cache.dim_size(5))
            launch_qk_norm_rope_store(
                q.unsafe_ptr(),
                cache.unsafe_ptr().unsafe_offset(Int(layer) * shape.layer_stride()),
                rebind[GpuRead[q.dtype]](qkv.unsafe_ptr()),
                q_gamma.unsafe_ptr(),
                k_gamma.unsafe_ptr(),
                rope.unsafe_ptr(),
                positions.unsafe_ptr(),
                row_offsets.unsafe_ptr(),
                page_table.unsafe_ptr(),
                q.dim_size(0),
                row_offsets.dim_size(0) - 1,
                page_table.dim_size(1),
                q.dim_size(1) // shape.head_dim,
                shape,
                eps,
                ctx,
            )
        else:
            var kv = PagedKVCache(cache, Int(layer))
            var head_dim = kv.head_dim
            var kv_heads = cache.dim_size(3)
            var q_size = q.dim_size(1)
            var q_heads = q_size // head_dim
            var qkv_size = qkv.dim_size(1)
            var slots = RaggedSlots(
                untracked(positions.unsafe_ptr()),
                untracked(row_offsets.unsafe_ptr()),
                untracked(page_table.unsafe_ptr()),
                row_offsets.dim_size(0) - 1,
                page_table.dim_size(1),
                kv.page_size,
            )
            var q_out = untracked(q.unsafe_ptr())
            var qkv_in = floats(qkv.unsafe_ptr())
            var q_gamma_in = untracked(q_gamma.unsafe_ptr())
            var k_gamma_in = untracked(k_gamma.unsafe_ptr())
            var rope_in = untracked(rope.unsafe_ptr())

            var tokens = q.dim_size(0)

            def heads(begin: Int, end: Int) {imm}:
                var head = untracked(stack_allocation[MAX_HEAD_DIM, Float32]())
                for h in range(begin, end):
                    for t in range(tokens):
                        var source = qkv_in.unsafe_offset(t * qkv_size + h * head_dim)
                        var angles = rope_in.unsafe_offset(t * head_dim)
                        if h < q_heads:
                            rms_norm_row(head, source, q_gamma_in, head_dim, eps)
                            rotate_half(head, angles, head_dim)
                            store_row(q_out.unsafe_offset(t * q_size + h * head_dim), head, head_dim)
                            continue
                        var place = slots.of(t)
                        if h < q_heads + kv_heads:
                            rms_norm_row(head, source, k_gamma_in, head_dim, eps)
                            rotate_half(head, angles, head_dim)
                            kv.store_key(place.page, h - q_heads, place.slot, head)
                        else:
                            kv.store_value(place.page, h - q_heads - kv_heads, place.slot, source)

            # A head's positions belong to one thread: pairs of them share words of memory.
            parallel_ranges(q_heads + 2 * kv_heads, 4 * tokens * head_dim, heads)
