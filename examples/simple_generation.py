"""Continues one prompt.

    python examples/simple_generation.py [--model DIR] [PROMPT]

Without --model, a small model with random weights is made on the spot: real but for what it says.
"""

import argparse

from python_layer.model.loading import load_model
from python_layer.utils.settings import load_settings


def main() -> None:
    """Loads the model and prints its continuation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default="The capital of France is")
    parser.add_argument("--model", help="checkpoint folder or hub id")
    parser.add_argument("--max-tokens", type=int, default=32)
    options = parser.parse_args()

    model = load_model(load_settings({"model": options.model}))
    result = model.generate(options.prompt, max_tokens=options.max_tokens)
    print(f"{options.prompt}{result.text}")
    print(f"\n{result.prompt_tokens} prompt tokens, {len(result.tokens)} new ones, ended by {result.finish_reason}")


if __name__ == "__main__":
    main()
