"""MILI's kernels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType, Type, Value, ops

from python_layer.model.gpu_linear import gpu_linear
from python_layer.model.graph_ops import custom_op, float_constant
from python_layer.model.packing import pack_rows, packed_shape
from tests.performance.gpu.contest import Contender
from tests.performance.gpu.numbers import bfloat16_bits, floats, widened
from tests.performance.gpu.op import FLOAT, Op
from tests.performance.gpu.place import Place
from tests.performance.gpu.work import EPS, AttentionWork, LinearWork

INT = DType.int32
PAGE = 16


@dataclass(frozen=True)
class AddRMSNorm(Op):
    """The norm of x + residual, and the sum."""

    def types(self) -> list[Type[Any]]:
        rows = ["rows", self.sizes.hidden]
        return [
            TensorType(self.dtype, rows, self.device),
            TensorType(FLOAT, rows, self.device),
            TensorType(FLOAT, [self.sizes.hidden], self.device),
        ]

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        x, residual, gamma = (value.tensor for value in values)
        return ops.custom(
            "mili.add_rms_norm", self.device, [x, residual, gamma, float_constant(EPS)], [x.type, residual.type]
        )


@dataclass(frozen=True)
class SwiGLU(Op):
    """silu(gate) * up of rows that have gate, then up."""

    def types(self) -> list[Type[Any]]:
        return [TensorType(self.dtype, ["rows", 2 * self.sizes.inner], self.device)]

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        return [custom_op("swiglu", values, [values[0].tensor.shape[0], self.sizes.inner], self.dtype)]


@dataclass(frozen=True)
class Store(Op):
    """QK norm, RoPE, and the write of keys and values into pages."""

    def types(self) -> list[Type[Any]]:
        sizes, gamma = self.sizes, TensorType(FLOAT, [self.sizes.head_dim], self.device)
        return [
            cache_type(self),
            TensorType(self.dtype, ["T", sizes.q_size + 2 * sizes.kv_size], self.device),
            gamma,
            gamma,
            TensorType(FLOAT, ["T", sizes.head_dim], self.device),
            *batch_types(self.device),
        ]

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        cache, qkv, *others = values
        layer = ops.constant(0, INT, DeviceRef.CPU())
        inputs = [cache.buffer, *(value.tensor for value in (qkv, *others)), layer, float_constant(EPS)]
        return [custom_op("qk_norm_rope_store", inputs, [qkv.tensor.shape[0], self.sizes.q_size], self.dtype)]


@dataclass(frozen=True)
class Attention(Op):
    """Attention over pages."""

    def types(self) -> list[Type[Any]]:
        queries = TensorType(self.dtype, ["T", self.sizes.q_size], self.device)
        return [cache_type(self), queries, *batch_types(self.device)]

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        cache, q, *batch = values
        inputs = [cache.buffer, q.tensor, *(v.tensor for v in batch), ops.constant(0, INT, DeviceRef.CPU())]
        head_dim = self.sizes.head_dim
        return [custom_op("paged_attention", inputs, q.tensor.shape, self.dtype, head_dim=head_dim)]


@dataclass(frozen=True)
class Linear(Op):
    """x @ w.T with one of the matrices; on a CPU w is packed.

    Attributes:
        matrix: Its name.
        float8: Its numbers are e4m3, with scales.
    """

    matrix: str = ""
    float8: bool = False

    def types(self) -> list[Type[Any]]:
        outputs, columns = self.sizes.matrices[self.matrix]
        x = TensorType(self.dtype, ["rows", columns], self.device)
        if self.device.is_cpu():
            return [x, TensorType(FLOAT, packed_shape((outputs, columns), "float32"), self.device)]
        if not self.float8:
            return [x, TensorType(self.dtype, [outputs, columns], self.device)]
        return [
            x,
            TensorType(DType.uint8, [outputs, columns], self.device),
            TensorType(FLOAT, [-(-outputs // 8), -(-columns // 128)], self.device),
        ]

    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        x, w, *scales = (value.tensor for value in values)
        if not self.device.is_cpu():
            return [gpu_linear(x, w, self.architecture, *scales)]
        out = [TensorType(FLOAT, [x.shape[0], self.sizes.matrices[self.matrix][0]], self.device)]
        return ops.custom("mili.linear", self.device, [x, w], out, {"isa": self.architecture})


def cache_type(op: Op) -> BufferType:
    """Of a KV cache of one layer."""
    page = ["pages", 1, 2, op.sizes.kv_heads, PAGE, op.sizes.head_dim]
    return BufferType(op.dtype, page, op.device)


def batch_types(device: DeviceRef) -> list[TensorType]:
    """Of positions, row offsets and page table."""
    return [TensorType(INT, shape, device) for shape in (["T"], ["B_plus_1"], ["B", "P"])]


def add_rms_norm(place: Place, op: Op, rows: int) -> Contender:
    hidden = op.sizes.hidden

    def inputs() -> list[Buffer]:
        x, gamma = place.numbers(bfloat16_bits(rows, hidden)), place.array(floats(hidden, seed=2))
        return [x, place.array(floats(rows, hidden, seed=1)), gamma]

    return place.contender(op, inputs, (rows, hidden))


def swiglu(place: Place, op: Op, rows: int) -> Contender:
    both = (rows, 2 * op.sizes.inner)
    return place.contender(op, lambda: [place.numbers(bfloat16_bits(*both))], (rows, op.sizes.inner))


def store(place: Place, op: Op, work: AttentionWork) -> Contender:
    def inputs() -> list[Buffer]:
        gamma = place.array(np.ones(op.sizes.head_dim, np.float32))
        qkv, rope = place.numbers(work.qkv()), place.array(work.rope())
        return [empty_cache(place, op, work), qkv, gamma, gamma, rope, *whole_batch(place, work)]

    return place.contender(op, inputs, (work.rows, op.sizes.q_size))


def attention(place: Place, op: Op, storing: Op, work: AttentionWork) -> Contender:
    """Attention over keys and values that ``storing`` has put into their pages first."""
    whole = work.whole_context()
    cache = empty_cache(place, op, work)
    gamma, qkv = place.array(np.ones(op.sizes.head_dim, np.float32)), place.numbers(whole.qkv())
    # Without rotation, keys keep their values: they have a root mean square of 1.
    rope = place.array(np.tile(np.repeat(np.array([1, 0], np.float32), op.sizes.head_dim // 2), (whole.rows, 1)))
    filling = [cache, qkv, gamma, gamma, rope, *whole_batch(place, whole)]
    place.contender(storing, lambda: filling, (whole.rows, op.sizes.q_size)).seconds()
    inputs = [cache, place.numbers(work.queries()), *whole_batch(place, work)]
    return place.contender(op, lambda: inputs, (work.rows, op.sizes.q_size))


def empty_cache(place: Place, op: Op, work: AttentionWork) -> Buffer:
    pages = work.requests * -(-work.context // PAGE)
    return place.zeros(op.dtype, pages, 1, 2, op.sizes.kv_heads, PAGE, op.sizes.head_dim)


def whole_batch(place: Place, work: AttentionWork) -> list[Buffer]:
    """Positions, row offsets and page table of the last tokens of each request."""
    table = np.arange(work.requests * -(-work.context // PAGE)).reshape(work.requests, -1)
    positions = np.tile(np.arange(work.context - work.tokens, work.context), work.requests)
    offsets = np.arange(work.requests + 1) * work.tokens
    return [place.array(array.astype(np.int32)) for array in (positions, offsets, table)]


def linear(place: Place, op: Op, work: LinearWork) -> Contender:
    def inputs() -> list[Buffer]:
        x, w = place.numbers(work.x()), work.w()
        if not place.device.is_gpu:
            packed = np.zeros(packed_shape(w.shape, "float32"), np.float32)
            pack_rows(widened(w), 0, packed)
            return [x, place.array(packed)]
        if not isinstance(op, Linear) or not op.float8:
            return [x, place.numbers(w)]
        # Any bytes but NaN's are e4m3 numbers: 0x7f and 0xff lose their last bit.
        codes = (w >> 8).astype(np.uint8)
        codes = np.where(codes & 0x7F == 0x7F, codes & 0xFE, codes)
        scales = np.full((-(-w.shape[0] // 8), -(-w.shape[1] // 128)), 2.0**-9, np.float32)
        return [x, place.array(codes), place.array(scales)]

    contender = place.contender(op, inputs, (work.rows, work.outputs))
    # Other numbers than the others' make other results.
    return replace(contender, result=None) if isinstance(op, Linear) and op.float8 else contender
