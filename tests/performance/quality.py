"""What another setting of a model does to its answers: two models, the same held-out text.

    python -m tests.performance.quality --reference dtype=float32 --candidate model=FILE.gguf dtype=bfloat16 [--json]

A model is given by any settings of the loader (``mili config`` lists them). The text is what the questions of
models/train/skills that training never saw are answered with, or a file; where that is not the model's own, only the
comparison means something.

- relative logit error: the root of the squared differences' sum over that of the reference's squared logits;
- top-1 agreement: how often both find the same token likeliest;
- KL divergence of the candidate's distribution from the reference's, in nats, mean over the tokens;
- perplexity: exp of the mean negative log-likelihood of the text's tokens.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from models.train.data_mix import conversation
from models.train.evaluate import SKILLS
from models.train.script import draw
from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.loading import load_model
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.tokenizer import ChatTemplate
from python_layer.utils.errors import ConfigError, MiliError
from python_layer.utils.settings import load_settings

ROWS = 64
"""Tokens whose logits are held at once."""


@dataclass(frozen=True)
class Document:
    """Tokens, and where the ones begin that the models are asked to predict."""

    tokens: Sequence[int]
    begin: int


@dataclass
class Comparison:
    """Sums over the tokens that were predicted so far."""

    tokens: int = 0
    squared_error: float = 0.0
    squared_reference: float = 0.0
    agreed: int = 0
    divergence: float = 0.0
    losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def add(self, reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]) -> None:
        """Counts logits [rows, vocabulary] of both models, and the tokens [rows] that came."""
        exact, other = reference.astype(np.float64), candidate.astype(np.float64)
        self.tokens += len(targets)
        self.squared_error += float(((other - exact) ** 2).sum())
        self.squared_reference += float((exact**2).sum())
        self.agreed += int((exact.argmax(1) == other.argmax(1)).sum())
        exact, other = log_softmax(exact), log_softmax(other)
        self.divergence += float((np.exp(exact) * (exact - other)).sum())
        rows = np.arange(len(targets))
        self.losses -= [exact[rows, targets].sum(), other[rows, targets].sum()]

    def figures(self) -> dict[str, float | int]:
        """The figures, as they are printed."""
        perplexity = np.exp(self.losses / self.tokens)
        return {
            "tokens": self.tokens,
            "relative_logit_error": float(np.sqrt(self.squared_error / self.squared_reference)),
            "top1_agreement": self.agreed / self.tokens,
            "kl_divergence": self.divergence / self.tokens,
            "reference_perplexity": float(perplexity[0]),
            "candidate_perplexity": float(perplexity[1]),
        }


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities [rows, vocabulary]."""
    shifted = logits - logits.max(1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def held_out(model: Qwen3Model, count: int, seed: int) -> Iterator[Document]:
    """``count`` questions of each skill that are kept out of training, with their answers to predict."""
    template, tokenizer = ChatTemplate.from_pretrained(model.folder), model.tokenizer
    if tokenizer is None:
        raise ConfigError("the reference has no tokenizer")
    end = tokenizer.token_to_id("<|im_end|>")
    for name, skill in SKILLS.items():
        rng = Random(f"{name} {seed}")
        for _ in range(count):
            whole = conversation([draw(rng, skill, held_out=True)], rng)
            prompt = template.render(whole.messages[:-1], tools=whole.tools, enable_thinking=False)
            tokens = tokenizer.encode(prompt, allow_special=True)
            answer = tokenizer.encode(whole.messages[-1]["content"])
            yield Document([*tokens, *answer, *([] if end is None else [end])], len(tokens))


def text_of(model: Qwen3Model, file: Path, length: int) -> Iterator[Document]:
    """A file's text in documents of up to ``length`` tokens, all but the first of each to predict."""
    if model.tokenizer is None:
        raise ConfigError("the reference has no tokenizer")
    tokens = model.tokenizer.encode(file.read_text(encoding="utf-8"))
    for start in range(0, len(tokens), length):
        yield Document(tokens[start : start + length], 1)


def compare(reference: Qwen3Model, candidate: Qwen3Model, documents: Iterator[Document]) -> Comparison:
    """Both models' predictions of the documents' tokens."""
    if reference.config.vocab_size != candidate.config.vocab_size:
        sizes = f"{reference.config.vocab_size} and {candidate.config.vocab_size}"
        raise ConfigError(f"the models have vocabularies of {sizes} tokens; they must be the same")
    comparison = Comparison()
    models = (reference, candidate)
    for document in documents:
        targets = np.asarray(document.tokens, np.int64)
        caches = [model.layout.allocate(model.layout.pages_for(len(targets))) for model in models]
        for start in range(0, len(targets) - 1, ROWS):
            stop = min(start + ROWS, len(targets) - 1)
            wanted = range(max(start, document.begin - 1), stop)
            exact, other = (
                model.forward(step(model, document.tokens, range(start, stop), wanted), cache)
                for model, cache in zip(models, caches, strict=True)
            )
            if wanted:
                comparison.add(exact, other, targets[wanted.start + 1 : wanted.stop + 1])
    if not comparison.tokens:
        raise ConfigError("the text has no token to predict")
    return comparison


def step(model: Qwen3Model, tokens: Sequence[int], rows: range, wanted: range) -> RaggedBatch:
    """Computes the tokens at ``rows``, and the logits at ``wanted`` of them."""
    pages = range(model.layout.pages_for(len(tokens)))
    logits = [row - rows.start for row in wanted]
    return RaggedBatch.of([RequestRows(tokens[rows.start : rows.stop], rows.start, pages, logits)])


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """``name=value`` words as flags of the settings."""
    if wrong := [word for word in words if "=" not in word]:
        raise ConfigError(f"{wrong[0]!r} is no setting; write name=value, such as dtype=float32")
    return dict(word.split("=", 1) for word in words)


def main() -> None:
    """Parses the arguments, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("reference", "candidate"):
        parser.add_argument(f"--{name}", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the model")
    parser.add_argument("--count", type=int, default=30, help="questions per skill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text", type=Path, help="a file to predict in place of the questions' answers")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.count < 1:
        parser.error("--count must be 1 or more")
    try:
        given = {name: settings_of(getattr(options, name)) for name in ("reference", "candidate")}
        reference, candidate = (load_model(load_settings(dict(words))) for words in given.values())
        length = min(model.config.max_position_embeddings for model in (reference, candidate))
        if options.text:
            documents = text_of(reference, options.text, min(length, 2048))
        else:
            documents = held_out(reference, options.count, options.seed)
        figures = compare(reference, candidate, documents).figures()
    except (MiliError, OSError, UnicodeDecodeError) as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(given | figures))
        return
    for name, words in given.items():
        print(f"{name:22} {' '.join(f'{key}={value}' for key, value in words.items()) or 'as configured'}")
    for name, value in figures.items():
        print(f"{name:22} {value:,}" if isinstance(value, int) else f"{name:22} {value:.6f}")


if __name__ == "__main__":
    main()
