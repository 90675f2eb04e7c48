"""Measures llama.cpp with its own programs."""

import json
import time
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
    lengths = ",".join(str(length) for length in PREFILLS)
    out, prefill_peak = run_watched((bench, *common, "-p", lengths, "-n", 0, "-r", 1, "-o", "json"))
    for result in json.loads(out):
        figures[f"prefill_{result['n_prompt']}"] = result["avg_ts"]
    counts = ",".join(str(count) for count in BATCHES)
    sizes = ("-c", max(BATCHES) * (PROMPT + NEW), "-npp", PROMPT, "-ntg", NEW, "-npl", counts)
    out, decode_peak = run_watched((batched_bench, *common, "-tb", threads, *sizes, "--output-format", "jsonl"))
    for result in (json.loads(line) for line in out.splitlines() if line.startswith("{")):
        figures[f"decode_{result['pl']}"] = result["speed_tg"]
    return figures | {"peak": max(peak, prefill_peak, decode_peak)}
