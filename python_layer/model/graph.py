"""The Qwen3 graph: one ragged batch in, the logits of the wanted rows out, the KV cache updated in place.

The architecture is that of the Qwen3 technical report (arXiv:2505.09388), section 2: pre-norm blocks of
grouped-query attention with QK norm and RoPE, and of SwiGLU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from max.dtype import DType
from max.graph import BufferType, BufferValue, DeviceRef, Graph, TensorType, TensorValue, Value, Weight, ops

from python_layer.model.config import Qwen3Config
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.linear import LinearLayers
from python_layer.model.quantization import quantized_specs
from python_layer.model.quantized import QuantFormat
from python_layer.model.rope import rope_frequencies
from python_layer.model.weight_loader import WeightSpec
from python_layer.model.weights import EMBEDDING, FINAL_NORM, LM_HEAD, weight_specs

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


@dataclass(frozen=True)
class ModelGraph:
    """Everything that shapes a model's graph; see :func:`build_graph`."""

    config: Qwen3Config
    layout: KVCacheLayout
    dtype: DType
    isa: str
    paired: bool = False
    formats: tuple[tuple[str, QuantFormat], ...] = ()
    device: DeviceRef = CPU

    def build(self, kernels: Path) -> Graph:
        """Builds the graph on a compiled kernel package."""
        linear = LinearLayers(self.isa, self.paired, dict(self.formats))
        return build_graph(self.config, self.layout, self.dtype, kernels, linear, self.device)


def build_graph(
    config: Qwen3Config,
    layout: KVCacheLayout,
    dtype: DType,
    kernels: Path,
    linear: LinearLayers,
    device: DeviceRef = CPU,
) -> Graph:
    """Builds the graph of one step.

    Args:
        config: The model.
        layout: Shape and type of the KV cache.
        dtype: Type of the matrices that are not quantized: float32, bfloat16 or float16; bfloat16 on a GPU. Activations
            are float32; on a GPU only the residual stream is, and what lies between two matrices is bfloat16.
        kernels: The compiled kernel package.
        linear: Builds the linear layers.
        device: Where the graph runs, with all of its inputs, weights and outputs.

    Returns:
        A graph with inputs [cache, token_ids, positions, row_offsets, page_table, logit_rows] and the
        output logits [R, vocab_size], float32. Sizes T, B, P, R and the number of pages are symbolic.
    """
    inputs = [
        BufferType(layout.dtype, ["pages", *layout.page_shape], device),
        *(TensorType(DType.int32, shape, device) for shape in (["T"], ["T"], ["B_plus_1"], ["B", "P"], ["R"])),
    ]
    with Graph("qwen3", input_types=inputs, custom_extensions=[kernels]) as graph:
        step = StepInputs(graph.inputs[0].buffer, *(value.tensor for value in graph.inputs[1:]))
        specs = quantized_specs(weight_specs(config, packed=device.is_cpu()), linear.formats)
        weights = {spec.name: _weight(spec, dtype, device) for spec in specs}
        frequencies, scale = rope_frequencies(config)
        rope = _op(
            "rope_table",
            [step.positions, ops.constant(frequencies, FLOAT, device), _float(scale)],
            ["T", config.head_dim],
        )
        packed = config.tie_word_embeddings and device.is_cpu()
        hidden = linear.embed(EMBEDDING, weights[EMBEDDING], packed, step.token_ids, config.hidden_size)
        first_norm = [hidden, weights["layers.0.input_norm"], _float(config.rms_norm_eps)]
        normed = _op("rms_norm", first_norm, hidden.shape, _between(device))
        layer = _layer_graph(graph, config, step, [hidden, normed, rope], weights, kernels, linear)
        for i in range(config.num_hidden_layers):
            # A layer ends with the norm that its successor begins with: one pass with the residual addition.
            following = f"layers.{i + 1}.input_norm" if i + 1 < config.num_hidden_layers else FINAL_NORM
            parts = [weights[f"layers.{i}.{name}"] for name in _layer_weight_names(config)]
            index = ops.constant(i, DType.int32, CPU)
            results = ops.call(layer, index, *_shared(step), hidden, normed, rope, *parts, weights[following])
            hidden, normed = (value.tensor for value in results)
        wanted = _op("gather_rows", [normed, step.logit_rows], ["R", config.hidden_size], _between(device))
        head = EMBEDDING if config.tie_word_embeddings else LM_HEAD
        graph.output(ops.cast(linear.apply(head, wanted, weights[head], config.vocab_size), FLOAT))
    return graph


