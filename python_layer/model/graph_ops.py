"""What the parts of the model's graph share: the inputs of a step, and how a custom op is called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, Graph, TensorType, TensorValue, Value, ops

from python_layer.model.config import Qwen3Config

CPU = DeviceRef.CPU()
FLOAT = DType.float32


@dataclass(frozen=True)
class StepInputs:
    """The graph's first inputs, in order; see :class:`~python_layer.model.batch.RaggedBatch`."""

    cache: BufferValue
    token_ids: TensorValue
    positions: TensorValue
    row_offsets: TensorValue
    page_table: TensorValue
    logit_rows: TensorValue

    def for_layers(self) -> list[Value]:
        """What every layer reads beside its activations and weights."""
        return [self.cache, self.positions, self.row_offsets, self.page_table]


@dataclass(frozen=True)
class LayerParts:
    """What layers are built of, on any device.

    Attributes:
        graph: The graph to which they belong.
        config: The model.
        step: The graph's inputs.
        rope: [T, head_dim], see ``mili.rope_table``.
        weights: By their names in the graph.
        kernels: The compiled kernel package.
    """

    graph: Graph
    config: Qwen3Config
    step: StepInputs
    rope: TensorValue
    weights: Mapping[str, TensorValue]
    kernels: Path


def custom_op(
    name: str, values: Sequence[Value], shape: Sequence[object], dtype: DType = FLOAT, **parameters: int
) -> TensorValue:
    """A custom op with one output, where its first input is; in place where that is the cache."""
    device = values[0].type.device
    make = ops.inplace_custom if isinstance(values[0], BufferValue) else ops.custom
    return make(f"mili.{name}", device, values, [TensorType(dtype, shape, device)], parameters)[0].tensor


def float_constant(value: float) -> TensorValue:
    """A number for an op's scalar argument."""
    return ops.constant(value, FLOAT, CPU)
