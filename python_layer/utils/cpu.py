"""What the CPU of this machine can do."""

import ctypes
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
    "amx": {"amx_tile", "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512bw"},
    "avx512_fp16": {"avx512_fp16", "avx512_vnni", "avx512bw"},
    "avx512_bf16": {"avx512_bf16", "avx512_vnni", "avx512bw"},
    "avx512_vnni": {"avx512_vnni", "avx512bw"},
    "avx2_vnni": {"avx_vnni", "avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw"},
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"asimd", "asimddp"},
    "portable": set(),
}
"""The instruction sets that linear layers are written for, the fastest first, and what each needs of the CPU.

``mojo_kernels/utils/isa.mojo`` tells what each is used for. On Intel's CPUs ``avx512_bf16`` comes after
``avx512_vnni``: vdpbf16ps takes two cycles there for as many products as float32 FMAs make in one.
"""

ARCH_PRCTL, REQUEST_STATE, TILES = 158, 0x1023, 18
"""Linux's system call, on x86-64, by which a process asks for the right to AMX's tiles."""


def cpu_flags() -> set[str]:
    """The names of what this CPU has, as Linux calls them."""
    description = cpu_description()
    return set(f"{description.get('flags', '')} {description.get('Features', '')}".split())


@lru_cache(maxsize=1)
def may_use_tiles() -> bool:
    """Asks Linux for the right to use AMX's tiles in all threads of this process; whether it was given."""
    return bool(ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_STATE, TILES) == 0)


def supported_isas() -> list[str]:
    """Those of :data:`ISAS` that this process can use, the fastest first."""
    flags = cpu_flags()
    names = [name for name, needed in ISAS.items() if needed <= flags and (name != "amx" or may_use_tiles())]
    if "avx512_bf16" in names and cpu_description().get("vendor_id") == "GenuineIntel":
        names.remove("avx512_bf16")
        names.insert(names.index("avx512_vnni") + 1, "avx512_bf16")
    return names


def multiplies(isa: str) -> str:
    """The type of the numbers that an instruction set multiplies fastest, of those that can stand for matrices of 16
    bits.
    """
    if isa in ("amx", "avx512_bf16"):
        return "bfloat16"
    if isa == "avx512_fp16":
        return "float16"
    return "int16" if isa in ("avx512_vnni", "avx2_vnni", "avx2") else "float32"
