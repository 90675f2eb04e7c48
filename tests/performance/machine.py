"""The limits of this machine, measured: what the benchmarks compare themselves with."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class MachineLimits:
    """Measured on all cores.

    Attributes:
        bandwidth: Bytes read from memory per second.
        flops: float32 operations per second of vector FMAs.
        cores: Physical cores.
    """

    bandwidth: float
    flops: float
    cores: int


def measure_limits() -> MachineLimits:
    """Runs machine_limits.mojo."""
    mojo = Path(sys.executable).with_name("mojo")
    program = ROOT / "tests" / "performance" / "machine_limits.mojo"
    result = subprocess.run([mojo, "run", "-I", ROOT, program], check=True, stdout=subprocess.PIPE, text=True)
    return MachineLimits(**json.loads(result.stdout))
