"""Checkpoint folders that are broken or do not fit: one error that names everything wrong."""

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from python_layer.model.weight_loader import WeightLoader
from python_layer.utils.errors import ConfigError, WeightError
from tests.unit.safetensors_writer import ABC, INDEX, entries, error_of, float32, shards, whole, write, write_index


def test_an_unknown_type_in_memory_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"x": float32(2)})
    with pytest.raises(ConfigError, match="dtype is 'int4'; supported: float32, bfloat16, float16"):
        WeightLoader(tmp_path).load([whole("x", 2)], "int4")


def test_missing_misshaped_unexpected_and_unsupported_tensors_in_one_message(tmp_path: Path) -> None:
    eight = ("int8", np.zeros(4, np.int8))
    write(tmp_path / "model.safetensors", {"a": float32(4), "b": float32(2, 3), "c": eight, "z": float32(1)})
    message = error_of(tmp_path, whole("a", 4), whole("b", 3, 2), whole("c", 4), whole("d", 4))
    assert "b has shape [2, 3], but the configuration asks for [3, 2]" in message
    assert "c has type I8; supported: F32, BF16 and F16" in message
    assert "d is missing" in message
    assert "z is unexpected" in message
    assert message.count(";") == 4 and " a " not in message


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"x": float32(2)})
    message = error_of(tmp_path, whole("x", 2), *(whole(f"w{i}", 2) for i in range(50)))
    assert "w19 is missing; and 30 more" in message and "w20 " not in message


def test_a_folder_without_weights(tmp_path: Path) -> None:
    message = error_of(tmp_path, whole("x", 2))
    assert message.endswith("there is neither model.safetensors nor model.safetensors.index.json")


def header_with(**changes: object) -> dict[str, Any]:
    good = entries({"a": float32(2, 3), "x": float32(4)})
    return good | {"x": good["x"] | changes}


