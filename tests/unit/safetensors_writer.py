"""Small safetensors checkpoints, right and wrong, for tests."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from python_layer.model.weight_loader import WeightLoader
from python_layer.model.weight_spec import WeightSpec
from python_layer.utils.errors import WeightError

INDEX = "model.safetensors.index.json"
FORMAT_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int8": "I8", "int32": "I32"}
FORMAT_NAMES |= {"float8_e4m3fn": "F8_E4M3"}

Tensors = Mapping[str, tuple[str, NDArray[Any]]]


def entries(tensors: Tensors) -> dict[str, Any]:
    """The header of a file with these tensors."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, array) in tensors.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": FORMAT_NAMES[dtype], "shape": array.shape, "data_offsets": [begin, end]}
    return header


def write(file: Path, tensors: Tensors, header: object = None, padding: int = 0) -> None:
    """A safetensors file; ``header`` replaces the right one, ``padding`` shifts the data."""
    content = json.dumps(entries(tensors) if header is None else header).encode() + b" " * padding
    data = b"".join(array.tobytes() for _, array in tensors.values())
    file.write_bytes(struct.pack("<Q", len(content)) + content + data)


def whole(name: str, *shape: int, dtype: str | None = None) -> WeightSpec:
    """A weight that is one tensor of the checkpoint."""
    return WeightSpec(name, shape, ((name, shape),), dtype)


def float32(*shape: int, seed: int = 0) -> tuple[str, NDArray[np.float32]]:
    return "float32", np.random.default_rng(seed).standard_normal(shape, np.float32)


def shards(folder: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    """A checkpoint of two files with a, b in the first and c in the second."""
    tensors = {name: float32(4, 5, seed=ord(name)) for name in "abc"}
    write(folder / "one.safetensors", {name: tensors[name] for name in "ab"})
    write(folder / "two.safetensors", {"c": tensors["c"]})
    write_index(folder, a="one.safetensors", b="one.safetensors", c="two.safetensors")
    return tensors


def write_index(folder: Path, **placed: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 240}, "weight_map": placed}), encoding="utf-8")


ABC = [whole(name, 4, 5) for name in "abc"]


def error_of(folder: Path, *specs: WeightSpec, dtype: str = "float32") -> str:
    """The message of a refused checkpoint."""
    with pytest.raises(WeightError) as caught:
        WeightLoader(folder).load(specs, dtype)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)
