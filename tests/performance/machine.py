"""The limits of this machine, measured: what the benchmarks compare themselves with."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from python_layer.model.kernels import mojo_compiler
from python_layer.utils.cores import allowed_cpus, choose_threads, first_cpus_of_cores

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class MachineLimits:
    """Measured on all cores.

    Attributes:
        bandwidth: Bytes read from memory per second.
        flops: float32 operations per second of vector FMAs.
        fp16_flops: Likewise of float16, by AVX512-FP16; 0 where the CPU lacks it.
        bf16_flops: Likewise of products of bfloat16, by AMX or else AVX512-BF16; 0 where the CPU lacks both.
        int8_ops: Likewise of products of 8-bit integers, by AMX or else VNNI.
        int16_ops: Likewise of 16-bit integers, by VNNI or AVX2.
        fork_join_us: Microseconds to hand every thread of the pool an empty task and to wait for all.
        threads: Of the pool, one per core that the process may run on.
    """

    bandwidth: float
    flops: float
    fp16_flops: float
    bf16_flops: float
    int8_ops: float
    int16_ops: float
    fork_join_us: float
    threads: int

    def rate(self, dtype: str) -> float:
        """Operations per second on products of a type, or of another as wide or wider where that is faster."""
        half = max(self.bf16_flops, self.fp16_flops, self.int16_ops, self.flops)
        return {"float32": self.flops, "int8": max(self.int8_ops, half)}.get(dtype, half)


def measure_limits(threads: int = 0) -> MachineLimits:
    """Runs machine_limits.mojo on so many threads; 0 is one per physical core."""
    cpus = first_cpus_of_cores(allowed_cpus())[: choose_threads(threads)]

    def bind() -> None:
        os.sched_setaffinity(0, cpus)

    program = ROOT / "tests" / "performance" / "machine_limits.mojo"
    result = subprocess.run(
        [mojo_compiler(), "run", "-I", ROOT, program], check=True, stdout=subprocess.PIPE, text=True, preexec_fn=bind
    )
    return MachineLimits(**json.loads(result.stdout))
