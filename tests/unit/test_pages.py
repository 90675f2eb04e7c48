"""Pages of the KV cache in the process's memory."""

import resource
from collections.abc import Callable

import pytest
from max.dtype import DType

from python_layer.model import pages as pages_module
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.pages import HostPages
from tests.unit.inference.mock_model import CONFIG

LAYOUT = KVCacheLayout.of(CONFIG, 1 << 17, DType.float32)
"""Pages of 64 MiB, which the system gives in many pieces."""


def faults(work: Callable[[], None]) -> int:
    """How often the system had to give memory for some work."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_ready_pages_have_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "READY_BYTES", 2 * LAYOUT.page_bytes)
    pages = HostPages(LAYOUT, 4, 0)
    values = pages.cache.to_numpy().reshape(4, -1)
    values[0] = 1
    assert [pages.ready(1) for _ in range(4)] == [True, True, False, False]
    ready = faults(lambda: values[1:3].fill(2))
    assert ready < faults(lambda: values[3:].fill(2)) / 2
    assert (values[0] == 1).all()
    assert [pages.ready(reached) for reached in (2, 2, 4)] == [True, False, False]
