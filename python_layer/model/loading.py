"""The model that the settings name."""

from pathlib import Path

from python_layer.model.config import Qwen3Config
from python_layer.model.kernels import default_cache_dir
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.weight_cache import WeightCache
from python_layer.model.weight_loader import Progress, WeightLoader
from python_layer.utils.settings import Settings

DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "models" / "mili-tiny"


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
    )
