"""The interpreter's tensor cores against the published arithmetic in whole numbers and fractions, one sum at a time."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.float8 import from_e4m3
from tests.ptx.memory import bfloat16, from_bfloat16
from tests.ptx.tensor_cores import add_products, add_warpgroup_e4m3

ROWS, OUTPUTS, DEPTH = 16, 8, 16
ARCHITECTURES = {"sm_80": (24, [range(8), range(8, 16)]), "sm_89": (24, [range(8), range(8, 16)])}
ARCHITECTURES |= {name: (25, [range(16)]) for name in ("sm_90", "sm_90a")}
"""Bits of a sum, and the columns of its blocks."""
HALVES = [[k for k in range(32) if k % 4 in half] for half in ((0, 1), (2, 3))]
"""The columns of the blocks of e4m3."""


def parts(value: float, zero: int, least: int = -126) -> tuple[Fraction, int]:
    """Significand and exponent of a number, with the exponent that zero has, and that of subnormal numbers."""
    bits = int(np.float32(value).view(np.uint32))
    field, fraction = bits >> 23 & 255, bits & 0x7F_FFFF
    if not field and not fraction:
        return Fraction(0), zero
    exponent = max(field, 1) - 127
    significand = Fraction(fraction | (0x80_0000 if field else 0), 1 << 23) * power(min(exponent - least, 0))
    return -significand if bits >> 31 else significand, max(exponent, least)


def power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def toward_zero(value: Fraction) -> float:
    """The nearest float32 that is not larger in size; infinity from 2^128 on."""
    if abs(value) >= power(128):
        return math.copysign(math.inf, value)
    exponent = -126
    while abs(value) >= power(exponent + 1):
        exponent += 1
    return float(math.trunc(value / power(exponent - 23)) * power(exponent - 23))


def block_sum(a: list[float], b: list[float], c: float, bits: int, zero: int, least: int = -126) -> float:
    plain = sum((x * y for x, y in zip(a, b, strict=True)), c)
    if not math.isfinite(plain):
        return plain
    terms = [parts(c, -126)]
    for x, y in zip(a, b, strict=True):
        (left, e), (right, f) = parts(x, zero, least), parts(y, zero, least)
        terms.append((left * right, e + f))
    largest = max(exponent for _, exponent in terms)
    total = sum(math.trunc(significand * power(exponent - largest + bits)) for significand, exponent in terms)
    return toward_zero(total * power(largest - bits))


def expected(architecture: str, kind: str, left: np.ndarray, right: np.ndarray, sums: np.ndarray) -> np.ndarray:
    bits, blocks = ARCHITECTURES[architecture]
    result = np.zeros_like(sums)
    for i, j in np.ndindex(sums.shape):
        total = float(sums[i, j]) if kind == "bf16" else 0.0
        for columns in blocks if kind == "bf16" else HALVES:
            a, b = ([float(x) for x in values[list(columns)]] for values in (left[i], right[:, j]))
            total = block_sum(a, b, total, bits, -126 if kind == "bf16" else -14)
        with np.errstate(all="ignore"):
            result[i, j] = total if kind == "bf16" else np.float32(total) + sums[i, j]
    return result


def check(architecture: str, kind: str, left: np.ndarray, right: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The result, once its bits are the expected ones."""
    result = add_products(architecture, kind, left, right, sums)
    wanted = expected(architecture, kind, left, right, sums)
    bits = np.where(np.isnan(wanted), np.uint32(0x7FFFFFFF), wanted.view(np.uint32))
    np.testing.assert_array_equal(result.view(np.uint32), bits)
    return result


