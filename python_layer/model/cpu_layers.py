"""The transformer blocks on a CPU: one op, within which threads wait for each other (see `layers.mojo`)."""

from collections.abc import Mapping, Sequence

from max.dtype import DType
from max.graph import BufferType, Dim, TensorValue, Value, ops

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
    cache, *batch = parts.step.for_layers()
    scratch = ops.buffer_create(scratch_type(parts.config, hidden.shape[0]))
    names = WEIGHTS + BIASES if parts.config.attention_bias else WEIGHTS
    weights = {name: parts.weights[f"layers.{name}"] for name in names}
    return layers_op(parts.config, [cache, scratch, hidden, parts.rope, *batch], weights, linear)


def scratch_type(config: Qwen3Config, tokens: Dim) -> BufferType:
    """The memory that a layer needs beside its input and output; as in ``layer_memory.mojo``."""
    attention = 4 * config.q_size + 2 * config.kv_size
    size = 2 * config.hidden_size + max(attention, 3 * config.intermediate_size, config.hidden_size)
    return BufferType(FLOAT, [tokens, size], CPU)


def layers_op(
    config: Qwen3Config, inputs: Sequence[Value], w: Mapping[str, TensorValue], linear: LinearLayers
) -> TensorValue:
    """All blocks as an op.

    Args:
        config: The model.
        inputs: The cache, scratch memory, x [T, hidden_size], rope [T, head_dim], positions, row_offsets and
            page_table.
        w: The weights, each of all layers.
        linear: Says how matrices are multiplied.

    Returns:
        [T, hidden_size], float32.
    """
    parameters: dict[str, bool | int | str] = {
        "isa": linear.isa,
        "pairs": linear.compute == DType.bfloat16,
        "q_heads": config.num_attention_heads,
        "head_dim": config.head_dim,
        "inner": config.intermediate_size,
        "biases": config.attention_bias,
    }
    for kind in MATRICES:
        form = linear.formats.get(kind)
        bits = form.bits if form else 16 if linear.scaled else 0
        parameters |= {f"{kind}_bits": bits, f"{kind}_offsets": bool(form and form.offsets)}
    given = [w[name] for name in WEIGHTS]
    # Where there are no biases, another vector takes their places.
    given += [w.get(name, w["q_norm"]) for name in BIASES]
    values = [*inputs, float_constant(config.rms_norm_eps), *given]
    return ops.inplace_custom("mili.layers", CPU, values, [inputs[2].type], parameters)[0].tensor
