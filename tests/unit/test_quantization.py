"""Which matrices are quantized, how they lie in memory, and what the kept copy on disk is good for."""

import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from python_layer.model.packing import PANEL, pack_quantized_rows, quantized_shape
from python_layer.model.quantization import describe, matrix_formats, quantized_specs
from python_layer.model.quantized import QuantFormat, quantize_rows
from python_layer.model.weight_cache import WeightCache
from python_layer.model.weight_loader import LoadedWeights, WeightLoader
from python_layer.model.weight_spec import WeightSpec
from python_layer.utils.errors import ConfigError
from python_layer.utils.file_pages import CAN_SETTLE
from tests.unit.safetensors_writer import float32, write

INT8, INT4, AWQ = QuantFormat(8, 32, False), QuantFormat(4, 32, False), QuantFormat(4, 128, True)


def specs(columns: int = 128, layers: int | None = 2) -> list[WeightSpec]:
    """A matrix and a norm of two layers; of one where ``layers`` is None."""
    count = layers or 1
    matrices = tuple((f"{i}.{name}", (rows, columns)) for i in range(count) for name, rows in (("q", 64), ("k", 32)))
    norms = tuple((f"{i}.norm", (columns,)) for i in range(count))
    return [
        WeightSpec("layers.qkv", (96, columns), matrices, packed=True, layers=layers),
        WeightSpec("layers.norm", (columns,), norms, dtype="float32", layers=layers),
    ]


def every(form: QuantFormat | None) -> dict[str, QuantFormat | None]:
    return dict.fromkeys(("0.q", "0.k", "1.q", "1.k"), form)


@pytest.mark.parametrize(
    ("quantization", "given", "expected"),
    [
        ("auto", {}, {}),
        ("auto", every(AWQ), {"qkv": AWQ}),
        ("auto", every(AWQ) | {"1.k": None}, {}),  # the layers share a graph
        ("auto", every(INT4) | {"1.k": INT8, "0.k": AWQ}, {"qkv": QuantFormat(8, 32, True)}),
        ("none", every(AWQ), {}),
        ("int8", {}, {"qkv": QuantFormat(8, 64, False)}),
        ("int8", every(AWQ), {"qkv": QuantFormat(8, 64, False)}),
        ("int8", every(INT8), {"qkv": INT8}),
        ("int8", every(QuantFormat(8, 128, True)), {"qkv": QuantFormat(8, 128, True)}),
        ("int4", every(INT8), {"qkv": INT4}),
        ("int4", every(AWQ), {"qkv": AWQ}),
    ],
)
def test_formats(quantization: str, given: dict, expected: dict) -> None:
    assert matrix_formats(quantization, specs(), given, "avx2") == expected


def test_tiles_take_larger_groups() -> None:
    assert matrix_formats("int8", specs(), {}, "amx") == {"qkv": QuantFormat(8, 128, False)}
    assert matrix_formats("int8", specs(64), {}, "amx") == {"qkv": QuantFormat(8, 64, False)}
    assert matrix_formats("int8", specs(), every(INT8), "amx") == {"qkv": INT8}
    assert matrix_formats("int4", specs(), {}, "amx") == {"qkv": INT4}


def test_columns_must_make_groups() -> None:
    assert matrix_formats("int8", specs(96), {}, "avx2") == {"qkv": INT8}
    with pytest.raises(ConfigError, match=r"100 columns.*--quantization none"):
        matrix_formats("int8", specs(100), {}, "avx2")
    with pytest.raises(ConfigError, match=r"int3.*int4"):
        matrix_formats("int3", specs(), {}, "avx2")


def test_description() -> None:
    assert describe({}, "bfloat16") == "bfloat16"
    assert describe({"qkv": INT4, "down": INT8}, "bfloat16") == "int4 and int8"


