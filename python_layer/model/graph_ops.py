"""What the parts of the model's graph share: the inputs of a step, and how a custom op is called."""

from collections.abc import Sequence
from dataclasses import dataclass

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorType, TensorValue, Value, ops

CPU = DeviceRef.CPU()
FLOAT = DType.float32

LAYER_WEIGHTS = ("qkv", "q_norm", "k_norm", "o", "post_norm", "gate_up", "down")
LAYER_BIASES = ("qkv_bias", "o_bias")


@dataclass(frozen=True)
class StepInputs:
    """The graph's inputs, in order; see :class:`~python_layer.model.batch.RaggedBatch`."""

    cache: BufferValue
    token_ids: TensorValue
    positions: TensorValue
    row_offsets: TensorValue
    page_table: TensorValue
    logit_rows: TensorValue

    def for_layers(self) -> list[Value]:
        """What every layer reads beside its activations and weights."""
        return [self.cache, self.positions, self.row_offsets, self.page_table]


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
