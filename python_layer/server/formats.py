"""The objects of OpenAI's two protocols: completions and chat completions."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from python_layer.inference.request import TokenLogprobs
from python_layer.tokenizer import QwenTokenizer
from python_layer.tokenizer.answer_parser import AnswerParser, Delta

JSON = dict[str, Any]
Entries = Sequence[TokenLogprobs | None]
"""None stands for a token that follows nothing: the first of a prompt."""


@dataclass(frozen=True)
class Whole:
    """A whole answer.

    Attributes:
        content: What its choice holds.
        reason: Why it ended.
    """

    content: JSON
    reason: str | None


class Format(Protocol):
    """How completions and chat completions differ; one for the answers to one body."""

    kind: str
    chunk_kind: str
    empty: ClassVar[JSON]
    """What a chunk holds that brings no text."""

    def opening(self) -> JSON | None:
        """What a stream's first chunk of a choice holds; None for none."""

    def pieces(self, index: int, text: str, reason: str | None) -> tuple[list[JSON], str | None]:
        """What the next chunks of a choice hold, at least one if it ends, and why it ends."""

    def whole(self, index: int, text: str, reason: str | None) -> Whole:
        """A choice that is not streamed."""

    def logprobs(self, tokens: list[int], entries: Entries) -> JSON:
        """The log-probabilities of some tokens."""


class CompletionFormat:
    """Objects of /v1/completions."""

    kind = chunk_kind = "text_completion"
    empty: ClassVar[JSON] = {"text": ""}

    def __init__(self, tokenizer: QwenTokenizer | None) -> None:
        self._tokenizer = tokenizer

    def opening(self) -> JSON | None:
        """Nothing."""
        return None

    def pieces(self, index: int, text: str, reason: str | None) -> tuple[list[JSON], str | None]:
        """The text itself."""
        return [{"text": text}] if text or reason else [], reason

    def whole(self, index: int, text: str, reason: str | None) -> Whole:
        """The text itself."""
        return Whole({"text": text}, reason)

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


@dataclass
class ToolCallCounts:
    """Since the start.

    Attributes:
        calls: Tool calls in answers.
        malformed: Blocks that were no call, or whose arguments were no JSON.
    """

    calls: int = 0
    malformed: int = 0


class ChatFormat:
    """Objects of /v1/chat/completions.

    Args:
        tokenizer: Spells tokens.
        parser: Makes a parser for one answer.
        counts: Told the calls.
        named: The request named the function to call; then the answer ends with "stop", as OpenAI's does.
    """

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    empty: ClassVar[JSON] = {"delta": {}}

    def __init__(
        self,
        tokenizer: QwenTokenizer | None,
        parser: Callable[[], AnswerParser],
        counts: ToolCallCounts,
        named: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._parser, self._counts, self._named = parser, counts, named
        self._parsers: dict[int, AnswerParser] = {}

    def opening(self) -> JSON | None:
        """The role."""
        return {"delta": {"role": "assistant", "content": ""}}

    def pieces(self, index: int, text: str, reason: str | None) -> tuple[list[JSON], str | None]:
        """Deltas."""
        deltas = [{"delta": _delta(delta)} for delta in self._parsed(index, text, reason)]
        return deltas or ([self.empty] if reason else []), self._reason(index, reason)

    def whole(self, index: int, text: str, reason: str | None) -> Whole:
        """A message."""
        message: JSON = {"role": "assistant", "content": ""}
        calls: list[JSON] = []
        for delta in self._parsed(index, text, reason or "stop"):
            if delta.kind == "call":
                calls.append(_call(delta.text))
            elif delta.kind == "arguments":
                calls[delta.index]["function"]["arguments"] += delta.text
            elif delta.kind == "content":
                message["content"] += delta.text
            else:
                message["reasoning_content"] = message.get("reasoning_content", "") + delta.text
        if calls:
            message |= {"tool_calls": calls, "content": message["content"] or None}
        return Whole({"message": message}, self._reason(index, reason))

    def _parsed(self, index: int, text: str, reason: str | None) -> list[Delta]:
        parser = self._parsers.setdefault(index, self._parser())
        deltas = parser.push(text)
        if reason is not None:
            deltas += parser.flush()
            self._counts.calls += parser.calls
            self._counts.malformed += parser.malformed
        return deltas

    def _reason(self, index: int, reason: str | None) -> str | None:
        called = self._parsers[index].calls > 0 and not self._named
        return "tool_calls" if reason == "stop" and called else reason

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


def _delta(delta: Delta) -> JSON:
    if delta.kind == "call":
        return {"tool_calls": [{"index": delta.index, **_call(delta.text)}]}
    if delta.kind == "arguments":
        return {"tool_calls": [{"index": delta.index, "function": {"arguments": delta.text}}]}
    return {"reasoning_content" if delta.kind == "reasoning" else "content": delta.text}


def _call(name: str) -> JSON:
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": {"name": name, "arguments": ""}}
