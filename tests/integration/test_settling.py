"""A model whose weights are mapped from the cache's file, and move to memory of its own."""

import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from python_layer.model import qwen3_model
from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.loading import load_model
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.utils.file_pages import CAN_SETTLE
from python_layer.utils.settings import load_settings

FREE = 1 << 40

pytestmark = pytest.mark.skipif(not CAN_SETTLE, reason="this system can't replace pages")


def load(monkeypatch: pytest.MonkeyPatch, settle_after: float) -> Qwen3Model:
    monkeypatch.setattr(qwen3_model, "SETTLE_AFTER_S", settle_after)
    return load_model(load_settings({}))


def logits(model: Qwen3Model) -> np.ndarray:
    rows = RequestRows(list(range(50)), 0, range(4))
    return model.forward(RaggedBatch.of([rows]), model.allocate_cache(4))


def test_weights_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, 1000)  # fills the cache
    model = load(monkeypatch, 1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))
    assert FREE - model.free_memory() >= model.weight_bytes, "what is mapped is not free"
    mapped = logits(model)
    model.settle_weights()
    assert model.free_memory() == FREE
    np.testing.assert_array_equal(logits(model), mapped)

    alone = load(monkeypatch, 0.05)
    deadline = time.monotonic() + 60
    while alone.free_memory() < FREE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert alone.free_memory() == FREE
    np.testing.assert_array_equal(logits(alone), mapped)
