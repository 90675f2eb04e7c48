"""What every request passes before it is read: keys, rate limits, room in the queue, size and time of its body."""

import asyncio
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from python_layer.server.access import Access
from python_layer.server.errors import BodyTimeoutError, BodyTooLargeError, InvalidApiKeyError, error_response
from python_layer.server.keys import ApiKeys
from python_layer.server.rate_limits import Caller, client_of
from python_layer.utils.errors import MiliError

OPEN = {"/", "/health", "/ready"}
"""Routes that need no key; the chat page asks its user for one."""
PAGE = "/page/"
METRICS = "/metrics"
GENERATING = {"/v1/completions", "/v1/chat/completions", "/generate"}
NO_ROOM = {429, 503}


class Guard:
    """Refuses what may not be served, at once and before its body is parsed.

    Args:
        app: Serves the rest.
        access: Who may come, and how much.
        check_room: Raises OverloadedError when the engine's queue has no place for one more than the number it is given
            of requests that are on their way there.
    """

    def __init__(self, app: ASGIApp, access: Access, check_room: Callable[[int], None]) -> None:
        self._app = app
        self._access = access
        self._check_room = check_room
        self._entering: set[Caller] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        costs = scope["method"] == "POST" and path not in OPEN
        caller = Caller("", {}, self._entering)
        began = False

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and costs:
                if began and message["status"] in NO_ROOM:
                    caller.refused()
                headers = MutableHeaders(scope=message)
                for name, value in caller.headers().items():
                    headers[name] = value
            await send(message)

        try:
            caller = self._caller(scope, path)
            scope["state"]["caller"] = caller
            if costs:
                caller.begin()
                began = True
                if path in GENERATING:
                    self._check_room(len(self._entering))
                body = await self._body(Headers(scope=scope), receive)
                if body is None:  # the client has left
                    return
                receive = _replayed(body, receive)
                if path in GENERATING:
                    self._check_room(len(self._entering))  # the body may have taken its time
                    caller.enter()
        except MiliError as error:
            response = error_response(error, scope["state"]["request_id"])
            await response(scope, receive, send_with_limits)
            return
        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            caller.entered()

    def _caller(self, scope: Scope, path: str) -> Caller:
        """Who sent a request, if they may.

        Raises:
            InvalidApiKeyError: It needs a key, and has none or a wrong one.
        """
        address = client_of((scope.get("client") or ("", 0))[0])
        # Whatever begins like it, lest another spelling of the path is let through.
        keys = self._access.admin if path.startswith(METRICS) and self._access.admin else self._access.keys
        if not keys or path in OPEN or path.startswith(PAGE):
            return Caller("", self._access.limits.of(f"address {address}"), self._entering)
        owner = _owner(keys, Headers(scope=scope))
        return Caller(owner, self._access.limits.of(f"key {owner}"), self._entering)

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        """The whole body; None if the client leaves before its end.

        Raises:
            BodyTooLargeError: It is longer than allowed, or says so.
            BodyTimeoutError: It does not come in time.
        """
        seconds = self._access.body_timeout
        try:
            async with asyncio.timeout(seconds):
                return await self._whole_body(headers, receive)
        except TimeoutError:
            raise BodyTimeoutError(f"the body was not there within {seconds:g} seconds; send it faster") from None

    async def _whole_body(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        most = self._access.max_body_bytes
        length = headers.get("content-length", "")
        body = bytearray()
        more = True
        if length.isdecimal() and int(length) > most:
            raise BodyTooLargeError(f"the body has {length} bytes; the most allowed are {most}")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                raise BodyTooLargeError(f"the body has more than {most} bytes, the most allowed")
        return bytes(body)


def _owner(keys: ApiKeys, headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise InvalidApiKeyError("this server needs an API key; send it as Authorization: Bearer KEY")
    owner = keys.owner(key.strip().encode("latin-1"))
    if owner is None:
        raise InvalidApiKeyError("the API key is not known here; check it, or ask whoever runs the server for one")
    return owner


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then what comes after it."""
    read = False

    async def receive_again() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
