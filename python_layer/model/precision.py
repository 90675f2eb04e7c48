"""Which types a model runs in."""

from python_layer.model.config import Qwen3Config
from python_layer.utils.cpu import multiplies_bfloat16
from python_layer.utils.errors import ConfigError

MATRIX_DTYPES = ("float32", "bfloat16", "float16")
CACHE_DTYPES = ("float32", "bfloat16")
GPU_DTYPES = ("auto", "bfloat16")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16")


def resolve_dtypes(config: Qwen3Config, dtype: str, kv_dtype: str) -> tuple[str, str]:
    """The types of the matrices and of the KV cache.

    Args:
        config: The model; its checkpoint's type is what "auto" means for matrices.
        dtype: "auto", float32, bfloat16 or float16.
        kv_dtype: "auto", float32 or bfloat16; "auto" is float32 beside float32 matrices, else bfloat16.

    Raises:
        ConfigError: Another value.
    """
    if dtype not in ("auto", *MATRIX_DTYPES):
        raise ConfigError(f"dtype is {dtype!r}; supported are auto, {', '.join(MATRIX_DTYPES)}")
    if kv_dtype not in ("auto", *CACHE_DTYPES):
        raise ConfigError(f"kv_dtype is {kv_dtype!r}; supported are auto, {', '.join(CACHE_DTYPES)}")
    matrices = config.dtype if dtype == "auto" else dtype
    if kv_dtype != "auto":
        return matrices, kv_dtype
    return matrices, "float32" if matrices == "float32" else "bfloat16"


def refuse_on_gpu(**dtypes: str) -> None:
    """Refuses types that GPUs have no kernels for: matrices, cache and what is multiplied are bfloat16 there.

    Raises:
        ConfigError: Names the first that is neither auto nor bfloat16.
    """
    for name, value in dtypes.items():
        if value not in GPU_DTYPES:
            raise ConfigError(f"{name} is {value!r}; on a GPU it is bfloat16, so supported are {', '.join(GPU_DTYPES)}")


def resolve_compute_dtype(compute_dtype: str, dtype: str) -> str:
    """The type of the numbers that are multiplied with matrices; sums are float32 always.

    Args:
        compute_dtype: float32, bfloat16, or "auto": bfloat16 where matrices and CPU allow it, else float32.
        dtype: Type of the matrices.

    Raises:
        ConfigError: Another value, or bfloat16 where it is not possible; says what would be right.
    """
    if compute_dtype not in COMPUTE_DTYPES:
        raise ConfigError(f"compute_dtype is {compute_dtype!r}; supported are {', '.join(COMPUTE_DTYPES)}")
    if compute_dtype == "auto":
        return "bfloat16" if dtype == "bfloat16" and multiplies_bfloat16() else "float32"
    if compute_dtype == "bfloat16" and dtype != "bfloat16":
        raise ConfigError(f"compute_dtype bfloat16 needs bfloat16 matrices, but they are {dtype}; see --dtype")
    if compute_dtype == "bfloat16" and not multiplies_bfloat16():
        raise ConfigError("compute_dtype bfloat16 needs a CPU with AVX512-BF16, which this one lacks; take float32")
    return compute_dtype
