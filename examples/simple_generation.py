"""Answers one question.

    python examples/simple_generation.py [--model DIR] [QUESTION]

Without --model, the small model in models/mili-tiny answers.
"""

import argparse

from python_layer.model.loading import load_model
from python_layer.tokenizer import ChatTemplate
from python_layer.utils.settings import load_settings


def main() -> None:
    """Loads the model and prints its answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--model", help="checkpoint folder, GGUF file or hub id")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()

    model = load_model(load_settings({"model": options.model}))
    template = ChatTemplate.from_pretrained(model.folder)
    prompt = template.render([{"role": "user", "content": options.question}], enable_thinking=False)
    result = model.generate(prompt, max_tokens=options.max_tokens)
    print(result.text)
    print(f"\n{result.prompt_tokens} prompt tokens, {len(result.tokens)} new ones, ended by {result.finish_reason}")


if __name__ == "__main__":
    main()
