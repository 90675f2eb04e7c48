"""MAX's own ops for the same work, as its models use them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType, Type, Value, ops
from numpy.typing import NDArray

from tests.performance.gpu import ours
from tests.performance.gpu.contest import Contender
from tests.performance.gpu.op import FLOAT, Op
from tests.performance.gpu.place import Place
from tests.performance.gpu.work import EPS, AttentionWork, LinearWork

PAGE = 128
"""Positions of a page, of which MAX's attention wants a multiple of 128."""
TABLE_PADDING = 16
"""Entries behind a row of the page table, and the multiple of 8 before, as its kernel may read that far."""


@dataclass(frozen=True)
class AddRMSNorm(ours.AddRMSNorm):
    """x + residual and its norm, which MAX's graph compiler may fuse."""

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        x, residual, gamma = (value.tensor for value in values)
        total = ops.cast(x, FLOAT) + residual
        return [ops.cast(ops.rms_norm(total, gamma, EPS), self.dtype), total]


@dataclass(frozen=True)
class SwiGLU(ours.SwiGLU):
    """silu(gate) * up, which MAX's graph compiler fuses."""

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        inner = self.sizes.inner
        gate, up = ops.split(values[0].tensor, [inner, inner], axis=1)
        return [ops.silu(gate) * up]


@dataclass(frozen=True)
class Attention(Op):
    """FlashAttention over a paged cache, with the causal mask."""

    def types(self) -> list[Type[Any]]:
        sizes, host = self.sizes, DeviceRef.CPU()
        return [
            TensorType(self.dtype, ["T", sizes.q_heads, sizes.head_dim], self.device),
            TensorType(DType.uint32, ["B_plus_1"], self.device),
            BufferType(self.dtype, ["pages", 2, 1, PAGE, sizes.kv_heads, sizes.head_dim], self.device),
            TensorType(DType.uint32, ["B"], self.device),
            TensorType(DType.uint32, ["B", "P"], self.device),
            TensorType(DType.uint32, [1], host),
            TensorType(DType.uint32, [1], host),
            TensorType(DType.int64, [1], host),
            TensorType(DType.int64, [4], host),
        ]

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        # Imported here: it compiles an extension when it is first imported, which takes seconds.
        from max.nn.attention import MHAMaskVariant
        from max.nn.kernels import flash_attention_ragged
        from max.nn.kv_cache import PagedCacheValues

        q, offsets, blocks, *others = values
        lengths, table, most_new, most_kept, stride, dispatch = (value.tensor for value in others)
        collection = PagedCacheValues(
            kv_blocks=blocks.buffer,
            cache_lengths=lengths,
            lookup_table=table,
            max_prompt_length=most_new,
            max_cache_length=most_kept,
            page_stride=stride,
            attention_dispatch_metadata=dispatch,
        )
        attended = flash_attention_ragged(
            cache_params(self),
            q.tensor,
            offsets.tensor,
            collection,
            ops.constant(0, DType.uint32, DeviceRef.CPU()),
            MHAMaskVariant.CAUSAL_MASK,
            self.sizes.head_dim**-0.5,
        )
        return [attended]


@dataclass(frozen=True)
class Matmul(Op):
    """x @ w.T with one of the matrices, or the square product that is the limit.

    Attributes:
        matrix: Its name; none is the square one.
    """

    matrix: str = ""

    def types(self) -> list[Type[Any]]:
        square = (self.sizes.square, self.sizes.square)
        outputs, columns = self.sizes.matrices[self.matrix] if self.matrix else square
        rows = "rows" if self.matrix else self.sizes.square
        return [
            TensorType(self.dtype, [rows, columns], self.device),
            TensorType(self.dtype, [outputs, columns], self.device),
        ]

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        x, w = (value.tensor for value in values)
        return [x @ ops.transpose(w, 0, 1)]


def cache_params(op: Op) -> Any:
    """MAX's description of the cache."""
    from max.nn.kv_cache import MHAKVCacheParams

    return MHAKVCacheParams(
        dtype=op.dtype,
        head_dim=op.sizes.head_dim,
        num_layers=1,
        devices=[op.device],
        n_kv_heads=op.sizes.kv_heads,
        page_size=PAGE,
    )


def attention(place: Place, op: Op, work: AttentionWork) -> Contender:
    pages = -(-work.context // PAGE)
    table = np.zeros((work.requests, -(-pages // 8) * 8 + TABLE_PADDING), np.uint32)
    table[:, :pages] = np.arange(work.requests * pages).reshape(work.requests, pages)

    def paged(heads: NDArray[np.uint16]) -> NDArray[np.uint16]:
        filled = np.zeros((work.requests, pages * PAGE, *heads.shape[2:]), np.uint16)
        filled[:, : work.context] = heads
        return filled.reshape(work.requests * pages, 1, PAGE, *heads.shape[2:])

    def inputs() -> list[Buffer]:
        key = cache_params(op).resolve_attn_key(work.requests, work.tokens, work.context)
        queries = work.queries().reshape(work.rows, op.sizes.q_heads, op.sizes.head_dim)
        return [
            place.numbers(queries),
            place.array((np.arange(work.requests + 1) * work.tokens).astype(np.uint32)),
            place.numbers(np.stack([paged(work.keys()), paged(work.values())], 1)),
            place.array(np.full(work.requests, work.context - work.tokens, np.uint32)),
            place.array(table),
            Buffer.from_numpy(np.array([work.tokens], np.uint32)),
            Buffer.from_numpy(np.array([work.context], np.uint32)),
            Buffer.from_numpy(np.array([-1], np.int64)),  # pages lie one after the other
            key.pack_into_buffer(place.device.open(), work.context),
        ]

    return place.contender(op, inputs, (work.rows, op.sizes.q_size))


def matmul(place: Place, op: Op, work: LinearWork) -> Contender:
    def inputs() -> list[Buffer]:
        return [place.numbers(work.x()), place.numbers(work.w())]

    return place.contender(op, inputs, (work.rows, work.outputs))
