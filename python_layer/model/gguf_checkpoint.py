"""What a GGUF file of a Qwen3 model holds, under the names that a safetensors checkpoint has for it."""

import re
from collections.abc import Mapping
from typing import Any

from python_layer.model.gguf_blocks import FORMATS, GgufTensor
from python_layer.model.safetensors_file import PlainTensor, TensorEntry
from python_layer.model.tensor_source import TensorSource
from python_layer.utils.errors import ConfigError
from python_layer.utils.gguf_file import GgufEntry, GgufFile

PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FIELDS = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
END_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""Ends of a Qwen model's answers that generation_config.json would list; GGUF has room for one."""


def gguf_tensors(file: GgufFile) -> tuple[dict[str, TensorSource], list[str], set[str]]:
    """The tensors, what is wrong with others, a line each, and those others' names."""
    tensors: dict[str, TensorSource] = {}
    problems, broken = [], set()
    for name, entry in file.entries.items():
        kind, known = entry.type.name, tensor_name(name)
        if kind in PLAIN:
            plain = TensorEntry(PLAIN[kind], entry.shape, entry.begin, entry.end)
            tensors[known] = PlainTensor(file.path, file.mapped, plain)
        elif kind in FORMATS:
            tensors[known] = GgufTensor(file, entry)
        else:
            problems.append(f"{name} has type {kind}; supported: {', '.join([*PLAIN, *FORMATS])}")
            broken.add(known)
    return tensors, problems, broken


def tensor_name(name: str) -> str:
    """The name in a safetensors checkpoint; what is not known keeps its own."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, what, end = match.groups()
        return f"model.layers.{layer}.{INSIDE[what]}.{end}" if what in INSIDE else name
    what, _, end = name.rpartition(".")
    return f"{OUTSIDE[what]}.{end}" if what in OUTSIDE else name


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The metadata as a config.json; not checked, and without what the file does not say.

    Raises:
        ConfigError: The file's keys and values have heads of different sizes.
    """
    of, architecture = file.metadata, file.metadata.get("general.architecture")

    def get(name: str) -> Any:
        return of.get(f"{architecture}.{name}")

    head_dim = get("attention.key_length")
    if head_dim != get("attention.value_length"):
        raise ConfigError(f"{file.path.name} has heads of {head_dim} for keys and of another size for values")
    embedding = file.entries.get("token_embd.weight")
    raw = {
        "model_type": architecture,
        "vocab_size": embedding.shape[0] if embedding else None,
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv"),
        "head_dim": _quotient(get("embedding_length"), get("attention.head_count")) if head_dim is None else head_dim,
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_theta": get("rope.freq_base"),
        "rope_scaling": _rope_scaling(of, f"{architecture}.rope.scaling."),
        "max_position_embeddings": get("context_length"),
        "attention_bias": "blk.0.attn_q.bias" in file.entries,
        "tie_word_embeddings": "output.weight" not in file.entries,
        "eos_token_id": _ends(file),
        "bos_token_id": of.get("tokenizer.ggml.bos_token_id"),
        "pad_token_id": of.get("tokenizer.ggml.padding_token_id"),
        "dtype": _dtype(file.entries),
    }
    return {name: value for name, value in raw.items() if value is not None}


def _quotient(width: Any, heads: Any) -> int | None:
    return width // heads if type(width) is int and type(heads) is int and heads else None


def _rope_scaling(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    """None without scaling. Fields that are not known keep their names, and are refused by them."""
    given = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    given.pop("finetuned", None)  # tells of training only
    if given.get("type", "none") == "none":
        return None
    return {ROPE_FIELDS.get(name, name): value for name, value in given.items()}


def _ends(file: GgufFile) -> list[Any]:
    """Tokens that end an answer: those the file names, and those of Qwen by name, as llama.cpp takes them."""
    named = [file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    tokens = file.texts("tokenizer.ggml.tokens") or []
    ends = [token for token in named if token is not None]
    return ends + [i for i in (tokens.index(text) for text in END_TOKENS if text in tokens) if i not in ends]


def _dtype(entries: Mapping[str, GgufEntry]) -> str:
    """The matrices' type where all have the same plain one, else bfloat16."""
    kinds = {entry.type.name for entry in entries.values() if len(entry.shape) > 1}
    return PLAIN.get(kinds.pop(), "bfloat16") if len(kinds) == 1 else "bfloat16"
