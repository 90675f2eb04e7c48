"""How quantized checkpoints describe themselves: what is published is taken, and what is not supported refused."""

from typing import Any

import pytest

from python_layer.model.config import Qwen3Config
from python_layer.utils.errors import ConfigError
from tests.unit.quantized_writer import AWQ_CONFIG, FP8_CONFIG, GPTQ_CONFIG

PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-FP8": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"],
    },
    "Qwen3-AWQ": {
        "backend": "autoawq",
        "bits": 4,
        "do_fuse": False,
        "exllama_config": None,
        "fuse_max_seq_len": None,
        "group_size": 128,
        "modules_to_fuse": None,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    },
    "Qwen3-GPTQ": {
        "bits": 8,
        "checkpoint_format": "gptq",
        "desc_act": False,
        "group_size": 128,
        "lm_head": False,
        "meta": {"damp_percent": 0.01, "quantizer": ["gptqmodel:2.2.0"]},
        "pack_dtype": "int32",
        "quant_method": "gptq",
        "sym": True,
    },
}


def with_quantization(config: Any) -> dict[str, Any]:
    raw = {"model_type": "qwen3", "vocab_size": 8, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    return raw | {"num_attention_heads": 1, "head_dim": 64, "quantization_config": config}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_as_they_are_published(name: str) -> None:
    assert Qwen3Config.from_dict(with_quantization(PUBLISHED[name])).hidden_size == 64


CONFIGS: dict[str, tuple[Any, str]] = {
    "method": ({"quant_method": "bitsandbytes"}, "quant_method is 'bitsandbytes'; supported: fp8, awq, gptq"),
    "no method": ({"bits": 4}, "quant_method is missing; supported: fp8, awq, gptq"),
    "awq bits": (AWQ_CONFIG | {"bits": 8}, "bits is 8; supported: 4"),
    "awq group": (AWQ_CONFIG | {"group_size": 16}, "group_size is 16; supported: 32, 64, 128"),
    "awq version": (AWQ_CONFIG | {"version": "gemv"}, "version is 'gemv'; supported: gemm"),
    "awq without zeros": (AWQ_CONFIG | {"zero_point": False}, "zero_point is False; supported: True"),
    "gptq bits": (GPTQ_CONFIG | {"bits": 3}, "bits is 3; supported: 4, 8"),
    "gptq group": (GPTQ_CONFIG | {"group_size": -1}, "group_size is -1; supported: 32, 64, 128"),
    "gptq format": (GPTQ_CONFIG | {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; supported: gptq"),
    "fp8 format": (FP8_CONFIG | {"fmt": "e5m2"}, "fmt is 'e5m2'; supported: e4m3"),
    "fp8 activations": (FP8_CONFIG | {"activation_scheme": "static"}, "activation_scheme is 'static'"),
    "fp8 block": (FP8_CONFIG | {"weight_block_size": None}, "weight_block_size is None; it must be two whole numbers"),
    "fp8 block of zero": (FP8_CONFIG | {"weight_block_size": [0, 1]}, r"weight_block_size is \[0, 1\]"),
    "no object": ("awq", "quantization_config is 'awq'; it must be an object"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_not_supported_is_refused_with_the_configuration(name: str) -> None:
    config, expected = CONFIGS[name]
    with pytest.raises(ConfigError, match=expected):
        Qwen3Config.from_dict(with_quantization(config))
