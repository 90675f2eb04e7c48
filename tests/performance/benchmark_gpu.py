"""Kernels and a whole model on a GPU, next to what the GPU does at best in the same run.

    python tests/performance/benchmark_gpu.py [--device gpu:N] [--model DIR] [--json]

A kernel that moves memory is given as the fraction of the rate of a copy within the GPU, and one that multiplies as the
fraction of MAX's bfloat16 matrix product of 8,192 x 8,192 x 8,192. Times are medians of runs of several executions
between two synchronisations. Without a GPU it ends with an error: there is nothing to measure.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import BufferType, DeviceRef, Graph, TensorType, Value, ops

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.device import ComputeDevice, resolve_device
from python_layer.model.gpu_linear import gpu_linear
from python_layer.model.kernels import kernel_package
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.utils.errors import MiliError

BF16, FLOAT, INT = DType.bfloat16, DType.float32, DType.int32
HIDDEN, INNER, Q_HEADS, KV_HEADS, HEAD_DIM, PAGE = 4096, 12_288, 32, 8, 128, 16
"""Of Qwen3-8B."""
LAYERS = (("qkv", HIDDEN + 2048, HIDDEN), ("gate_up", 2 * INNER, HIDDEN), ("down", HIDDEN, INNER))
"""Outputs and columns of its matrices."""
SQUARE = 8192


@dataclass(frozen=True)
class Figure:
    """What was measured.

    Attributes:
        name: Of the case.
        seconds: For one execution.
        rate: Bytes or operations a second.
        fraction: Of the copy's or the matrix product's rate.
    """

    name: str
    seconds: float
    rate: float
    fraction: float


class Bench:
    """Runs graphs on one device.

    Args:
        device: The GPU.
    """

    def __init__(self, device: ComputeDevice) -> None:
        self.gpu, self.architecture, self._driver = device.ref, device.architecture, device.open()
        self._session = InferenceSession(devices=[self._driver])

    def zeros(self, dtype: DType, *shape: int) -> Buffer:
        """Memory of the GPU. The kernels take as long for zeros as for other numbers."""
        return Buffer.zeros(list(shape), dtype, self._driver)

    def integers(self, values: Sequence[Any]) -> Buffer:
        """int32 numbers on the GPU."""
        return Buffer.from_numpy(np.asarray(values, np.int32)).to(self._driver)

    def seconds(self, inputs: Sequence[Buffer], build: Callable[[Sequence[Value[Any]]], Sequence[Value[Any]]]) -> float:
        """Seconds of one execution of a graph of these inputs; those of rank 6 are caches."""
        types = [
            (BufferType if b.rank == 6 else TensorType)(b.dtype, list(b.shape), self.gpu) for b in inputs
        ]  # every size fixed, as in a captured step
        with Graph("case", input_types=types, custom_extensions=[kernel_package()]) as graph:
            graph.output(*build(graph.inputs))
        model = self._session.load(graph)
        return self.time(lambda: model.execute(*inputs))

    def time(self, run: Callable[[], object]) -> float:
        """Seconds of one call, of which several are in flight."""
        run()
        self._driver.synchronize()
        started = time.perf_counter()
        run()
        self._driver.synchronize()
        repeats = max(1, int(0.05 / (time.perf_counter() - started)))
        samples = []
        for _ in range(9):
            started = time.perf_counter()
            for _ in range(repeats):
                run()
            self._driver.synchronize()
            samples.append((time.perf_counter() - started) / repeats)
        return statistics.median(samples)


def measure_kernels(bench: Bench) -> list[Figure]:
    """The machine's rates, and each kernel's."""
    big, copy = bench.zeros(BF16, 2**30), bench.zeros(BF16, 2**30)
    bandwidth = 2 * big.num_elements * 2 / bench.time(lambda: copy.inplace_copy_from(big))
    square = [bench.zeros(BF16, SQUARE, SQUARE), bench.zeros(BF16, SQUARE, SQUARE)]
    product = bench.seconds(square, lambda v: [ops.matmul(v[0].tensor, ops.transpose(v[1].tensor, 0, 1))])
    operations = 2 * SQUARE**3 / product
    figures = [Figure("copy", 0, bandwidth, 1), Figure("matmul", product, operations, 1)]

    def add(name: str, seconds: float, work: float, best: float) -> None:
        figures.append(Figure(name, seconds, work / seconds, work / seconds / best))

    gpu = bench.gpu
    eps = 1e-6
    for rows in (64, 8192):
        x, residual = bench.zeros(BF16, rows, HIDDEN), bench.zeros(FLOAT, rows, HIDDEN)
        kinds = [TensorType(BF16, [rows, HIDDEN], gpu), TensorType(FLOAT, [rows, HIDDEN], gpu)]

        def norm(v: Sequence[Value[Any]], kinds: list[TensorType] = kinds) -> Sequence[Value[Any]]:
            values = [*(i.tensor for i in v), ops.constant(eps, FLOAT, DeviceRef.CPU())]
            return ops.custom("mili.add_rms_norm", gpu, values, kinds)

        add(f"add_rms_norm, {rows} rows", bench.seconds([x, residual, bench.zeros(FLOAT, HIDDEN)], norm),
            rows * HIDDEN * 12, bandwidth)  # fmt: skip
        gate_up, gated = bench.zeros(BF16, rows, 2 * INNER), TensorType(BF16, [rows, INNER], gpu)

        def swiglu(v: Sequence[Value[Any]], kind: TensorType = gated) -> Sequence[Value[Any]]:
            return ops.custom("mili.swiglu", gpu, [v[0].tensor], [kind])

        add(f"swiglu, {rows} rows", bench.seconds([gate_up], swiglu), rows * INNER * 6, bandwidth)

    for name, requests, tokens, context in (("decode", 32, 1, 4096), ("prefill", 1, 8192, 8192)):
        inputs, pairs = attention_inputs(bench, requests, tokens, context)
        out = TensorType(BF16, [requests * tokens, Q_HEADS * HEAD_DIM], gpu)

        def attend(v: Sequence[Value[Any]], kind: TensorType = out) -> Sequence[Value[Any]]:
            values = [v[0].buffer, *(i.tensor for i in v[1:]), ops.constant(0, INT, DeviceRef.CPU())]
            return ops.inplace_custom("mili.paged_attention", gpu, values, [kind])

        seconds = bench.seconds(inputs, attend)
        if name == "decode":
            add(f"attention, {requests} x {context}", seconds, requests * context * KV_HEADS * HEAD_DIM * 4, bandwidth)
        else:
            add(f"attention, prefill {tokens}", seconds, 4 * pairs * Q_HEADS * HEAD_DIM, operations)
    measure_linear(bench, add, bandwidth, operations)
    return figures


def measure_linear(
    bench: Bench, add: Callable[[str, float, float, float], None], bandwidth: float, operations: float
) -> None:
    """Linear layers of a decode and of a prompt, beside MAX's matrix product, which is not batch-invariant.

    Up to 64 rows they are given as the fraction of the bandwidth at which their weights are read.
    """
    for (name, outputs, columns), rows in itertools.product(LAYERS, (1, 16, 64, 2048)):
        x, w = bench.zeros(BF16, rows, columns), bench.zeros(BF16, outputs, columns)
        codes = bench.zeros(DType.uint8, outputs, columns)
        scales = bench.zeros(FLOAT, -(-outputs // 8), -(-columns // 128))

        def product(v: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
            return [ops.matmul(v[0].tensor, ops.transpose(v[1].tensor, 0, 1))]

        def linear(v: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
            return [gpu_linear(v[0].tensor, v[1].tensor, bench.architecture, *(scale.tensor for scale in v[2:]))]

        cases = [
            ("matmul of MAX", [x, w], product),
            ("linear", [x, w], linear),
            ("linear, e4m3", [x, codes, scales], linear),
        ]
        for kind, inputs, build in cases:
            size = outputs * columns * (1 if len(inputs) == 3 else 2)
            work, best = (size, bandwidth) if rows <= 64 else (2 * rows * outputs * columns, operations)
            add(f"{kind}, {name}, {rows} rows", bench.seconds(inputs, build), work, best)


def attention_inputs(bench: Bench, requests: int, tokens: int, context: int) -> tuple[list[Buffer], int]:
    """Inputs of the attention op, and how many pairs of a query and a key one head has."""
    pages = -(-context // PAGE)
    table = np.arange(requests * pages).reshape(requests, pages)
    positions = np.tile(np.arange(context - tokens, context), requests)
    cache = bench.zeros(BF16, requests * pages, 1, 2, KV_HEADS, PAGE, HEAD_DIM)
    q = bench.zeros(BF16, requests * tokens, Q_HEADS * HEAD_DIM)
    offsets = np.arange(requests + 1) * tokens
    batch = [bench.integers(positions), bench.integers(offsets), bench.integers(table)]
    return [cache, q, *batch], int((positions + 1).sum())


def measure_model(model: Qwen3Model, bench: Bench, bandwidth: float, operations: float) -> list[Figure]:
    """Prefill of 2,048 tokens, and captured decodes of 1 to 64 requests at a context of 512."""
    figures = []
    pages = 2048 // model.layout.page_size
    prompt = RaggedBatch.of([RequestRows([1] * 2048, 0, list(range(pages)))])
    cache = model.allocate_cache(64 * pages + 1)
    seconds = bench.time(lambda: model.step(prompt, cache))
    work = 2 * 2048 * model.weight_bytes / 2
    figures.append(Figure("prefill 2048", seconds, 2048 / seconds, work / seconds / operations))
    captured = model.captured_decodes(cache, spare_page=64 * pages)
    for requests in (1, 8, 64):
        rows = [RequestRows([1], 512, list(range(r * pages, r * pages + 64))) for r in range(requests)]
        batch = RaggedBatch.of(rows)
        seconds = bench.time(lambda batch=batch: captured.step(batch))
        moved = model.weight_bytes + requests * 512 * model.layout.page_bytes / model.layout.page_size
        figures.append(Figure(f"decode of {requests}", seconds, requests / seconds, moved / seconds / bandwidth))
    return figures


def main() -> int:
    """Prints a table, or with ``--json`` one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="gpu")
    parser.add_argument("--model", help="checkpoint to measure too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        device = resolve_device(options.device)
        if not device.is_gpu:
            parser.error(f"--device is {options.device}; give a GPU")
        bench = Bench(device)
        figures = measure_kernels(bench)
        if options.model:
            model = Qwen3Model.from_pretrained(options.model, device=options.device, compute_dtype="auto")
            figures += measure_model(model, bench, figures[0].rate, figures[1].rate)
    except MiliError as error:
        print(f"benchmark_gpu: error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"device": device.architecture, "figures": [asdict(figure) for figure in figures]}))
    else:
        for figure in figures:
            print(f"{figure.name:36} {figure.seconds * 1e6:12,.1f} us {figure.rate:12.4g}/s {figure.fraction:7.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
