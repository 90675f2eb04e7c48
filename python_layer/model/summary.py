"""What a model is and needs, from its configuration and its files' headers: no weight is read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

from max.dtype import DType

from python_layer.model.config import Qwen3Config
from python_layer.model.device import CPU_DEVICE
from python_layer.model.graph_choice import model_graph
from python_layer.model.hub import resolve_model
from python_layer.model.loading import model_path
from python_layer.model.precision import Precision
from python_layer.model.quantization import describe, kind_of
from python_layer.model.weight_loader import WeightLoader
from python_layer.model.weight_spec import WeightSpec
from python_layer.utils.cores import choose_threads
from python_layer.utils.cpu import cpu_description
from python_layer.utils.settings import Settings


def model_summary(settings: Settings) -> dict[str, str]:
    """Names and values to show: configuration, parameters, matrices, memory, CPU path.

    Raises:
        ConfigError: The configuration is missing, wrong or not supported.
    """
    folder = resolve_model(model_path(settings))
    config = Qwen3Config.from_pretrained(folder)
    loader = WeightLoader(folder)
    graph = model_graph(config, CPU_DEVICE, Precision.of(settings), settings.page_size, loader.formats())
    layout, dtype, specs = graph.layout, graph.dtype.name, graph.specs()
    weights = sum(
        math.prod(spec.shape_in_memory(dtype)) * DType[spec.dtype_in_memory(dtype)].size_in_bytes for spec in specs
    )
    context = config.max_position_embeddings
    return {
        "model": str(folder),
        **{f"config.{field.name}": str(getattr(config, field.name)) for field in fields(config)},
        "parameters": f"{config.num_parameters:,}",
        **_matrices(specs, loader.stored(), dtype),
        "weights": f"{_megabytes(weights)} as {describe(dict(graph.formats), dtype)}",
        "KV cache": f"{layout.page_bytes / layout.page_size / 1024:,.1f} KiB a token as {layout.dtype.name}, "
        f"{_megabytes(layout.page_bytes * layout.pages_for(context))} for the whole context of {context:,} tokens",
        "CPU": cpu_description().get("model name", "unknown"),
        "CPU path": f"{graph.isa}, with {graph.compute.name} beside matrices that are not quantized",
        "threads": str(choose_threads(settings.threads)),
    }


def _matrices(specs: Sequence[WeightSpec], stored: Mapping[str, str], dtype: str) -> dict[str, str]:
    """Of each kind of matrix, how the files hold it and what it is in a CPU's memory."""
    rows = {}
    for spec in specs:
        if len(spec.shape) == 2:
            kind = kind_of(spec.name)
            found = sorted({stored.get(source, "nothing that can be read") for source, _ in spec.sources})
            kept = spec.form or (f"{spec.scaled} with a scale for each row" if spec.scaled else dtype)
            rows[f"matrices.{kind}"] = f"{' and '.join(found)} in the file, {kept} in memory"
    return rows


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
