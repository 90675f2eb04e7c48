"""Writes tests/data/rope.json: the rotary frequencies of Hugging Face transformers, which ours must equal.

Run with an environment that has torch and transformers: ``python tests/golden/make_rope_golden.py``.
"""

import json
from pathlib import Path

from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
OLD_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

CASES: dict[str, dict[str, object]] = {
    "qwen3": {"rope_theta": 1000000.0},
    "theta_absent": {},
    "head_dim_64": {"rope_theta": 1000000.0, "head_dim": 64},
    "integer_theta": {"rope_theta": 10000},
    "default_in_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0}},
    "linear": {"rope_theta": 1000000.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    "linear_in_parameters": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 2.5},
        "head_dim": 64,
    },
    "yarn": {"rope_theta": 1000000.0, "rope_scaling": YARN, "max_position_embeddings": 131072},
    "yarn_old_spelling": {
        "rope_theta": 1000000.0,
        "rope_scaling": OLD_YARN,
        "max_position_embeddings": 131072,
    },
    "yarn_in_parameters": {
        "rope_parameters": YARN | {"rope_theta": 1000000.0},
        "max_position_embeddings": 131072,
    },
    "yarn_head_dim_64": {"rope_theta": 10000.0, "rope_scaling": YARN, "head_dim": 64},
    "yarn_default_context": {
        "rope_theta": 1000000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 8.0},
        "max_position_embeddings": 4096,
    },
    "yarn_betas": {"rope_theta": 1000000.0, "rope_scaling": YARN | {"beta_fast": 64.0, "beta_slow": 2.0}},
    "yarn_equal_betas": {
        "rope_theta": 1000000.0,
        "rope_scaling": YARN | {"beta_fast": 4.0, "beta_slow": 4.0, "truncate": False},
    },
    "yarn_not_truncated": {"rope_theta": 1000000.0, "rope_scaling": YARN | {"truncate": False}},
    "yarn_attention_factor": {"rope_theta": 1000000.0, "rope_scaling": YARN | {"attention_factor": 0.75}},
    "yarn_mscale": {"rope_theta": 1000000.0, "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 1.2}},
    "yarn_mscale_alone": {"rope_theta": 1000000.0, "rope_scaling": YARN | {"mscale": 0.707}},
    "yarn_factor_1": {"rope_theta": 1000000.0, "rope_scaling": YARN | {"factor": 1.0}},
    "yarn_small_context": {
        "rope_theta": 10000.0,
        "rope_scaling": YARN | {"original_max_position_embeddings": 64},
        "head_dim": 64,
    },
}

SIZES: dict[str, object] = {
    "model_type": "qwen3",
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
}


def main() -> None:
    """Writes every case: its config.json, the frequencies (float32, exactly) and the attention factor."""
    golden = {}
    for name, fields in CASES.items():
        raw = json.loads(json.dumps(SIZES | fields))
        rope = Qwen3RotaryEmbedding(Qwen3Config.from_dict(json.loads(json.dumps(raw))))
        golden[name] = {
            "config": raw,
            "frequencies": [float(value) for value in rope.inv_freq],
            "attention_factor": float(rope.attention_scaling),
        }
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(case)}" for name, case in golden.items())
    target = Path(__file__).parent.parent / "data" / "rope.json"
    target.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
