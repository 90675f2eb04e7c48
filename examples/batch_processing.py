"""Decodes several prompts of different lengths together: one ragged batch, one step of the model per token.

    python examples/batch_processing.py [--model DIR] [PROMPT ...]

Shows the model's own interface, below ``generate``: pages, ragged batches and logits. Each answer is the
same, bit for bit, as if its prompt had been alone. Without --model, a small model with random weights is made
on the spot: real but for what it says.
"""

import argparse

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.loading import load_model
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.utils.settings import load_settings

PROMPTS = ["Hello", "The days of the week are Monday,", "2 + 2 =", "A page of the KV cache holds"]


def generate_together(model: Qwen3Model, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Greedy continuations: the prompts in the first step, then one token of each request per step."""
    layout = model.layout
    owned, total = [], 0
    for prompt in prompts:
        pages = layout.pages_for(len(prompt) + new_tokens)
        owned.append(range(total, total + pages))
        total += pages
    cache = layout.allocate(total)

    answers: list[list[int]] = [[] for _ in prompts]
    waiting, computed = [list(prompt) for prompt in prompts], [0] * len(prompts)
    for _ in range(new_tokens):
        rows = [RequestRows(*parts) for parts in zip(waiting, computed, owned, strict=True)]
        chosen = model.forward(RaggedBatch.of(rows), cache).argmax(axis=1)
        for i, token in enumerate(chosen.tolist()):
            computed[i] += len(waiting[i])
            waiting[i] = [token]
            answers[i].append(token)
    return answers


def main() -> None:
    """Loads the model and prints every continuation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--model", help="checkpoint folder or hub id")
    parser.add_argument("--max-tokens", type=int, default=16)
    options = parser.parse_args()

    model = load_model(load_settings({"model": options.model}))
    tokenizer = model.tokenizer
    if tokenizer is None:
        parser.error("the checkpoint has no tokenizer")
    prompts = [tokenizer.encode(prompt) for prompt in options.prompts]
    for prompt, answer in zip(options.prompts, generate_together(model, prompts, options.max_tokens), strict=True):
        print(f"{prompt!r} -> {tokenizer.decode(i for i in answer if i in tokenizer)!r}")


if __name__ == "__main__":
    main()
