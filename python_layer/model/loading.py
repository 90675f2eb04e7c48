"""The model that the settings name."""

from pathlib import Path

from python_layer.model.compiled_folder import export_graphs
from python_layer.model.config import Qwen3Config
from python_layer.model.device import ComputeDevice
from python_layer.model.drawn_tokens import TokenGraph
from python_layer.model.graph_choice import model_graph
from python_layer.model.hub import resolve_model
from python_layer.model.kernels import default_cache_dir
from python_layer.model.precision import Precision
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sample_graph import SampleGraph
from python_layer.model.weight_cache import WeightCache
from python_layer.model.weight_loader import Progress, WeightLoader
from python_layer.utils.settings import Settings
from python_layer.utils.shipped import shipped

DEFAULT_MODEL = shipped("models/mili-tiny")


def model_path(settings: Settings) -> str | Path:
    """The checkpoint: the one that is set, or the one that comes with the project."""
    return settings.model or DEFAULT_MODEL


def load_model(settings: Settings, progress: Progress | None = None) -> Qwen3Model:
    """Loads and compiles the model; errors as in :class:`~python_layer.model.qwen3_model.Qwen3Model`."""
    cache = WeightCache(default_cache_dir() / "weights") if settings.weight_cache else None
    loader = WeightLoader(model_path(settings), progress=progress, cache=cache)
    return Qwen3Model(
        Qwen3Config.from_pretrained(loader.path),
        loader,
        dtype=settings.dtype,
        kv_dtype=settings.kv_dtype,
        quantization=settings.quantization,
        compute_dtype=settings.compute_dtype,
        cpu_isa=settings.cpu_isa,
        page_size=settings.page_size,
        threads=settings.threads,
        device=settings.device,
        compiled=None if settings.compiled is None else Path(settings.compiled),
    )


def compile_for(settings: Settings, target: ComputeDevice, folder: Path) -> list[Path]:
    """Compiles the graphs of the model that the settings name, without reading its weights.

    Args:
        settings: Model, types and page size.
        target: What for; see :func:`~python_layer.model.device.parse_target`.
        folder: Where to.

    Returns:
        The files.

    Raises:
        MiliError: As for a model that is loaded on that device.
    """
    path = resolve_model(model_path(settings))
    config, formats = Qwen3Config.from_pretrained(path), WeightLoader(path).formats()
    graph = model_graph(config, target, Precision.of(settings), settings.page_size, formats)
    return export_graphs(folder, [graph, SampleGraph(target.ref), TokenGraph(target.ref)], target)
