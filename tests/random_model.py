"""A small model with random weights, made on the spot: real in every respect but what it says."""

import json
import math
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from python_layer.model.config import Qwen3Config
from python_layer.model.weights import weight_specs
from python_layer.tokenizer.qwen_tokenizer import byte_characters
from python_layer.tokenizer.tokenizer_files import QWEN2_PATTERN

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def ensure_random_model(folder: Path, seed: int = 0) -> Path:
    """The folder, with a checkpoint of random weights and a tokenizer whose tokens are the 256 bytes.

    Args:
        folder: Made when it is not there yet, whole or not at all.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        _write_model(made, seed)
        if not folder.exists():
            made.rename(folder)
    return folder


def _write_model(folder: Path, seed: int) -> None:
    first_special = 256
    raw = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
        "eos_token_id": first_special + SPECIAL_TOKENS.index("<|im_end|>"),
        "torch_dtype": "bfloat16",
    }
    _write_json(folder / "config.json", raw)
    write_weights(folder / "model.safetensors", Qwen3Config.from_dict(raw), seed)
    added = [
        {"id": first_special + i, "content": token, "special": True, "normalized": False}
        | {"lstrip": False, "rstrip": False, "single_word": False}
        for i, token in enumerate(SPECIAL_TOKENS)
    ]
    pre_tokenizers = [
        {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ]
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(byte_characters().values())}, "merges": []},
    }
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE},
    )


def write_weights(file: Path, config: Qwen3Config, seed: int) -> None:
    """The checkpoint's tensors, bfloat16: small normal weights, norms about 1."""
    sources = [source for spec in weight_specs(config, packed=False) for source in spec.sources]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sources:
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    rng = np.random.default_rng(seed)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, shape in sources:  # one at a time: a large model's would not fit into memory
            values = rng.standard_normal(shape, np.float32)
            values = 1 + 0.1 * values if name.endswith("norm.weight") else values * (shape[-1] ** -0.5)
            bits = values.astype(np.float32).view(np.uint32)
            out.write((bits >> 16).astype("<u2").tobytes())


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
