"""What the interpreter finds wrong in Hopper's kernels when something that they need is taken out of their PTX."""

import re

import numpy as np
import pytest

from tests.ptx.compiled import LINEAR, compile_kernels
from tests.ptx.float8 import e4m3
from tests.ptx.machine import launch
from tests.ptx.memory import bfloat16
from tests.ptx.program import parse
from tests.unit.kernels.paged_requests import Interpreted, Requests
from tests.unit.kernels.test_gpu_linear import HOPPER_ROWS_SHARED, hopper_shared

ATTENTION_KERNEL, TILE_KERNEL, ROWS_KERNEL = "hopper_attention_64", "hopper_linear_bf16_large", "hopper_linear_fp8_rows"
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
}
"""The PTX's pattern, its replacement, and what the interpreter says; None is wrong numbers, or any error."""
PRODUCTS = {
    "copies are not shown to products": (r"fence\.proxy\.async\.shared::cta;", "", "fence.proxy.async"),
    "copies are shown before they are there": (
        r"(?s)(mbarrier\.try_wait\.parity(?:(?!mbarrier\.try_wait).)*?)fence\.proxy\.async\.shared::cta;",
        r"fence.proxy.async.shared::cta;\n\1",
        "fence.proxy.async",
    ),
    "registers are not fenced": (r"wgmma\.fence\.sync\.aligned;", "", "wgmma.fence"),
    "products are not waited for": (r"wgmma\.wait_group\.sync\.aligned 0;", "", None),
    "copies tell nobody": (r"cp\.async\.mbarrier\.arrive[^;]*;", "", "wait at barriers"),
    "copies are not waited for": (
        r"(?s)mbarrier\.try_wait[^;]*;\nselp\.b32 (%r\d+), 1, 0, %p_done;(?!.*try_wait)",
        r"mov.b32 \1, 1;",
        None,
    ),
    "slots are filled before they were read": (
        r"(?s)\A(.*?)mbarrier\.try_wait[^;]*;\nselp\.b32 (%r\d+), 1, 0, %p_done;(?=.*try_wait)",
        r"\1mov.b32 \2, 1;",
        None,
    ),
    "nobody leaves": (r"@%p_counts mbarrier\.arrive\.release[^;]*;", "", "wait at barriers"),
}
"""Likewise of linear layers."""
REGISTERS = {
    "more registers are taken than there are": (r"(setmaxnreg\.inc[^;]*) 232;", r"\1 240;", "registers"),
    "more registers are kept than there are": (r"(setmaxnreg\.dec[^;]*) 40;", r"\1 48;", "registers"),
}
"""Likewise of those that move them."""
CHANGES = {ATTENTION_KERNEL: ATTENTION | REGISTERS, TILE_KERNEL: PRODUCTS | REGISTERS, ROWS_KERNEL: PRODUCTS}


def attend(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Attention of a prompt by a kernel with this PTX, and what it should be."""
    given = Requests(1, 1, 64, 16, [TOKENS])
    kernels = {name: parse(ptx) for name, ptx in compile_kernels("sm_90a").items() if name in NEEDED}
    run = Interpreted(kernels | {ATTENTION_KERNEL: parse(text)}, "sm_90a")
    return given.step(run, [(0, 0, TOKENS)])[1], given.expected(0)[3]


def multiply(kernel: str, text: str) -> tuple[np.ndarray, np.ndarray]:
    """A linear layer by a kernel with this PTX, and what it should be; with enough columns to use all slots again."""
    rng = np.random.default_rng(0)
    rows, outputs, columns = 9, 11, 520 if kernel == TILE_KERNEL else 2560
    x, w = (rng.choice([-2, -1, 0, 1, 2], (n, columns)).astype(np.float32) for n in (rows, outputs))
    y = np.full((rows, outputs), np.nan, np.float32)
    scales = [np.ones((n, columns // 128 + 1), np.float32) for n in (rows, 2)]
    numbers = e4m3 if kernel == ROWS_KERNEL else bfloat16
    shared, threads = (
        (HOPPER_ROWS_SHARED, 384) if kernel == ROWS_KERNEL else (hopper_shared("hopper_large", "bf16"), 384)
    )
    launch(parse(text), (1, 1, 1), threads, [y, numbers(x), numbers(w), *scales, rows, outputs, columns, 128], shared)
    return y, x @ w.T


def run(kernel: str, text: str) -> tuple[np.ndarray, np.ndarray]:
    return attend(text) if kernel == ATTENTION_KERNEL else multiply(kernel, text)


def ptx(kernel: str) -> str:
    """A kernel's PTX for Hopper."""
    return (compile_kernels("sm_90a") | compile_kernels("sm_90a", LINEAR))[kernel]


@pytest.mark.parametrize(("kernel", "what"), [(kernel, what) for kernel in CHANGES for what in CHANGES[kernel]])
def test_what_is_missing_shows(kernel: str, what: str) -> None:
    pattern, replacement, message = CHANGES[kernel][what]
    text, count = re.subn(pattern, replacement, ptx(kernel))
    assert count, "the PTX has no such instruction any more"
    if message:
        with pytest.raises(RuntimeError, match=re.escape(message)):
            run(kernel, text)
        return
    try:
        actual, expected = run(kernel, text)
    except (RuntimeError, MemoryError):
        return
    assert not np.allclose(actual, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kernel", CHANGES)
def test_nothing_is_wrong_as_it_is(kernel: str) -> None:
    actual, expected = run(kernel, ptx(kernel))
    np.testing.assert_allclose(actual, expected, rtol=2e-2, atol=2e-2)
