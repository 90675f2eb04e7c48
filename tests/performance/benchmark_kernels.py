"""Each kernel alone on the shapes of Qwen3-0.6B, next to what the machine allows.

    python tests/performance/benchmark_kernels.py [--json] [--only WORD]

The bound of a kernel is the larger of its bytes over the bandwidth and its operations over the rate of products of
their type, both measured in the same run. Times are medians; each op runs in a graph of its own through MAX.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from machine import MachineLimits, measure_limits
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import BufferType, DeviceRef, Graph, TensorType, Value, ops

from python_layer.model.kernels import kernel_package
from python_layer.model.kv_cache import KVCacheLayout, scale_numbers
from python_layer.model.linear import LinearLayers
from python_layer.model.packing import packed_shape, scaled_shape
from python_layer.model.precision import SCALED_DTYPES
from python_layer.utils.cpu import multiplies, supported_isas

DEVICE = DeviceRef.CPU()
FLOAT, INT, BF16 = DType.float32, DType.int32, DType.bfloat16
HIDDEN, INNER, VOCAB = 1024, 3072, 151936
Q_HEADS, KV_HEADS, HEAD_DIM, PAGE = 16, 8, 128, 16
ISA = supported_isas()[0]
SCALED = multiplies(ISA) in SCALED_DTYPES
WEIGHTS = DType[multiplies(ISA)] if SCALED else BF16
"""Type of matrices and cache."""
SCALE = 2.0**-10
"""That of all scaled numbers."""


@dataclass(frozen=True)
class Case:
    """A kernel call: its name, its inputs, and what it must move and compute at least."""

    name: str
    inputs: list[Buffer]
    types: list[object]
    build: Callable[[Sequence[Value[Any]]], list[Value[Any]]]
    bytes: float
    operations: float
    dtype: str = "float32"
    """Of its products."""


def tensor(dtype: DType, *shape: int) -> TensorType:
    return TensorType(dtype, list(shape), DEVICE)


def floats(*shape: int) -> Buffer:
    return Buffer.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))


def bits(values: np.ndarray) -> np.ndarray:
    """Numbers in the type of weights and cache, as they lie in memory."""
    if WEIGHTS.is_integral():
        return (values / SCALE).astype(np.int16).view(np.uint16)
    return values.astype(np.float16).view(np.uint16) if SCALED else (values.view(np.uint32) >> 16).astype(np.uint16)


def matrix(shape: tuple[int, int, int]) -> Buffer:
    """A packed matrix."""
    packed = bits(np.random.default_rng(0).standard_normal(shape, np.float32))
    if SCALED:
        packed[:, -1].view(np.float32)[:] = SCALE
    return Buffer.from_numpy(packed).view(WEIGHTS, shape)


def integers(values: Sequence[int]) -> Buffer:
    return Buffer.from_numpy(np.asarray(values, np.int32))


def linear(rows: int, outputs: int, inputs: int) -> Case:
    layers = LinearLayers(ISA, DType[multiplies(ISA)], {})
    size = (outputs, inputs)
    shape = scaled_shape(size) if SCALED else packed_shape(size, "bfloat16")

    def build(v: Sequence[Value[Any]]) -> list[Value[Any]]:
        return [layers.apply("matrix", v[0].tensor, v[1].tensor, outputs)]

    return Case(
        f"linear {rows} x {inputs} -> {outputs}, {WEIGHTS.name}",
        [floats(rows, inputs), matrix(shape)],
        [tensor(FLOAT, rows, inputs), tensor(WEIGHTS, *shape)],
        build,
        2 * outputs * inputs + 4 * rows * (inputs + outputs),
        2 * rows * outputs * inputs,
        multiplies(ISA),
    )


def add_rms_norm(rows: int) -> Case:
    x = tensor(FLOAT, rows, HIDDEN)

    def build(v: Sequence[Value[Any]]) -> list[Value[Any]]:
        eps = ops.constant(1e-6, FLOAT, DEVICE)
        return ops.custom("mili.add_rms_norm", DEVICE, [*(a.tensor for a in v), eps], [x, x])

    inputs = [floats(rows, HIDDEN), floats(rows, HIDDEN), floats(HIDDEN)]
    return Case(
        f"add_rms_norm {rows} x {HIDDEN}",
        inputs,
        [x, x, tensor(FLOAT, HIDDEN)],
        build,
        16 * rows * HIDDEN,
        5 * rows * HIDDEN,
    )


def swiglu(rows: int) -> Case:
    out = tensor(FLOAT, rows, INNER)
    return Case(
        f"swiglu {rows} x {INNER}",
        [floats(rows, 2 * INNER)],
        [tensor(FLOAT, rows, 2 * INNER)],
        lambda v: [ops.custom("mili.swiglu", DEVICE, [v[0].tensor], [out])[0]],
        12 * rows * INNER,
        10 * rows * INNER,
    )


def attention(requests: int, tokens: int, context: int, layers: int = 1) -> Case:
    """Each request computes its last ``tokens`` of ``context`` positions, in so many layers one after the other."""
    rows, pages = requests * tokens, -(-context // PAGE)
    dtype = BF16 if multiplies(ISA) == "bfloat16" else FLOAT
    q_type = tensor(FLOAT, rows, Q_HEADS * HEAD_DIM)
    layout = KVCacheLayout((layers, 2, KV_HEADS, PAGE, HEAD_DIM + scale_numbers(WEIGHTS)), WEIGHTS)

    def build(v: Sequence[Value[Any]]) -> list[Value[Any]]:
        cache, q, *batch = (v[0].buffer, *(a.tensor for a in v[1:]))
        out = []
        for layer in range(layers):
            arguments = [cache, ops.cast(q, dtype), *batch, ops.constant(layer, INT, DEVICE)]
            size = {"head_dim": HEAD_DIM}
            out.append(ops.inplace_custom("mili.paged_attention", DEVICE, arguments, [q_type], size)[0])
        return out

    positions = integers([p for _ in range(requests) for p in range(context - tokens, context)])
    offsets = integers([tokens * b for b in range(requests + 1)])
    table = Buffer.from_numpy(np.arange(requests * pages, dtype=np.int32).reshape(requests, pages))
    seen = layers * requests * sum(range(context - tokens + 1, context + 1))
    return Case(
        f"attention {requests} x {tokens} tokens over {context}, {layers} layers",
        [filled_cache(layout, requests * pages), floats(rows, Q_HEADS * HEAD_DIM), positions, offsets, table],
        [
            BufferType(WEIGHTS, [requests * pages, *layout.page_shape], DEVICE),
            q_type,
            tensor(INT, rows),
            tensor(INT, requests + 1),
            tensor(INT, requests, pages),
        ],
        build,
        layers * (requests * context * 2 * KV_HEADS * HEAD_DIM * 2 + 8 * rows * Q_HEADS * HEAD_DIM),
        4 * seen * Q_HEADS * HEAD_DIM,
        multiplies(ISA),
    )


def filled_cache(layout: KVCacheLayout, pages: int) -> Buffer:
    """A cache of normally distributed numbers, in memory such as the engine's."""
    memory, cache = layout.allocate_with_memory(pages)
    values = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
    elements = memory.reshape(-1).view(np.uint16)
    elements[:] = np.resize(bits(values), elements.size)
    if scales := layout.page_size * scale_numbers(WEIGHTS):
        heads = elements.reshape(-1, layout.page_size * layout.page_shape[-1])
        heads[:, -scales:] = np.resize(np.float32([SCALE]).view(np.uint16), scales)
    return cache


