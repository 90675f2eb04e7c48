"""The objects of OpenAI's two protocols: completions and chat completions."""

from collections.abc import Sequence
from typing import Any, Protocol

from python_layer.inference.request import TokenLogprobs
from python_layer.tokenizer import QwenTokenizer

JSON = dict[str, Any]
Entries = Sequence[TokenLogprobs | None]
"""None stands for a token that follows nothing: the first of a prompt."""


class Format(Protocol):
    """How completions and chat completions differ."""

    kind: str
    chunk_kind: str

    def opening(self) -> JSON | None:
        """What a stream's first chunk of a choice holds; None for none."""

    def piece(self, text: str) -> JSON:
        """A chunk's part of the text."""

    def whole(self, text: str) -> JSON:
        """The whole text."""

    def logprobs(self, tokens: list[int], entries: Entries) -> JSON:
        """The log-probabilities of some tokens."""


class CompletionFormat:
    """Objects of /v1/completions."""

    kind = chunk_kind = "text_completion"

    def __init__(self, tokenizer: QwenTokenizer | None) -> None:
        self._tokenizer = tokenizer

    def opening(self) -> JSON | None:
        """Nothing."""
        return None

    def piece(self, text: str) -> JSON:
        """The text itself."""
        return {"text": text}

    def whole(self, text: str) -> JSON:
        """The text itself."""
        return {"text": text}

    def logprobs(self, tokens: list[int], entries: Entries) -> JSON:
        """Parallel lists; where two tokens have one spelling, the likelier one is listed."""
        return {
            "tokens": [spelling(self._tokenizer, token)[0] for token in tokens],
            "token_logprobs": [entry and entry.logprob for entry in entries],
            "top_logprobs": [
                entry and {spelling(self._tokenizer, token)[0]: value for token, value in reversed(entry.top)}
                for entry in entries
            ],
        }


class ChatFormat:
    """Objects of /v1/chat/completions."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: QwenTokenizer | None) -> None:
        self._tokenizer = tokenizer

    def opening(self) -> JSON | None:
        """The role."""
        return {"delta": {"role": "assistant", "content": ""}}

    def piece(self, text: str) -> JSON:
        """A delta."""
        return {"delta": {"content": text} if text else {}}

    def whole(self, text: str) -> JSON:
        """A message."""
        return {"message": {"role": "assistant", "content": text}}

    def logprobs(self, tokens: list[int], entries: Entries) -> JSON:
        """One entry per token."""

        def entry(token: int, logprob: float) -> JSON:
            text, data = spelling(self._tokenizer, token)
            return {"token": text, "logprob": logprob, "bytes": list(data)}

        return {
            "content": [
                entry(token, e.logprob) | {"top_logprobs": [entry(*pair) for pair in e.top]}
                for token, e in zip(tokens, entries, strict=True)
                if e is not None
            ]
        }


def prompt_logprobs(tokenizer: QwenTokenizer | None, tokens: list[int], entries: Entries) -> list[JSON | None]:
    """As vLLM reports them: for each token of the prompt its own and the likeliest tokens, by id."""

    def entry(token: int, logprob: float) -> JSON:
        return {"logprob": logprob, "decoded_token": spelling(tokenizer, token)[0]}

    return [
        {str(each): entry(each, value) for each, value in [*e.top, (token, e.logprob)]} if e is not None else None
        for token, e in zip(tokens, entries, strict=True)
    ]


def spelling(tokenizer: QwenTokenizer | None, token: int) -> tuple[str, bytes]:
    """A token's text and bytes; ids beyond the tokenizer have none."""
    data = tokenizer.token_bytes(token) if tokenizer is not None and token in tokenizer else b""
    return data.decode(errors="replace"), data
