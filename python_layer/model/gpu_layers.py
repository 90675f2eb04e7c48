"""The transformer blocks on a GPU: an op for each part."""

from collections.abc import Mapping, Sequence

from max.dtype import DType
from max.graph import Graph, TensorType, TensorValue, Value, ops

from python_layer.model.gpu_linear import gpu_linear
from python_layer.model.graph_ops import CPU, FLOAT, LayerParts, custom_op, float_constant
from python_layer.model.weights import FINAL_NORM


def gpu_layers(parts: LayerParts, hidden: TensorValue, architecture: str) -> TensorValue:
    """All blocks and the final norm.

    Args:
        parts: What they are built of.
        hidden: [T, hidden_size], float32: the embeddings.
        architecture: Of the GPU, such as sm_90a.

    Returns:
        [T, hidden_size], bfloat16.
    """
    config, step, rope, weights = parts.config, parts.step, parts.rope, parts.weights
    first_norm = [hidden, weights["layers.0.input_norm"], float_constant(config.rms_norm_eps)]
    normed = custom_op("rms_norm", first_norm, hidden.shape, DType.bfloat16)
    layer = _layer_graph(parts, [hidden, normed, rope], architecture)
    for i in range(config.num_hidden_layers):
        # A layer ends with the norm that its successor begins with: one pass with the residual addition.
        following = f"layers.{i + 1}.input_norm" if i + 1 < config.num_hidden_layers else FINAL_NORM
        own = [weights[f"layers.{i}.{name}"] for name in _weight_names(weights)]
        index = ops.constant(i, DType.int32, CPU)
        results = ops.call(layer, index, *step.for_layers(), hidden, normed, rope, *own, weights[following])
        hidden, normed = (value.tensor for value in results)
    return normed


def _layer_graph(parts: LayerParts, activations: Sequence[TensorValue], architecture: str) -> Graph:
    """One transformer block, compiled once and called for every layer with its weights."""
    config, weights = parts.config, parts.weights
    names = _weight_names(weights)
    first = [weights[f"layers.0.{name}"] for name in names]
    values: list[Value] = [*parts.step.for_layers(), *activations, *first, weights[FINAL_NORM]]
    types = [TensorType(DType.int32, [], CPU), *(value.type for value in values)]
    with parts.graph.add_subgraph("layer", input_types=types, custom_extensions=[parts.kernels]) as layer:
        index, cache, *rest = layer.inputs
        positions, row_offsets, page_table, hidden, normed, rope, *own, next_norm = (v.tensor for v in rest)
        w = dict(zip(names, own, strict=True))
        eps = float_constant(config.rms_norm_eps)
        rows, between = hidden.shape[0], normed.dtype

        def linear(kind: str, x: TensorValue) -> TensorValue:
            return gpu_linear(x, w[kind], architecture, w.get(f"{kind}_scales"), w.get(f"{kind}_bias"))

        qkv = linear("qkv", normed)
        queries = custom_op(
            "qk_norm_rope_store",
            [cache.buffer, qkv, w["q_norm"], w["k_norm"], rope, positions, row_offsets, page_table, index.tensor, eps],
            [rows, config.q_size],
            between,
        )
        attended = custom_op(
            "paged_attention",
            [cache.buffer, queries, positions, row_offsets, page_table, index.tensor],
            [rows, config.q_size],
            between,
            head_dim=config.head_dim,
        )
        mixed = linear("o", attended)
        hidden, normed = _add_norm(mixed, hidden, w["post_norm"], eps)
        both = linear("gate_up", normed)
        gated = custom_op("swiglu", [both], [rows, config.intermediate_size], between)
        down = linear("down", gated)
        layer.output(*_add_norm(down, hidden, next_norm, eps))
    return layer


def _weight_names(weights: Mapping[str, TensorValue]) -> list[str]:
    """What a layer has: matrices, the scales and biases that some have, and norms but for the first."""
    first = "layers.0."
    return [name.removeprefix(first) for name in weights if name.startswith(first) and not name.endswith("input_norm")]


def _add_norm(
    x: TensorValue, residual: TensorValue, gamma: TensorValue, eps: TensorValue
) -> tuple[TensorValue, TensorValue]:
    """(x + residual, its RMSNorm in the type of x)."""
    out = [TensorType(x.dtype, x.shape, x.device), TensorType(FLOAT, x.shape, x.device)]
    normed, total = ops.custom("mili.add_rms_norm", x.device, [x, residual, gamma, eps], out)
    return total.tensor, normed.tensor
