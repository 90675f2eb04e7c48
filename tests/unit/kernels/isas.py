"""Which instruction sets the tests of linear layers go through."""

import os

from python_layer.utils.cpu import multiplies, supported_isas

BEST = next(isa for isa in supported_isas() if isa != "amx")
"""The one that is used unless another is asked for; AMX, whose tiles take columns of some numbers only, has tests of
its own, in `test_amx.py`."""

PAIRED = next((isa for isa in supported_isas() if multiplies(isa) == "bfloat16" and isa != "amx"), None)
"""The one that multiplies bfloat16 pairs, if there is one."""

HALVES = "avx512_fp16" if "avx512_fp16" in supported_isas() else None
"""The one that multiplies float16, if the CPU has it."""

WORDS = [isa for isa in supported_isas() if multiplies(isa) == "int16"]
"""Those that multiply int16 pairs."""


def other_isas() -> list[str]:
    """Some of the others, or with ``TEST_ALL_ISAS`` in the environment all that this CPU has."""
    others = [isa for isa in supported_isas() if isa not in ("amx", BEST)]
    return others if "TEST_ALL_ISAS" in os.environ else [isa for isa in others if isa in ("avx2", "portable")]
