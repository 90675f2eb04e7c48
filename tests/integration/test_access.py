"""Keys, limits and sizes, on the running server."""

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.server import free_port, mili, mili_command, running_server, wait_for

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
CHAT = "/v1/chat/completions"
CLIENT = httpx.Client(timeout=60)


def error(answer: httpx.Response) -> tuple[int, str]:
    """The status and the code of a refusal."""
    body = answer.json()["error"]
    assert body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, body["code"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Keys of two users, as the command makes them, and their file."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    made = {name: mili("keys", "new", name).stdout.splitlines() for name in ("alice", "bob")}
    file.write_text("".join(f"{line}\n" for _, line in made.values()))
    return {name: key for name, (key, _) in made.items()} | {"file": str(file)}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_server_with_keys_opens_to_them_only(keys: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = ("--api-keys-file", keys["file"], "--requests-per-minute", "3")
    with running_server(*arguments, log=log, MILI_API_KEYS="plain-1", MILI_ADMIN_KEY="boss") as url:
        for route in ("/v1/models", "/docs", "/openapi.json", "/version", CHAT, "/nowhere", "/metrics", "/health/"):
            answer = CLIENT.get(url + route)
            assert error(answer) == (401, "invalid_api_key"), route
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer x", "Bearer", "Basic x", keys["alice"], "Bearer boss", f"Bearer {keys['alice']}x"):
            answer = CLIENT.post(url + CHAT, json=HELLO, headers={"Authorization": wrong})
            assert error(answer) == (401, "invalid_api_key"), wrong
        for route in ("/health", "/ready"):
            assert CLIENT.get(url + route).status_code == 200
        for key in (keys["alice"], "plain-1"):
            assert CLIENT.get(f"{url}/v1/models", headers=bearer(key)).status_code == 200
        assert CLIENT.get(f"{url}/metrics", headers=bearer(keys["alice"])).status_code == 401
        # Each key has a limit of its own, on the same address.
        for name in ("alice", "bob"):
            seen = [CLIENT.post(url + CHAT, json=HELLO, headers=bearer(keys[name])) for _ in range(4)]
            assert [answer.status_code for answer in seen] == [200, 200, 200, 429]
            assert error(seen[3]) == (429, "rate_limited")
            assert 1 <= int(seen[3].headers["retry-after"]) <= 20
            assert [a.headers["x-ratelimit-remaining-requests"] for a in seen] == ["2", "1", "0", "0"]
        counted = CLIENT.get(f"{url}/metrics", headers=bearer("boss")).text
        for route, status, count in ((CHAT, 200, 6), (CHAT, 401, 7), (CHAT, 429, 2), ("/v1/models", 401, 1)):
            assert f'mili:http_requests_total{{route="{route}",status="{status}"}} {count}.0\n' in counted
        told = log.read_text()
        assert not any(secret in told for secret in (keys["alice"], keys["bob"], "plain-1", "boss"))


def test_retry_after_is_true() -> None:
    with running_server("--tokens-per-minute", "600") as url:
        body = {"prompt": [5] * 650, "max_tokens": 1}
        answer = CLIENT.post(f"{url}/v1/completions", json=body)
        assert answer.headers["x-ratelimit-limit-tokens"] == "600"
        assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
        refused = CLIENT.post(f"{url}/v1/completions", content=b"not even read")
        assert error(refused) == (429, "rate_limited")
        time.sleep(int(refused.headers["retry-after"]))
        assert CLIENT.post(f"{url}/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * 1000


def test_sizes() -> None:
    limits = ("--max-body-bytes", "20000", "--max-prompt-tokens", "50", "--max-tokens-limit", "60", "--max-n", "2")
    with running_server(*limits) as url:

        def ask(**fields: object) -> httpx.Response:
            return CLIENT.post(f"{url}/v1/completions", json={"prompt": "x"} | fields)

        json_type = {"Content-Type": "application/json"}
        for body in (b" " * 20001, chunks(30)):
            answer = CLIENT.post(f"{url}/v1/completions", content=body, headers=json_type)
            assert error(answer) == (413, "body_too_large")
            assert "20000" in answer.json()["error"]["message"]
        # As much as is allowed is read: it is refused for what it says.
        for body in (b" " * 20000, chunks(20)):
            answer = CLIENT.post(f"{url}/v1/completions", content=body, headers=json_type)
            assert error(answer) == (400, "invalid_request")
        assert error(ask(prompt=[5] * 51)) == (400, "context_length_exceeded")
        assert error(ask(max_tokens=61)) == (400, "invalid_request")
        assert error(ask(n=3)) == (400, "invalid_request")
        assert ask(prompt=[5] * 50, max_tokens=2, n=2).status_code == 200
        assert ask(ignore_eos=True).json()["usage"]["completion_tokens"] == 60
        chat = {"messages": HELLO["messages"], "max_completion_tokens": 61}
        assert error(CLIENT.post(url + CHAT, json=chat)) == (400, "invalid_request")


def test_a_body_that_does_not_come_is_given_up() -> None:
    body = b'{"prompt": "x", "max_tokens": 1}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with running_server("--body-timeout", "1.5") as url:
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        with (
            socket.create_connection(address, timeout=30) as slow,
            socket.create_connection(address, timeout=30) as stuck,
        ):
            for raw in (slow, stuck):
                raw.sendall(f"{head}\r\n\r\n".encode() + body[:-1])
            time.sleep(0.2)
            slow.sendall(body[-1:])
            assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
            answer = b"".join(iter(lambda: stuck.recv(4096), b""))  # to the end: the server hangs up
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 1.5 seconds" in answer


def test_a_full_queue_refuses_before_the_body_is_looked_at() -> None:
    with running_server("--max-running", "1", "--max-waiting", "1") as url:
        body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        with (
            CLIENT.stream("POST", f"{url}/v1/completions", json=body) as running,
            httpx.Client(timeout=60) as client,
        ):
            lines = running.iter_lines()  # the answer is left when this is gone
            assert next(lines).startswith("data:")
            waiting = client.build_request("POST", f"{url}/v1/completions", json=body)
            with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as raw:
                raw.sendall(
                    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    + f"Content-Length: {len(waiting.content)}\r\n\r\n".encode()
                    + waiting.content
                )
                deadline = time.monotonic() + 30
                while CLIENT.get(f"{url}/health").json()["queue"]["waiting"] < 1:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                for route in ("/v1/completions", CHAT, "/generate"):
                    answer = CLIENT.post(url + route, content=b"not even read")
                    assert error(answer) == (429, "overloaded")
                    assert answer.headers["retry-after"] == "1"
                assert CLIENT.post(f"{url}/tokenize", json={"text": "x"}).status_code == 200


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server("--cors-origins", "https://a.example,https://b.example") as address:
        yield address


WRONG_BODIES = {
    "broken": b'{"prompt": "x"',
    "empty": b"",
    "no object": b"[1]",
    "NaN": b'{"prompt": "x", "temperature": NaN}',
    "Infinity": b'{"prompt": "x", "presence_penalty": -Infinity}',
    "lone surrogate": rb'{"prompt": "\udc00"}',
    "lone surrogate in a key": rb'{"prompt": "x", "\ud800": 1}',
    "no UTF-8": b'{"prompt": "\xff"}',
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
    "deep": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep arguments": b'{"prompt": "x", "a": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "huge integer": b'{"prompt": "x", "seed": 1' + b"0" * 10_000 + b"}",
    "huge temperature": b'{"prompt": "x", "temperature": 1e999}',
    "many keys": b'{"prompt": "x", ' + b",".join(b'"k%d": 1' % i for i in range(20_000)) + b"}",
    "a long key": b'{"prompt": "x", "' + b"k" * 100_000 + b'": 1}',
    "many wrong items": b'{"prompt": [' + b",".join([b"1.5"] * 500_000) + b"]}",
}


@pytest.mark.parametrize("body", WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_no_body_costs_more_than_a_400(url: str, body: bytes) -> None:
    answer = CLIENT.post(f"{url}/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert error(answer) == (400, "invalid_request")
    assert len(answer.content) < 5000  # says what is wrong, and does not repeat it all


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None])
def test_bodies_must_be_called_json(url: str, kind: str | None) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": 1}).encode()
    headers = {} if kind is None else {"Content-Type": kind}
    answer = CLIENT.post(f"{url}/v1/completions", content=body, headers=headers)
    assert error(answer) == (400, "invalid_request")
    assert "application/json" in answer.json()["error"]["message"]
    good = CLIENT.post(
        f"{url}/v1/completions", content=body, headers={"Content-Type": "application/JSON; charset=utf-8"}
    )
    assert good.status_code == 200


def test_pages_of_other_origins_are_let_in_by_name(url: str) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization, content-type"
    answer = CLIENT.options(url + CHAT, headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    other = CLIENT.post(url + CHAT, json=HELLO, headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    refused = CLIENT.post(url + CHAT, json={}, headers={"Origin": "https://b.example"})
    assert refused.headers["access-control-allow-origin"] == "https://b.example"  # so that the page can read why


def test_without_origins_there_is_no_cors() -> None:
    with running_server() as url:
        answer = CLIENT.post(url + CHAT, json=HELLO, headers={"Origin": "https://a.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_no_log_line_holds_what_was_asked_or_answered(tmp_path: Path) -> None:
    secret, log = "zanzibar-7431", tmp_path / "log"
    with running_server(log=log) as url:
        answers = [
            CLIENT.post(f"{url}/v1/completions", json={"prompt": secret, "max_tokens": 3}),
            CLIENT.post(url + CHAT, json={"messages": [{"role": "user", "content": secret}]}),
            CLIENT.post(f"{url}/generate", json={"prompt": secret, "max_tokens": 3, "stream": True}),
            CLIENT.post(f"{url}/tokenize", json={"text": secret}),
            CLIENT.post(f"{url}/tokenize", json={"text": [secret]}),
            CLIENT.post(f"{url}/v1/completions", json={"prompt": {"a": secret}}),
            CLIENT.post(url + CHAT, json={"messages": [{"role": secret, "content": secret}]}),
            CLIENT.post(f"{url}/generate", content=f'{{"prompt": "{secret}'.encode()),
            CLIENT.post(f"{url}/v1/completions", json={"prompt": [secret] * 5000}),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 200, *[400] * 5]
        assert not any(secret in answer.text for answer in answers[4:])
        assert secret not in log.read_text()


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("::", True), ("127.0.0.2", False)])
def test_a_public_address_without_keys_is_warned_of(host: str, warned: bool) -> None:
    address = "[::1]" if host == "::" else "127.0.0.1" if host == "0.0.0.0" else host
    port = free_port()
    command = [mili_command(), "serve", "--host", host, "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(f"http://{address}:{port}/ready", process)
    finally:
        process.terminate()
    assert bool(re.search(r"warning.*other machines can reach .*--api-keys-file", process.communicate()[1])) == warned


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (["--api-keys-file", "/nowhere"], {}, "/nowhere"),
        ([], {"MILI_API_KEYS": ""}, "MILI_API_KEYS"),
        (["--requests-per-minute", "0"], {}, "requests_per_minute"),
        (["--max-n", "1000"], {}, "max_n"),
    ],
)
def test_wrong_settings_end_the_start(arguments: list[str], variables: dict[str, str], named: str) -> None:
    result = mili("serve", "--port", "0", *arguments, **variables)
    assert result.returncode == 1
    assert named in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_makes_keys() -> None:
    made = mili("keys", "new", "alice")
    key, line = made.stdout.splitlines()
    assert key.startswith("mili-")
    assert re.fullmatch(r"alice:[0-9a-f]{64}", line)
    assert mili("keys", "new", "a b").returncode == 1
