"""Which instruction set and which types a model gets."""

from dataclasses import replace
from pathlib import Path

import pytest

from python_layer.model import precision
from python_layer.model.config import Qwen3Config
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.utils import cpu
from python_layer.utils.errors import ConfigError

AMX = {"amx_tile", "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512bw", "avx512f"}


@pytest.fixture
def config() -> Qwen3Config:
    return Qwen3Config.from_pretrained(Path(DEFAULT_MODEL))


def test_amx_needs_the_cpu_and_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: AMX)
    monkeypatch.setattr(cpu, "cpu_description", lambda: {"vendor_id": "AuthenticAMD"})
    for allowed in (True, False):
        monkeypatch.setattr(cpu, "may_use_tiles", lambda allowed=allowed: allowed)
        assert cpu.supported_isas() == ["amx"] * allowed + ["avx512_bf16", "avx512_vnni", "avx512", "portable"]
    monkeypatch.setattr(cpu, "cpu_flags", lambda: AMX - {"amx_bf16"})
    monkeypatch.setattr(cpu, "may_use_tiles", lambda: pytest.fail("asked for what the CPU lacks"))
    assert cpu.supported_isas()[0] == "avx512_bf16"


def test_intel_multiplies_float32_faster_than_bfloat16_pairs(
    monkeypatch: pytest.MonkeyPatch, config: Qwen3Config
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: AMX)
    monkeypatch.setattr(cpu, "may_use_tiles", lambda: False)
    monkeypatch.setattr(cpu, "cpu_description", lambda: {"vendor_id": "GenuineIntel"})
    assert cpu.supported_isas() == ["avx512_vnni", "avx512_bf16", "avx512", "portable"]
    assert precision.resolve_isa("auto", config) == "avx512_vnni"
    assert precision.resolve_isa("auto", config, "bfloat16") == "avx512_bf16"
    monkeypatch.setattr(cpu, "may_use_tiles", lambda: True)
    assert cpu.supported_isas()[:2] == ["amx", "avx512_vnni"]


def test_float16_comes_after_amx_alone(monkeypatch: pytest.MonkeyPatch, config: Qwen3Config) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: AMX | {"avx512_fp16"})
    monkeypatch.setattr(cpu, "cpu_description", lambda: {"vendor_id": "GenuineIntel"})
    monkeypatch.setattr(cpu, "may_use_tiles", lambda: False)
    assert cpu.supported_isas()[:3] == ["avx512_fp16", "avx512_vnni", "avx512_bf16"]
    assert precision.resolve_isa("auto", config, "bfloat16") == "avx512_bf16"
    monkeypatch.setattr(cpu, "may_use_tiles", lambda: True)
    assert cpu.supported_isas()[:2] == ["amx", "avx512_fp16"]
    assert precision.resolve_isa("auto", config, "float16") == "avx512_fp16"


@pytest.mark.parametrize(
    ("compute_dtype", "dtype", "isa", "expected"),
    [
        ("auto", "bfloat16", "avx512_fp16", "float16"),
        ("auto", "float16", "avx512_fp16", "float16"),
        ("auto", "float32", "avx512_fp16", "float32"),
        ("auto", "float16", "amx", "float32"),
        ("auto", "bfloat16", "avx2", "int16"),
        ("auto", "float16", "avx512_vnni", "int16"),
        ("auto", "float32", "avx512_vnni", "float32"),
        ("auto", "bfloat16", "avx512", "float32"),
        ("int16", "bfloat16", "avx2_vnni", "int16"),
        ("float32", "bfloat16", "amx", "float32"),
        ("float16", "bfloat16", "avx512_fp16", "float16"),
    ],
)
def test_what_is_multiplied_with_matrices(compute_dtype: str, dtype: str, isa: str, expected: str) -> None:
    assert precision.resolve_compute_dtype(compute_dtype, dtype, isa) == expected


