"""Prints an answer as it is generated, with the time of each token.

    python examples/streaming_response.py [--model DIR] [QUESTION]

Without --model, the small model in models/mili-tiny answers.
"""

import argparse
import time

from python_layer.model.loading import load_model
from python_layer.tokenizer import ChatTemplate
from python_layer.utils.settings import load_settings


def main() -> None:
    """Loads the model and streams its answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "question", nargs="?", default="Tell me a story that begins with: There once was a brave fox named Milo."
    )
    parser.add_argument("--model", help="checkpoint folder, GGUF file or hub id")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--temperature", type=float, default=0.7)
    options = parser.parse_args()

    model = load_model(load_settings({"model": options.model}))
    template = ChatTemplate.from_pretrained(model.folder)
    prompt = template.render([{"role": "user", "content": options.question}], enable_thinking=False)
    times = [time.perf_counter()]
    for step in model.generate_stream(
        prompt, max_tokens=options.max_tokens, temperature=options.temperature, top_p=0.95, top_k=20, seed=1
    ):
        print(step.text, end="", flush=True)
        times.append(time.perf_counter())
    print(f"\n\nfirst token after {(times[1] - times[0]) * 1e3:.1f} ms", end="")
    if len(times) > 2:
        print(f", then {(len(times) - 2) / (times[-1] - times[1]):.1f} tokens/s", end="")
    print()


if __name__ == "__main__":
    main()
