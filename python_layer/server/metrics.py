"""Metrics in Prometheus' text format, with the names that vLLM's dashboards know under this project's prefix."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.request_stats import Histogram
from python_layer.server.formats import ToolCallCounts

PREFIX = "mili:"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Also where OpenMetrics is asked for: there the library (0.26) turns the colons of some names into underscores."""


@dataclass(frozen=True)
class Served:
    """What the metrics tell of.

    Attributes:
        engine: Whose numbers they are.
        model_name: The label of every one of them.
        load_seconds: What loading the weights took.
        compile_seconds: What compiling the model took, or reading it from the cache.
        tool_calls: The calls in chat answers.
    """

    engine: InferenceEngine
    model_name: str
    load_seconds: float
    compile_seconds: float
    tool_calls: ToolCallCounts


class EngineCollector(Collector):
    """Reads the engine's own numbers whenever somebody asks for the metrics.

    Args:
        served: Where to read; None while the model is loading.
    """

    def __init__(self, served: Callable[[], Served | None]) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        """All of them, or none while the model is loading."""
        served = self._served()
        if served is None:
            return
        info = GaugeMetricFamily(f"{PREFIX}info", "What runs; always 1.", labels=["model_name", "version"])
        info.add_metric([served.model_name, version("mili")], 1)
        yield info
        for kind, name, help_text, value in _values(served):
            family = kind(f"{PREFIX}{name}", help_text, labels=["model_name"])
            family.add_metric([served.model_name], value)
            yield family
        requests = served.engine.request_stats
        ended = CounterMetricFamily(
            f"{PREFIX}request_success", "Answers that ended, by why.", labels=["model_name", "finished_reason"]
        )
        for reason, count in list(requests.reasons.items()):
            ended.add_metric([served.model_name, reason], count)
        yield ended
        for name, help_text, histogram in (
            ("time_to_first_token_seconds", "From arrival to the first token.", requests.time_to_first_token),
            ("inter_token_latency_seconds", "Between two tokens of an answer.", requests.inter_token_latency),
            ("e2e_request_latency_seconds", "From arrival to the end, however the request ended.", requests.latency),
            ("request_queue_time_seconds", "From arrival until it was scheduled.", requests.queue_time),
            ("request_prompt_tokens", "Tokens of the prompts of requests that ended.", requests.prompt_lengths),
            ("request_generation_tokens", "Tokens generated for requests that ended.", requests.generated),
        ):
            yield _family(f"{PREFIX}{name}", help_text, served.model_name, histogram)


class Metrics:
    """The metrics of one server, in a registry of its own.

    Args:
        served: The engine and its model; None while it is loading.
    """

    def __init__(self, served: Callable[[], Served | None]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(EngineCollector(served))
        labels = ["route", "status"]
        self._http = Counter(f"{PREFIX}http_requests", "HTTP requests.", labels, registry=self._registry)

    def count_http(self, route: str, status: int) -> None:
        """An HTTP request has been answered."""
        self._http.labels(route, status).inc()

    def exposition(self) -> bytes:
        """Everything, as :data:`CONTENT_TYPE`."""
        return generate_latest(self._registry)


def _values(served: Served) -> Iterator[tuple[type[CounterMetricFamily] | type[GaugeMetricFamily], str, str, float]]:
    """The metrics that are one number: (type, name, help, value)."""
    stats, requests = served.engine.stats(), served.engine.request_stats
    pages = stats.pages_free + stats.pages_cached + stats.pages_held
    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    yield gauge, "num_requests_running", "Answers being generated.", stats.running
    yield gauge, "num_requests_waiting", "Answers in the queue.", stats.waiting
    yield gauge, "kv_cache_usage_perc", "Share of the KV cache that is held; 1 is all.", stats.pages_held / pages
    yield gauge, "model_load_seconds", "Time to load the weights.", served.load_seconds
    yield gauge, "model_compile_seconds", "Time to compile the model, or to read it.", served.compile_seconds
    yield counter, "prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries
    yield counter, "prefix_cache_hits", "Prompt tokens found there.", stats.prefix_hits
    yield counter, "prompt_tokens", "Tokens of prompts, cached ones too.", requests.prompt_tokens
    yield counter, "generation_tokens", "Tokens generated.", stats.generated_tokens
    yield counter, "num_preemptions", "Times an answer lost its pages.", stats.preemptions
    yield counter, "num_aborts", "Requests that were taken back.", requests.aborted
    yield counter, "spec_decode_num_draft_tokens", "Tokens proposed by speculation.", stats.drafted_tokens
    yield counter, "spec_decode_num_accepted_tokens", "Those of them that were right.", stats.accepted_tokens
    yield counter, "tool_calls", "Tool calls in chat answers.", served.tool_calls.calls
    yield (
        counter,
        "tool_calls_malformed",
        "Blocks of answers that were no call, or no JSON.",
        served.tool_calls.malformed,
    )


def _family(name: str, help_text: str, model_name: str, histogram: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help_text, labels=["model_name"])
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    family.add_metric([model_name], buckets, histogram.sum)
    return family
