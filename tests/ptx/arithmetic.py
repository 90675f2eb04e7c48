"""PTX instructions that make numbers of numbers, lane by lane."""

from collections.abc import Callable

import numpy as np

from tests.ptx.memory import Values

TYPES: dict[str, np.dtype] = {name: np.dtype(kind) for name, kind in {
    "f32": np.float32, "f64": np.float64, "s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "pred": np.bool_,
}.items()}  # fmt: skip
COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
COMPARE |= {"neu": np.not_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
UNORDERED = {"ltu": np.greater_equal, "leu": np.greater, "gtu": np.less_equal, "geu": np.less, "equ": np.not_equal}


def product(name: tuple[str, ...], a: Values, b: Values) -> Values:
    if "wide" in name:
        wide = f"{a.dtype.kind}{2 * a.dtype.itemsize}"
        return a.astype(wide) * b.astype(wide)
    if "hi" in name:
        bits = 8 * a.dtype.itemsize
        return np.array([(int(x) * int(y)) >> bits for x, y in zip(a, b, strict=True)], object).astype(a.dtype)
    return a * b


def _divide(a: Values, b: Values) -> Values:
    if a.dtype.kind == "f":
        return a / b
    b = np.where(b == 0, a.dtype.type(1), b)
    return (np.sign(a) * np.sign(b) * (abs(a) // abs(b))).astype(a.dtype) if a.dtype.kind == "i" else a // b


def _remainder(a: Values, b: Values) -> Values:
    return a - _divide(a, b) * np.where(b == 0, a.dtype.type(1), b)


def _shift_left(a: Values, by: Values) -> Values:
    most = 8 * a.dtype.itemsize - 1
    return np.where(by > most, a.dtype.type(0), a << np.minimum(by, most).astype(a.dtype))


def _shift_right(a: Values, by: Values) -> Values:
    most = 8 * a.dtype.itemsize - 1
    far = a >> a.dtype.type(most) if a.dtype.kind == "i" else np.zeros_like(a)
    return np.where(by > most, far, a >> np.minimum(by, most).astype(a.dtype))


def _round_fma(a: Values, b: Values, c: Values) -> Values:
    if a.dtype == np.float64:
        return a * b + c
    return a.astype(np.float64) * b + c


ARITHMETIC: dict[str, Callable[..., Values]] = {
    "add": np.add, "sub": np.subtract, "div": _divide, "rem": _remainder, "min": np.fmin, "max": np.fmax,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "neg": np.negative,
    "abs": np.abs, "fma": _round_fma, "shl": _shift_left, "shr": _shift_right, "ex2": np.exp2, "lg2": np.log2,
    "sin": np.sin, "cos": np.cos, "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "rcp": lambda a: 1 / a,
    "popc": np.bitwise_count, "clz": lambda a: 32 - np.ceil(np.log2(a.astype(np.float64) + 1)).astype(a.dtype),
}  # fmt: skip
