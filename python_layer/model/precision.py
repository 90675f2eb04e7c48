"""Which types a model runs in."""

from dataclasses import dataclass

from python_layer.model.config import Qwen3Config
from python_layer.utils.cpu import ISAS, multiplies, supported_isas
from python_layer.utils.errors import ConfigError
from python_layer.utils.settings import Settings

MATRIX_DTYPES = ("float32", "bfloat16", "float16")
CACHE_DTYPES = ("float32", "bfloat16", "float16", "int8", "int16")
GPU_DTYPES = ("auto", "bfloat16")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16", "float16", "int16")
SCALED_DTYPES = ("float16", "int16")
"""Types in which matrices of 16 bits are kept with a scale for each row, to be multiplied so."""
FITTING_MATRICES = {"bfloat16": ("bfloat16",), **dict.fromkeys(SCALED_DTYPES, ("bfloat16", "float16"))}
"""Types of matrices that may be multiplied with numbers of a type; float32 with all."""
TILE_COLUMNS = 32
"""Of a matrix in one of AMX's tiles."""


@dataclass(frozen=True)
class Precision:
    """The types that were asked for; each as the argument of :class:`~python_layer.model.qwen3_model.Qwen3Model`."""

    dtype: str = "auto"
    kv_dtype: str = "auto"
    quantization: str = "auto"
    compute_dtype: str = "float32"
    cpu_isa: str = "auto"

    @classmethod
    def of(cls, settings: Settings) -> "Precision":
        """What the settings ask for."""
        return cls(settings.dtype, settings.kv_dtype, settings.quantization, settings.compute_dtype, settings.cpu_isa)


def resolve_dtype(config: Qwen3Config, dtype: str) -> str:
    """The type of the matrices that are not quantized.

    Args:
        config: The model; its checkpoint's type is what "auto" means.
        dtype: "auto" or one of :data:`MATRIX_DTYPES`.

    Raises:
        ConfigError: Another value.
    """
    if dtype not in ("auto", *MATRIX_DTYPES):
        raise ConfigError(f"dtype is {dtype!r}; supported are auto, {', '.join(MATRIX_DTYPES)}")
    return config.dtype if dtype == "auto" else dtype


def resolve_kv_dtype(kv_dtype: str, dtype: str, compute_dtype: str, isa: str) -> str:
    """The type of the KV cache.

    Args:
        kv_dtype: One of :data:`CACHE_DTYPES`, or "auto": float32 beside float32 matrices, float16 or int16 where
            that is what is multiplied with matrices, else bfloat16.
        dtype: Type of the matrices.
        compute_dtype: Type of what is multiplied with them.
        isa: Instruction set of the linear layers.

    Raises:
        ConfigError: Another value, or float16 or int16 where the CPU does not multiply it.
    """
    if kv_dtype not in ("auto", *CACHE_DTYPES):
        raise ConfigError(f"kv_dtype is {kv_dtype!r}; supported are auto, {', '.join(CACHE_DTYPES)}")
    if kv_dtype in SCALED_DTYPES and multiplies(isa) != kv_dtype:
        raise ConfigError(f"kv_dtype {kv_dtype} needs the CPU path {paths_for(kv_dtype)}, not {isa}; take bfloat16")
    if kv_dtype != "auto":
        return kv_dtype
    if dtype == "float32":
        return "float32"
    return compute_dtype if compute_dtype in SCALED_DTYPES else "bfloat16"


def paths_for(dtype: str) -> str:
    """The instruction sets that multiply a type, for messages."""
    return " or ".join(isa for isa in ISAS if multiplies(isa) == dtype)


def refuse_on_gpu(precision: Precision) -> None:
    """Refuses what GPUs have no kernels for: matrices, unless FP8, cache and activations are bfloat16 there.

    Raises:
        ConfigError: Names the first setting that asks for another type.
    """
    if precision.quantization not in ("auto", "none"):
        raise ConfigError(f"quantization is {precision.quantization!r}; on a GPU supported are auto and none")
    for name in ("dtype", "kv_dtype", "compute_dtype"):
        value = getattr(precision, name)
        if value not in GPU_DTYPES:
            raise ConfigError(f"{name} is {value!r}; on a GPU it is bfloat16, so supported are {', '.join(GPU_DTYPES)}")


def resolve_isa(cpu_isa: str, config: Qwen3Config, compute_dtype: str = "auto") -> str:
    """The instruction set of the linear layers.

    Args:
        cpu_isa: One of :data:`~python_layer.utils.cpu.ISAS`, or "auto": the fastest that this CPU and the model allow.
        config: The model.
        compute_dtype: Unless that is auto or float32, "auto" is the fastest that multiplies it, if any does.

    Raises:
        ConfigError: Another value, or one that this CPU or the model does not allow.
    """
    supported = supported_isas()
    if cpu_isa not in ("auto", *supported):
        why = "this CPU lacks it" if cpu_isa in ISAS else "there is no such instruction set"
        raise ConfigError(f"cpu_isa is {cpu_isa!r}, but {why}; it has {', '.join(supported)}")
    columns = (config.hidden_size, config.q_size, config.intermediate_size)
    if any(size % TILE_COLUMNS for size in columns):
        if cpu_isa == "amx":
            raise ConfigError(
                f"cpu_isa is 'amx', whose tiles have {TILE_COLUMNS} columns, but the model's matrices have "
                f"{', '.join(map(str, columns))}; take auto or {supported[1]}"
            )
        supported = [isa for isa in supported if isa != "amx"]
    if cpu_isa != "auto":
        return cpu_isa
    able = [isa for isa in supported if compute_dtype in ("auto", "float32") or multiplies(isa) == compute_dtype]
    return (able or supported)[0]


def resolve_compute_dtype(compute_dtype: str, dtype: str, isa: str) -> str:
    """The type of the numbers that are multiplied with matrices.

    Args:
        compute_dtype: float32, bfloat16, float16, int16 or "auto": float16 or int16 with matrices of 16 bits where
            ``isa`` multiplies them, bfloat16 with those of bfloat16, else float32.
        dtype: Type of the matrices.
        isa: Instruction set of the linear layers.

    Raises:
        ConfigError: Another value, or one that is not possible; says what would be right.
    """
    if compute_dtype not in COMPUTE_DTYPES:
        raise ConfigError(f"compute_dtype is {compute_dtype!r}; supported are {', '.join(COMPUTE_DTYPES)}")
    able = multiplies(isa)
    if compute_dtype == "auto":
        return able if dtype in FITTING_MATRICES.get(able, ()) else "float32"
    fitting = FITTING_MATRICES.get(compute_dtype, MATRIX_DTYPES)
    if dtype not in fitting:
        raise ConfigError(
            f"compute_dtype {compute_dtype} needs {' or '.join(fitting)} matrices, but they are {dtype}; see --dtype"
        )
    if compute_dtype not in ("float32", able):
        needed = paths_for(compute_dtype)
        raise ConfigError(f"compute_dtype {compute_dtype} needs the CPU path {needed}, not {isa}; take float32")
    return compute_dtype