def numbers(rng: np.random.Generator, exponents: tuple[int, int], *shape: int) -> np.ndarray:
    """Random float32 numbers with such exponents."""
    return np.ldexp(rng.uniform(-2, 2, shape), rng.integers(*exponents, shape)).astype(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    return from_bfloat16(bfloat16(values))


EXPONENTS = {
    "ordinary": ((-3, 2), (-3, 2), (-6, 4)),
    "wide": ((-126, 127), (-126, 127), (-140, 127)),
    "small": ((-90, -50), (-90, -50), (-140, -100)),
    "subnormal": ((-133, -125), (-8, 8), (-140, -118)),
    "large": ((60, 65), (60, 65), (120, 127)),
    "cancels": ((-3, 2), (-3, 2), (-36, -26)),
    "cancels the sum": ((-3, 2), (-3, 2), (0, 1)),
    "zeros": ((-3, 2), (-3, 2), (-6, 4)),
    "huge beside zeros": ((125, 127), (-40, 0), (-60, 0)),
    "not numbers": ((-3, 2), (-3, 2), (-6, 4)),
}
"""By what is tried: of left, of right and of the sums."""


def operands(what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a bfloat16 product."""
    rng = np.random.default_rng(list(what.encode()))
    shapes = ((ROWS, DEPTH), (DEPTH, OUTPUTS), (ROWS, OUTPUTS))
    left, right, sums = (numbers(rng, e, *shape) for e, shape in zip(EXPONENTS[what], shapes, strict=True))
    left, right = rounded(left), rounded(right)
    match what:
        case "cancels":  # all but a few bits of one product
            left[:, 8:], right[8:] = -left[:, :8], right[:8]
            left[:, 15] = rounded(left[:, 15] * np.float32(1 + 2**-7))
        case "cancels the sum":
            sums = -(left @ right)
        case "zeros":
            left[rng.random(left.shape) < 0.7] = 0
            right[rng.random(right.shape) < 0.7] = -0.0
            sums[rng.random(sums.shape) < 0.7] = -0.0
        case "huge beside zeros":  # a huge number cuts off others even where it is multiplied with zero
            left[:, 1:] = rounded(numbers(rng, (-3, 2), ROWS, DEPTH - 1))
            right[0] = 0
        case "not numbers":
            for values in (left, right, sums):
                for special in (np.nan, np.inf, -np.inf):
                    values[rng.random(values.shape) < 0.01] = special
            left[0], right[:, 0] = 0, np.inf
    return left, right, sums


@pytest.mark.parametrize("what", EXPONENTS)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_bfloat16(architecture: str, what: str) -> None:
    result = check(architecture, "bf16", *operands(what))
    assert what != "not numbers" or {"nan", "inf", "-inf"} <= set(map(str, result.ravel()))
    assert what not in ("small", "subnormal") or (np.abs(result) < 2.0**-126).any()
    assert what != "large" or np.isinf(result).any()


def test_architectures_of_a_kind() -> None:
    given = operands("ordinary")
    for one, other in (("sm_80", "sm_89"), ("sm_90", "sm_90a")):
        np.testing.assert_array_equal(add_products(one, "bf16", *given), add_products(other, "bf16", *given))
    assert (add_products("sm_80", "bf16", *given) != add_products("sm_90", "bf16", *given)).any()


def one(architecture: str, products: dict[int, float], c: float) -> float:
    """A sum of products in these columns."""
    left, right = np.zeros((1, DEPTH), np.float32), np.ones((DEPTH, 1), np.float32)
    left[0, list(products)] = list(products.values())
    return float(add_products(architecture, "bf16", left, right, np.full((1, 1), c, np.float32))[0, 0])


def test_by_hand() -> None:
    """What is cut off, and what is summed together."""
    assert one("sm_80", {i: 2.0**-25 for i in range(4)}, 1) == 1
    assert one("sm_90", {i: 2.0**-25 for i in range(4)}, 1) == 1 + 2.0**-23
    assert one("sm_80", {i: 2.0**-24 for i in range(2)}, 1) == 1 + 2.0**-23
    assert one("sm_80", {0: 2.0**-24, 8: 2.0**-24}, 1) == 1
    assert one("sm_90", {0: 2.0**-24, 8: 2.0**-24}, 1) == 1 + 2.0**-23
    assert one("sm_90", {0: -(2.0**-25)}, 1) == 1 - 2.0**-24
    assert one("sm_90", {0: 2.0**-25}, -1) == -1 + 2.0**-24
    assert one("sm_80", {0: 1, 8: 2.0**-30}, -1) == 2.0**-30
    assert one("sm_80", {0: 1, 7: 2.0**-30}, -1) == one("sm_90", {0: 1, 8: 2.0**-30}, -1) == 0


@pytest.mark.parametrize("what", ["ordinary", "wide", "cancels"])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_order_within_a_block_does_not_matter(architecture: str, what: str) -> None:
    left, right, sums = operands(what)
    rng = np.random.default_rng(5)
    order = np.concatenate([rng.permutation(block) for block in ARCHITECTURES[architecture][1]])
    whole = add_products(architecture, "bf16", left, right, sums)
    moved = add_products(architecture, "bf16", left[:, order], right[order], sums)
    np.testing.assert_array_equal(moved.view(np.uint32), whole.view(np.uint32))


def e4m3_operands(what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(list(what.encode()))
    codes = {"all": range(256), "large": range(0x60, 0x7F), "small": range(0x12), "zeros": [0, 0, 0, 1, 0x7E]}[what]
    left, right = (from_e4m3(rng.choice(codes, shape)) for shape in ((ROWS, 32), (32, OUTPUTS)))
    if what == "all":  # mostly without NaN
        left[4:], right[:, 4:] = np.nan_to_num(left[4:]), np.nan_to_num(right[:, 4:])
    right *= rng.choice([-1, 1], right.shape).astype(np.float32)
    sums = numbers(rng, (-30, 20), ROWS, OUTPUTS)
    sums[:2] = 0
    return left, right, sums


@pytest.mark.parametrize("what", ["all", "large", "small", "zeros"])
def test_e4m3(what: str) -> None:
    check("sm_90a", "e4m3", *e4m3_operands(what))


@pytest.mark.parametrize("what", ["all", "large", "small", "zeros"])
def test_e4m3_of_warpgroups(what: str) -> None:
    """One block of 32 columns with 13 bits, and results of as many; zeros have the exponent of float32's."""
    left, right, sums = e4m3_operands(what)
    result = add_warpgroup_e4m3(left, right, sums)
    for i, j in np.ndindex(sums.shape):
        a, b = ([float(x) for x in values] for values in (left[i], right[:, j]))
        total = np.float32(block_sum(a, b, float(sums[i, j]), 13, -126, -6))
        bits = 0x7FFFFFFF if np.isnan(total) else int(total.view(np.uint32)) & 0xFFFF_FC00
        assert int(result[i, j].view(np.uint32)) == bits


def test_several_matrices_at_once() -> None:
    left, right, sums = (np.stack(each) for each in zip(operands("ordinary"), operands("wide"), strict=True))
    together = add_products("sm_90a", "bf16", left, right, sums)
    for i in range(2):
        np.testing.assert_array_equal(together[i], add_products("sm_90a", "bf16", left[i], right[i], sums[i]))


UNKNOWN = [("sm_100", "bf16"), ("", "bf16"), ("sm_89", "e4m3"), ("sm_90", "f16")]


@pytest.mark.parametrize(("architecture", "kind"), UNKNOWN)
def test_what_is_not_known(architecture: str, kind: str) -> None:
    left, right, sums = operands("ordinary")
    with pytest.raises(NotImplementedError, match=kind):
        add_products(architecture, kind, left, right, sums)