@pytest.mark.parametrize(
    ("kv_dtype", "dtype", "compute_dtype", "expected"),
    [
        ("auto", "float32", "float32", "float32"),
        ("auto", "bfloat16", "float16", "float16"),
        ("auto", "bfloat16", "float32", "bfloat16"),
        ("float16", "float32", "float32", "float16"),
        ("int8", "bfloat16", "float16", "int8"),
        ("auto", "bfloat16", "int16", "int16"),
        ("int16", "float32", "float32", "int16"),
    ],
)
def test_the_type_of_the_cache(kv_dtype: str, dtype: str, compute_dtype: str, expected: str) -> None:
    isa = "avx2" if "int16" in (kv_dtype, compute_dtype) else "avx512_fp16"
    assert precision.resolve_kv_dtype(kv_dtype, dtype, compute_dtype, isa) == expected


def test_vnni_without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_description", lambda: {"vendor_id": "AuthenticAMD"})
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"avx2", "fma", "f16c", "avx_vnni"})
    assert cpu.supported_isas() == ["avx2_vnni", "avx2", "portable"]
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"avx2", "fma", "f16c", "avx_vnni"} | AMX)
    monkeypatch.setattr(cpu, "may_use_tiles", lambda: False)
    assert cpu.supported_isas()[:3] == ["avx512_bf16", "avx512_vnni", "avx2_vnni"]


def test_the_fastest_that_cpu_and_model_allow(monkeypatch: pytest.MonkeyPatch, config: Qwen3Config) -> None:
    monkeypatch.setattr(precision, "supported_isas", lambda: ["amx", "avx512_bf16", "portable"])
    assert precision.resolve_isa("auto", config) == "amx"
    assert precision.resolve_isa("portable", config) == "portable"
    assert precision.resolve_compute_dtype("auto", "bfloat16", "amx") == "bfloat16"
    odd = replace(config, intermediate_size=200)
    assert precision.resolve_isa("auto", odd) == "avx512_bf16"
    with pytest.raises(ConfigError, match=r"tiles have 32 columns, .* have 256, 256, 200; take auto or avx512_bf16"):
        precision.resolve_isa("amx", odd)


def test_what_a_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, config: Qwen3Config) -> None:
    monkeypatch.setattr(precision, "supported_isas", lambda: ["avx2", "portable"])
    with pytest.raises(ConfigError, match="'amx', but this CPU lacks it; it has avx2, portable"):
        precision.resolve_isa("amx", config)
    with pytest.raises(ConfigError, match="'sse9', but there is no such instruction set"):
        precision.resolve_isa("sse9", config)
    with pytest.raises(ConfigError, match="needs the CPU path amx or avx512_bf16, not avx2"):
        precision.resolve_compute_dtype("bfloat16", "bfloat16", "avx2")
    with pytest.raises(ConfigError, match="compute_dtype float16 needs the CPU path avx512_fp16, not amx"):
        precision.resolve_compute_dtype("float16", "bfloat16", "amx")
    with pytest.raises(ConfigError, match="float16 needs bfloat16 or float16 matrices, but they are float32"):
        precision.resolve_compute_dtype("float16", "float32", "avx512_fp16")
    with pytest.raises(ConfigError, match="kv_dtype float16 needs the CPU path avx512_fp16, not avx2; take bfloat16"):
        precision.resolve_kv_dtype("float16", "bfloat16", "float32", "avx2")
    with pytest.raises(ConfigError, match="int16 needs the CPU path avx512_vnni or avx2_vnni or avx2, not portable"):
        precision.resolve_kv_dtype("int16", "bfloat16", "float32", "portable")
    with pytest.raises(ConfigError, match="kv_dtype is 'int4'; supported are auto, float32, bfloat16, float16, int8"):
        precision.resolve_kv_dtype("int4", "bfloat16", "float32", "avx2")
    with pytest.raises(ConfigError, match="compute_dtype is 'int4'; supported are auto, float32, bfloat16, float16"):
        precision.resolve_compute_dtype("int4", "float32", "avx2")
