"""The checkpoint that every system runs: random weights of Qwen3-0.6B's shape, with Qwen's own tokenizer."""

import json
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


def make_checkpoint(folder: Path) -> None:
    """Writes config.json, model.safetensors (bfloat16) and the tokenizer into ``folder``."""
    unpack_tokenizer_json(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1), encoding="utf-8")
    write_weights(folder / "model.safetensors", Qwen3Config.from_dict(CONFIG), seed=0)


def flops_per_token() -> int:
    """Operations of one token of a prompt: two for each number of the layers' matrices."""
    config = Qwen3Config.from_dict(CONFIG)
    return 2 * (config.num_parameters - config.vocab_size * config.hidden_size)
