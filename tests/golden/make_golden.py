"""Makes the golden cases: tiny Qwen3 checkpoints and what Hugging Face transformers computes from them.

Needs the ``golden`` extra (torch, transformers). From the repository's root:

    python tests/golden/make_golden.py                       # the committed cases, into tests/data/golden
    python tests/golden/make_golden.py --out DIR --random 6  # random configurations, for a longer check
    python tests/golden/make_golden.py --out DIR --model CHECKPOINT  # a checkpoint that exists already
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

STEPS = 32
PROMPT_LENGTHS = (1, 17, 300)
SMALLEST_GAP = 2e-3
"""The two likeliest tokens differ by this much at every step, so that rounding can't swap them."""

BASE = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "hidden_act": "silu", "use_sliding_window": False}

CASES = {
    "tied": {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "untied_bias_yarn": {
        "vocab_size": 517,
        "hidden_size": 100,
        "intermediate_size": 173,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "gqa4": {
        "vocab_size": 384,
        "hidden_size": 96,
        "intermediate_size": 200,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    },
}


def main() -> None:
    """Writes the cases that the arguments ask for."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("tests/data/golden"))
    arguments.add_argument("--random", type=int, default=0, help="make so many random configurations instead")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--model", type=Path, help="only run this checkpoint, in float32")
    arguments.add_argument("--prompt-lengths", type=int, nargs="+", default=PROMPT_LENGTHS)
    arguments.add_argument("--steps", type=int, default=STEPS)
    options = arguments.parse_args()
    if options.model:
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
        options.out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            options.out / "golden.npz", **run(model, options.seed, options.prompt_lengths, options.steps)[0]
        )
        return
    rng = np.random.default_rng(options.seed)
    cases = {f"random{i}": random_case(rng) for i in range(options.random)} if options.random else CASES
    for name, fields in cases.items():
        make_case(options.out / name, fields, options.seed, options.prompt_lengths, options.steps)


def random_case(rng: np.random.Generator) -> dict:
    """A configuration that nobody chose."""
    heads = int(rng.choice([1, 2, 4, 8]))
    ratio = int(rng.choice([r for r in (1, 2, 4, 8) if r <= heads]))
    rope: dict = {"rope_type": "default", "rope_theta": float(rng.choice([1e4, 1e5, 1e6]))}
    if rng.random() < 0.5:
        rope |= {"rope_type": "yarn", "factor": float(rng.choice([2.0, 4.0])), "original_max_position_embeddings": 128}
        if rng.random() < 0.5:
            rope["attention_factor"] = 1.1
    return {
        "vocab_size": int(rng.integers(200, 900)),
        "hidden_size": int(rng.integers(24, 200)),
        "intermediate_size": int(rng.integers(30, 400)),
        "num_hidden_layers": int(rng.integers(1, 5)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // ratio,
        "head_dim": int(rng.choice([64, 128])),
        "attention_bias": bool(rng.random() < 0.5),
        "tie_word_embeddings": bool(rng.random() < 0.5),
        "rope_parameters": rope,
    }


def make_case(folder: Path, fields: dict, seed: int, lengths: tuple[int, ...], steps: int) -> None:
    """Tries seeds until no step is a near tie; then writes the checkpoint and the golden values."""
    config = Qwen3Config(**BASE, **fields)
    while True:
        model = random_weights(config, seed)
        golden, gap = run(model, seed, lengths, steps)
        if gap >= SMALLEST_GAP:
            break
        seed += 1
    shutil.rmtree(folder, ignore_errors=True)
    # Two shards for one case, so that the index is read too.
    model.save_pretrained(folder, max_shard_size="1200KB" if folder.name == "gqa4" else "5GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    raw = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None, "bos_token_id": None}
    if folder.name == "untied_bias_yarn":  # the spelling before transformers 5
        rope = raw.pop("rope_parameters")
        raw |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (folder / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
    np.savez_compressed(folder / "golden.npz", **golden)
    print(f"{folder}: seed {seed}, smallest gap {gap:.4f}, {sum(p.numel() for p in model.parameters()):,} parameters")


def random_weights(config: Qwen3Config, seed: int) -> Qwen3ForCausalLM:
    """Weights large enough for clear preferences, norms about 1, biases not zero."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape)
            if "norm" in name:
                parameter.copy_(1 + 0.2 * values)
            elif name.endswith("bias"):
                parameter.copy_(0.5 * values)
            else:
                parameter.copy_(1.5 * values * parameter.shape[-1] ** -0.5)
    return model


@torch.no_grad()
def run(model: torch.nn.Module, seed: int, lengths: tuple[int, ...], steps: int) -> tuple[dict[str, np.ndarray], float]:
    """Greedy decoding without a KV cache: every step recomputes everything."""
    rng = np.random.default_rng(seed)
    golden, smallest = {}, float("inf")
    for length in lengths:
        prompt = rng.integers(0, model.config.vocab_size, length)
        ids, logits = torch.tensor(prompt)[None], []
        for _ in range(steps + 1):
            logits.append(model(ids, use_cache=False).logits[0, -1].float().numpy())
            best = np.sort(logits[-1])[-2:]
            smallest = min(smallest, float(best[1] - best[0]))
            ids = torch.cat([ids, torch.tensor([[int(logits[-1].argmax())]])], 1)
        golden[f"prompt{length}"] = prompt.astype(np.int32)
        golden[f"greedy{length}"] = ids[0, length:].numpy().astype(np.int32)
        golden[f"logits{length}"] = np.stack(logits)
    return golden, smallest


if __name__ == "__main__":
    main()
