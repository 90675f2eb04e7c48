"""Trains the tokenizer: byte-level BPE with Qwen2's split pattern and Qwen3's special tokens.

Run as ``python -m models.train.train_tokenizer``; writes tokenizer.json and tokenizer_config.json.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from models.train.data_mix import training_conversation
from python_layer.tokenizer.tokenizer_files import QWEN2_PATTERN

HERE = Path(__file__).parent
MODEL_DIR = HERE.parent / "mili-tiny"
# The names of Qwen3's added tokens.
SPECIAL = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end vision_start "
    "vision_end vision_pad image_pad video_pad"
).split()
ADDED = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
SPECIAL_TOKENS = [f"<|{name}|>" for name in SPECIAL]


def texts(count: int, seed: int) -> Iterator[str]:
    """What conversations say, without the template around it."""
    rng = Random(seed)
    for _ in range(count):
        for message in training_conversation(rng).messages:
            yield str(message.get("reasoning_content", ""))
            yield str(message["content"])
            for call in message.get("tool_calls", ()):
                yield json.dumps(call["function"])


def train(vocab_size: int, samples: int, seed: int) -> Tokenizer:
    """A tokenizer with ``vocab_size`` tokens, the special ones last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS) - len(ADDED),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    # The template and the schemas of tools are part of every prompt that has them.
    fixed = [(HERE / "chat_template.jinja").read_text(encoding="utf-8")] * 20
    tokenizer.train_from_iterator([*fixed, *texts(samples, seed)], trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.add_tokens(ADDED)
    return tokenizer


def config() -> dict[str, object]:
    """tokenizer_config.json, with the chat template."""
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "bos_token": None,
        "chat_template": (HERE / "chat_template.jinja").read_text(encoding="utf-8"),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def main() -> None:
    """Trains and writes the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=60_000, help="conversations to learn from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train(args.vocab_size, args.samples, args.seed)
    tokenizer.save(str(args.out / "tokenizer.json"))
    (args.out / "tokenizer_config.json").write_text(json.dumps(config(), indent=2) + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens in {args.out / 'tokenizer.json'}")


if __name__ == "__main__":
    main()
