"""Answers many prompts of different lengths through the engine, as many at once as fit.

    python examples/batch_processing.py [--model DIR] [PROMPT ...]

Each answer is the same, bit for bit, as if its prompt had been alone. Without --model, a small model with
random weights is made on the spot: real but for what it says.
"""

import argparse

from rich.progress import Progress

from python_layer.inference.build import build_engine
from python_layer.inference.params import GenerationParams
from python_layer.model.loading import load_model
from python_layer.utils.settings import load_settings

PROMPTS = ["Hello", "The days of the week are Monday,", "2 + 2 =", "A page of the KV cache holds"]


def main() -> None:
    """Loads the model, starts an engine and prints every answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--model", help="checkpoint folder or hub id")
    parser.add_argument("--max-tokens", type=int, default=16)
    options = parser.parse_args()

    settings = load_settings({"model": options.model})
    model = load_model(settings)
    if model.tokenizer is None:
        parser.error("the checkpoint has no tokenizer")
    prompts = [model.tokenizer.encode(prompt) for prompt in options.prompts]
    engine = build_engine(model, settings)
    with Progress(transient=True) as bar:
        task = bar.add_task("Generating", total=len(prompts))
        answers = engine.generate_batch(
            prompts,
            GenerationParams(max_tokens=options.max_tokens),
            lambda done, total: bar.update(task, completed=done),
        )
    stats = engine.stats()
    engine.shutdown()
    for prompt, [answer] in zip(options.prompts, answers, strict=True):
        print(f"{prompt!r} -> {answer.text!r} ({answer.finish_reason})")
    print(f"\n{stats.generated_tokens} tokens in {stats.steps} steps")


if __name__ == "__main__":
    main()
