"""How the server starts, ends and fails."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from python_layer.server.api import create_app
from python_layer.server.handlers import Handlers
from python_layer.server.service import Service
from python_layer.utils.errors import WeightError
from tests.integration.server import free_port, mili_command, wait_for


@contextmanager
def server_process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    # Nobody reads the pipe before the end.
    command = [mili_command(), "serve", "--port", str(port), "--log-level", "warning", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ready", process)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def stream(url: str, tokens: int, timeout: float = 120) -> Any:
    body = {"prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=timeout)


def test_the_first_signal_drains_and_refuses() -> None:
    with server_process() as (process, url), stream(url, 600) as response:
        response.readline()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError, match=r"refused|503"):
            urllib.request.urlopen(f"{url}/ready", timeout=5)
        lines = [line for line in response if line.startswith(b"data:")]
        assert lines[-1].strip() == b"data: [DONE]"
        assert process.wait(30) in (0, -signal.SIGTERM)


def test_the_second_signal_ends_at_once() -> None:
    with server_process() as (process, url), stream(url, 2000) as response:
        response.readline()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        assert time.monotonic() - began < 5


def test_a_checkpoint_that_is_broken_ends_the_server_with_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [mili_command(), "serve", "--model", tmp_path, "--port", str(free_port())],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert str(tmp_path) in result.stderr


def test_uvicorn_can_run_the_application() -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "python_layer.server.api:app", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ready", process)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def client_of(load: Callable[..., Handlers]) -> TestClient:
    return TestClient(create_app(Service(load, 10)), raise_server_exceptions=False)


def test_while_it_loads_only_the_state_is_served() -> None:
    go_on = False

    def load(report: Callable[[int, int], None]) -> Handlers:
        report(1, 4)
        while not go_on:
            time.sleep(0.01)
        raise WeightError("no weights")

    with client_of(load) as client:
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["state"]) == (503, "loading")
        assert answer.json()["loaded"] == 0.25
        assert client.get("/ready").status_code == 503
        refused = client.post("/v1/completions", json={"prompt": "x"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_not_loaded"
        assert "25 %" in refused.json()["error"]["message"]
        go_on = True
        deadline = time.monotonic() + 5
        while client.get("/health").json()["state"] == "loading":
            assert time.monotonic() < deadline
        assert client.get("/health").json()["error"] == "no weights"
        assert "no weights" in client.post("/v1/completions", json={"prompt": "x"}).json()["error"]["message"]


class BrokenEngine:
    """An engine whose thread has died."""

    alive = False
    failure = RuntimeError("no more pages in the book")


def test_a_dead_engine_is_unhealthy_and_says_so() -> None:
    class Dead:
        engine = BrokenEngine()
        model_name, has_tokenizer = "m", True

    service = Service(lambda report: Dead(), 10)  # type: ignore[arg-type,return-value]
    service.start()
    assert service.wait(5)
    assert service.state == "failed"
    with pytest.raises(Exception, match="no more pages"):
        _ = service.handlers


def test_a_reader_that_leaves_the_queue_is_forgotten() -> None:
    def queue(url: str) -> dict:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return json.load(response)["queue"]

    with server_process("--max-running", "1") as (_, url), stream(url, 1500) as first:
        first.readline()
        with pytest.raises(TimeoutError):
            stream(url, 10, timeout=0.3)
        deadline = time.monotonic() + 1
        while queue(url)["waiting"]:
            assert time.monotonic() < deadline
        assert queue(url)["running"] == 1  # the first one goes on


def test_an_error_in_the_queue_has_its_status() -> None:
    with server_process("--max-running", "1", "--queue-timeout", "0.2") as (_, url), stream(url, 1500) as first:
        first.readline()
        with pytest.raises(urllib.error.HTTPError) as caught:
            stream(url, 10)
        assert caught.value.code == 408
        assert json.load(caught.value)["error"]["code"] == "timeout"
