"""GET /metrics of the running server against what its clients saw."""

import http.client
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.integration.server import free_port, mili_command, running_server

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server("--speculation", "3") as address:
        yield address


def scrape(url: str) -> Samples:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        families = parse_text(response.read().decode())
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, model_name: str = "mili-tiny", **labels: str) -> float:
    """A sample of the engine's."""
    return samples[f"mili:{name}", frozenset({"model_name": model_name, **labels}.items())]


def http_requests(samples: Samples) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for (name, labels), count in samples.items():
        if name == "mili:http_requests_total":
            found[dict(labels)["route"], dict(labels)["status"]] += int(count)
    return found


def post(url: str, route: str, body: dict, timeout: float = 120) -> dict:
    request = urllib.request.Request(url + route, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.load(response)


def status_of(url: str, route: str, body: dict) -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, route, body)
    caught.value.read()
    return caught.value.code


def leave(url: str, route: str, body: dict) -> None:
    """Begins to read a stream and hangs up."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.request("POST", route, json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
    assert connection.getresponse().readline().startswith(b"data:")
    connection.sock.close()
    connection.close()


def settled(url: str, ended: float) -> Samples:
    """The metrics once so many requests have ended since the start and nothing runs; a step's come at its end."""
    deadline = time.monotonic() + 20
    while True:
        samples = scrape(url)
        idle = value(samples, "num_requests_running") == value(samples, "num_requests_waiting") == 0
        whole = value(samples, "request_generation_tokens_sum") == value(samples, "generation_tokens_total")
        if idle and whole and value(samples, "e2e_request_latency_seconds_count") == ended:
            return samples
        assert time.monotonic() < deadline, samples
        time.sleep(0.05)


class Seen:
    """What a client counts in the answers it gets."""

    def __init__(self) -> None:
        self.requests = self.prompt_tokens = self.tokens = self.cached = self.answers = 0
        self.reasons: Counter[str] = Counter()

    def completion(self, answer: dict, requests: int = 1) -> None:
        self.requests += requests
        self.prompt_tokens += answer["usage"]["prompt_tokens"]
        self.cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        for choice in answer["choices"]:
            self.answers += 1
            self.tokens += len(choice["logprobs"]["tokens"])
            self.reasons[choice["finish_reason"]] += 1


