"""Each kernel alone on the shapes of Qwen3-0.6B, next to what the machine allows.

    python tests/performance/benchmark_kernels.py [--json]

The bound of a kernel is the larger of its bytes over the bandwidth and its operations over the FMA rate, both
measured in the same run. Times are medians; each op runs in a graph of its own through MAX.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from machine import MachineLimits, measure_limits
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import BufferType, DeviceRef, Graph, TensorType, Value, ops

from python_layer.model.kernels import kernel_package
from python_layer.model.packing import packed_shape
from python_layer.utils.cpu import multiplies_bfloat16, supported_isas

DEVICE = DeviceRef.CPU()
FLOAT, INT, BF16 = DType.float32, DType.int32, DType.bfloat16
HIDDEN, INNER, VOCAB = 1024, 3072, 151936
Q_HEADS, KV_HEADS, HEAD_DIM, PAGE = 16, 8, 128, 16


@dataclass(frozen=True)
class Case:
    """A kernel call: its name, its inputs, and what it must move and compute at least."""

    name: str
    inputs: list[Buffer]
    types: list[object]
    build: Callable[[Sequence[Value[Any]]], list[Value[Any]]]
    bytes: float
    operations: float


def tensor(dtype: DType, *shape: int) -> TensorType:
    return TensorType(dtype, list(shape), DEVICE)


def floats(*shape: int) -> Buffer:
    return Buffer.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))


def bfloats(*shape: int) -> Buffer:
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    return Buffer.from_numpy((values.view(np.uint32) >> 16).astype(np.uint16)).view(BF16, shape)


def integers(values: Sequence[int]) -> Buffer:
    return Buffer.from_numpy(np.asarray(values, np.int32))


def linear(rows: int, outputs: int, inputs: int) -> Case:
    out, packed = tensor(FLOAT, rows, outputs), packed_shape((outputs, inputs), "bfloat16")

    def build(v: Sequence[Value[Any]]) -> list[Value[Any]]:
        isa = supported_isas()[0]
        x = ops.cast(v[0].tensor, BF16) if multiplies_bfloat16(isa) else v[0].tensor
        return [ops.custom("mili.linear", DEVICE, [x, v[1].tensor], [out], {"isa": isa})[0]]

    return Case(
        f"linear {rows} x {inputs} -> {outputs}, bf16",
        [floats(rows, inputs), bfloats(*packed)],
        [tensor(FLOAT, rows, inputs), tensor(BF16, *packed)],
        build,
        2 * outputs * inputs + 4 * rows * (inputs + outputs),
        2 * rows * outputs * inputs,
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


def attention(requests: int, tokens: int, context: int) -> Case:
    """Each request computes its last ``tokens`` of ``context`` positions."""
    rows, pages = requests * tokens, -(-context // PAGE)
    q_type = tensor(FLOAT, rows, Q_HEADS * HEAD_DIM)
    cache_shape = [requests * pages, 1, 2, KV_HEADS, PAGE, HEAD_DIM]

    def build(v: Sequence[Value[Any]]) -> list[Value[Any]]:
        layer = ops.constant(0, INT, DEVICE)
        arguments = [v[0].buffer, *(a.tensor for a in v[1:]), layer]
        return [ops.inplace_custom("mili.paged_attention", DEVICE, arguments, [q_type])[0]]

    positions = integers([p for _ in range(requests) for p in range(context - tokens, context)])
    offsets = integers([tokens * b for b in range(requests + 1)])
    table = Buffer.from_numpy(np.arange(requests * pages, dtype=np.int32).reshape(requests, pages))
    seen = requests * sum(range(context - tokens + 1, context + 1))
    return Case(
        f"attention {requests} x {tokens} tokens over {context}, bf16",
        [bfloats(*cache_shape), floats(rows, Q_HEADS * HEAD_DIM), positions, offsets, table],
        [
            BufferType(BF16, cache_shape, DEVICE),
            q_type,
            tensor(INT, rows),
            tensor(INT, requests + 1),
            tensor(INT, requests, pages),
        ],
        build,
        requests * context * 2 * KV_HEADS * HEAD_DIM * 2 + 8 * rows * Q_HEADS * HEAD_DIM,
        4 * seen * Q_HEADS * HEAD_DIM,
    )


def cases() -> list[Case]:
    return [
        linear(1, 6144, HIDDEN),
        linear(1, VOCAB, HIDDEN),
        linear(16, 6144, HIDDEN),
        linear(512, 6144, HIDDEN),
        linear(512, HIDDEN, INNER),
        add_rms_norm(1),
        add_rms_norm(512),
        swiglu(512),
        attention(1, 1, 512),
        attention(16, 1, 2048),
        attention(1, 512, 512),
        attention(1, 512, 4096),
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
    bound = max(case.bytes / limits.bandwidth, case.operations / limits.flops)
    return {
        "kernel": case.name,
        "microseconds": took * 1e6,
        "gigabytes_per_s": case.bytes / took / 1e9,
        "gigaflops": case.operations / took / 1e9,
        "bound": "memory" if case.bytes / limits.bandwidth >= case.operations / limits.flops else "arithmetic",
        "fraction": bound / took,
    }


def main() -> None:
    """Measures every case and prints a table, or a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    limits = measure_limits()
    rows = []
    if not options.json:
        print(
            f"read bandwidth {limits.bandwidth / 1e9:.1f} GB/s, float32 FMA {limits.flops / 1e9:.0f} GFLOP/s, "
            f"{limits.threads} threads, fork and join {limits.fork_join_us:.1f} us"
        )
        print(f"{'kernel':46} {'us':>10} {'GB/s':>8} {'GFLOP/s':>8}  {'bound':10} {'reached':>7}")
    for case in cases():
        row = measure(case, limits)
        rows.append(row)
        if not options.json:
            print(
                f"{row['kernel']:46} {row['microseconds']:10.1f} {row['gigabytes_per_s']:8.1f} "
                f"{row['gigaflops']:8.1f}  {row['bound']:10} {row['fraction']:7.0%}"
            )
    if options.json:
        limit = {"bandwidth_bytes_per_s": limits.bandwidth, "flops_per_s": limits.flops}
        print(json.dumps({**limit, "kernels": rows}))


if __name__ == "__main__":
    main()
