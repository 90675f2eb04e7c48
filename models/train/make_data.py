"""Makes the training data: tokenized conversations, and which of their tokens are learned.

Run as ``python -m models.train.make_data``. The same seed makes the same file.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import Tokenizer

from models.train.data_mix import Conversation, training_conversation
from models.train.train_tokenizer import MODEL_DIR
from python_layer.tokenizer.chat_template import ChatTemplate

CHUNK = 5000
LONGEST = 2048
Document = tuple[NDArray[np.uint16], NDArray[np.uint8]]


class Encoder:
    """Turns conversations into tokens and a mask of those to learn.

    Args:
        folder: Where the tokenizer is.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._template = ChatTemplate.from_pretrained(folder)
        self._start = self._tokenizer.encode("<|im_start|>assistant\n").ids
        self._end = self._tokenizer.token_to_id("<|im_end|>")

    def decode(self, ids: list[int]) -> str:
        """The text of tokens, special ones included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def encode(self, conversation: Conversation) -> Document:
        """The tokens [T] of a conversation, and 1 for each that is learned.

        Learned is what the assistant says, up to <|im_end|>. The last answer is learned whole; of an earlier one, which
        the template strips of its thoughts, the first token is not: a model that thinks never begins like that.
        """
        prompt = self._template.render(
            conversation.messages[:-1], tools=conversation.tools, enable_thinking=conversation.thinking
        )
        whole = self._template.render(conversation.messages, tools=conversation.tools, add_generation_prompt=False)
        assert whole.startswith(prompt), (prompt, whole)
        before = self._tokenizer.encode(prompt).ids
        ids = before + self._tokenizer.encode(whole[len(prompt) :].rstrip("\n")).ids
        learned = np.zeros(len(ids), np.uint8)
        learned[len(before) :] = 1
        width, end = len(self._start), -1
        for start in range(len(before) - width):
            if start > end and ids[start : start + width] == self._start:
                end = ids.index(self._end, start)
                learned[start + width + 1 : min(end + 1, len(before))] = 1
        if not conversation.thinking:  # the empty thought comes from the prompt
            think = self._tokenizer.encode("<think>\n\n</think>\n\n").ids
            if before[-len(think) :] == think:
                learned[len(before) - len(think) : len(before)] = 0
        return np.array(ids, np.uint16), learned


def chunk_of(seed: int, folder: Path, count: int) -> list[Document]:
    """Conversations of one seed, the few that are too long left out."""
    encoder, rng = Encoder(folder), Random(seed)
    documents = [encoder.encode(training_conversation(rng)) for _ in range(count)]
    return [document for document in documents if len(document[0]) <= LONGEST]


def main() -> None:
    """Makes the data file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=600_000)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--model-dir", type=Path, default=MODEL_DIR, help="folder with the tokenizer")
    parser.add_argument("--out", type=Path, default=Path("build/train/data.npz"))
    args = parser.parse_args()
    seeds = range(args.seed, args.seed + -(-args.conversations // CHUNK))
    documents: list[Document] = []
    with ProcessPoolExecutor() as pool:
        make = partial(chunk_of, folder=args.model_dir, count=CHUNK)
        for chunk in track(pool.map(make, seeds), "making conversations", len(seeds)):
            documents += chunk
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokens, learned = (np.concatenate(column) for column in zip(*documents, strict=True))
    offsets = np.cumsum([0] + [len(ids) for ids, _ in documents])
    np.savez(args.out, tokens=tokens, learned=learned, offsets=offsets)
    print(f"{len(documents):,} conversations, {len(tokens):,} tokens, {int(learned.sum()):,} learned: {args.out}")


if __name__ == "__main__":
    main()
