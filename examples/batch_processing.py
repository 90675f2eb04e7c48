"""Answers many questions of different lengths through the engine, as many at once as fit.

    python examples/batch_processing.py [--model DIR] [QUESTION ...]

Each answer is the same, bit for bit, as if its question had been alone. Without --model, the small model in
models/mili-tiny answers.
"""

import argparse

from rich.progress import Progress

from python_layer.inference.build import build_engine
from python_layer.inference.params import GenerationParams
from python_layer.model.generation import encode_prompt
from python_layer.model.loading import load_model
from python_layer.tokenizer import ChatTemplate
from python_layer.utils.settings import load_settings

QUESTIONS = ["Hello", "Which day comes after Monday?", "What is 218 + 34?", "What is a page of the KV cache?"]


def main() -> None:
    """Loads the model, starts an engine and prints every answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", default=QUESTIONS)
    parser.add_argument("--model", help="checkpoint folder, GGUF file or hub id")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()

    settings = load_settings({"model": options.model})
    model = load_model(settings)
    if model.tokenizer is None:
        parser.error("the checkpoint has no tokenizer")
    template = ChatTemplate.from_pretrained(model.folder)
    chats = [[{"role": "user", "content": question}] for question in options.questions]
    prompts = [encode_prompt(model.tokenizer, template.render(chat, enable_thinking=False)) for chat in chats]
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
    for question, [answer] in zip(options.questions, answers, strict=True):
        print(f"{question!r} -> {answer.text!r} ({answer.finish_reason})")
    print(f"\n{stats.generated_tokens} tokens in {stats.steps} steps")


if __name__ == "__main__":
    main()