def _layer_graph(
    graph: Graph,
    config: Qwen3Config,
    step: StepInputs,
    activations: Sequence[TensorValue],
    weights: dict[str, TensorValue],
    kernels: Path,
    linear: LinearLayers,
) -> Graph:
    """One transformer block, compiled once and called for every layer with its weights."""
    names = _layer_weight_names(config)
    parts = [weights[f"layers.0.{name}"] for name in names]
    values: list[Value] = [*_shared(step), *activations, *parts, weights[FINAL_NORM]]
    types = [TensorType(DType.int32, [], CPU), *(value.type for value in values)]
    with graph.add_subgraph("layer", input_types=types, custom_extensions=[kernels]) as layer:
        index, cache, *rest = layer.inputs
        positions, row_offsets, page_table, hidden, normed, rope, *own, next_norm = (v.tensor for v in rest)
        w = dict(zip(names, own, strict=True))
        eps = _float(config.rms_norm_eps)
        rows, between = hidden.shape[0], normed.dtype

        qkv = linear.apply("qkv", normed, w["qkv"], config.q_size + 2 * config.kv_size, w.get("qkv_bias"))
        queries = _op(
            "qk_norm_rope_store",
            [cache.buffer, qkv, w["q_norm"], w["k_norm"], rope, positions, row_offsets, page_table, index.tensor, eps],
            [rows, config.q_size],
            # They decide what attention multiplies.
            DType.bfloat16 if linear.paired and cache.buffer.dtype == DType.bfloat16 else between,
        )
        attended = _op(
            "paged_attention",
            [cache.buffer, queries, positions, row_offsets, page_table, index.tensor],
            [rows, config.q_size],
            between,
            head_dim=config.head_dim,
        )
        mixed = linear.apply("o", attended, w["o"], config.hidden_size, w.get("o_bias"))
        hidden, normed = _add_norm(mixed, hidden, w["post_norm"], eps)
        both = linear.apply("gate_up", normed, w["gate_up"], 2 * config.intermediate_size)
        gated = _op("swiglu", [both], [rows, config.intermediate_size], between)
        down = linear.apply("down", gated, w["down"], config.hidden_size)
        layer.output(*_add_norm(down, hidden, next_norm, eps))
    return layer


def _layer_weight_names(config: Qwen3Config) -> tuple[str, ...]:
    return LAYER_WEIGHTS + LAYER_BIASES if config.attention_bias else LAYER_WEIGHTS


def _shared(step: StepInputs) -> list[Value]:
    """What every layer reads beside its activations and weights."""
    return [step.cache, step.positions, step.row_offsets, step.page_table]


def _between(device: DeviceRef) -> DType:
    """The type of activations between two matrices."""
    return FLOAT if device.is_cpu() else DType.bfloat16


def _weight(spec: WeightSpec, dtype: DType, device: DeviceRef) -> TensorValue:
    return Weight(spec.name, DType[spec.dtype_in_memory(dtype.name)], spec.shape_in_memory(dtype.name), device)


def _add_norm(
    x: TensorValue, residual: TensorValue, gamma: TensorValue, eps: TensorValue
) -> tuple[TensorValue, TensorValue]:
    """(x + residual, its RMSNorm in the type of x)."""
    out = [TensorType(x.dtype, x.shape, x.device), TensorType(FLOAT, x.shape, x.device)]
    normed, total = ops.custom("mili.add_rms_norm", x.device, [x, residual, gamma, eps], out)
    return total.tensor, normed.tensor


def _op(
    name: str, values: Sequence[Value], shape: Sequence[object], dtype: DType = FLOAT, **parameters: int
) -> TensorValue:
    """A custom op with one output, where its first input is; in place where that is the cache."""
    device = values[0].type.device
    make = ops.inplace_custom if isinstance(values[0], BufferValue) else ops.custom
    return make(f"mili.{name}", device, values, [TensorType(dtype, shape, device)], parameters)[0].tensor


def _float(value: float) -> TensorValue:
    return ops.constant(value, FLOAT, CPU)
