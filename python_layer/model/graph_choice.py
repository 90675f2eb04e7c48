"""Which graph a model gets: of a checkpoint, what the user wants and what the device can do."""

from collections.abc import Mapping

from max.dtype import DType

from python_layer.model.config import Qwen3Config
from python_layer.model.device import ComputeDevice
from python_layer.model.fp8 import Fp8Format
from python_layer.model.graph import ModelGraph
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.precision import (
    Precision,
    refuse_on_gpu,
    resolve_compute_dtype,
    resolve_dtype,
    resolve_isa,
    resolve_kv_dtype,
)
from python_layer.model.quantization import float8_kinds, matrix_formats
from python_layer.model.quantized import QuantFormat
from python_layer.model.weights import weight_specs
from python_layer.utils.errors import ConfigError


def model_graph(
    config: Qwen3Config,
    device: ComputeDevice,
    precision: Precision,
    page_size: int,
    given: Mapping[str, QuantFormat | Fp8Format | None],
) -> ModelGraph:
    """The graph of a model on a device.

    Args:
        config: The model.
        device: Where it will run.
        precision: As the arguments of :class:`Qwen3Model`, whose errors this raises.
        page_size: Likewise.
        given: How the checkpoint's tensors are quantized; None where they are not.
    """
    if device.is_gpu:
        refuse_on_gpu(precision)
        if page_size & (page_size - 1):
            raise ConfigError(f"page_size is {page_size}; on a GPU it must be a power of two, such as 16")
        layout = KVCacheLayout.of(config, page_size, DType.bfloat16)
        float8 = float8_kinds(precision.quantization, weight_specs(config), given)
        return ModelGraph(config, layout, DType.bfloat16, device.architecture, device=device.ref, float8=float8)
    dtype = resolve_dtype(config, precision.dtype)
    isa = resolve_isa(precision.cpu_isa, config, precision.compute_dtype)
    compute_dtype = resolve_compute_dtype(precision.compute_dtype, dtype, isa)
    kv_dtype = resolve_kv_dtype(precision.kv_dtype, dtype, compute_dtype, isa)
    formats = matrix_formats(precision.quantization, weight_specs(config), given, isa)
    layout = KVCacheLayout.of(config, page_size, DType[kv_dtype])
    return ModelGraph(config, layout, DType[dtype], isa, DType[compute_dtype], tuple(formats.items()))
