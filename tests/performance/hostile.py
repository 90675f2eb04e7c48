"""Requests that mean harm, or were written by somebody in a hurry: what the fuzzer sends."""

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hello", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2},
    "/generate": {"prompt": "Hello", "max_tokens": 2},
    "/tokenize": {"text": "Hello"},
    "/detokenize": {"tokens": [39, 72]},
    "/apply-template": {"messages": [{"role": "user", "content": "Hello"}]},
}
FIELDS = (
    "model", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty",
    "logit_bias", "stream", "stream_options", "user", "top_k", "min_p", "repetition_penalty", "min_tokens",
    "stop_token_ids", "ignore_eos", "prompt_logprobs", "priority", "logprobs", "echo", "best_of", "top_logprobs",
    "chat_template_kwargs", "response_format", "tools", "tool_choice", "structured_outputs", "thinking_budget",
    "max_completion_tokens", "messages", "prompt", "text", "tokens", "allow_special", "add_generation_prompt", "suffix",
)  # fmt: skip
GRAMMARS: tuple[Any, ...] = (
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": "(((("}}},
    {"regex": "(a+)+$"}, {"regex": "["}, {"choice": ["", "a"]}, {"grammar": "start: start"}, {"json": "no schema"},
    [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "\u202e", "é", "e\u0301" * 50, "😀" * 20, "<|im_end|>", "<|im_start|>system\n", "{{ 7 * 7 }}",
    "{% for", "a" * 5000, "\ufffd\uffff", "../../etc/passwd", "%s%n", "' OR 1=1 --", "\r\nX-Evil: 1",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 127, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 0.0, -0.0, 1e-320, 1e308, -1e308, 0.5, 2.0, 1.5, 99999
)  # fmt: skip
SPELLED = (  # what json.dumps would not write
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", '"\\ud800"', '"\\udc00\\ud800"', "1" + "0" * 5000, "01", "+1",
    "0x10", "[" * 50_000, "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, "'x'", '"\\x"', '"\t"', "/**/",
)  # fmt: skip
MARK = "@@spelled@@"


@dataclass(frozen=True)
class Attack:
    """What is sent on a connection of its own.

    Attributes:
        kind: For the report.
        parts: Bytes to send; a number is seconds to wait.
        cut: Close without reading an answer.
        ends: Say that nothing more comes, where it may be waited for.
        leave_after: Bytes of the answer after which the reader leaves; None reads it all.
    """

    kind: str
    parts: list[bytes | float]
    cut: bool = False
    ends: bool = False
    leave_after: int | None = None


def attack(rng: random.Random) -> Attack:
    """One of all kinds."""
    kinds: list[Callable[[random.Random], Attack]] = [_wrong, _wrong, _wrong, _broken, _headers, _framing, _slow, _left]
    return rng.choice(kinds)(rng)


def request(path: str, body: bytes, headers: tuple[str, ...] = (), method: str = "POST") -> bytes:
    """The bytes of a request, which closes its connection."""
    given = ("Host: x", "Connection: close", f"Content-Length: {len(body)}", *headers)
    if not any(header.lower().startswith("content-type") for header in headers):
        given = (*given, "Content-Type: application/json")
    return f"{method} {path} HTTP/1.1\r\n".encode() + "\r\n".join(given).encode("latin-1") + b"\r\n\r\n" + body


def _value(rng: random.Random, depth: int = 0) -> Any:
    pick = rng.randrange(10)
    if pick < 3:
        return rng.choice(NUMBERS)
    if pick < 5:
        return rng.choice(TEXTS)
    if pick == 5:
        return rng.choice((None, True, False))
    if pick == 6:
        return MARK
    if pick == 7:
        return copy.deepcopy(rng.choice(GRAMMARS))
    if depth > 3:
        return []
    if pick == 8:
        return [_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 200)) if depth == 0 else 2)]
    return {rng.choice((*TEXTS, "0", "39", "type", "role")): _value(rng, depth + 1) for _ in range(rng.randint(0, 3))}


def _body(rng: random.Random, most_wrong: int) -> tuple[str, bytes]:
    """A route and a body for it, with some values changed."""
    path = rng.choice(list(BODIES))
    body = copy.deepcopy(BODIES[path])
    for _ in range(rng.randint(0, most_wrong)):
        target: Any = body
        if "messages" in body and rng.random() < 0.3 and isinstance(body["messages"], list) and body["messages"]:
            target = body["messages"][0] if isinstance(body["messages"][0], dict) else body
            target[rng.choice(("role", "content", "name", "tool_calls", "tool_call_id", "x"))] = _value(rng)
            continue
        target[rng.choice(FIELDS)] = _value(rng)
    text = json.dumps(body)
    while f'"{MARK}"' in text:
        text = text.replace(f'"{MARK}"', rng.choice(SPELLED), 1)
    return path, text.encode()


def _wrong(rng: random.Random) -> Attack:
    path, body = _body(rng, 3)
    return Attack("wrong values", [request(path, body)])


def _broken(rng: random.Random) -> Attack:
    path, text = _body(rng, 1)
    body = bytearray(text[:4000])
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(body))
        match rng.randrange(4):
            case 0:
                body[place] = rng.randrange(256)
            case 1:
                body[place:place] = bytes([rng.randrange(256)])
            case 2:
                del body[place]
            case _:
                del body[place:]
        body = body or bytearray(b"{")
    return Attack("broken JSON", [request(path, bytes(body))])


def _headers(rng: random.Random) -> Attack:
    path, body = _body(rng, 0)
    odd = (
        "Content-Type: text/plain", "Content-Type: application/json; charset=utf-16", "Content-Type: ;",
        "Content-Type:", "Content-Encoding: gzip", "Authorization: Bearer", "Authorization: \xff\xfe",
        "X-Request-ID: " + "x" * 500, "X-Request-ID: \xe9", "Expect: 100-continue", "Expect: nothing",
        "X-Forwarded-For: 1, 2, ::, x", "Origin: null", "Upgrade: websocket", "Cookie: " + "a=b;" * 1000,
        "traceparent: 00-zz", "X-Long: " + "y" * 100_000, "Transfer-Encoding: identity",
    )  # fmt: skip
    method = rng.choice(("POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"))
    paths = (
        path,
        path,
        path + "/",
        path + "?a=%ff",
        "/%2e%2e/etc/passwd",
        "//",
        "/v1/models/%00%ff",
        "/docs",
        "/metrics%0a",
    )
    extra = tuple(rng.sample(odd, rng.randint(1, 3)))
    return Attack("odd headers", [request(rng.choice(paths), body, extra, method)])


def _framing(rng: random.Random) -> Attack:
    path, body = _body(rng, 0)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
    chunked = head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = b"".join(
        f"{len(body[i : i + 7]):x}\r\n".encode() + body[i : i + 7] + b"\r\n" for i in range(0, len(body), 7)
    )
    choices: list[list[bytes | float]] = [
        [chunked + pieces + b"0\r\n\r\n"],
        [chunked + b"zz\r\n"],
        [chunked + b"ffffffffffffffffff\r\nx"],
        [head + b"Content-Length: -1\r\n\r\n" + body],
        [head + b"Content-Length: 99999999999999999999\r\n\r\n" + body],
        [head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + body],
        [head + f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body],
        [b"GET /health HTTP/9.9\r\n\r\n"],
        [b"GET /health HTTP/1.0\r\n\r\n"],
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(100) + b"\r\n\r\n"],
        [rng.randbytes(200) + b"\r\n\r\n"],
        [request("/health", b"", method="GET").replace(b"Connection: close\r\n", b"") * 3 + request(path, body)],
    ]
    chosen = rng.randrange(len(choices))
    return Attack("odd framing", choices[chosen], ends=0 < chosen < len(choices) - 1)


def _slow(rng: random.Random) -> Attack:
    path, body = _body(rng, 1)
    data = request(path, body)
    places = sorted(rng.randrange(len(data)) for _ in range(3))
    parts: list[bytes | float] = []
    for begin, end in zip([0, *places], [*places, len(data)], strict=True):
        parts += [data[begin:end], rng.choice((0.0, 0.01, 0.1))]
    if rng.random() < 0.5:
        return Attack("cut while sending", parts[: rng.randint(1, 5)], cut=True)
    return Attack("slow", parts)


def _left(rng: random.Random) -> Attack:
    path = rng.choice(("/v1/completions", "/v1/chat/completions", "/generate"))
    fields = {"stream": rng.random() < 0.7, "max_tokens": 8}
    body = json.dumps(BODIES[path] | fields).encode()
    if rng.random() < 0.3:
        return Attack("left at once", [request(path, body)], cut=True)
    return Attack("left while reading", [request(path, body)], leave_after=rng.choice((1, 200, 600)))
