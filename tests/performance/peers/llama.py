"""Measures llama.cpp with its own programs."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.performance.peers.process import run_watched
from tests.performance.peers.workload import BATCHES, NEW, PREFILLS, PROMPT


@dataclass(frozen=True)
class Llama:
    """Measures the figures of workload.py, in processes that end.

    Attributes:
        bench: llama-bench.
        batched_bench: llama-batched-bench.
        gguf: The model.
        threads: Threads that compute.

    Raises:
        ProgramError: A program failed; from every method.
    """

    bench: Path
    batched_bench: Path
    gguf: Path
    threads: int

    def measure(self, only_start: bool) -> dict[str, float]:
        """All figures and the peak of memory in bytes, or what the start gives of them.

        The start is a run of llama-bench that computes a prompt and a token, so the end of the process is in it too.
        """
        started = time.perf_counter()
        _, peak = self._run_bench("-p", PROMPT, "-n", 1, "--no-warmup")
        figures: dict[str, float] = {"start": time.perf_counter() - started, "weight_bytes": self.gguf.stat().st_size}
        if only_start:
            return figures
        prefills, prefill_peak = self._prefills(PREFILLS)
        decodes, decode_peak = self._decodes(BATCHES)
        return figures | prefills | decodes | {"peak": max(peak, prefill_peak, decode_peak)}

    def rate(self, name: str) -> float:
        """One of RATES."""
        kind, _, number = name.partition("_")
        rates, _ = (self._prefills if kind == "prefill" else self._decodes)([int(number)])
        return rates[name]

    def close(self) -> None:
        """Nothing is left to end."""

    def _prefills(self, lengths: Sequence[int]) -> tuple[dict[str, float], int]:
        """The rates of some prompts, and the peak of memory in bytes."""
        out, peak = self._run_bench("-p", ",".join(map(str, lengths)), "-n", 0)
        return {f"prefill_{result['n_prompt']}": result["avg_ts"] for result in json.loads(out)}, peak

    def _decodes(self, counts: Sequence[int]) -> tuple[dict[str, float], int]:
        """Likewise of so many requests at once."""
        common = ("-m", self.gguf, "-t", self.threads, "-tb", self.threads, "--output-format", "jsonl")
        sizes = ("-c", max(counts) * (PROMPT + NEW), "-npp", PROMPT, "-ntg", NEW, "-npl", ",".join(map(str, counts)))
        out, peak = run_watched((self.batched_bench, *common, *sizes))
        results = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return {f"decode_{result['pl']}": result["speed_tg"] for result in results}, peak

    def _run_bench(self, *wanted: object) -> tuple[str, int]:
        return run_watched((self.bench, "-m", self.gguf, "-t", self.threads, *wanted, "-r", 1, "-o", "json"))
