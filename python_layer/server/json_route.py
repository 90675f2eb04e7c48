"""Routes whose bodies are JSON, and nothing that merely looks like it."""

import gc
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from python_layer.utils.errors import InvalidRequestError

MOST_KEYS = 16_384
"""Of one object: each that is wrong would be an error of its own."""


class JsonRequest(Request):
    """A request whose body is read strictly: no NaN or Infinity, no lone surrogates, no depth beyond the parser's."""

    async def json(self) -> Any:
        """The body, which is parsed once.

        Raises:
            JSONDecodeError: It is no JSON.
            HTTPException: It has an object with too many keys.
        """
        if not hasattr(self, "_json"):
            self._json = _parsed(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route that takes JSON only, and only where it is called that.

    A page of another site can make a browser send anything here, but not with this content type, unless it may.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What serves its requests."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.method == "POST":
                given = request.headers.get("content-type")
                kind = (given or "").partition(";")[0].strip().lower()
                if kind != "application/json":
                    said = "has no content type" if given is None else f"has the content type {given[:100]!r}"
                    raise InvalidRequestError(f"the body {said}; send it as application/json")
            return await handler(JsonRequest(request.scope, request.receive))

        return handle


def _parsed(body: bytes) -> Any:
    collects = gc.isenabled()
    gc.disable()  # it would go through the lists that are there again and again while millions come
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        message = str(error)
        if "hex escape" in message:
            message += r" (\uD800 to \uDFFF are surrogates, which come in pairs)"
        raise json.JSONDecodeError(message, "", 0) from None
    finally:
        if collects:
            gc.enable()
    if body.count(b":") > MOST_KEYS:
        _check_keys(value)
    return value


def _check_keys(value: Any) -> None:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            if len(each) > MOST_KEYS:
                raise HTTPException(400, f"an object in the body has {len(each)} keys; the most are {MOST_KEYS}")
            each = each.values()
        elif not isinstance(each, list):
            continue
        left += [child for child in each if isinstance(child, (dict, list))]
