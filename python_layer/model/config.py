"""The configuration of a dense Qwen3 model, read from a checkpoint's config.json and checked by field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_layer.model.config_fields import Fields
from python_layer.model.gguf_checkpoint import gguf_config
from python_layer.model.hub import resolve_model
from python_layer.model.quantization_config import quantization_of
from python_layer.utils.errors import ConfigError
from python_layer.utils.gguf_file import GgufFile

HEAD_DIMS = (64, 128)
DTYPES = ("float32", "bfloat16", "float16")
ROPE_TYPES = ("default", "linear", "yarn")
ROPE_FIELDS = {
    *(
        "rope_theta",
        "rope_type",
        "type",
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
    ),
    *("attention_factor", "mscale", "mscale_all_dim", "truncate", "partial_rotary_factor"),
}
MOST_LAYERS = 1024


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding; fields beside ``theta`` and ``type`` as in YaRN (arXiv:2309.00071).

    Attributes:
        theta: Base of the frequencies.
        type: "default", "linear" (positions divided by ``factor``) or "yarn".
        factor: Context length over the original one.
        original_max_position_embeddings: Context the model was first trained with.
        beta_fast: Rotations over the original context above which a frequency is kept.
        beta_slow: Rotations below which it is fully interpolated.
        attention_factor: Factor of cosines and sines; None derives it.
        mscale: Weight of the logarithm in the derived factor.
        mscale_all_dim: Likewise, of its denominator.
        truncate: Round the ends of the ramp to whole dimensions.
    """

    theta: float = 10000.0
    type: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True)
class Qwen3Config:
    """Sizes and constants of a Qwen3 model; names as in config.json.

    Attributes:
        vocab_size: Rows of the embedding.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward block.
        num_hidden_layers: Layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads; divides the query heads.
        head_dim: 64 or 128.
        rms_norm_eps: Added to the mean square in every norm.
        rope: Rotary position embedding.
        max_position_embeddings: Most tokens of one request, prompt and answer.
        attention_bias: Whether the attention projections have biases.
        tie_word_embeddings: Whether the output projection is the embedding.
        eos_token_ids: Tokens that end an answer.
        dtype: Type of the checkpoint's matrices: float32, bfloat16 or float16.
        bos_token_id: Token that begins a text, if the model has one.
        pad_token_id: Token that fills up a batch, if the model has one.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    attention_bias: bool
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]
    dtype: str
    bos_token_id: int | None = None
    pad_token_id: int | None = None

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path) -> "Qwen3Config":
        """Reads config.json and the end-of-sequence tokens of generation_config.json, or a GGUF file's metadata.

        Args:
            path_or_hub_id: The checkpoint's folder, a GGUF file, or a hub id like Qwen/Qwen3-0.6B.

        Raises:
            ConfigError: A file is missing or not JSON, or fields are wrong or not supported (all are named).
            WeightError: The GGUF file can't be read.
        """
        folder = resolve_model(path_or_hub_id)
        if folder.is_file():
            return cls._checked(gguf_config(GgufFile(folder)), f"{folder} (under config.json's names)")
        raw = _read_object(folder / "config.json")
        generation = folder / "generation_config.json"
        if generation.exists():
            # As in transformers, what generation_config.json says about the end goes before config.json.
            eos = _read_object(generation).get("eos_token_id")
            raw = raw if eos is None else raw | {"eos_token_id": eos}
        return cls._checked(raw, str(folder / "config.json"))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Qwen3Config":
        """Checks the fields of a config.json.

        Raises:
            ConfigError: Lists every field that is missing, wrong or not supported, and why.
        """
        return cls._checked(raw, "the model's config.json")

    @classmethod
    def _checked(cls, raw: Mapping[str, Any], origin: str) -> "Qwen3Config":
        fields = Fields(raw)
        _check_architecture(fields)
        hidden = fields.positive_int("hidden_size")
        heads = fields.positive_int("num_attention_heads")
        kv_heads = fields.positive_int("num_key_value_heads", default=heads)
        if fields.right("num_attention_heads", "num_key_value_heads") and heads % kv_heads:
            fields.problem("num_key_value_heads", f"is {kv_heads}; it must divide num_attention_heads, {heads}")
        bos, pad = fields.token_ids("bos_token_id"), fields.token_ids("pad_token_id")
        config = cls(
            vocab_size=fields.positive_int("vocab_size"),
            hidden_size=hidden,
            intermediate_size=fields.positive_int("intermediate_size"),
            num_hidden_layers=fields.positive_int("num_hidden_layers", most=MOST_LAYERS),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=_head_dim(fields),
            rms_norm_eps=fields.positive_float("rms_norm_eps", default=1e-6),
            rope=_rope(fields),
            max_position_embeddings=fields.positive_int("max_position_embeddings", default=32768),
            attention_bias=fields.boolean("attention_bias", default=False),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
            eos_token_ids=fields.token_ids("eos_token_id"),
            dtype=fields.one_of("dtype" if fields.has("dtype") else "torch_dtype", DTYPES, default="bfloat16"),
            bos_token_id=bos[0] if bos else None,
            pad_token_id=pad[0] if pad else None,
        )
        if fields.problems:
            raise ConfigError(f"{origin} is not supported: {'; '.join(fields.problems)}")
        return config

    @property
    def q_size(self) -> int:
        """Width of all query heads."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.num_key_value_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Parameters of the model; tied embeddings count once."""
        attention = self.hidden_size * (2 * self.q_size + 2 * self.kv_size) + 2 * self.head_dim
        bias = self.q_size + 2 * self.kv_size + self.hidden_size if self.attention_bias else 0
        layer = attention + bias + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size
        return self.num_hidden_layers * layer + embeddings + self.hidden_size


