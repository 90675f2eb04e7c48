"""Checkpoints that every system runs: random weights of a Qwen3 model's shape, with Qwen's own tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path

from python_layer.model.config import Qwen3Config
from tests.random_model import write_weights
from tests.unit.qwen_files import unpack_tokenizer_json

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "max_position_embeddings": 40960,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "torch_dtype": "bfloat16",
}
"""Of Qwen3-0.6B."""
QWEN3_8B = CONFIG | {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "tie_word_embeddings": False,
}


def make_checkpoint(folder: Path, config: Mapping[str, object] = CONFIG) -> None:
    """Writes config.json, model.safetensors (bfloat16) and the tokenizer into ``folder``, which is there."""
    unpack_tokenizer_json(folder)
    write_weights(folder / "model.safetensors", Qwen3Config.from_dict(config), seed=0)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def flops_per_token(config: Qwen3Config | None = None) -> int:
    """Operations of one token of a prompt: two for each number of the layers' matrices; of CONFIG if none is given."""
    config = config or Qwen3Config.from_dict(CONFIG)
    tables = 1 if config.tie_word_embeddings else 2
    return 2 * (config.num_parameters - tables * config.vocab_size * config.hidden_size)
