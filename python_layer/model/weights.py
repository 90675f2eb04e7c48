"""Which checkpoint tensors the graph reads, and under which names and shapes."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from python_layer.model.config import Qwen3Config
from python_layer.model.weight_spec import WeightSpec

EMBEDDING = "embedding"
LM_HEAD = "lm_head"
FINAL_NORM = "norm"


def weight_specs(config: Qwen3Config, *, packed: bool = True) -> list[WeightSpec]:
    """Every weight of the graph.

    Matrices keep the precision of the model and have shape [out, in]. For CPUs those of linear layers are ``packed``,
    and weights of all layers are one. Norm weights and biases are float32.
    Projections that read the same input are stacked: ``qkv`` is queries, keys and values, ``gate_up`` is gate
    and up. With tied embeddings the output projection is the embedding itself.
    """
    hidden = config.hidden_size
    specs = [
        _matrix(EMBEDDING, hidden, ("model.embed_tokens.weight", config.vocab_size), packed=config.tie_word_embeddings),
        _vector(FINAL_NORM, ("model.norm.weight", hidden)),
    ]
    if not config.tie_word_embeddings:
        specs.append(_matrix(LM_HEAD, hidden, ("lm_head.weight", config.vocab_size)))
    layers = [_layer_specs(config, f"layers.{i}.", f"model.layers.{i}.") for i in range(config.num_hidden_layers)]
    if packed:
        return specs + [_of_all_layers(members) for members in zip(*layers, strict=True)]
    return [replace(spec, packed=False) for spec in itertools.chain(specs, *layers)]


def ignored_tensors(config: Qwen3Config) -> set[str]:
    """Tensors a checkpoint may hold though the graph has no use for them."""
    return {"lm_head.weight"} if config.tie_word_embeddings else set()


def _layer_specs(config: Qwen3Config, to: str, source: str) -> list[WeightSpec]:
    hidden, inner = config.hidden_size, config.intermediate_size
    attention, mlp = f"{source}self_attn.", f"{source}mlp."
    projections = [("q_proj", config.q_size), ("k_proj", config.kv_size), ("v_proj", config.kv_size)]
    specs = [
        _vector(f"{to}input_norm", (f"{source}input_layernorm.weight", hidden)),
        _matrix(f"{to}qkv", hidden, *((f"{attention}{name}.weight", rows) for name, rows in projections)),
        _vector(f"{to}q_norm", (f"{attention}q_norm.weight", config.head_dim)),
        _vector(f"{to}k_norm", (f"{attention}k_norm.weight", config.head_dim)),
        _matrix(f"{to}o", config.q_size, (f"{attention}o_proj.weight", hidden)),
        _vector(f"{to}post_norm", (f"{source}post_attention_layernorm.weight", hidden)),
        _matrix(f"{to}gate_up", hidden, (f"{mlp}gate_proj.weight", inner), (f"{mlp}up_proj.weight", inner)),
        _matrix(f"{to}down", inner, (f"{mlp}down_proj.weight", hidden)),
    ]
    if config.attention_bias:
        biases = ((f"{attention}{name}.bias", rows) for name, rows in projections)
        specs += [
            _vector(f"{to}qkv_bias", *biases),
            _vector(f"{to}o_bias", (f"{attention}o_proj.bias", hidden)),
        ]
    return specs


def _of_all_layers(members: Sequence[WeightSpec]) -> WeightSpec:
    """The same weight of all layers as one, without a layer's number in its name."""
    start, _, kind = members[0].name.rpartition(".")
    sources = tuple(itertools.chain.from_iterable(spec.sources for spec in members))
    return replace(members[0], name=f"{start.partition('.')[0]}.{kind}", sources=sources, layers=len(members))


def _matrix(name: str, columns: int, *sources: tuple[str, int], packed: bool = True) -> WeightSpec:
    rows = sum(rows for _, rows in sources)
    return WeightSpec(
        name, (rows, columns), tuple((source, (rows, columns)) for source, rows in sources), packed=packed
    )


def _vector(name: str, *sources: tuple[str, int]) -> WeightSpec:
    size = sum(size for _, size in sources)
    return WeightSpec(name, (size,), tuple((source, (size,)) for source, size in sources), dtype="float32")
