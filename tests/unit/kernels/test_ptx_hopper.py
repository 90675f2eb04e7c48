"""What the interpreter finds wrong in Hopper's attention when something that it needs is taken out of its PTX."""

import re

import numpy as np
import pytest

from tests.ptx.compiled import compile_kernels
from tests.ptx.program import parse
from tests.unit.kernels.paged_requests import Interpreted, Requests

KERNEL = "hopper_attention_64"
TOKENS = 300
"""So many that the ring goes round."""
CHANGES = {
    "stores are not shown to products": (r"fence\.proxy\.async\.shared::cta;", "", "fence.proxy.async"),
    "registers are not fenced": (r"wgmma\.fence\.sync\.aligned;", "", "wgmma.fence"),
    "barriers are not shown to copies": (r"fence\.mbarrier_init\.release\.cluster;", "", "fence.mbarrier_init"),
    "products are not waited for": (r"wgmma\.wait_group\.sync\.aligned 0;", "", None),
    "nothing is waited for": (
        r"mbarrier\.try_wait[^;]*;\nselp\.b32 (%r\d+), 1, 0, %p_done;",
        r"mov.b32 \1, 1;",
        None,
    ),
    "slots are filled before they were read": (
        r"(?s)\A(.*?)mbarrier\.try_wait[^;]*;\nselp\.b32 (%r\d+), 1, 0, %p_done;(?=.*cp\.async\.bulk)",
        r"\1mov.b32 \2, 1;",
        None,
    ),
    "nobody arrives": (r"@%p_counts mbarrier\.arrive\.release[^;]*;", "", "wait at barriers"),
    "fewer bytes are expected": (r"(arrive\.expect_tx[^;]*), %r\d+;", r"\1, 16;", None),
    "queries are read elsewhere": (r"(add\.s64 %rd_a, %rd\d+), 2;", r"\1, 4;", None),
    "keys are read elsewhere": (r"(add\.s64 %rd_b, %rd\d+), 2;", r"\1, 0;", None),
    "values are not transposed": (r"(%p_sum, 1, 1), 1;", r"\1, 0;", None),
    "more registers are taken than there are": (r"(setmaxnreg\.inc[^;]*) 232;", r"\1 248;", "registers"),
}
"""The PTX's pattern, its replacement, and what the interpreter says; None is wrong numbers, or any error."""


def attend(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Attention of a prompt by a kernel with this PTX, and what it should be."""
    given = Requests(1, 1, 64, 16, [TOKENS])
    kernels = {name: parse(ptx) for name, ptx in compile_kernels("sm_90a").items() if name in NEEDED}
    run = Interpreted(kernels | {KERNEL: parse(text)}, "sm_90a")
    return given.step(run, [(0, 0, TOKENS)])[1], given.expected(0)[3]


NEEDED = ("qk_norm_rope_store_64", "hopper_attention_one_token_64", "attention_merge_64")


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_missing_shows(what: str) -> None:
    pattern, replacement, message = CHANGES[what]
    text, count = re.subn(pattern, replacement, compile_kernels("sm_90a")[KERNEL])
    assert count, "the PTX has no such instruction any more"
    if message:
        with pytest.raises(RuntimeError, match=re.escape(message)):
            attend(text)
        return
    try:
        attended, expected = attend(text)
    except (RuntimeError, MemoryError):
        return
    assert not np.allclose(attended, expected, rtol=2e-2, atol=2e-2)


def test_nothing_is_wrong_as_it_is() -> None:
    attended, expected = attend(compile_kernels("sm_90a")[KERNEL])
    np.testing.assert_allclose(attended, expected, rtol=2e-2, atol=2e-2)