def test_every_figure_is_what_the_clients_saw(url: str) -> None:
    before, seen = scrape(url), Seen()
    began = value(before, "e2e_request_latency_seconds_count")
    free = {"ignore_eos": True, "logprobs": 0}
    long = list(range(100, 150))
    for prompt in (long, long, [1, 2, 3]):
        seen.completion(post(url, "/v1/completions", {"prompt": prompt, "max_tokens": 7, **free}))
    assert seen.cached == 48  # the second time, the three full pages of it
    several = {"prompt": [[4, 5], [6, 7, 8]], "n": 3, "max_tokens": 9, "temperature": 1, "seed": 3, **free}
    seen.completion(post(url, "/v1/completions", several), requests=2)
    forced = {"prompt": [9], "max_tokens": 5, "logit_bias": {"70": 100}, "stop_token_ids": [70], "logprobs": 0}
    seen.completion(post(url, "/v1/completions", forced))
    assert seen.reasons == {"length": 9, "stop": 1}
    plain = post(url, "/generate", {"prompt": "Once upon a time", "max_tokens": 12})
    seen.requests, seen.answers, seen.tokens = seen.requests + 1, seen.answers + 1, seen.tokens + len(plain["tokens"])
    seen.prompt_tokens += plain["total_tokens"] - len(plain["tokens"])
    seen.reasons[plain["finish_reason"]] += 1
    assert status_of(url, "/v1/completions", {"prompt": "x", "temperature": -1}) == 400
    assert status_of(url, "/v1/completions", {"prompt": "x", "max_tokens": 99999}) == 400
    assert status_of(url, "/v1/nothing/a", {}) == status_of(url, "/v1/nothing/b", {}) == 404

    after = settled(url, began + seen.requests)

    def rose(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert rose("prompt_tokens_total") == rose("request_prompt_tokens_sum") == seen.prompt_tokens
    assert rose("generation_tokens_total") == rose("request_generation_tokens_sum") == seen.tokens
    assert rose("prefix_cache_hits_total") == seen.cached
    assert rose("prefix_cache_queries_total") == seen.prompt_tokens
    for reason in ("stop", "length", "abort", "timeout", "error"):
        assert rose("request_success_total", finished_reason=reason) == seen.reasons[reason]
    assert rose("num_aborts_total") == 0
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert rose(f"{name}_seconds_count") == seen.requests
    assert rose("inter_token_latency_seconds_count") == seen.tokens - seen.answers
    assert value(after, "kv_cache_usage_perc") == 0
    counted = http_requests(after)
    counted.subtract(http_requests(before))
    assert counted["/v1/completions", "200"] == 5
    assert counted["/generate", "200"] == 1
    assert counted["/v1/completions", "400"] == 2
    assert counted["unknown", "404"] == 2  # whatever the path: a label is no place for what clients invent
    assert not any("nothing" in route for route, _ in counted)


def test_clients_that_leave_are_aborts(url: str) -> None:
    before = scrape(url)
    began = value(before, "e2e_request_latency_seconds_count")
    body = {"prompt": "x", "max_tokens": 1500, "ignore_eos": True, "temperature": 1}
    leave(url, "/v1/completions", body)
    leave(url, "/v1/completions", body | {"n": 3})
    with pytest.raises(TimeoutError):  # one that waits for the whole answer has nothing when it goes
        post(url, "/v1/completions", body, timeout=0.3)
    after = settled(url, began + 3)
    assert value(after, "num_aborts_total") - value(before, "num_aborts_total") == 3
    assert http_requests(after)["/v1/completions", "499"] == 1
    rose = {
        reason: value(after, "request_success_total", finished_reason=reason)
        - value(before, "request_success_total", finished_reason=reason)
        for reason in ("stop", "length", "abort", "timeout", "error")
    }
    assert rose == {"stop": 0, "length": 0, "abort": 5, "timeout": 0, "error": 0}
    assert value(after, "kv_cache_usage_perc") == 0


def test_speculation_is_counted(url: str) -> None:
    before = scrape(url)
    began = value(before, "e2e_request_latency_seconds_count")
    # An answer of one token over and over, so that what is guessed is right.
    body = {"prompt": [5] * 20, "max_tokens": 64, "logit_bias": {"70": 100}, "ignore_eos": True, "logprobs": 0}
    answer = post(url, "/v1/completions", body)
    after = settled(url, began + 1)
    drafted, accepted = (
        value(after, f"spec_decode_num_{kind}_tokens_total") - value(before, f"spec_decode_num_{kind}_tokens_total")
        for kind in ("draft", "accepted")
    )
    tokens = len(answer["choices"][0]["logprobs"]["tokens"])
    assert 20 < accepted <= drafted < 3 * tokens
    counts = [value(samples, "inter_token_latency_seconds_count") for samples in (before, after)]
    assert counts[1] - counts[0] == tokens - 1


def test_what_is_under_way_shows_while_it_is() -> None:
    arguments = ["--max-running", "1", "--queue-timeout", "0.15"]
    with running_server(*arguments) as url:
        reader = threading.Thread(
            target=post, args=(url, "/v1/completions", {"prompt": "x", "max_tokens": 700, "ignore_eos": True})
        )
        reader.start()
        deadline = time.monotonic() + 10
        while value(samples := scrape(url), "num_requests_running") != 1:
            assert time.monotonic() < deadline
        assert 0 < value(samples, "kv_cache_usage_perc") <= 1
        waiting = threading.Thread(target=status_of, args=(url, "/v1/completions", {"prompt": "y", "max_tokens": 5}))
        waiting.start()
        while value(scrape(url), "num_requests_waiting") != 1:
            assert time.monotonic() < deadline
        waiting.join()
        reader.join()
        samples = settled(url, 2)
        assert value(samples, "request_success_total", finished_reason="timeout") == 1
        assert value(samples, "request_success_total", finished_reason="length") == 1
        assert value(samples, "time_to_first_token_seconds_count") == 1
        assert value(samples, "request_queue_time_seconds_sum") >= 0.15
        assert http_requests(samples)["/v1/completions", "408"] == 1


def test_preemption_changes_no_count() -> None:
    with running_server("--kv-cache-memory", "0.001", "--max-running", "4", "--no-prefix-caching") as url:
        answers: list[dict] = []

        def ask(first: int) -> None:
            body = {"prompt": [first, 6, 7], "max_tokens": 250, "ignore_eos": True, "logprobs": 0}
            answers.append(post(url, "/v1/completions", body))

        readers = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        samples = settled(url, 4)
        assert [len(answer["choices"][0]["logprobs"]["tokens"]) for answer in answers] == [250] * 4
        assert value(samples, "num_preemptions_total") > 0
        assert value(samples, "generation_tokens_total") == 1000
        assert value(samples, "prompt_tokens_total") == 12
        assert value(samples, "inter_token_latency_seconds_count") == 996
        assert value(samples, "request_queue_time_seconds_count") == 4
        assert value(samples, "prefix_cache_queries_total") == 0


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"])
def test_buckets_are_cumulative_and_names_whole_whatever_is_asked_for(url: str, accept: str) -> None:
    post(url, "/v1/completions", {"prompt": "x", "max_tokens": 3})
    request = urllib.request.Request(f"{url}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = list(parse_text(response.read().decode()))
    assert {sample.name.split(":")[0] for family in families for sample in family.samples if "mili" in sample.name} == {
        "mili"
    }
    histograms = [family for family in families if family.type == "histogram"]
    assert len(histograms) == 6
    for family in histograms:
        buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
        [count] = [sample.value for sample in family.samples if sample.name.endswith("_count")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == count > 0


def test_model_and_process_are_told_of(url: str) -> None:
    samples = scrape(url)
    assert value(samples, "info", version="0.1.0") == 1
    assert value(samples, "model_load_seconds") > 0
    assert value(samples, "model_compile_seconds") > 0
    assert samples["process_resident_memory_bytes", frozenset()] > 1e7
    assert samples["process_cpu_seconds_total", frozenset()] > 0


def test_metrics_are_served_while_the_model_loads() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [mili_command(), "serve", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                samples = scrape(url)
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
        assert ("process_open_fds", frozenset()) in samples
    finally:
        process.terminate()
        process.communicate(timeout=60)
