"""OpenTelemetry traces: a span for each request, with children for its time in the queue, prefill and decode."""

import threading
import time
from collections.abc import Iterator
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.types import Scope
from structlog.contextvars import bind_contextvars

from python_layer.inference.request import Request
from python_layer.server.observability import Exchange

PATH = "/v1/traces"
"""Of OTLP over HTTP, below the endpoint."""

LAST_EXPORT = 3.0
"""Most seconds that the end of the server waits for a collector that does not answer."""

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/generate": "text_completion"}
"""The routes that generate, and what the conventions for generative AI call them."""


class RequestTracer:
    """Makes the spans of requests and exports them in the background.

    Args:
        endpoint: URL of a collector that speaks OTLP over HTTP, with or without ``/v1/traces``.
    """

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "mili", "service.version": version("mili")})
        self._provider = TracerProvider(resource=resource)
        url = endpoint.rstrip("/").removesuffix(PATH) + PATH
        self._exporter = OTLPSpanExporter(endpoint=url)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("mili", version("mili"))
        self._context = TraceContextTextMapPropagator()

    def begin(self, scope: Scope) -> Span | None:
        """The span of a request that generates, as a child of the caller's if it names one; None for others."""
        if scope["path"] not in OPERATIONS:
            return None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = self._context.extract(headers)
        span = self._tracer.start_span(scope["path"], parent, SpanKind.SERVER)
        bind_contextvars(trace_id=format(span.get_span_context().trace_id, "032x"))
        return span

    def end(self, span: Span, exchange: Exchange, model: str | None) -> None:
        """Completes the span of a request, and its children.

        Args:
            span: From :meth:`begin`.
            exchange: The request and its answer.
            model: The model that is served, if there is one.
        """
        for request in exchange.requests:
            self._add_phases(span, request)
        if exchange.route in OPERATIONS:
            span.update_name(f"{OPERATIONS[exchange.route]} {model}" if model else OPERATIONS[exchange.route])
        span.set_attributes(dict(_attributes(exchange, model)))
        failed = exchange.status >= 500 or "error" in exchange.finish_reasons
        if failed:
            span.set_attribute("error.type", str(exchange.status) if exchange.status >= 500 else "internal_error")
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def shutdown(self) -> None:
        """Exports what is left, unless that takes too long, and ends."""
        timer = threading.Timer(LAST_EXPORT, self._exporter.shutdown)
        timer.start()
        self._provider.shutdown()
        timer.cancel()

    def _add_phases(self, parent: Span, request: Request) -> None:
        """A span for each phase that a request came to; its last one ends with it."""
        timeline, context = request.timeline, set_span_in_context(parent)
        # What goes on although nobody waits for it ends now, after all that has happened to it.
        times = [timeline.arrived, timeline.scheduled, timeline.first_token, timeline.ended]
        now = time.monotonic()
        origin = time.time_ns() - round(now * 1e9)  # the engine's seconds have one of their own
        ended = now if times[-1] is None else times[-1]
        for name, start, end in zip(("queue", "prefill", "decode"), times, times[1:], strict=False):
            if start is not None:
                span = self._tracer.start_span(name, context, start_time=origin + round(start * 1e9))
                span.end(origin + round((ended if end is None else end) * 1e9))


def _attributes(exchange: Exchange, model: str | None) -> Iterator[tuple[str, AttributeValue]]:
    """Attributes after the semantic conventions for HTTP and for generative AI."""
    yield "http.request.method", exchange.method
    yield "http.route", exchange.route
    yield "http.response.status_code", exchange.status
    yield "mili.request_id", exchange.request_id
    yield "gen_ai.provider.name", "mili"
    if exchange.route in OPERATIONS:
        yield "gen_ai.operation.name", OPERATIONS[exchange.route]
    if model is not None:
        yield "gen_ai.request.model", model
    if exchange.requests:
        params = exchange.requests[0].params
        yield "gen_ai.request.max_tokens", params.max_tokens
        yield "gen_ai.request.temperature", params.sampling.temperature
        yield "gen_ai.request.top_p", params.sampling.top_p
        yield "gen_ai.request.choice.count", params.n
        yield "gen_ai.usage.input_tokens", exchange.prompt_tokens
        yield "gen_ai.usage.output_tokens", exchange.generated_tokens
        cached = sum(request.timeline.cached for request in exchange.requests)
        yield "gen_ai.usage.cache_read.input_tokens", cached
        yield "gen_ai.response.finish_reasons", exchange.finish_reasons
        if model is not None:
            yield "gen_ai.response.model", model