def _check_architecture(fields: Fields) -> None:
    """What makes a model something else than a dense Qwen3 with full attention."""
    raw = fields.raw
    if not fields.has("model_type"):
        fields.problem("model_type", "is missing; supported: qwen3 (dense)")
    fields.one_of("model_type", ("qwen3",), default="qwen3")
    fields.one_of("hidden_act", ("silu",), default="silu")
    if fields.boolean("use_sliding_window", default=False):
        fields.problem("use_sliding_window", "is True; supported: False (full attention in every layer)")
    layer_types = raw.get("layer_types")
    if layer_types is not None and not isinstance(layer_types, list):
        fields.problem("layer_types", f"is {layer_types!r}; it must be a list")
    elif other := [kind for kind in layer_types or [] if kind != "full_attention"]:
        fields.problem("layer_types", f"has {other[0]!r}; supported: full_attention in every layer")
    quantization_of(fields)


def _head_dim(fields: Fields) -> int:
    """The field, or else transformers' default; it does not follow from the hidden size."""
    head_dim = fields.positive_int("head_dim", default=128)
    if fields.right("head_dim") and head_dim not in HEAD_DIMS:
        fields.problem("head_dim", f"is {head_dim}; supported: 64 and 128")
    return head_dim


def _rope(fields: Fields) -> RopeConfig:
    """Both spellings: rope_theta and rope_scaling, or transformers 5's rope_parameters."""
    old, new = fields.raw.get("rope_scaling"), fields.raw.get("rope_parameters")
    if old and new and old != new:
        fields.problem("rope_scaling", "and rope_parameters are both given and differ; keep one")
    inner = fields.sub("rope_scaling" if old else "rope_parameters")
    for name in sorted(inner.raw.keys() - ROPE_FIELDS):
        inner.problem(name, "is not a field of the supported rope types")
    if inner.raw.get("partial_rotary_factor") not in (None, 1):
        inner.problem("partial_rotary_factor", f"is {inner.raw['partial_rotary_factor']!r}; supported: 1")
    with_theta = inner if inner.has("rope_theta") else fields
    theta = with_theta.positive_float("rope_theta", default=10000.0)
    if with_theta.right("rope_theta") and theta <= 1:
        with_theta.problem("rope_theta", f"is {theta:g}; it must be above 1")
    kind = inner.one_of("rope_type" if inner.has("rope_type") else "type", ROPE_TYPES, default="default")
    if kind == "default":
        return RopeConfig(theta=theta)
    factor = inner.positive_float("factor", least=1)
    return RopeConfig(theta, kind, factor) if kind == "linear" else _yarn(fields, inner, theta, factor)


def _yarn(fields: Fields, inner: Fields, theta: float, factor: float) -> RopeConfig:
    context = fields.raw.get("max_position_embeddings")
    # As in transformers, the field beside max_position_embeddings goes before the one in the rope object.
    name = "original_max_position_embeddings"
    original = (fields if fields.has(name) else inner).positive_int(
        name, default=context if isinstance(context, int) and context > 0 else 32768
    )
    rope = RopeConfig(
        theta=theta,
        type="yarn",
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=inner.positive_float("beta_fast", default=32.0),
        beta_slow=inner.positive_float("beta_slow", default=1.0),
        attention_factor=inner.optional_float("attention_factor"),
        mscale=inner.optional_float("mscale"),
        mscale_all_dim=inner.optional_float("mscale_all_dim"),
        truncate=inner.boolean("truncate", default=True),
    )
    if rope.beta_fast < rope.beta_slow:
        inner.problem("beta_fast", f"is {rope.beta_fast:g}; it must not be below beta_slow, {rope.beta_slow:g}")
    return rope


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; a checkpoint's folder has a {file.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file} holds a JSON {type(value).__name__}; it must be an object")
    return value