def sampling(rows: int, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, edits: int = 0) -> Case:
    """Draws from normally distributed logits, whose deviation of 3 makes them about as peaked as a model's."""
    rng = np.random.default_rng(0)
    params = np.tile(np.array([temperature, top_p, 0, 1.1 if edits else 1, 0, 0], np.float32), (rows, 1))
    tokens = np.concatenate([np.sort(rng.permutation(VOCAB)[:edits]) for _ in range(rows)])
    arrays = [
        (rng.standard_normal((rows, VOCAB)) * 3).astype(np.float32),
        params,
        np.full(rows, top_k, np.int32),
        rng.random(rows),
        np.full(rows, -1, np.int32),
        np.arange(rows + 1, dtype=np.int32) * edits,
        tokens.astype(np.int32),
        np.zeros(rows * edits, np.float32),
        np.ones(rows * edits, np.int32),
        np.zeros(rows * edits, np.int32),
        np.full(rows, -1, np.int32),
        np.zeros((1, 1), np.uint32),
    ]
    out = [tensor(INT, rows), tensor(DType.float64, rows), tensor(INT, rows, 1), tensor(DType.float64, rows, 1)]
    inputs = [Buffer.from_numpy(array) for array in arrays]
    kind = f"t={temperature:g} k={top_k} p={top_p:g}" if temperature else "greedy"
    return Case(
        f"sample {rows} rows, {kind}, {edits} edits",
        inputs,
        [TensorType(value.dtype, value.shape, DEVICE) for value in inputs],
        lambda v: list(ops.custom("mili.sample", DEVICE, [value.tensor for value in v], out)),
        4 * rows * VOCAB,
        rows * VOCAB,
    )


