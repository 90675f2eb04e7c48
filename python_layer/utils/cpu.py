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


ISAS = {
    "avx512_bf16": {"avx512_bf16", "avx512_vnni", "avx512bw"},
    "avx512_vnni": {"avx512_vnni", "avx512bw"},
    "avx512": {"avx512f", "avx512bw"},
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"asimd", "asimddp"},
    "portable": set(),
}
"""The instruction sets that linear layers are written for, the fastest first, and what each needs of the CPU.

``mojo_kernels/utils/isa.mojo`` tells what each is used for.
"""


def supported_isas() -> list[str]:
    """Those of :data:`ISAS` that this CPU has, the fastest first."""
    description = cpu_description()
    flags = set(f"{description.get('flags', '')} {description.get('Features', '')}".split())
    return [name for name, needed in ISAS.items() if needed <= flags]


def multiplies_bfloat16(isa: str) -> bool:
    """Whether an instruction set has products of bfloat16 pairs."""
    return isa == "avx512_bf16"
