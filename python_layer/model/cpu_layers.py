"""The transformer blocks on a CPU: one op for each, within which threads wait for each other (see `layer.mojo`)."""

from collections.abc import Mapping, Sequence

from max.dtype import DType
from max.graph import BufferType, Dim, TensorType, TensorValue, Value, ops

from python_layer.model.config import Qwen3Config
from python_layer.model.graph_ops import CPU, FLOAT, LayerParts, float_constant
from python_layer.model.linear import LinearLayers

MATRICES = ("qkv", "o", "gate_up", "down")
WEIGHTS = ("input_norm", "qkv", "q_norm", "k_norm", "o", "post_norm", "gate_up", "down")
BIASES = ("qkv_bias", "o_bias")


def cpu_layers(parts: LayerParts, hidden: TensorValue, linear: LinearLayers) -> TensorValue:
    """All blocks.

    Args:
        parts: What they are built of.
        hidden: [T, hidden_size], float32: the embeddings.
        linear: Says how matrices are multiplied.

    Returns:
        [T, hidden_size], float32.
    """
    config, step, rope, weights = parts.config, parts.step, parts.rope, parts.weights
    names = WEIGHTS + BIASES if config.attention_bias else WEIGHTS
    scratch = ops.buffer_create(scratch_type(config, hidden.shape[0]))
    values: list[Value] = [*step.for_layers(), scratch, hidden, rope, *(weights[f"layers.0.{name}"] for name in names)]
    types = [TensorType(DType.int32, [], CPU), *(value.type for value in values)]
    with parts.graph.add_subgraph("layer", input_types=types, custom_extensions=[parts.kernels]) as layer:
        index, cache, *rest = layer.inputs
        batch = [value.tensor for value in rest[:3]]
        x, angles, *given = (value.tensor for value in rest[4:])
        inputs = [cache.buffer, rest[3].buffer, x, angles, *batch, index.tensor]
        layer.output(layer_op(config, inputs, dict(zip(names, given, strict=True)), linear))
    for i in range(config.num_hidden_layers):
        own = [weights[f"layers.{i}.{name}"] for name in names]
        index = ops.constant(i, DType.int32, CPU)
        (result,) = ops.call(layer, index, *step.for_layers(), scratch, hidden, rope, *own)
        hidden = result.tensor
    return hidden


def scratch_type(config: Qwen3Config, tokens: Dim) -> BufferType:
    """The memory that layers need beside their inputs and outputs, one after the other; as in ``layer.mojo``."""
    attention = 4 * config.q_size + 2 * config.kv_size
    size = 2 * config.hidden_size + max(attention, 3 * config.intermediate_size, config.hidden_size)
    return BufferType(FLOAT, [tokens, size], CPU)


def layer_op(
    config: Qwen3Config, inputs: Sequence[Value], w: Mapping[str, TensorValue], linear: LinearLayers
) -> TensorValue:
    """One block.

    Args:
        config: The model.
        inputs: The cache, scratch memory, x [T, hidden_size], rope [T, head_dim], positions, row_offsets, page_table
            and the number of the layer.
        w: The layer's weights.
        linear: Says how matrices are multiplied.

    Returns:
        [T, hidden_size], float32.
    """
    parameters: dict[str, bool | int | str] = {
        "isa": linear.isa,
        "pairs": linear.paired,
        "q_heads": config.num_attention_heads,
        "head_dim": config.head_dim,
        "inner": config.intermediate_size,
        "biases": config.attention_bias,
    }
    for kind in MATRICES:
        form = linear.formats.get(kind)
        parameters |= {f"{kind}_bits": form.bits if form else 0, f"{kind}_offsets": bool(form and form.offsets)}
    given = [w[name] for name in WEIGHTS]
    # Where there are no biases, another vector takes their places.
    given += [w.get(name, w["q_norm"]) for name in BIASES]
    values = [*inputs, float_constant(config.rms_norm_eps), *given]
    return ops.inplace_custom("mili.layer", CPU, values, [inputs[2].type], parameters)[0].tensor
