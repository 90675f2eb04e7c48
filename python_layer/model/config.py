"""The configuration of a dense Qwen3 model, read from a checkpoint's config.json and checked field by field."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_layer.model.hub import resolve_model
from python_layer.utils.errors import ConfigError

HEAD_DIMS = (64, 128)
DTYPES = ("float32", "bfloat16", "float16")
ROPE_TYPES = ("default", "linear", "yarn")


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

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path) -> "Qwen3Config":
        """Reads config.json, and the end-of-sequence tokens of generation_config.json, of a checkpoint.

        Raises:
            ConfigError: A file is missing or not JSON, or fields are wrong or not supported (all are named).
        """
        folder = resolve_model(path_or_hub_id)
        raw = _read_object(folder / "config.json")
        generation = folder / "generation_config.json"
        if generation.exists():
            eos = _read_object(generation).get("eos_token_id")
            raw = raw if eos is None else raw | {"eos_token_id": eos}
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Qwen3Config":
        """Checks the fields of a config.json.

        Raises:
            ConfigError: Lists every field that is missing, wrong or not supported, and why.
        """
        fields = _Fields(raw)
        _check_architecture(fields)
        heads = fields.positive_int("num_attention_heads")
        hidden = fields.positive_int("hidden_size")
        head_dim = fields.positive_int("head_dim", default=hidden // heads if heads else 0)
        kv_heads = fields.positive_int("num_key_value_heads", default=heads)
        if head_dim and head_dim not in HEAD_DIMS:
            fields.problem("head_dim", f"is {head_dim}; the attention kernels have 64 and 128")
        if heads and kv_heads and heads % kv_heads:
            fields.problem("num_key_value_heads", f"is {kv_heads}, which does not divide {heads} query heads")
        dtype_field = "dtype" if raw.get("dtype") is not None else "torch_dtype"
        config = cls(
            vocab_size=fields.positive_int("vocab_size"),
            hidden_size=hidden,
            intermediate_size=fields.positive_int("intermediate_size"),
            num_hidden_layers=fields.positive_int("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=fields.positive_float("rms_norm_eps", default=1e-6),
            rope=_rope(fields),
            max_position_embeddings=fields.positive_int("max_position_embeddings", default=32768),
            attention_bias=fields.boolean("attention_bias", default=False),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
            eos_token_ids=fields.token_ids("eos_token_id"),
            dtype=fields.one_of(dtype_field, DTYPES, default="bfloat16"),
        )
        fields.raise_if_any()
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


class _Fields:
    """Reads fields by type and collects what is wrong with them."""

    def __init__(self, raw: Mapping[str, Any], prefix: str = "", problems: list[str] | None = None) -> None:
        self.raw = raw
        self._prefix = prefix
        self._problems: list[str] = [] if problems is None else problems

    def sub(self, name: str, raw: Mapping[str, Any]) -> "_Fields":
        return _Fields(raw, f"{self._prefix}{name}.", self._problems)

    def problem(self, name: str, what: str) -> None:
        self._problems.append(f"{self._prefix}{name} {what}")

    def raise_if_any(self) -> None:
        if self._problems:
            raise ConfigError(f"the model's config.json is not supported: {'; '.join(self._problems)}")

    def positive_int(self, name: str, default: int | None = None) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            if value is not None and value != 0 or name in self.raw:
                self.problem(name, f"is {value!r}; it must be a positive whole number")
            return 0
        return value

    def positive_float(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            if value is not None:
                self.problem(name, f"is {value!r}; it must be a positive number")
            return 1.0
        return float(value)

    def optional_float(self, name: str) -> float | None:
        return None if self.raw.get(name) is None else self.positive_float(name)

    def boolean(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            self.problem(name, f"is {value!r}; it must be true or false")
            return default
        return value

    def one_of(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self._get(name, default)
        if value not in allowed:
            self.problem(name, f"is {value!r}; supported are {', '.join(allowed)}")
            return allowed[0]
        return str(value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        value = self.raw.get(name)
        values = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in values):
            self.problem(name, f"is {value!r}; it must be a token id or a list of them")
            return ()
        return tuple(values)

    def _get(self, name: str, default: Any) -> Any:
        value = self.raw.get(name)
        if value is None:
            if default is None:
                self.problem(name, "is missing")
            return default
        return value


def _check_architecture(fields: _Fields) -> None:
    raw = fields.raw
    if raw.get("model_type") != "qwen3":
        fields.problem("model_type", f"is {raw.get('model_type')!r}; supported is 'qwen3' (dense Qwen3)")
    if raw.get("hidden_act", "silu") != "silu":
        fields.problem("hidden_act", f"is {raw['hidden_act']!r}; supported is 'silu'")
    layer_types = raw.get("layer_types")
    sliding = isinstance(layer_types, list) and any(kind != "full_attention" for kind in layer_types)
    if raw.get("use_sliding_window") or sliding:
        name = "use_sliding_window" if raw.get("use_sliding_window") else "layer_types"
        fields.problem(name, "asks for sliding-window attention; supported is full attention in every layer")
    if raw.get("quantization_config") is not None:
        fields.problem("quantization_config", "is present; supported are unquantised checkpoints")


def _rope(fields: _Fields) -> RopeConfig:
    """Both spellings: rope_theta and rope_scaling, or transformers 5's rope_parameters."""
    name = "rope_parameters" if fields.raw.get("rope_parameters") is not None else "rope_scaling"
    scaling = fields.raw.get(name)
    if scaling is None:
        return RopeConfig(theta=fields.positive_float("rope_theta", default=10000.0))
    if not isinstance(scaling, dict):
        fields.problem(name, f"is {scaling!r}; it must be an object")
        return RopeConfig()
    inner = fields.sub(name, scaling)
    theta = (inner if "rope_theta" in scaling else fields).positive_float("rope_theta", default=10000.0)
    kind = inner.one_of("rope_type" if "rope_type" in scaling else "type", ROPE_TYPES, default="default")
    if kind == "default":
        return RopeConfig(theta=theta)
    factor = inner.positive_float("factor")
    if factor < 1:
        inner.problem("factor", f"is {factor}; it must be 1 or more")
    if kind == "linear":
        return RopeConfig(theta=theta, type=kind, factor=factor)
    context = fields.raw.get("max_position_embeddings")
    return RopeConfig(
        theta=theta,
        type=kind,
        factor=factor,
        original_max_position_embeddings=inner.positive_int(
            "original_max_position_embeddings", default=context if isinstance(context, int) else 32768
        ),
        beta_fast=inner.positive_float("beta_fast", default=32.0),
        beta_slow=inner.positive_float("beta_slow", default=1.0),
        attention_factor=inner.optional_float("attention_factor"),
        mscale=inner.optional_float("mscale"),
        mscale_all_dim=inner.optional_float("mscale_all_dim"),
        truncate=inner.boolean("truncate", default=True),
    )


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; a checkpoint folder has a {file.name}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{file} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file} holds a JSON {type(value).__name__}; it must be an object")
    return value
