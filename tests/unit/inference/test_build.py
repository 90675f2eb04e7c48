"""The engine's sizes follow from the memory and the settings."""

from types import SimpleNamespace

import psutil
import pytest
from max.dtype import DType

from python_layer.inference import build
from python_layer.model.config import Qwen3Config
from python_layer.model.device import CPU_DEVICE, ComputeDevice
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.utils.errors import ConfigError
from python_layer.utils.settings import load_settings

CONFIG = Qwen3Config.from_pretrained(DEFAULT_MODEL)
MODEL = SimpleNamespace(
    config=CONFIG, layout=KVCacheLayout.of(CONFIG, 16, DType.bfloat16), weight_bytes=2**30, matrix_format="bfloat16",
    kv_dtype="bfloat16", device=CPU_DEVICE, free_memory=lambda: psutil.virtual_memory().available,
)  # fmt: skip


def free_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))


def test_pages_and_batch_follow_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    page, settings = MODEL.layout.page_bytes, load_settings({})
    sizes = []
    for free in (page * 100, page * 10_000, page * 100_000, page * 10_000_000):
        free_memory(monkeypatch, free)
        pages = build.cache_pages(MODEL, settings)
        sizes.append((pages, build.batch_size(MODEL, settings, pages)))
    assert sizes[0] == (40, 1)
    assert sizes[1] == (4000, 4000 // 32)
    assert sizes[2][1] == sizes[3][1] == build.MOST_RUNNING
    assert sizes[3][0] == build.MOST_RUNNING * MODEL.layout.pages_for(CONFIG.max_position_embeddings)


def test_what_is_set_wins_and_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, 2**30)
    settings = load_settings({"kv_cache_memory": 0.5, "max_running": 7})
    pages = build.cache_pages(MODEL, settings)
    assert pages == min(2**29 // MODEL.layout.page_bytes, 7 * 128)
    assert build.batch_size(MODEL, settings, pages) == 7
    for wrong in (2.0, 1e-9):
        with pytest.raises(ConfigError, match="kv_cache_memory"):
            build.cache_pages(MODEL, load_settings({"kv_cache_memory": wrong}))


def test_overlap_is_for_gpus_and_not_with_guesses() -> None:
    gpu = SimpleNamespace(device=ComputeDevice(0, "sm_90a"))
    assert build.overlaps(gpu, load_settings({}))
    assert not build.overlaps(gpu, load_settings({"speculation": 2}))
    assert not build.overlaps(gpu, load_settings({"overlap": False}))
    assert not build.overlaps(MODEL, load_settings({}))
    assert build.overlaps(MODEL, load_settings({"overlap": True}))
    with pytest.raises(ConfigError, match="overlap is on and speculation is 2"):
        build.overlaps(gpu, load_settings({"overlap": True, "speculation": 2}))


def test_the_summary_names_every_part_and_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, 2**30)
    text = build.memory_summary(MODEL, load_settings({"token_budget": 1000}))
    for flag in ("--dtype", "--quantization", "--token-budget", "--kv-dtype", "--kv-cache-memory", "--max-running"):
        assert flag in text
    wide = 4 * (1000 * (2 * 256 + 3 * 768) + 256 * 2048)
    assert build.activation_bytes(MODEL, load_settings({"token_budget": 1000}), 256) == wide


def test_a_gpu_takes_longer_steps() -> None:
    gpu = SimpleNamespace(device=ComputeDevice(0, "sm_90a"))
    assert build.token_budget(MODEL, load_settings({})) == 512
    assert build.token_budget(gpu, load_settings({})) == 2048
    assert build.token_budget(gpu, load_settings({"token_budget": 7})) == 7
