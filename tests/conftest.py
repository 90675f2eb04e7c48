"""What all tests share: the order of their files, and a GPU, where there is one."""

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LONGEST = [
    "integration/test_golden.py",
    "integration/test_invariance.py",
    "unit/kernels/test_layers.py",
    "integration/test_checkpoints.py",
    "unit/kernels/test_quantized_linear.py",
    "unit/kernels/test_attention.py",
    "unit/kernels/test_gpu_assembly.py",
]
"""What takes a minute or more, most of it to compile what no file beside it needs."""

# MAX takes 90% of a GPU's memory for each process that captures; several run tests at once.
os.environ.setdefault("MODULAR_DEVICE_CONTEXT_MEMORY_MANAGER_SIZE_PERCENT", "10")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: two processes share them, and both should have something to do until the end."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
