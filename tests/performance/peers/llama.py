"""Measures llama.cpp with its own programs."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.performance.peers.process import run_watched
from tests.performance.peers.workload import BATCHES, NEW, PREFILLS, PROMPT


def measure_llama(bench: Path, batched_bench: Path, gguf: Path, threads: int, only_start: bool) -> dict[str, float]:
    """The figures of workload.py.

    The start is a run of llama-bench that computes a prompt and a token, so the end of the process is in it too.

    Args:
        bench: llama-bench.
        batched_bench: llama-batched-bench.
        gguf: The model.
        threads: Threads that compute.
        only_start: Measure nothing else.

    Raises:
        ProgramError: A program failed.
    """
    common = ("-m", gguf, "-t", threads)
    started = time.perf_counter()
    _, peak = run_watched((bench, *common, "-p", PROMPT, "-n", 1, "-r", 1, "--no-warmup", "-o", "json"))
    figures: dict[str, float] = {"start": time.perf_counter() - started, "weight_bytes": gguf.stat().st_size}
    if only_start:
        return figures
    rates = LlamaRates(bench, batched_bench, gguf, threads)
    prefills, prefill_peak = rates.prefills(PREFILLS)
    decodes, decode_peak = rates.decodes(BATCHES)
    return figures | prefills | decodes | {"peak": max(peak, prefill_peak, decode_peak)}


@dataclass(frozen=True)
class LlamaRates:
    """Measures rates of workload.py, in a process each time; the arguments are those of :func:`measure_llama`."""

    bench: Path
    batched_bench: Path
    gguf: Path
    threads: int

    def prefills(self, lengths: Sequence[int]) -> tuple[dict[str, float], int]:
        """The rates of some prompts, and the peak of memory in bytes."""
        wanted = ("-p", ",".join(map(str, lengths)), "-n", 0, "-r", 1, "-o", "json")
        out, peak = run_watched((self.bench, "-m", self.gguf, "-t", self.threads, *wanted))
        return {f"prefill_{result['n_prompt']}": result["avg_ts"] for result in json.loads(out)}, peak

    def decodes(self, counts: Sequence[int]) -> tuple[dict[str, float], int]:
        """Likewise of so many requests at once."""
        common = ("-m", self.gguf, "-t", self.threads, "-tb", self.threads, "--output-format", "jsonl")
        sizes = ("-c", max(counts) * (PROMPT + NEW), "-npp", PROMPT, "-ntg", NEW, "-npl", ",".join(map(str, counts)))
        out, peak = run_watched((self.batched_bench, *common, *sizes))
        results = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return {f"decode_{result['pl']}": result["speed_tg"] for result in results}, peak

    def rate(self, name: str) -> float:
        """One of RATES."""
        kind, _, number = name.partition("_")
        rates, _ = (self.prefills if kind == "prefill" else self.decodes)([int(number)])
        return rates[name]

    def close(self) -> None:
        """Nothing is left to end."""
