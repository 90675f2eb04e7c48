"""The fuzzer and the flood, a few hundred requests of each; `make fuzz` and `make flood` send more."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.server import running_server
from tests.performance import flood, fuzz
from tests.performance.hostile import Attack, request


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def url(log: Path) -> Iterator[str]:
    with running_server("--max-running", "4", "--max-waiting", "64", *fuzz.LIMITS, log=log) as address:
        yield address


def test_hostile_requests_do_no_harm(url: str, log: Path) -> None:
    seen, problems = asyncio.run(fuzz.assault(url, requests=400, concurrent=16, seed=7))
    assert problems == []
    assert seen.total() == 400
    assert sum(count for what, count in seen.items() if what.endswith(": 200")) > 20
    assert sum(count for what, count in seen.items() if what.endswith(": 400")) > 100
    assert fuzz.still_itself(url) == []
    assert "Traceback" not in log.read_text()


def test_the_fuzzer_tells_what_is_wrong() -> None:
    def problem(answer: bytes) -> str | None:
        return fuzz.problem(Attack("", []), answer)

    assert problem(b'HTTP/1.1 400 Bad\r\n\r\n{"error": {"code": "x"}}') is None
    assert problem(b'HTTP/1.1 503 No\r\n\r\n{"error": {"code": "model_not_loaded"}}') is None
    assert "500" in problem(b'HTTP/1.1 500 Bad\r\n\r\n{"error": {"code": "internal_error"}}')
    assert "shape" in problem(b'HTTP/1.1 400 Bad\r\n\r\n{"detail": "x"}')
    assert "shape" in problem(b"HTTP/1.1 400 Bad\r\n\r\nplain")


def test_what_schemathesis_sends_is_answered(url: str) -> None:
    assert fuzz.by_the_document(url, examples=5, seed=1) == []
    assert fuzz.still_itself(url) == []


def test_a_flood_is_served_or_refused() -> None:
    with running_server("--max-running", "2", "--max-waiting", "4") as url:
        figures = flood.measure(url, room=6, times=10, rounds=1, max_tokens=8, length=20)
        assert fuzz.still_itself(url) == []
    assert (figures["other_answers"], figures["refused_without_retry_after"], figures["pages_whole"]) == (0, 0, True)
    assert figures["baseline"]["count"] == 6  # the room there is can be used
    assert 6 <= figures["accepted"]["count"] < 60
    assert figures["accepted"]["count"] + figures["refused"]["count"] == 60


def test_a_body_that_never_comes_keeps_nobody_out() -> None:
    """Requests that are half sent take no place in the queue."""

    async def run(url: str) -> bytes:
        port = int(url.rsplit(":", 1)[1])
        whole = request("/v1/completions", b'{"prompt": "x", "max_tokens": 2}')
        halves = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in halves:
            writer.write(whole[:-5])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(whole)
        answer = await reader.read()
        for _, writer in halves:
            writer.close()
        return answer

    with running_server("--max-running", "1", "--max-waiting", "1") as url:
        assert asyncio.run(run(url)).startswith(b"HTTP/1.1 200")