def test_packed_places() -> None:
    """Each value where the kernel's definition puts it, by loops."""
    rows = quantize_rows(np.random.default_rng(0).standard_normal((70, 64)).astype(np.float32), 4, 32)
    packed = np.zeros(quantized_shape((70, 64), rows.format), np.uint8)
    pack_quantized_rows(rows, 0, packed)
    for n in range(70):
        for k in range(64):
            block = packed[n // PANEL, k // 32]
            byte = block[k % 32 // 8 * 4 * PANEL + n % PANEL * 4 + k % 4]
            assert (byte >> (4 * (k % 8 // 4))) & 15 == rows.values[n, k]
        for group in range(2):
            halves = packed[n // PANEL, group].view(np.float16)
            assert halves[32 * PANEL // 4 + n % PANEL] == rows.scales[n, group]
    assert not packed[1].view(np.float16)[:, 32 * PANEL // 4 + 6 :].any()  # rows that are none count as zero


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedWeights]:
    """Loads the specs' checkpoint through a cache, in a format."""
    sources = [source for spec in specs() for source in spec.sources]
    write(tmp_path / "model.safetensors", {name: float32(*shape, seed=i) for i, (name, shape) in enumerate(sources)})

    def loaded(form: QuantFormat | None, progress: Callable[[int, int], None] | None = None) -> LoadedWeights:
        loader = WeightLoader(tmp_path, progress=progress, cache=WeightCache(tmp_path / "cache"))
        return loader.load(quantized_specs(specs(), {"qkv": form} if form else {}), "bfloat16")

    return loaded


@pytest.mark.parametrize("form", [None, INT8, INT4])
def test_kept_weights_are_the_same(
    load: Callable[..., LoadedWeights], tmp_path: Path, form: QuantFormat | None
) -> None:
    first = load(form)
    (kept,) = (tmp_path / "cache").iterdir()
    written = kept.stat().st_mtime_ns
    told: list[tuple[int, int]] = []
    second = load(form, lambda done, total: told.append((done, total)))
    assert kept.stat().st_mtime_ns == written
    assert told[-1] == (second.nbytes, second.nbytes)
    assert {name: first.dtype_of(name) for name in first} == {name: second.dtype_of(name) for name in second}
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.skipif(not CAN_SETTLE, reason="this system can't replace pages")
def test_kept_weights_settle(load: Callable[..., LoadedWeights], tmp_path: Path) -> None:
    first, second, third, forgotten = (load(INT8) for _ in range(4))
    (kept,) = (tmp_path / "cache").iterdir()

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(str(kept))

    assert first.unsettled_bytes == 0
    assert second.unsettled_bytes == third.unsettled_bytes == first.nbytes
    assert mappings() == 3
    second.settle()
    assert second.unsettled_bytes == 0
    third.settle_after(0.1)
    forgotten.settle_after(0.1)
    gone = weakref.ref(forgotten)
    del forgotten
    assert gone() is None
    deadline = time.monotonic() + 60
    while third.unsettled_bytes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mappings() == 0
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_array_equal(first[name], third[name])


@pytest.mark.parametrize("form", [None, INT8, INT4])
def test_layers_lie_one_after_the_other(
    load: Callable[..., LoadedWeights], tmp_path: Path, form: QuantFormat | None
) -> None:
    together = load(form)
    for layer in range(2):
        own = [replace(spec, sources=_of_layer(spec, layer)) for spec in specs(layers=None)]
        loader = WeightLoader(tmp_path)
        unused = {name for spec in specs() for name, _ in spec.sources}
        alone = loader.load(quantized_specs(own, {"qkv": form} if form else {}), "bfloat16", unused=unused)
        for name in alone:
            assert together[name].shape == (2, *alone[name].shape)
            np.testing.assert_array_equal(together[name][layer], alone[name], err_msg=name)


def _of_layer(spec: WeightSpec, layer: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((f"{layer}{name[1:]}", shape) for name, shape in spec.sources)


def test_formats_are_kept_side_by_side(load: Callable[..., LoadedWeights], tmp_path: Path) -> None:
    for form in (None, INT8, INT8, INT4):
        load(form)
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("damage", ["checkpoint", "truncated", "header"])
def test_kept_weights_are_made_again(load: Callable[..., LoadedWeights], tmp_path: Path, damage: str) -> None:
    first = load(INT8)
    (kept,) = (tmp_path / "cache").iterdir()
    if damage == "checkpoint":
        checkpoint = tmp_path / "model.safetensors"
        content = bytearray(checkpoint.read_bytes())
        content[-1] ^= 0x80  # the last tensor's last sign
        checkpoint.write_bytes(content)
    elif damage == "truncated":
        kept.write_bytes(kept.read_bytes()[:-100])
    else:
        kept.write_bytes(b"{" + kept.read_bytes()[1:100])
    again = load(INT8)
    changed = [name for name in first if not np.array_equal(first[name], again[name])]
    assert len(changed) == (damage == "checkpoint")
    np.testing.assert_array_equal(load(INT8)["layers.qkv"], again["layers.qkv"])


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    WeightCache(tmp_path / "file" / "cache").write("slot", "x", np.zeros(10, np.uint8))
    assert "not kept" in caplog.text
