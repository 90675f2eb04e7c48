"""An engine for a model, sized to the memory of the machine."""

import time

from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.scheduler import ContinuousBatchScheduler, SchedulerConfig
from python_layer.inference.swap_space import SwapSpace
from python_layer.model.paged_model import PagedModel
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.utils.errors import ConfigError
from python_layer.utils.settings import Settings

FREE_SHARE = 0.4
"""Of the memory that is free once the weights are loaded, what the KV cache may take unless it is set."""

GPU_FREE_SHARE = 0.8
"""Likewise on a GPU, which does nothing else; the rest is for a step's activations and the driver."""

MOST_RUNNING = 256
"""Most answers at once unless it is set: beyond it a step only gets longer."""

TOKEN_BUDGET = 512
"""Most tokens of a step unless it is set: enough to keep the CPU busy, and few enough for decodes to wait little."""

GPU_TOKEN_BUDGET = 2048
"""Likewise on a GPU."""

TYPICAL_TOKENS = 512
"""Tokens a request is expected to hold; the batch is as large as the cache has room for such requests."""


def cache_pages(model: Qwen3Model, settings: Settings) -> int:
    """Pages of the KV cache: as many as its memory holds, but no more than could ever be used.

    Raises:
        ConfigError: The memory that is set holds no page, or is more than is free.
    """
    page = model.layout.page_bytes
    free = model.free_memory()
    usable = (settings.max_running or MOST_RUNNING) * model.layout.pages_for(model.config.max_position_embeddings)
    if settings.kv_cache_memory is None:
        return max(1, min(int(free * (GPU_FREE_SHARE if model.device.is_gpu else FREE_SHARE)) // page, usable))
    wanted = int(settings.kv_cache_memory * 2**30)
    if wanted > free or wanted < page:
        raise ConfigError(
            f"kv_cache_memory is {settings.kv_cache_memory} GiB; it must hold a page of {page:,} bytes and fit into "
            f"the {free / 2**30:.1f} GiB that are free"
        )
    return min(wanted // page, usable)


def batch_size(model: Qwen3Model, settings: Settings, pages: int) -> int:
    """Most answers at once: the number that is set, or as many of a typical length as the pages hold."""
    typical = model.layout.pages_for(min(TYPICAL_TOKENS, model.config.max_position_embeddings))
    return settings.max_running or max(1, min(MOST_RUNNING, pages // typical))


def token_budget(model: Qwen3Model, settings: Settings) -> int:
    """Most tokens of a step."""
    return settings.token_budget or (GPU_TOKEN_BUDGET if model.device.is_gpu else TOKEN_BUDGET)


def activation_bytes(model: Qwen3Model, settings: Settings, running: int) -> int:
    """Bytes of a full step's intermediate values in float32: a layer's at their widest, and the logits."""
    config = model.config
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    # The residual stream, its norm, and either queries, keys, values and their mixture, or gate, up and their product.
    row = 2 * config.hidden_size + max(2 * queries + 2 * keys, 3 * config.intermediate_size)
    tokens = token_budget(model, settings)
    return 4 * (tokens * row + min(running, tokens) * config.vocab_size)


def memory_summary(model: Qwen3Model, settings: Settings) -> str:
    """What the memory goes to, and the settings that change it; errors as in :func:`cache_pages`."""
    pages = cache_pages(model, settings)
    running = batch_size(model, settings, pages)
    return (
        f"weights {model.weight_bytes / 2**30:.2f} GiB ({model.matrix_format}; --dtype, --quantization), activations "
        f"up to {activation_bytes(model, settings, running) / 2**30:.2f} GiB (--token-budget), KV cache up to "
        f"{pages * model.layout.page_bytes / 2**30:.2f} GiB ({model.kv_dtype}; --kv-dtype, --kv-cache-memory) for "
        f"{pages * model.layout.page_size:,} tokens of up to {running} answers at once (--max-running)"
    )


def overlaps(model: Qwen3Model, settings: Settings) -> bool:
    """Whether a step is prepared while the one before it runs: as set, or on a GPU, which leaves the CPU to us.

    Raises:
        ConfigError: It is set together with speculation.
    """
    if settings.overlap and settings.speculation:
        raise ConfigError(
            f"overlap is on and speculation is {settings.speculation}, but guesses need the tokens of the step before; "
            "turn one of them off"
        )
    return model.device.is_gpu and not settings.speculation if settings.overlap is None else settings.overlap


def build_engine(model: Qwen3Model, settings: Settings) -> InferenceEngine:
    """Starts an engine; errors as in :func:`cache_pages` and :func:`overlaps`."""
    overlap = overlaps(model, settings)
    pages = cache_pages(model, settings)
    cache = CacheManager(pages, model.layout.page_size, prefix_caching=settings.prefix_caching)
    config = SchedulerConfig(
        token_budget=token_budget(model, settings),
        max_running=batch_size(model, settings, pages),
        max_waiting=settings.max_waiting,
        queue_timeout=settings.queue_timeout,
        policy=settings.policy,
    )
    swap = SwapSpace(int(settings.swap_memory * 2**30) // model.layout.page_bytes)
    scheduler = ContinuousBatchScheduler(config, cache, time.monotonic, swap)
    paged = PagedModel(model, pages, swap.total, overlap=overlap)
    return InferenceEngine(paged, scheduler, cache, model.tokenizer, speculation=settings.speculation, overlap=overlap)
