"""A server of the page whose answers are written in the test: for what a healthy model does not say."""

import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from python_layer.server.chat_page import add_chat_page
from tests.integration.server import free_port

JSON = dict[str, Any]
CUT = "cut"
"""The connection ends here."""


class Refusal:
    """An answer with a status of its own."""

    def __init__(self, status: int, message: str, code: str) -> None:
        self.status = status
        self.body = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}


def text(*pieces: str) -> list[JSON]:
    """The chunks of an answer with this content."""
    return [delta(content=piece) for piece in pieces] + [end(len(pieces))]


def delta(**fields: Any) -> JSON:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def end(tokens: int, reason: str = "stop") -> JSON:
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}


class ScriptedServer:
    """Says what the test has put into ``answers``, one after the other.

    A step of an answer is a chunk, a time to wait in seconds, or ``CUT``.
    """

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.answers: list[list[JSON | float | str] | Refusal] = []
        self.models: Refusal | None = None
        """What /v1/models answers instead of the model."""
        self.bodies: list[JSON] = []
        self.keys: list[str | None] = []
        self.left = 0
        """Streams whose reader has left before their end."""
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/chat/completions")(self._chat)
        add_chat_page(self.app)

    async def _models(self) -> Response:
        if self.models is not None:
            return JSONResponse(self.models.body, self.models.status)
        return JSONResponse({"object": "list", "data": [{"id": "example"}]})

    async def _chat(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        answer = self.answers.pop(0)
        if isinstance(answer, Refusal):
            return JSONResponse(answer.body, answer.status)
        return StreamingResponse(self._stream(answer), media_type="text/event-stream")

    async def _stream(self, steps: list[JSON | float | str]) -> AsyncIterator[str]:
        try:
            for step in steps:
                if step == CUT:
                    raise ConnectionError("cut, as the test wants it")
                if isinstance(step, int | float):
                    await anyio.sleep(step)
                else:
                    yield f"data: {json.dumps(step)}\n\n"
            yield "data: [DONE]\n\n"
        except anyio.get_cancelled_exc_class():
            self.left += 1
            raise


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """A server on a free port, in a thread."""
    scripted = ScriptedServer()
    config = uvicorn.Config(scripted.app, port=int(scripted.url.rsplit(":", 1)[1]), log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield scripted
    server.should_exit = server.force_exit = True
    thread.join(10)
