"""The op of all transformer blocks on a CPU; see `layers.mojo`."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from ..memory.batch import RaggedSlots
from ..memory.kv_cache import PagedKVCache
from ..utils.isa import has_tiles
from ..utils.types import MutableInputTensor, require_cpu, untracked
from .layer import LayerWork
from .layer_memory import LayerSizes, LayerVectors, Scratch
from .layers import run_layers
from .matrix import Matrix
from .tiled_linear import check_columns


@extensibility.register("mili.layers")
struct Layers:
    """`y[T, D]` of `x[T, D]`: L times attention and SwiGLU MLP, each after an RMSNorm and added to its input.

    Every weight is that of all layers, one after the other: its first dimension is L.
    The matrices are packed, and of any type that `mili.linear`, `mili.scaled_linear` and `mili.quantized_linear` take:
    for each of the four, `bits` is 0, 16 with `mili.scaled_linear`'s, or the bits of its quantised weights, and
    `offsets` whether those have offsets. With `pairs` and bfloat16 matrices, what is multiplied is rounded to bfloat16, and so
    are queries beside a bfloat16 cache. `scratch` is memory for the op alone. The biases count where `biases` is set.
    """

    @staticmethod
    def execute[
        target: StaticString,
        isa: StaticString,
        pairs: Bool,
        q_heads: Int,
        head_dim: Int,
        inner: Int,
        biases: Bool,
        qkv_bits: Int,
        qkv_offsets: Bool,
        o_bits: Int,
        o_offsets: Bool,
        gate_up_bits: Int,
        gate_up_offsets: Bool,
        down_bits: Int,
        down_offsets: Bool,
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        cache: MutableInputTensor[rank=6, ...],
        scratch: MutableInputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        rope: InputTensor[dtype=DType.float32, rank=2, ...],
        positions: InputTensor[dtype=DType.int32, rank=1, ...],
        row_offsets: InputTensor[dtype=DType.int32, rank=1, ...],
        page_table: InputTensor[dtype=DType.int32, rank=2, ...],
        eps: Float32,
        input_norm: InputTensor[dtype=DType.float32, rank=2, ...],
        qkv: InputTensor[rank=4, ...],
        q_norm: InputTensor[dtype=DType.float32, rank=2, ...],
        k_norm: InputTensor[dtype=DType.float32, rank=2, ...],
        o: InputTensor[rank=4, ...],
        post_norm: InputTensor[dtype=DType.float32, rank=2, ...],
        gate_up: InputTensor[rank=4, ...],
        down: InputTensor[rank=4, ...],
        qkv_bias: InputTensor[dtype=DType.float32, rank=2, ...],
        o_bias: InputTensor[dtype=DType.float32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        comptime query_type = DType.bfloat16 if pairs and cache.dtype == DType.bfloat16 else DType.float32
        comptime assert head_dim == 64 or head_dim == 128, "mili.layers: head_dim is 64 or 128"
        var kv = PagedKVCache(cache, 0)
        var slots = RaggedSlots(
            untracked(positions.unsafe_ptr()),
            untracked(row_offsets.unsafe_ptr()),
            untracked(page_table.unsafe_ptr()),
            row_offsets.dim_size(0) - 1,
            page_table.dim_size(1),
            kv.page_size,
        )
        if input_norm.dim_size(0) != cache.dim_size(1):
            raise Error("mili.layers: ", input_norm.dim_size(0), " layers beside a cache of ", cache.dim_size(1))
        var sizes = LayerSizes(x.dim_size(0), x.dim_size(1), q_heads, cache.dim_size(3), head_dim, inner)
        if sizes.scratch() != scratch.dim_size(1):
            raise Error("mili.layers: scratch has rows of ", scratch.dim_size(1), ", not of ", sizes.scratch())
        comptime if has_tiles[isa]() and pairs:
            for columns in [sizes.hidden, sizes.q_size(), inner]:
                check_columns(columns)
        var vectors = LayerVectors(
            untracked(input_norm.unsafe_ptr()),
            untracked(q_norm.unsafe_ptr()),
            untracked(k_norm.unsafe_ptr()),
            untracked(post_norm.unsafe_ptr()),
            untracked(qkv_bias.unsafe_ptr()),
            untracked(o_bias.unsafe_ptr()),
            biases,
            eps,
        )
        var first = LayerWork[cache.dtype, query_type, head_dim](
            sizes,
            untracked(x.unsafe_ptr()),
            untracked(y.unsafe_ptr()),
            untracked(rope.unsafe_ptr()),
            Scratch(untracked(scratch.unsafe_ptr()), sizes),
            vectors,
            Matrix[isa, qkv.dtype, qkv_bits, qkv_offsets, pairs](
                untracked(qkv.unsafe_ptr()), sizes.heads() * head_dim, sizes.hidden, qkv.dim_size(2)
            ),
            Matrix[isa, o.dtype, o_bits, o_offsets, pairs](
                untracked(o.unsafe_ptr()), sizes.hidden, sizes.q_size(), o.dim_size(2)
            ),
            Matrix[isa, gate_up.dtype, gate_up_bits, gate_up_offsets, pairs](
                untracked(gate_up.unsafe_ptr()), 2 * inner, sizes.hidden, gate_up.dim_size(2)
            ),
            Matrix[isa, down.dtype, down_bits, down_offsets, pairs](
                untracked(down.unsafe_ptr()), sizes.hidden, inner, down.dim_size(2)
            ),
            kv,
            slots,
        )
        run_layers[amx=has_tiles[isa]()](first, input_norm.dim_size(0))
