"""The benchmarks run and print what they promise; their timings decide nothing here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from python_layer.utils.cpu import supported_isas

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> dict:
    command = [sys.executable, ROOT / "tests" / "performance" / script, *arguments, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_e2e() -> None:
    figures = run("benchmark_e2e.py", "--prompt-tokens", "40", "--new-tokens", "5", "--batch", "2", "--repeats", "1")
    names = {"prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s", "load_s", "compile_s", "peak_rss_bytes"}
    assert all(figures[name] > 0 for name in names | {"weight_bytes", "prefill_fraction", "decode_fraction"})
    assert figures["isa"] == supported_isas()[0]


def test_engine() -> None:
    figures = run("benchmark_engine.py", "--repeats", "1")
    assert figures["tokens_per_s_16"] > 0
    assert figures["prefix_ttft_ratio"] > 0


def test_scheduler() -> None:
    assert run("benchmark_scheduler.py", "--batch", "4", "--context", "40", "--steps", "20")["overhead_ms_per_step"] > 0


@pytest.mark.parametrize("arrivals", ["poisson", "bursty"])
def test_simulator_finishes_every_request_under_every_policy(arrivals: str) -> None:
    load = ["--requests", "60", "--rate", "3", "--arrivals", arrivals, "--pages", "300", "--prompt-tokens", "32"]
    results = run("simulate.py", *load)
    assert set(results) == {"fcfs", "priority", "fair", "latency"}
    for result in results.values():
        assert 0 < result["ttft_p50"] <= result["ttft_p95"] <= result["ttft_p99"]
        assert 0 <= result["prefix_hit_rate"] < 1


def test_load() -> None:
    figures = run("load_test.py", "--num-requests", "40", "--concurrent", "8", "--leave", "0.4", "--max-tokens", "16")
    assert figures["errors"] == 0
    assert figures["pages_whole"] is True
    assert figures["requests"] + figures["left"] == 40
    assert figures["left"] > 0


def test_structured_output() -> None:
    figures = run("benchmark_structured.py", "--repeats", "1", "--requests", "2")
    assert figures["ratio"] > 0
    assert figures["mask_us"] > 0
