"""The Qwen3 graph: one ragged batch in, the logits of the wanted rows out, the KV cache updated in place.

The architecture is that of the Qwen3 technical report (arXiv:2505.09388), section 2: pre-norm blocks of
grouped-query attention with QK norm and RoPE, and of SwiGLU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, TensorType, TensorValue, Weight, ops

from python_layer.model.config import Qwen3Config
from python_layer.model.cpu_layers import cpu_layers
from python_layer.model.gpu_layers import gpu_layers
from python_layer.model.gpu_linear import gpu_linear
from python_layer.model.graph_ops import CPU, FLOAT, LayerParts, StepInputs, custom_op, float_constant
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.linear import LinearLayers
from python_layer.model.precision import SCALED_DTYPES
from python_layer.model.quantization import float8_specs, quantized_specs, scaled_specs
from python_layer.model.quantized import QuantFormat
from python_layer.model.rope import rope_frequencies
from python_layer.model.sample_graph import row_types, sample
from python_layer.model.weight_spec import WeightSpec
from python_layer.model.weights import EMBEDDING, FINAL_NORM, LM_HEAD, weight_specs


@dataclass(frozen=True)
class ModelGraph:
    """Everything that shapes a model's graph; see :func:`build_graph`. On a GPU ``isa`` is its architecture."""

    config: Qwen3Config
    layout: KVCacheLayout
    dtype: DType
    isa: str
    compute: DType = FLOAT
    formats: tuple[tuple[str, QuantFormat], ...] = ()
    device: DeviceRef = CPU
    float8: tuple[str, ...] = ()

    def build(self, kernels: Path) -> Graph:
        """Builds the graph on a compiled kernel package."""
        linear = LinearLayers(self.isa, self.compute, dict(self.formats))
        return build_graph(self.config, self.layout, self.dtype, kernels, linear, self.specs(), self.device)

    def specs(self) -> list[WeightSpec]:
        """The graph's weights."""
        specs = quantized_specs(weight_specs(self.config, packed=self.device.is_cpu()), dict(self.formats))
        scaled = self.compute.name in SCALED_DTYPES
        return scaled_specs(specs, self.compute.name) if scaled else float8_specs(specs, self.float8)


def build_graph(
    config: Qwen3Config,
    layout: KVCacheLayout,
    dtype: DType,
    kernels: Path,
    linear: LinearLayers,
    specs: Sequence[WeightSpec],
    device: DeviceRef = CPU,
) -> Graph:
    """Builds the graph of one step.

    Args:
        config: The model.
        layout: Shape and type of the KV cache.
        dtype: Type of the matrices that are not quantized: float32, bfloat16 or float16; bfloat16 on a GPU. Activations
            are float32; on a GPU only the residual stream is, and what lies between two matrices is bfloat16.
        kernels: The compiled kernel package.
        linear: Builds the linear layers; of a GPU, knows its architecture.
        specs: Its weights.
        device: Where the graph runs, with all of its inputs, weights and outputs.

    Returns:
        A graph with inputs [cache, token_ids, positions, row_offsets, page_table, logit_rows] and the output logits
        [R, vocab_size], float32. On a CPU it draws tokens too, for a graph of its own would wait for the threads once
        more: inputs and outputs of :func:`~python_layer.model.sample_graph.sample` follow those. All sizes but the
        model's are symbolic.
    """
    inputs: list[BufferType | TensorType] = [
        BufferType(layout.dtype, ["pages", *layout.page_shape], device),
        *(TensorType(DType.int32, shape, device) for shape in (["T"], ["T"], ["B_plus_1"], ["B", "P"], ["R"])),
    ]
    batch = len(inputs)
    if device.is_cpu():
        inputs += row_types(device)
    with Graph("qwen3", input_types=inputs, custom_extensions=[kernels]) as graph:
        step = StepInputs(graph.inputs[0].buffer, *(value.tensor for value in graph.inputs[1:batch]))
        weights = {spec.name: _weight(spec, dtype, device) for spec in specs}
        frequencies, scale = rope_frequencies(config)
        rope = custom_op(
            "rope_table",
            [step.positions, ops.constant(frequencies, FLOAT, device), float_constant(scale)],
            ["T", config.head_dim],
        )
        packed = config.tie_word_embeddings and device.is_cpu()
        hidden = linear.embed(EMBEDDING, weights[EMBEDDING], packed, step.token_ids, config.hidden_size)
        size = ["R", config.hidden_size]
        parts = LayerParts(graph, config, step, rope, weights, kernels)
        if device.is_cpu():
            hidden = cpu_layers(parts, hidden, linear)
            rows = custom_op("gather_rows", [hidden, step.logit_rows], size)
            wanted = custom_op("rms_norm", [rows, weights[FINAL_NORM], float_constant(config.rms_norm_eps)], size)
        else:
            normed = gpu_layers(parts, hidden, linear.isa)
            wanted = custom_op("gather_rows", [normed, step.logit_rows], size, normed.dtype)
        head = EMBEDDING if config.tie_word_embeddings else LM_HEAD
        if device.is_cpu():
            logits = linear.apply(head, wanted, weights[head], config.vocab_size)
            graph.output(logits, *sample(logits, [value.tensor for value in graph.inputs[batch:]]))
        else:
            graph.output(gpu_linear(wanted, weights[head], linear.isa, dtype=FLOAT))
    return graph


def _weight(spec: WeightSpec, dtype: DType, device: DeviceRef) -> TensorValue:
    return Weight(spec.name, DType[spec.dtype_in_memory(dtype.name)], spec.shape_in_memory(dtype.name), device)
