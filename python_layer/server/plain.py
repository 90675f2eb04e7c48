"""Answers of /generate: the plain protocol, one prompt and one answer."""

import json
import time
from collections.abc import AsyncIterator

from python_layer.inference.fronts import Generates
from python_layer.inference.request import Output, Request
from python_layer.server.errors import check_in_time
from python_layer.server.formats import JSON


class PlainResponse:
    """The answer to one prompt.

    Args:
        engine: Generates it.
        request: What was asked for.
        request_id: The HTTP request's.
    """

    def __init__(self, engine: Generates, request: Request, request_id: str) -> None:
        self._engine, self._request, self._id = engine, request, request_id
        self._began = time.perf_counter()
        self._text: list[str] = []
        self._tokens: list[int] = []

    @property
    def requests(self) -> list[Request]:
        """What the engine is asked for."""
        return [self._request]

    async def whole(self) -> JSON:
        """The answer in one object; errors as :func:`~python_layer.inference.fronts.generate`, and timeouts."""
        reason = None
        async for output in self._engine.generate(self._request):
            reason = self._take(output)
        return self._summary(reason)

    async def events(self) -> AsyncIterator[str]:
        """The data of server-sent events: the pieces, then the summary and ``[DONE]``; errors as :meth:`whole`."""
        reason = None
        async for output in self._engine.generate(self._request):
            reason = self._take(output)
            yield json.dumps({"request_id": self._id, "text": output.text, "tokens": output.tokens})
        yield json.dumps(self._summary(reason))
        yield "[DONE]"

    def _take(self, output: Output) -> str | None:
        check_in_time(output)
        self._text.append(output.text)
        self._tokens += output.tokens
        return output.finish_reason

    def _summary(self, reason: str | None) -> JSON:
        return {
            "request_id": self._id,
            "generated_text": "".join(self._text),
            "tokens": self._tokens,
            "total_tokens": len(self._request.prompt) + len(self._tokens),
            "finish_reason": reason,
            "latency_ms": round(1e3 * (time.perf_counter() - self._began), 3),
        }
