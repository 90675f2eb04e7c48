"""The engine's outputs as OpenAI's answers, whole or as a stream of chunks."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_layer.inference.fronts import Generates
from python_layer.inference.request import Output, Request, TokenLogprobs
from python_layer.server.errors import check_in_time
from python_layer.server.formats import JSON, Format, prompt_logprobs
from python_layer.tokenizer import QwenTokenizer


@dataclass(frozen=True)
class Form:
    """What the objects of an answer hold beside the text.

    Attributes:
        id: The answer's id.
        created: Unix seconds.
        model: The model's name.
        include_usage: End a stream with the usage.
        echo: Begin each choice with the prompt, as this text; None for completions without it.
    """

    id: str
    created: int
    model: str
    include_usage: bool = False
    echo: list[str] | None = None


@dataclass
class _Choice:
    """One answer as far as it has come."""

    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    entries: list[TokenLogprobs | None] = field(default_factory=list)
    reason: str | None = None


class Response:
    """The answers to one or several prompts with the same parameters.

    Args:
        engine: Generates them.
        requests: One for each prompt.
        form: What the objects hold.
        format: Completions or chat completions.
        tokenizer: Spells tokens; None for a checkpoint that has none.
    """

    def __init__(
        self,
        engine: Generates,
        requests: list[Request],
        form: Form,
        format: Format,
        tokenizer: QwenTokenizer | None,
    ) -> None:
        self._engine, self._requests, self._form, self._format = engine, requests, form, format
        self._tokenizer = tokenizer
        self._params = requests[0].params
        self._order = {request.request_id: i for i, request in enumerate(requests)}
        self._scored: dict[int, list[TokenLogprobs | None]] = {}
        self._begun: set[int] = set()
        self._generated = 0
        self._cached = dict.fromkeys(self._order, 0)

    @property
    def requests(self) -> list[Request]:
        """What the engine is asked for."""
        return self._requests

    async def whole(self) -> JSON:
        """All answers in one object; errors as :func:`~python_layer.inference.fronts.generate`, and timeouts."""
        choices = [_Choice() for _ in range(len(self._requests) * self._params.n)]
        async for output in self._engine.generate(*self._requests):
            text, tokens, entries = self._piece(output)
            choice = choices[self._index(output)]
            choice.text.append(text)
            choice.tokens += tokens
            choice.entries += entries
            choice.reason = output.finish_reason
        made = []
        for index, choice in enumerate(choices):
            logprobs = None
            if self._params.logprobs is not None:
                logprobs = self._format.logprobs(choice.tokens, choice.entries)
            whole = self._format.whole(index, "".join(choice.text), choice.reason)
            content = {"index": index, **whole.content, "logprobs": logprobs, "finish_reason": whole.reason}
            made.append(content | self._prompt(index))
        return self._object(self._format.kind, made) | {"usage": self._usage()}

    async def events(self) -> AsyncIterator[str]:
        """The data of server-sent events: chunks, the usage if wanted, and ``[DONE]``; errors as :meth:`whole`."""
        opened = False
        async for output in self._engine.generate(*self._requests):
            index = self._index(output)
            text, tokens, entries = self._piece(output)
            if not opened:  # not before the first output is there: a refusal has a status of its own
                for chunk in self._openings():
                    yield chunk
                opened = True
            pieces, reason = self._format.pieces(index, text, output.finish_reason)
            if entries and not pieces:
                pieces = [self._format.empty]
            for number, piece in enumerate(pieces, 1 - len(pieces)):  # the last one is number 0
                logprobs = self._format.logprobs(tokens, entries) if entries and number == 0 else None
                yield self._chunk(index, piece, logprobs, reason if number == 0 else None)
        if self._form.include_usage:
            yield json.dumps(self._object(self._format.chunk_kind, []) | {"usage": self._usage()})
        yield "[DONE]"

    def _openings(self) -> list[str]:
        """The first chunk of every choice, where the format has one."""
        opening = self._format.opening()
        if opening is None:
            return []
        return [self._chunk(index, opening, None, None) for index in range(len(self._requests) * self._params.n)]

    def _index(self, output: Output) -> int:
        return self._order[output.request_id] * self._params.n + output.index

    def _piece(self, output: Output) -> tuple[str, list[int], list[TokenLogprobs | None]]:
        """What an output adds to its answer; the prompt comes first where it is echoed."""
        check_in_time(output)
        number = self._order[output.request_id]
        self._generated += len(output.tokens)
        self._cached[output.request_id] = output.cached_tokens
        text, tokens = output.text, output.tokens
        entries: list[TokenLogprobs | None] = list(output.logprobs or [])
        if output.prompt_logprobs is not None:
            self._scored[number] = [None, *output.prompt_logprobs]
        if self._form.echo is not None and self._begins(output):
            text = self._form.echo[number] + text
            if self._params.logprobs is not None:
                tokens, entries = self._requests[number].prompt + tokens, self._scored[number] + entries
        return text, tokens, entries

    def _begins(self, output: Output) -> bool:
        """Whether an output is the first of its answer."""
        index = self._index(output)
        if index in self._begun:
            return False
        self._begun.add(index)
        return True

    def _prompt(self, index: int) -> JSON:
        """A choice's log-probabilities of its prompt, where they were asked for by that name."""
        in_echo = self._form.echo is not None and self._params.logprobs is not None
        if self._params.prompt_logprobs is None or in_echo:
            return {}
        number = index // self._params.n
        tokens = self._requests[number].prompt
        return {"prompt_logprobs": prompt_logprobs(self._tokenizer, tokens, self._scored[number])}

    def _chunk(self, index: int, content: JSON, logprobs: JSON | None, reason: str | None) -> str:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        return json.dumps(self._object(self._format.chunk_kind, [choice]))

    def _object(self, kind: str, choices: list[JSON]) -> JSON:
        form = self._form
        return {"id": form.id, "object": kind, "created": form.created, "model": form.model, "choices": choices}

    def _usage(self) -> JSON:
        prompt = sum(len(request.prompt) for request in self._requests)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._generated,
            "total_tokens": prompt + self._generated,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }
