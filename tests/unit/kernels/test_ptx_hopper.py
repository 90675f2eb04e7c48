"""What the interpreter finds wrong in Hopper's kernels when something that they need is taken out of their PTX."""

import re

import numpy as np
import pytest

from tests.ptx.compiled import LINEAR, compile_kernels
from tests.ptx.machine import launch
from tests.ptx.memory import bfloat16, from_bfloat16
from tests.ptx.program import parse
from tests.unit.kernels.paged_requests import Interpreted, Requests
from tests.unit.kernels.test_gpu_linear import HOPPER_SHARED

KERNEL = "hopper_attention_64"
NEEDED = ("qk_norm_rope_store_64", "hopper_attention_one_token_64", "attention_merge_64")
TOKENS = 300
"""So many that the ring goes round."""
ATTENTION = {
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
MULTIPLICATION = {
    "copies are not shown to products": (r"fence\.proxy\.async\.shared::cta;", "", "fence.proxy.async"),
    "registers are not fenced": (r"wgmma\.fence\.sync\.aligned;", "", "wgmma.fence"),
    "products are not waited for": (r"wgmma\.wait_group\.sync\.aligned 0;", "", None),
    "copies are not waited for": (r"cp\.async\.wait_group\s+3;", "cp.async.wait_group 4;", None),
    "slots are filled before they were read": (
        r"(?s)\A(.*?)mbarrier\.try_wait[^;]*;\nselp\.b32 (%r\d+), 1, 0, %p_done;(?=.*cp\.async\.commit_group)",
        r"\1mov.b32 \2, 1;",
        None,
    ),
    "nobody arrives": (r"@%p_counts mbarrier\.arrive\.release[^;]*;", "", "wait at barriers"),
    "more registers are taken than there are": (r"(setmaxnreg\.inc[^;]*) 232;", r"\1 248;", "registers"),
}
"""Likewise."""


def attend(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Attention of a prompt by a kernel with this PTX, and what it should be."""
    given = Requests(1, 1, 64, 16, [TOKENS])
    kernels = {name: parse(ptx) for name, ptx in compile_kernels("sm_90a").items() if name in NEEDED}
    run = Interpreted(kernels | {KERNEL: parse(text)}, "sm_90a")
    return given.step(run, [(0, 0, TOKENS)])[1], given.expected(0)[3]


def multiply(text: str) -> tuple[np.ndarray, np.ndarray]:
    """A linear layer by a kernel with this PTX, and what it should be; so many columns that the ring goes round."""
    rng = np.random.default_rng(0)
    x, w = (bfloat16(rng.standard_normal((rows, 520)).astype(np.float32)) for rows in (9, 11))
    y = np.full((9, 11), np.nan, np.float32)
    launch(parse(text), (1, 1, 1), 384, [y, x, w, 9, 11, 520, 128], HOPPER_SHARED)
    return y, from_bfloat16(x) @ from_bfloat16(w).T


def ptx(kernel: str) -> str:
    """A kernel's PTX for Hopper."""
    return (compile_kernels("sm_90a") | compile_kernels("sm_90a", LINEAR))[kernel]


@pytest.mark.parametrize(
    ("kernel", "what"), [*((KERNEL, what) for what in ATTENTION), *(("hopper_linear", what) for what in MULTIPLICATION)]
)
def test_what_is_missing_shows(kernel: str, what: str) -> None:
    run, changes = (attend, ATTENTION) if kernel == KERNEL else (multiply, MULTIPLICATION)
    pattern, replacement, message = changes[what]
    text, count = re.subn(pattern, replacement, ptx(kernel))
    assert count, "the PTX has no such instruction any more"
    if message:
        with pytest.raises(RuntimeError, match=re.escape(message)):
            run(text)
        return
    try:
        actual, expected = run(text)
    except (RuntimeError, MemoryError):
        return
    assert not np.allclose(actual, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kernel", [KERNEL, "hopper_linear"])
def test_nothing_is_wrong_as_it_is(kernel: str) -> None:
    actual, expected = (attend if kernel == KERNEL else multiply)(ptx(kernel))
    np.testing.assert_allclose(actual, expected, rtol=2e-2, atol=2e-2)
