"""What the CPU of this machine can do."""

import platform
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def cpu_description() -> dict[str, str]:
    """The first core's entry of ``/proc/cpuinfo``; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def cpu_fingerprint() -> str:
    """What compiled host code depends on: architecture, model and instruction sets."""
    description = cpu_description()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), platform.processor(), *(description.get(name, "") for name in wanted)])


def multiplies_bfloat16() -> bool:
    """Whether the CPU has AVX512-BF16: two products of bfloat16 numbers per lane and instruction."""
    return "avx512_bf16" in cpu_description().get("flags", "").split()


def vector_isa() -> str:
    """The vector instructions the kernels are compiled to here: avx512, avx2, neon or portable.

    The compiler targets the machine it runs on, with the widest float32 vectors that it has.
    """
    description = cpu_description()
    flags = f"{description.get('flags', '')} {description.get('Features', '')}".split()
    if "avx512f" in flags:
        return "avx512"
    if "avx2" in flags:
        return "avx2"
    if platform.machine() in ("aarch64", "arm64"):
        return "neon"
    return "portable"