def cases() -> list[partial[Case]]:
    """In order; each makes its inputs when it is called."""
    return [
        *(partial(linear, *shape) for shape in ((1, 6144, HIDDEN), (1, VOCAB, HIDDEN), (16, 6144, HIDDEN))),
        *(partial(linear, *shape) for shape in ((512, 6144, HIDDEN), (512, HIDDEN, INNER))),
        partial(add_rms_norm, 1),
        partial(add_rms_norm, 512),
        partial(swiglu, 512),
        partial(attention, 1, 1, 512, layers=4),
        partial(attention, 1, 1, 8192, layers=4),
        partial(attention, 16, 1, 8192),
        *(partial(attention, 1, 512, context) for context in (512, 2048, 8192)),
        *(partial(sampling, rows) for rows in (1, 16, 64)),
        *(partial(sampling, rows, 1.0, top_k=50) for rows in (1, 16, 64)),
        *(partial(sampling, rows, 0.8, top_p=0.95) for rows in (1, 16, 64)),
        *(partial(sampling, rows, 0.8, top_k=50, top_p=0.95, edits=1000) for rows in (1, 16, 64)),
    ]


def measure(case: Case, limits: MachineLimits, seconds: float = 0.5) -> dict[str, Any]:
    """Runs a case for about so many seconds."""
    with Graph("benchmark", input_types=case.types, custom_extensions=[kernel_package()]) as graph:
        graph.output(*case.build(graph.inputs))
    model = InferenceSession(devices=[CPU()]).load(graph)
    times: list[float] = []
    model.execute(*case.inputs)
    while sum(times) < seconds or len(times) < 5:
        started = time.perf_counter()
        model.execute(*case.inputs)
        times.append(time.perf_counter() - started)
    took = statistics.median(times)
    memory, arithmetic = case.bytes / limits.bandwidth, case.operations / limits.rate(case.dtype)
    return {
        "kernel": case.name,
        "microseconds": took * 1e6,
        "gigabytes_per_s": case.bytes / took / 1e9,
        "gigaflops": case.operations / took / 1e9,
        "bound": "memory" if memory >= arithmetic else "arithmetic",
        "fraction": max(memory, arithmetic) / took,
    }


def main() -> None:
    """Measures every case and prints a table, or a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", default="", metavar="WORD", help="measure the kernels whose names begin like this")
    options = parser.parse_args()
    limits = measure_limits()
    rows = []
    if not options.json:
        print(
            f"read bandwidth {limits.bandwidth / 1e9:.1f} GB/s, float32 FMA {limits.flops / 1e9:.0f} GFLOP/s, "
            f"{WEIGHTS.name} {limits.rate(multiplies(ISA)) / 1e9:.0f}, {limits.threads} threads, "
            f"fork and join {limits.fork_join_us:.1f} us"
        )
        print(f"{'kernel':46} {'us':>10} {'GB/s':>8} {'GFLOP/s':>8}  {'bound':10} {'reached':>7}")
    for make in cases():
        if not make.func.__name__.startswith(options.only):
            continue
        row = measure(make(), limits)
        rows.append(row)
        if not options.json:
            print(
                f"{row['kernel']:46} {row['microseconds']:10.1f} {row['gigabytes_per_s']:8.1f} "
                f"{row['gigaflops']:8.1f}  {row['bound']:10} {row['fraction']:7.0%}"
            )
    if options.json:
        limit = {"bandwidth_bytes_per_s": limits.bandwidth, "flops_per_s": limits.rate(multiplies(ISA))}
        print(json.dumps({**limit, "kernels": rows}))


if __name__ == "__main__":
    main()
