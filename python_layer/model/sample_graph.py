"""The sampler in a graph: the op ``mili.sample``, its inputs, and a graph of it alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

from python_layer.model.sampling import MOST_LOGPROBS


def row_types(device: DeviceRef) -> list[TensorType]:
    """What the op gets beside logits, for S rows: :func:`~python_layer.model.sampler.sampler_inputs` gives it."""
    shapes: list[tuple[DType, list[str | int]]] = [
        (DType.float32, ["S", 6]),
        (DType.int32, ["S"]),
        (DType.float64, ["S"]),
        (DType.int32, ["S"]),
        (DType.int32, ["S_plus_1"]),
        (DType.int32, ["E"]),
        (DType.float32, ["E"]),
        (DType.int32, ["E"]),
        (DType.int32, ["E"]),
        (DType.int32, ["S"]),
        (DType.uint32, ["M", "W"]),
    ]
    return [TensorType(dtype, shape, device) for dtype, shape in shapes]


def sample(logits: TensorValue, rows: Sequence[TensorValue]) -> list[TensorValue]:
    """Draws a token from each of the first S rows of logits.

    Args:
        logits: [R, vocab_size], float32; R is S or more.
        rows: How, as :func:`row_types` says.

    Returns:
        Tokens [S], int32; their log-probabilities [S], float64; the likeliest tokens and their log-probabilities
        [S, MOST_LOGPROBS], int32 and float64.
    """
    device = logits.device
    outputs = [
        TensorType(DType.int32, ["S"], device),
        TensorType(DType.float64, ["S"], device),
        TensorType(DType.int32, ["S", MOST_LOGPROBS], device),
        TensorType(DType.float64, ["S", MOST_LOGPROBS], device),
    ]
    return [value.tensor for value in ops.custom("mili.sample", device, [logits, *rows], outputs)]


@dataclass(frozen=True)
class SampleGraph:
    """The graph of the sampler: one for every model, all sizes symbolic."""

    device: DeviceRef = field(default_factory=DeviceRef.CPU)

    def build(self, kernels: Path) -> Graph:
        """Inputs logits [S, V] and :func:`row_types`, outputs as those of :func:`sample`."""
        types = [TensorType(DType.float32, ["S", "V"], self.device), *row_types(self.device)]
        with Graph("sample", input_types=types, custom_extensions=[kernels]) as graph:
            logits, *rows = (value.tensor for value in graph.inputs)
            graph.output(*sample(logits, rows))
        return graph
