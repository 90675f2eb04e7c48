"""GGUF files for tests, written with ggml's own package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from python_layer.model.gguf_checkpoint import INSIDE, OUTSIDE

Q = gguf.GGMLQuantizationType
NAMES = {q.name: q for q in (Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_K, Q.Q6_K, Q.Q5_K)}
Stored = tuple[str, NDArray[Any]]
"""A tensor's type and its bytes as the package takes them."""


def stored(values: NDArray[np.float32], kind: str) -> Stored:
    """Values in a type that the package can write."""
    return kind, quantize(values, NAMES[kind])


def random_blocks(kind: str, rows: int, columns: int, seed: int = 0) -> Stored:
    """Valid blocks of Q4_K, Q6_K or any other type with float16 scales, every other byte at random."""
    elements, size = gguf.GGML_QUANT_SIZES[NAMES[kind]]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // elements, size), np.uint8)
    scales = (rng.standard_normal((len(blocks), 2)) / 500).astype(np.float16).view(np.uint8)
    if kind == "Q6_K":
        blocks[:, -2:] = scales[:, :2]
    else:
        width = 4 if kind in ("Q4_K", "Q5_K") else 2
        blocks[:, :width] = scales[:, :width]
    return kind, blocks.reshape(rows, -1)


def exact(tensor: Stored) -> NDArray[np.float32]:
    """The numbers a tensor stands for, as the package says."""
    kind, data = tensor
    return dequantize(data.view(np.uint8) if kind == "BF16" else data, NAMES[kind])


def write_gguf(
    file: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, Any] | None = None, architecture: str = "qwen3"
) -> Path:
    """A file with tensors and metadata; the metadata's types follow from the values."""
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in (metadata or {}).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(key, value)
    for name, (kind, data) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=NAMES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def gguf_name(name: str) -> str:
    """The name in GGUF files of a checkpoint's tensor."""
    stem, _, end = name.rpartition(".")
    for ours, theirs in OUTSIDE.items():
        if stem == theirs:
            return f"{ours}.{end}"
    _, _, layer, what = stem.split(".", 3)
    return f"blk.{layer}.{next(k for k, v in INSIDE.items() if v == what)}.{end}"


def config_metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json's fields as GGUF's metadata."""
    return {
        "qwen3.context_length": raw["max_position_embeddings"],
        "qwen3.embedding_length": raw["hidden_size"],
        "qwen3.block_count": raw["num_hidden_layers"],
        "qwen3.feed_forward_length": raw["intermediate_size"],
        "qwen3.attention.head_count": raw["num_attention_heads"],
        "qwen3.attention.head_count_kv": raw["num_key_value_heads"],
        "qwen3.attention.key_length": raw["head_dim"],
        "qwen3.attention.value_length": raw["head_dim"],
        "qwen3.rope.freq_base": float(raw["rope_theta"]),
        "qwen3.attention.layer_norm_rms_epsilon": float(raw["rms_norm_eps"]),
    }


def tokenizer_metadata(folder: Path, vocab_size: int) -> dict[str, Any]:
    """The tokenizer in a checkpoint's tokenizer.json and tokenizer_config.json, as llama.cpp's converter writes it."""
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens, types = [f"[PAD{i}]" for i in range(vocab_size)], [5] * vocab_size
    for token, i in raw["model"]["vocab"].items():
        tokens[i], types[i] = token, 1
    for added in raw["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], 3 if added["special"] else 4
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in raw["model"]["merges"]]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
    }
    if "chat_template" in config:
        metadata["tokenizer.chat_template"] = config["chat_template"]
    return metadata
