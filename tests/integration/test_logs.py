"""What the running server logs, line by line."""

import io
import json
import logging
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from python_layer.model.qwen3_model import LoadTimes
from python_layer.server.api import create_app
from python_layer.server.handlers import Handlers
from python_layer.server.service import Service
from python_layer.utils.logs import configure_logging
from python_layer.utils.settings import Settings
from tests.integration.server import free_port, running_server, served, wait_for
from tests.integration.test_metrics import leave, post, scrape, status_of, value
from tests.unit.inference.mock_model import MockModel, make_engine
from tests.unit.inference.test_engine import wait_until

SECRET = "a marmalade sandwich for Paddington"


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def access_lines(lines: list[dict[str, Any]], route: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["logger"] == "mili.access" and line["route"] == route]


def test_each_request_has_one_line_with_what_it_took(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_server("--log-format", "json", "--queue-timeout", "0.15", "--max-running", "1", log=log) as url:
        body = {"prompt": [5, 6, 7], "max_tokens": 4, "n": 2, "logprobs": 0}
        answer = post(url, "/v1/completions", body)
        assert status_of(url, "/v1/completions", {"prompt": "x", "n": 0}) == 400
        assert status_of(url, "/v1/completions", {"prompt": "x", "max_tokens": 99999}) == 400
        assert status_of(url, f"/{SECRET.replace(' ', '-')}", {}) == 404
        long = {"prompt": "x", "max_tokens": 700, "ignore_eos": True}
        reader = threading.Thread(target=post, args=(url, "/v1/completions", long))
        reader.start()
        wait_until(lambda: value(scrape(url), "num_requests_running") == 1)
        assert status_of(url, "/v1/completions", {"prompt": "late", "max_tokens": 5}) == 408
        reader.join()
        leave(url, "/v1/completions", long)
    lines = lines_of(log)
    assert [line["event"] for line in lines if line["logger"] == "python_layer.server.run"] == ["serving"]
    first, *refused, late, whole, left = access_lines(lines, "/v1/completions")
    assert first["request_id"] == answer["id"].removeprefix("cmpl-")
    tokens = sum(len(choice["logprobs"]["tokens"]) for choice in answer["choices"])
    shown = {name: first[name] for name in ("method", "status", "prompt_tokens", "generated_tokens", "finish_reason")}
    assert shown == {
        "method": "POST",
        "status": 200,
        "prompt_tokens": 3,
        "generated_tokens": tokens,
        "finish_reason": "length",
    }
    assert 0 < first["seconds"] < 60
    assert [(line["status"], "prompt_tokens" in line) for line in refused] == [(400, False), (400, False)]
    assert (late["status"], late["finish_reason"], late["generated_tokens"]) == (408, "timeout", 0)
    assert (whole["status"], whole["finish_reason"], whole["generated_tokens"]) == (200, "length", 700)
    assert (left["status"], left["finish_reason"]) == (200, "abort")
    assert 0 < left["generated_tokens"] < 700
    assert [line["status"] for line in access_lines(lines, "unknown")] == [404]
    assert all(line["request_id"] for line in lines if line["logger"] == "mili.access")
    assert len({line["request_id"] for line in lines if "request_id" in line}) == len(
        [line for line in lines if line["logger"] == "mili.access"]
    )


def ask_for_secrets(url: str) -> str:
    """Sends a secret in every way there is; returns an answer's text."""
    message = [{"role": "user", "content": SECRET}]
    asked = {"messages": message, "max_tokens": 12, "ignore_eos": True}
    answer = post(url, "/v1/chat/completions", asked)
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(asked | {"stream": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.read().endswith(b"data: [DONE]\n\n")
    post(url, "/v1/completions", {"prompt": SECRET, "max_tokens": 3, "echo": True})
    post(url, "/tokenize", {"text": SECRET})
    assert status_of(url, "/v1/completions", {"prompt": SECRET, "n": 0}) == 400
    assert status_of(url, "/v1/completions", {"prompt": SECRET, SECRET: 1}) == 400
    assert status_of(url, "/v1/chat/completions", {"messages": [{"role": SECRET, "content": SECRET}]}) == 400
    return str(answer["choices"][0]["message"]["content"])


def test_no_prompt_and_no_answer_is_logged_even_at_the_lowest_level(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_server("--log-format", "json", "--log-level", "debug", log=log) as url:
        answer = ask_for_secrets(url)
    lines = lines_of(log)
    assert {"admitted", "answered"} <= {line["event"] for line in lines if line["level"] == "debug"}
    text = log.read_text()
    assert len(answer) > 5
    for word in (answer, "marmalade", "Paddington"):
        assert word not in text


def test_prompts_and_answers_are_logged_on_demand(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_server("--log-format", "json", "--log-prompts", log=log) as url:
        answer = ask_for_secrets(url)
    chat, stream, refused = access_lines(lines_of(log), "/v1/chat/completions")
    assert json.loads(chat["asked"])["messages"][0]["content"] == SECRET
    assert json.loads(chat["answered"])["choices"][0]["message"]["content"] == answer
    assert stream["answered"].startswith("data: ")
    assert refused["status"] == 400


def test_lines_for_people(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_server(log=log, MILI_LOG_LEVEL="info") as url:
        post(url, "/generate", {"prompt": "x", "max_tokens": 3})
    text = log.read_text()
    assert "Serving mili-tiny on" in text
    [line] = [line for line in text.splitlines() if "route=/generate" in line]
    assert "status=200" in line
    assert "generated_tokens=3" in line
    assert "\x1b" not in text  # no colours where no terminal is


def test_quiet_is_quiet(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_server("--log-format", "json", "--log-level", "warning", log=log) as url:
        post(url, "/generate", {"prompt": "x", "max_tokens": 3})
    assert log.read_text() == ""


def test_under_uvicorns_own_command_the_format_is_the_same(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "uvicorn", "python_layer.server.api:app", "--port", str(port)]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=os.environ | {"MILI_LOG_FORMAT": "json"})
        try:
            wait_for(f"http://127.0.0.1:{port}/ready", process)
        finally:
            process.terminate()
            process.wait(30)
    assert {line["route"] for line in lines_of(log)} == {"/ready"}


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """The log in JSON; afterwards logging is as it was."""
    root, text = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    configure_logging("json", "info", text)
    yield text
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


class Defective:
    """Handlers with a defect."""

    model_name, has_tokenizer = "m", True

    class engine:
        failure = None

        @staticmethod
        def shutdown(drain: bool) -> None:
            pass

        @staticmethod
        def check_room(entering: int) -> None:
            pass

    async def complete(self, body: object, request_id: str, caller: object) -> None:
        raise ZeroDivisionError("a defect\nof two lines")


def test_a_traceback_stays_on_one_line_with_the_requests_id(logs: io.StringIO) -> None:
    service = Service(lambda report: Defective(), 10)  # type: ignore[arg-type,return-value]
    with served(create_app(service)) as url:
        assert service.wait(10)
        headers = {"Content-Type": "application/json", "X-Request-ID": "the-one"}
        request = urllib.request.Request(f"{url}/v1/completions", b'{"prompt": "x"}', headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        assert caught.value.code == 500
        assert json.load(caught.value)["error"]["request_id"] == "the-one"
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    [access] = [line for line in lines if line["logger"] == "mili.access"]
    assert (access["status"], access["route"], access["request_id"]) == (500, "/v1/completions", "the-one")
    [failure] = [line for line in lines if line["level"] == "error"]
    assert "Traceback (most recent call last)" in failure["exception"]
    assert "ZeroDivisionError: a defect\nof two lines" in failure["exception"]
    assert failure["request_id"] == "the-one"


class Checkpoint:
    """What a server needs to know of a model beside its engine."""

    name, tokenizer, config = "failing", None, MockModel.config
    load_times = LoadTimes(load_s=1.0, compile_s=2.0, compile_cached=True, total_s=3.0)


def test_a_model_that_fails_is_in_log_and_metrics(logs: io.StringIO) -> None:
    model = MockModel(64, delay=0.02)
    model.fail_at = 20
    engine = make_engine(model, 64, max_running=2)
    settings = Settings(_env_prefix="no variable begins like this")
    service = Service(lambda report: Handlers(Checkpoint(), engine, settings), 10)  # type: ignore[arg-type]
    with served(create_app(service)) as url:
        assert service.wait(10)
        body = {"prompt": [1, 2], "max_tokens": 90, "ignore_eos": True, "n": 2, "stream": True}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        # Without a tokenizer there is no text to stream, so the failure comes before the first event.
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        assert json.load(caught.value)["error"]["code"] == "internal_error"
        assert status_of(url, "/v1/completions", body) == 503
        wait_until(lambda: engine.stats().running == 0)
        samples = scrape(url)
    assert value(samples, "request_success_total", "failing", finished_reason="error") == 2
    assert value(samples, "generation_tokens_total", "failing") == 2 * 19
    for name in ("num_aborts_total", "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert value(samples, name, "failing") == 0
    assert value(samples, "model_load_seconds", "failing") == 1
    assert value(samples, "model_compile_seconds", "failing") == 2
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    failed, refused = access_lines(lines, "/v1/completions")
    shown = {name: failed[name] for name in ("status", "prompt_tokens", "generated_tokens")}
    assert shown == {"status": 503, "prompt_tokens": 2, "generated_tokens": 38}
    # The line is written as soon as one of the two has failed; the other may just be about to.
    assert failed["finish_reason"] in ("error", "abort,error")
    assert refused["status"] == 503
    [failure] = [line for line in lines if line["event"] == "the engine failed"]
    assert "RuntimeError: the device is gone" in failure["exception"]


def test_warnings_go_the_same_way(logs: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old ways", stacklevel=1)
    [line] = [json.loads(line) for line in logs.getvalue().splitlines()]
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "old ways" in line["event"]
