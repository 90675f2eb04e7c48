"""How a safetensors checkpoint is quantized: the field quantization_config of its config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_layer.model.config_fields import Fields
from python_layer.model.quantized import GROUPS

METHODS = ("fp8", "awq", "gptq")
GPTQ_FORMATS = ("gptq", "gptq_v2")


@dataclass(frozen=True)
class CheckpointQuantization:
    """What the tensors of a quantized checkpoint mean; see ``fp8.py`` and ``awq_gptq.py``.

    Attributes:
        method: "fp8", "awq" or "gptq".
        bits: Of a value: 8 for fp8, 4 for awq, 4 or 8 for gptq.
        group: Columns that share a scale, for awq and gptq.
        block: Rows and columns that share a scale, for fp8.
        zero_shift: What has to be added to the stored zeros of gptq.
    """

    method: str
    bits: int
    group: int = 0
    block: tuple[int, int] = (0, 0)
    zero_shift: int = 0


def quantization_of(fields: Fields) -> CheckpointQuantization | None:
    """Reads quantization_config and notes what is wrong with it; None where it is absent, or wrong."""
    if not fields.has("quantization_config"):
        return None
    inner = fields.sub("quantization_config")
    if not inner.has("quant_method"):
        inner.problem("quant_method", f"is missing; supported: {', '.join(METHODS)}")
        return None
    method = inner.one_of("quant_method", METHODS, default="")
    read = {"fp8": _fp8, "awq": _awq, "gptq": _gptq}.get(method)
    found = len(fields.problems)
    quantization = read(inner) if read else None
    return quantization if len(fields.problems) == found else None


def read_quantization(folder: Path) -> CheckpointQuantization | None:
    """How a checkpoint folder's tensors are quantized; None where config.json says nothing that is understood."""
    try:
        raw: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return quantization_of(Fields(raw)) if isinstance(raw, dict) else None


def _fp8(fields: Fields) -> CheckpointQuantization:
    fields.one_of("fmt", ("e4m3",), default="e4m3")
    fields.one_of("activation_scheme", ("dynamic",), default="dynamic")
    block = fields.raw.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or any(type(size) is not int or size < 1 for size in block):
        fields.problem("weight_block_size", f"is {block!r}; it must be two whole numbers, such as [128, 128]")
        block = [1, 1]
    return CheckpointQuantization("fp8", 8, block=(block[0], block[1]))


def _awq(fields: Fields) -> CheckpointQuantization:
    bits = _one_of("bits", fields, (4,))
    fields.one_of("version", ("gemm", "GEMM"), default="gemm")
    if not fields.boolean("zero_point", default=True):
        fields.problem("zero_point", "is False; supported: True")
    return CheckpointQuantization("awq", bits, _one_of("group_size", fields, GROUPS))


def _gptq(fields: Fields) -> CheckpointQuantization:
    bits = _one_of("bits", fields, (4, 8))
    kind = fields.one_of("checkpoint_format", GPTQ_FORMATS, default="gptq")
    shift = 1 if kind == "gptq" else 0
    return CheckpointQuantization("gptq", bits, _one_of("group_size", fields, GROUPS), zero_shift=shift)


def _one_of(name: str, fields: Fields, allowed: tuple[int, ...]) -> int:
    value = fields.raw.get(name)
    if type(value) is int and value in allowed:
        return value
    what = "is missing" if value is None else f"is {value!r}"
    fields.problem(name, f"{what}; supported: {', '.join(map(str, allowed))}")
    return allowed[0]
