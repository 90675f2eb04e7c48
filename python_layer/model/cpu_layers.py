"""The transformer blocks on a CPU: one op for each, within which threads wait for each other (see `layer.mojo`)."""

from collections.abc import Mapping
from pathlib import Path

from max.dtype import DType
from max.graph import BufferType, Graph, TensorType, TensorValue, Value, ops

from python_layer.model.config import Qwen3Config
from python_layer.model.graph_ops import CPU, FLOAT, LAYER_BIASES, LAYER_WEIGHTS, StepInputs, float_constant
from python_layer.model.linear import LinearLayers

MATRICES = ("qkv", "o", "gate_up", "down")
WEIGHTS = ("input_norm", *LAYER_WEIGHTS)


def scratch_size(config: Qwen3Config) -> int:
    """Float32 numbers that a layer needs for each token beside its input and output; as in ``layer.mojo``."""
    attention = 4 * config.q_size + 2 * config.kv_size
    return 2 * config.hidden_size + max(attention, 3 * config.intermediate_size, config.hidden_size)


def cpu_layers(
    graph: Graph,
    config: Qwen3Config,
    step: StepInputs,
    hidden: TensorValue,
    rope: TensorValue,
    weights: Mapping[str, TensorValue],
    kernels: Path,
    linear: LinearLayers,
) -> TensorValue:
    """All blocks.

    Args:
        graph: The graph to which this belongs.
        config: The model.
        step: The graph's inputs.
        hidden: [T, hidden_size], float32: the embeddings.
        rope: [T, head_dim].
        weights: By their names in the graph.
        kernels: The compiled kernel package.
        linear: Says how matrices are multiplied.

    Returns:
        [T, hidden_size], float32.
    """
    names = WEIGHTS + LAYER_BIASES if config.attention_bias else WEIGHTS
    scratch = ops.buffer_create(BufferType(FLOAT, [hidden.shape[0], scratch_size(config)], CPU))
    values: list[Value] = [*step.for_layers(), scratch, hidden, rope, *(weights[f"layers.0.{name}"] for name in names)]
    types = [TensorType(DType.int32, [], CPU), *(value.type for value in values)]
    with graph.add_subgraph("layer", input_types=types, custom_extensions=[kernels]) as layer:
        index, cache, *rest = layer.inputs
        positions, row_offsets, page_table = (value.tensor for value in rest[:3])
        x, angles, *own = (value.tensor for value in rest[4:])
        w = dict(zip(names, own, strict=True))
        inputs = [cache.buffer, rest[3].buffer, x, angles, positions, row_offsets, page_table, index.tensor]
        inputs += [float_constant(config.rms_norm_eps), *(w[name] for name in WEIGHTS)]
        # Where there are none, others take their places.
        inputs += [w.get(name, w["q_norm"]) for name in LAYER_BIASES]
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
        (result,) = ops.inplace_custom("mili.layer", CPU, inputs, [hidden.type], parameters)
        layer.output(result)
    for i in range(config.num_hidden_layers):
        parts = [weights[f"layers.{i}.{name}"] for name in names]
        (result,) = ops.call(
            layer, ops.constant(i, DType.int32, CPU), *step.for_layers(), scratch, hidden, rope, *parts
        )
        hidden = result.tensor
    return hidden
