"""The engine's outputs as OpenAI's objects, whole or as a stream of chunks."""

import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.request import Output, Request, TokenLogprobs
from python_layer.tokenizer import QwenTokenizer
from python_layer.utils.errors import EngineStoppedError

JSON = dict[str, Any]


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

    def logprobs(self, tokens: list[int], entries: list[TokenLogprobs]) -> JSON:
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

    def logprobs(self, tokens: list[int], entries: list[TokenLogprobs]) -> JSON:
        """Parallel lists; where two tokens have one spelling, the likelier one is listed."""
        return {
            "tokens": [_spelling(self._tokenizer, token)[0] for token in tokens],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [
                {_spelling(self._tokenizer, token)[0]: value for token, value in reversed(entry.top)}
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

    def logprobs(self, tokens: list[int], entries: list[TokenLogprobs]) -> JSON:
        """One entry per token."""

        def entry(token: int, logprob: float) -> JSON:
            text, data = _spelling(self._tokenizer, token)
            return {"token": text, "logprob": logprob, "bytes": list(data)}

        return {
            "content": [
                entry(token, e.logprob) | {"top_logprobs": [entry(*pair) for pair in e.top]}
                for token, e in zip(tokens, entries, strict=True)
            ]
        }


class Response:
    """The answers to one request.

    Args:
        engine: Generates them.
        request: What was asked for.
        form: ``created``, ``model`` and ``include_usage``.
        format: Completions or chat completions.
    """

    def __init__(self, engine: InferenceEngine, request: Request, form: JSON, format: Format) -> None:
        self._engine = engine
        self._request = request
        self._form = form
        self._format = format
        self._generated = 0
        self._cached = 0

    async def whole(self) -> JSON:
        """All answers in one object."""
        n = self._request.params.n
        texts: list[list[str]] = [[] for _ in range(n)]
        tokens: list[list[int]] = [[] for _ in range(n)]
        entries: list[list[TokenLogprobs]] = [[] for _ in range(n)]
        reasons: list[str | None] = [None] * n
        async for output in self._engine.generate(self._request):
            self._count(output)
            texts[output.index].append(output.text)
            tokens[output.index] += output.tokens
            entries[output.index] += output.logprobs or []
            reasons[output.index] = output.finish_reason
        with_logprobs = self._request.params.logprobs is not None
        choices = [
            {
                "index": i,
                **self._format.whole("".join(texts[i])),
                "logprobs": self._format.logprobs(tokens[i], entries[i]) if with_logprobs else None,
                "finish_reason": reasons[i],
            }
            for i in range(n)
        ]
        return self._object(self._format.kind, choices) | {"usage": self._usage()}

    async def events(self) -> AsyncIterator[str]:
        """The data of server-sent events: chunks, the usage if wanted, and ``[DONE]``; or an error at the end."""
        outputs = self._engine.generate(self._request)
        # Before anything is sent, so that a refusal can still have a status of its own.
        first = await anext(outputs)
        opening = self._format.opening()
        if opening is not None:
            for index in range(self._request.params.n):
                yield self._chunk(index, opening, None, None)
        try:
            async for output in _chained(first, outputs):
                self._count(output)
                if output.text or output.finish_reason or output.logprobs:
                    logprobs = self._format.logprobs(output.tokens, output.logprobs) if output.logprobs else None
                    yield self._chunk(output.index, self._format.piece(output.text), logprobs, output.finish_reason)
        except EngineStoppedError as error:
            yield json.dumps({"error": {"message": str(error), "type": "server_error", "code": "internal_error"}})
            return
        if self._form["include_usage"]:
            yield json.dumps(self._object(self._format.chunk_kind, []) | {"usage": self._usage()})
        yield "[DONE]"

    def _chunk(self, index: int, content: JSON, logprobs: JSON | None, reason: str | None) -> str:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        return json.dumps(self._object(self._format.chunk_kind, [choice]))

    def _object(self, kind: str, choices: list[JSON]) -> JSON:
        common = {name: self._form[name] for name in ("created", "model")}
        return {"id": self._request.request_id, "object": kind, **common, "choices": choices}

    def _count(self, output: Output) -> None:
        self._generated += len(output.tokens)
        self._cached = max(self._cached, output.cached_tokens)

    def _usage(self) -> JSON:
        prompt = len(self._request.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._generated,
            "total_tokens": prompt + self._generated,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }


async def _chained(first: Output, rest: AsyncIterator[Output]) -> AsyncIterator[Output]:
    yield first
    async for output in rest:
        yield output


def _spelling(tokenizer: QwenTokenizer | None, token: int) -> tuple[str, bytes]:
    """A token's text and bytes; ids beyond the tokenizer have none."""
    data = tokenizer.token_bytes(token) if tokenizer is not None and token in tokenizer else b""
    return data.decode(errors="replace"), data
