"""Which instruction sets the tests of linear layers go through."""

import os

from python_layer.utils.cpu import supported_isas

BEST = supported_isas()[0]
"""The one that is used unless another is asked for."""


def other_isas() -> list[str]:
    """Some of the others, or with ``TEST_ALL_ISAS`` in the environment all that this CPU has."""
    others = supported_isas()[1:]
    return others if "TEST_ALL_ISAS" in os.environ else [isa for isa in others if isa in ("avx2", "portable")]