BROKEN_FILES: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "empty": (b"", r"has 0 bytes; it is empty or cut off"),
    "cut in the length": (b"\x10\0\0", r"has 3 bytes; it is empty or cut off"),
    "cut in the header": (struct.pack("<Q", 1000) + b'{"x":', r"states a header of 1,000; it is cut off"),
    "endless header": (b"\xff" * 8 + b"{}", r"states a header of 18,446,744,073,709,551,615"),
    "not JSON": (struct.pack("<Q", 4) + b'{"x"', r"has a header that is not JSON"),
    "not text": (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", r"has a header that is not JSON"),
    "deep": (struct.pack("<Q", 99_999) + b"[" * 99_999, r"has a header that is not JSON"),
    "not an object": (struct.pack("<Q", 2) + b"[]", r"has a header that is not a JSON object"),
    "no offsets": ({"x": {"dtype": "F32", "shape": [4]}}, r"tensor x lacks dtype, shape or data_offsets"),
    "entry no object": ({"x": 1}, r"tensor x lacks dtype, shape or data_offsets"),
    "one offset": (header_with(data_offsets=[24]), r"tensor x lacks dtype, shape or data_offsets"),
    "negative offset": (header_with(data_offsets=[-16, 0]), r"tensor x has a wrong dtype, shape or data_off"),
    "offsets swapped": (header_with(data_offsets=[40, 24]), r"tensor x has a wrong dtype, shape or data_off"),
    "shape no list": (header_with(shape="4"), r"tensor x has a wrong dtype, shape or data_offsets"),
    "shape of bools": (header_with(shape=[True]), r"tensor x has a wrong dtype, shape or data_offsets"),
    "dtype no string": (header_with(dtype=32), r"tensor x has a wrong dtype, shape or data_offsets"),
    "size": (header_with(shape=[5]), r"tensor x has 16 bytes for shape \[5\] of F32"),
    "overlap": (header_with(data_offsets=[20, 36]), r"tensor x overlaps another"),
    "beyond the end": (
        header_with(shape=[8], data_offsets=[24, 56]),
        r"the file has [\d,]+ bytes where its header asks for",
    ),
    "gap": (header_with(data_offsets=[28, 44]), r"tensor x has a gap before it"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_gives_its_one_reason(tmp_path: Path, name: str) -> None:
    content, expected = BROKEN_FILES[name]
    file = tmp_path / "model.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        write(file, {"a": float32(2, 3), "x": float32(4)}, content)
    message = error_of(tmp_path, whole("a", 2, 3), whole("x", 4))
    assert re.search(f"model.safetensors .*{expected}", message)
    assert "is missing" not in message, "what a damaged file should hold is not known"


@pytest.mark.parametrize("change", [-1, -30, 1, 4096])
def test_a_file_of_the_wrong_length(tmp_path: Path, change: int) -> None:
    file = tmp_path / "model.safetensors"
    write(file, {"a": float32(2, 3), "x": float32(4)})
    size = file.stat().st_size
    with file.open("r+b") as out:
        out.truncate(size + change)
    message = error_of(tmp_path, whole("a", 2, 3), whole("x", 4))
    assert f"the file has {size + change:,} bytes where its header asks for {size:,}" in message


def test_every_broken_shard_and_every_wrong_tensor_in_one_message(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "one.safetensors").write_bytes(b"")
    (tmp_path / "two.safetensors").unlink()
    write(tmp_path / "three.safetensors", {"d": float32(2), "e": float32(2)})
    places = dict.fromkeys("ab", "one.safetensors") | dict.fromkeys("def", "three.safetensors")
    write_index(tmp_path, c="two.safetensors", **places)
    message = error_of(tmp_path, *ABC, whole("d", 3), whole("e", 2), whole("f", 2), whole("g", 2))
    assert "one.safetensors has 0 bytes" in message
    assert "two.safetensors does not exist" in message
    assert f"{INDEX} places f in three.safetensors, which does not hold it" in message
    assert "d has shape [2]" in message
    assert "g is missing" in message
    assert message.count(";") == 5, "one for each, and one within the first"


def test_an_index_that_disagrees_with_its_files(tmp_path: Path) -> None:
    shards(tmp_path)
    write_index(tmp_path, a="one.safetensors", b="two.safetensors", c="two.safetensors")
    message = error_of(tmp_path, *ABC)
    assert "places b in two.safetensors, which does not hold it" in message
    assert f"one.safetensors holds b, which {INDEX} does not place there" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "can't be read as JSON"),
        ("{", "can't be read as JSON"),
        ("[" * 99_999, "can't be read as JSON"),
        ("[]", "lacks a weight_map"),
        ("{}", "lacks a weight_map"),
        ('{"weight_map": ["a"]}', "lacks a weight_map"),
        ('{"weight_map": {}}', "lacks a weight_map"),
        ('{"weight_map": {"a": 1}}', "places tensors in 1; only plain file names"),
        ('{"weight_map": {"a": "../x", "b": "/etc/x", "c": ".."}}', "in '..', '../x', '/etc/x'; only plain"),
        ('{"weight_map": {"a": ""}}', "places tensors in ''; only plain file names"),
        ('{"weight_map": {"a": "x\\u0000"}}', "only plain file names"),
    ],
)
def test_a_broken_index(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / INDEX).write_text(content, encoding="utf-8")
    message = error_of(tmp_path, *ABC)
    assert f"{INDEX} " in message and expected in message
    assert "is missing" not in message


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    assert "model.safetensors can't be opened" in error_of(tmp_path, whole("x", 2))


def test_nothing_is_loaded_before_all_is_checked(tmp_path: Path) -> None:
    """A damaged last tensor is found before memory is taken for the first."""
    write(tmp_path / "model.safetensors", {"x": float32(2)})
    reports: list[int] = []
    loader = WeightLoader(tmp_path, progress=lambda done, total: reports.append(done))
    with pytest.raises(WeightError):
        loader.load([whole("x", 2), whole("y", 2)], "float32")
    assert reports == []
    loader.load([whole("x", 2)], "float32")
    assert reports == [8]
