"""Traces as a collector gets them: OTLP over HTTP, for real."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.integration.server import free_port, mili, running_server
from tests.integration.test_logs import access_lines, lines_of
from tests.integration.test_metrics import leave, status_of

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes spans in, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.paths.add(self.path)
                assert self.headers["Content-Type"] == "application/x-protobuf"
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    collector.resources.append(attributes(resource.resource))
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def children(self, span: Span) -> list[Span]:
        return sorted(
            (each for each in self.spans if each.parent_span_id == span.span_id), key=lambda s: s.start_time_unix_nano
        )

    def of_request(self, request_id: str) -> Span:
        [span] = [span for span in self.spans if attributes(span).get("mili.request_id") == request_id]
        return span


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


def attributes(owner: Any) -> dict[str, Any]:
    return {entry.key: plain(entry.value) for entry in owner.attributes}


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def ask(url: str, request_id: str, body: dict, route: str = "/v1/completions", **headers: str) -> dict:
    headers |= {"Content-Type": "application/json", "X-Request-ID": request_id}
    request = urllib.request.Request(url + route, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collector, dict[str, dict], list[dict[str, Any]]]:
    """What a collector got of a server's life, the answers of its requests, and its log."""
    log = tmp_path_factory.mktemp("traces") / "log"
    answers = {}
    with collecting() as collector:
        arguments = ["--otlp-endpoint", collector.url, "--log-format", "json"]
        with running_server(*arguments, log=log) as url:
            body = {"prompt": list(range(40)), "max_tokens": 30, "ignore_eos": True, "temperature": 0.5, "seed": 1}
            continued = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            answers["continued"] = ask(url, "continued", body, **continued)
            answers["again"] = ask(url, "again", body | {"n": 2})
            chat = {"messages": [{"role": "user", "content": "Hello"}]}
            answers["chat"] = ask(url, "chat", chat, "/v1/chat/completions")
            ask(url, "unsampled", body, traceparent=f"00-{TRACE}-{CALLER}-00")
            answers["several"] = ask(url, "several", body | {"prompt": [[1, 2], [3, 4, 5]]})
            assert status_of(url, "/v1/completions", {"prompt": "x", "max_tokens": 99999}) == 400
            leave(url, "/v1/completions", {"prompt": "x", "max_tokens": 1900, "ignore_eos": True})
    return collector, answers, lines_of(log)


def test_a_request_is_a_span_with_three_phases(traced: Any) -> None:
    collector, answers, _ = traced
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0].items() >= {"service.name": "mili", "service.version": "0.1.0"}.items()
    span, usage = collector.of_request("continued"), answers["continued"]["usage"]
    assert (span.name, span.kind) == ("text_completion mili-tiny", Span.SPAN_KIND_SERVER)
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "mili.request_id": "continued",
        "gen_ai.provider.name": "mili",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "mili-tiny",
        "gen_ai.response.model": "mili-tiny",
        "gen_ai.request.max_tokens": 30,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.choice.count": 1,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.finish_reasons": ["length"],
    }
    phases = collector.children(span)
    assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]
    queue, prefill, decode = phases
    assert queue.start_time_unix_nano <= queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano
    assert prefill.start_time_unix_nano < prefill.end_time_unix_nano < decode.end_time_unix_nano
    # The engine's clock and the wall clock are read one after the other.
    slack = 250_000_000
    assert queue.start_time_unix_nano >= span.start_time_unix_nano - slack
    assert decode.end_time_unix_nano <= span.end_time_unix_nano + slack
    assert abs(span.end_time_unix_nano - time.time_ns()) < 600 * 10**9


def test_the_callers_trace_goes_on_and_others_are_new(traced: Any) -> None:
    collector, _, lines = traced
    continued, again = collector.of_request("continued"), collector.of_request("again")
    assert continued.trace_id.hex() == TRACE
    assert continued.parent_span_id.hex() == CALLER
    assert again.parent_span_id == b""
    assert again.trace_id != continued.trace_id
    for span in (continued, again):
        assert {child.trace_id for child in collector.children(span)} == {span.trace_id}
        [line] = [
            each for each in lines if each.get("request_id") == attributes(span)["mili.request_id"] and "route" in each
        ]
        assert line["trace_id"] == span.trace_id.hex()
    # Who asks for no traces gets none.
    assert not [span for span in collector.spans if attributes(span).get("mili.request_id") == "unsampled"]


def test_usage_is_that_of_the_answer(traced: Any) -> None:
    collector, answers, _ = traced
    for name in ("again", "chat", "several"):
        found, usage = attributes(collector.of_request(name)), answers[name]["usage"]
        assert found["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
        assert found["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert found["gen_ai.usage.cache_read.input_tokens"] == cached
        reasons = [choice["finish_reason"] for choice in answers[name]["choices"]]
        assert sorted(found["gen_ai.response.finish_reasons"]) == sorted(reasons)
    assert attributes(collector.of_request("again"))["gen_ai.usage.cache_read.input_tokens"] == 32
    assert collector.of_request("chat").name == "chat mili-tiny"
    names = sorted(child.name for child in collector.children(collector.of_request("several")))
    assert names == ["decode", "decode", "prefill", "prefill", "queue", "queue"]


def test_what_goes_wrong_is_traced_too_and_what_generates_nothing_is_not(traced: Any) -> None:
    collector, _, lines = traced
    roots = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert {attributes(span)["http.route"] for span in roots} == {"/v1/completions", "/v1/chat/completions"}
    [refused] = [span for span in roots if attributes(span)["http.response.status_code"] == 400]
    assert collector.children(refused) == []
    assert "gen_ai.usage.input_tokens" not in attributes(refused)
    assert refused.status.code == Status.STATUS_CODE_UNSET  # the client's mistake, not the server's
    [left] = [span for span in roots if attributes(span).get("gen_ai.response.finish_reasons") == ["abort"]]
    assert 0 < attributes(left)["gen_ai.usage.output_tokens"] < 1900
    assert len(roots) == len(access_lines(lines, "/v1/completions") + access_lines(lines, "/v1/chat/completions")) - 1


def test_without_an_endpoint_nothing_is_imported_or_connected() -> None:
    code = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'): sys.exit('connected')\n"
        "sys.addaudithook(refuse)\n"
        "from python_layer.server.run import app_of\n"
        "from python_layer.utils.settings import load_settings\n"
        "app_of(load_settings({}))\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_without_the_packages_the_error_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "sys.argv = ['mili', 'serve', '--otlp-endpoint', 'http://127.0.0.1:9']\n"
        "from python_layer.cli import main; main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "pip install 'mili[otel]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    result = mili("serve", "--otlp-endpoint", "localhost:4318")
    assert result.returncode == 1
    assert "--otlp-endpoint" in result.stderr
    assert "http://localhost:4318" in result.stderr


def test_a_collector_that_is_down_costs_its_spans_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    endpoint = f"http://127.0.0.1:{free_port()}"
    with running_server("--otlp-endpoint", endpoint, "--log-format", "json", log=log) as url:
        assert ask(url, "one", {"prompt": "x", "max_tokens": 3})["usage"]["completion_tokens"] == 3
        began = time.monotonic()
    assert time.monotonic() - began < 20
    warnings = [line for line in lines_of(log) if line["level"] == "warning"]
    assert endpoint.removeprefix("http://127.0.0.1:") in warnings[0]["event"]
