"""Reading config.json: what is understood, and what is refused with which words."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from python_layer.model.config import Qwen3Config, RopeConfig
from python_layer.utils.errors import ConfigError

QWEN3_0_6B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def with_fields(**fields: Any) -> dict[str, Any]:
    return QWEN3_0_6B | fields


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in QWEN3_0_6B.items() if name not in names}


def error_of(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        Qwen3Config.from_dict(raw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reads_every_field() -> None:
    config = Qwen3Config.from_dict(QWEN3_0_6B)
    assert config == Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope=RopeConfig(theta=1e6),
        max_position_embeddings=40960,
        attention_bias=False,
        tie_word_embeddings=True,
        eos_token_ids=(151645,),
        dtype="bfloat16",
        bos_token_id=151643,
        pad_token_id=None,
    )
    assert (config.q_size, config.kv_size) == (2048, 1024)


# Layers, hidden, intermediate, heads, tied, and the parameters that Hugging Face transformers counts.
SIZES = {
    "0.6B": (28, 1024, 3072, 16, True, 596_049_920),
    "1.7B": (28, 2048, 6144, 16, True, 1_720_574_976),
    "4B": (36, 2560, 9728, 32, True, 4_022_468_096),
    "8B": (36, 4096, 12288, 32, False, 8_190_735_360),
    "14B": (40, 5120, 17408, 40, False, 14_768_307_200),
    "32B": (64, 5120, 25600, 64, False, 32_762_123_264),
}


@pytest.mark.parametrize("size", SIZES)
def test_counts_the_parameters_of_every_size(size: str) -> None:
    layers, hidden, inner, heads, tied, parameters = SIZES[size]
    config = Qwen3Config.from_dict(
        with_fields(
            num_hidden_layers=layers,
            hidden_size=hidden,
            intermediate_size=inner,
            num_attention_heads=heads,
            tie_word_embeddings=tied,
        )
    )
    assert config.num_parameters == parameters


def test_counts_biases() -> None:
    plain, biased = (Qwen3Config.from_dict(with_fields(attention_bias=bias)) for bias in (False, True))
    assert biased.num_parameters - plain.num_parameters == 28 * (2048 + 2 * 1024 + 1024)


def test_defaults_of_absent_and_null_fields() -> None:
    config = Qwen3Config.from_dict(
        without("rope_theta", "torch_dtype", "eos_token_id", "tie_word_embeddings", "rms_norm_eps")
        | {"num_key_value_heads": None, "head_dim": None}
    )
    assert config.rope == RopeConfig(theta=10000.0)
    assert config.dtype == "bfloat16"
    assert config.eos_token_ids == ()
    assert config.tie_word_embeddings is False
    assert config.rms_norm_eps == 1e-6
    assert config.num_key_value_heads == 16
    assert config.head_dim == 128


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_both_spellings_of_the_dtype(field: str, dtype: str) -> None:
    assert Qwen3Config.from_dict(without("torch_dtype") | {field: dtype}).dtype == dtype


def test_both_spellings_of_rope() -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32768}
    old = Qwen3Config.from_dict(with_fields(rope_scaling=yarn | {"type": "yarn"}))
    middle = Qwen3Config.from_dict(with_fields(rope_scaling=yarn | {"rope_type": "yarn"}))
    new = Qwen3Config.from_dict(
        without("rope_theta", "rope_scaling")
        | {"rope_parameters": yarn | {"rope_type": "yarn", "rope_theta": 1000000.0}}
    )
    assert old == middle == new
    assert new.rope == RopeConfig(1e6, "yarn", 4.0, 32768)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": (without("hidden_size"), r"hidden_size is missing"),
    "null": (with_fields(vocab_size=None), r"vocab_size is missing"),
    "string": (with_fields(num_hidden_layers="28"), r"num_hidden_layers is '28'; it must be a whole number"),
    "negative": (with_fields(intermediate_size=-1), r"intermediate_size is -1"),
    "zero": (with_fields(num_attention_heads=0), r"num_attention_heads is 0"),
    "fraction": (with_fields(hidden_size=1024.0), r"hidden_size is 1024\.0"),
    "bool for int": (with_fields(num_key_value_heads=True), r"num_key_value_heads is True"),
    "beyond int32": (with_fields(vocab_size=2**40), r"vocab_size is 1099511627776"),
    "too many layers": (with_fields(num_hidden_layers=10**9), r"num_hidden_layers is 1000000000; .* 1024"),
    "int for bool": (with_fields(attention_bias=1), r"attention_bias is 1; it must be true or false"),
    "string for bool": (with_fields(tie_word_embeddings="no"), r"tie_word_embeddings is 'no'"),
    "no model type": (without("model_type"), r"model_type is missing; supported: qwen3"),
    "mixture of experts": (
        with_fields(model_type="qwen3_moe"),
        r"model_type is 'qwen3_moe'; supported: qwen3",
    ),
    "other model": (with_fields(model_type="qwen2"), r"model_type is 'qwen2'"),
    "activation": (with_fields(hidden_act="gelu"), r"hidden_act is 'gelu'; supported: silu"),
    "head_dim": (with_fields(head_dim=96), r"head_dim is 96; supported: 64 and 128"),
    "kv heads": (with_fields(num_key_value_heads=5), r"num_key_value_heads is 5; it must divide .* 16"),
    "sliding window": (with_fields(use_sliding_window=True), r"use_sliding_window is True; supported: False"),
    "sliding layers": (
        with_fields(layer_types=["full_attention", "sliding_attention"]),
        r"layer_types has 'sliding_attention'",
    ),
    "layer types": (with_fields(layer_types="full_attention"), r"layer_types is 'full_attention'"),
    "quantized": (with_fields(quantization_config={"bits": 4}), r"quantization_config.quant_method is missing"),
    "eps nan": (with_fields(rms_norm_eps=math.nan), r"rms_norm_eps is nan; it must be a number above 0"),
    "eps zero": (with_fields(rms_norm_eps=0), r"rms_norm_eps is 0"),
    "eps infinite": (with_fields(rms_norm_eps=math.inf), r"rms_norm_eps is inf"),
    "eps huge integer": (with_fields(rms_norm_eps=10**400), r"rms_norm_eps is 1000"),
    "dtype": (
        with_fields(torch_dtype="float8_e4m3fn"),
        r"torch_dtype is 'float8_e4m3fn'; supported: float32",
    ),
    "new dtype": (with_fields(dtype=["bfloat16"]), r"dtype is \['bfloat16'\]"),
    "eos": (with_fields(eos_token_id=[1, "2"]), r"eos_token_id is \[1, '2'\]"),
    "eos negative": (with_fields(eos_token_id=-1), r"eos_token_id is -1"),
    "context": (with_fields(max_position_embeddings=True), r"max_position_embeddings is True"),
    "theta": (with_fields(rope_theta="1e6"), r"rope_theta is '1e6'"),
    "theta one": (with_fields(rope_theta=1), r"rope_theta is 1; it must be above 1"),
    "rope type": (
        with_fields(rope_scaling={"type": "dynamic", "factor": 2.0}),
        r"rope_scaling\.type is 'dynamic'; supported: default, linear, yarn",
    ),
    "rope not object": (with_fields(rope_scaling="yarn"), r"rope_scaling is 'yarn'; it must be an object"),
    "yarn without factor": (
        with_fields(rope_scaling={"rope_type": "yarn", "original_max_position_embeddings": 32768}),
        r"rope_scaling\.factor is missing",
    ),
    "factor below one": (
        with_fields(rope_scaling={"rope_type": "linear", "factor": 0.5}),
        r"rope_scaling\.factor is 0\.5; it must be a number of 1 or more",
    ),
    "betas": (
        with_fields(rope_scaling={"rope_type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}),
        r"rope_scaling\.beta_fast is 1; it must not be below beta_slow, 2",
    ),
    "original context": (
        with_fields(rope_scaling={"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 0.5}),
        r"rope_scaling\.original_max_position_embeddings is 0\.5",
    ),
    "truncate": (
        with_fields(rope_scaling={"rope_type": "yarn", "factor": 2, "truncate": 0}),
        r"rope_scaling\.truncate is 0",
    ),
    "partial rotation": (
        with_fields(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
        r"rope_parameters\.partial_rotary_factor is 0\.5; supported: 1",
    ),
    "unknown rope field": (
        with_fields(rope_scaling={"rope_type": "default", "mrope_section": [16, 24]}),
        r"rope_scaling\.mrope_section is not a field",
    ),
    "two ropes": (
        with_fields(rope_scaling={"type": "linear", "factor": 2}, rope_parameters={"rope_type": "default"}),
        r"rope_scaling and rope_parameters are both given and differ",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named_with_its_value_and_what_is_supported(name: str) -> None:
    raw, expected = WRONG[name]
    message = error_of(raw)
    assert re.search(expected, message)
    assert message.count(";") <= 1, "one problem gives one message"


def test_all_problems_come_in_one_message() -> None:
    message = error_of(without("hidden_size") | {"head_dim": 80, "rms_norm_eps": -1, "hidden_act": "relu"})
    for field in ("hidden_size is missing", "head_dim is 80", "rms_norm_eps is -1", "hidden_act is 'relu'"):
        assert field in message


def write(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def test_reads_a_folder(tmp_path: Path) -> None:
    write(tmp_path, config=QWEN3_0_6B)
    assert Qwen3Config.from_pretrained(tmp_path) == Qwen3Config.from_dict(QWEN3_0_6B)
    assert Qwen3Config.from_pretrained(str(tmp_path)).eos_token_ids == (151645,)


def test_end_tokens_of_generation_config_go_first(tmp_path: Path) -> None:
    write(tmp_path, config=QWEN3_0_6B, generation_config={"eos_token_id": [151645, 151643]})
    assert Qwen3Config.from_pretrained(tmp_path).eos_token_ids == (151645, 151643)
    write(tmp_path, generation_config={"do_sample": True})
    assert Qwen3Config.from_pretrained(tmp_path).eos_token_ids == (151645,)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"config\.json does not exist"),
        ("", r"can't be read as JSON"),
        ('{"vocab_size": ', r"can't be read as JSON"),
        ("[" * 100_000, r"can't be read as JSON"),
        ('{"vocab_size": ' + "9" * 5000 + "}", r"can't be read as JSON"),
        ("[1, 2]", r"holds a JSON list; it must be an object"),
        ("{}", r"config\.json is not supported: model_type is missing"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        write(tmp_path, config=content)
    with pytest.raises(ConfigError, match=expected) as caught:
        Qwen3Config.from_pretrained(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_broken_generation_config_is_named(tmp_path: Path) -> None:
    write(tmp_path, config=QWEN3_0_6B, generation_config="{")
    with pytest.raises(ConfigError, match=r"generation_config\.json can't be read as JSON"):
        Qwen3Config.from_pretrained(tmp_path)


def test_bytes_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff"}')
    with pytest.raises(ConfigError, match="can't be read as JSON"):
        Qwen3Config.from_pretrained(tmp_path)
