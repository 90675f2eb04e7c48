"""Which matrices of a model are quantized, and how."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from python_layer.model.fp8 import Fp8Format
from python_layer.model.quantized import QuantFormat
from python_layer.model.weight_spec import Float8Part, WeightSpec
from python_layer.utils.errors import ConfigError

BITS = {"int8": 8, "int4": 4}
QUANTIZATIONS = ("auto", "none", *BITS)

OWN_GROUPS = {8: (64, 32), 4: (32,)}
"""Columns that share a scale where the checkpoint does not say, by bits: the most that divide a row. Steps of 8 bits
are so fine that larger groups cost little accuracy, and fewer scales take less time.
"""
TILED_GROUPS = {8: (128, *OWN_GROUPS[8]), 4: OWN_GROUPS[4]}
"""The same for AMX, which multiplies a group in a quarter of the time that scaling its sums takes."""

Formats = Mapping[str, QuantFormat]
"""By kind of matrix; others are not quantized."""

FLOAT8_KINDS = ("qkv", "o", "gate_up", "down")
"""Matrices that may be e4m3 on a GPU: those of layers."""


def kind_of(name: str) -> str:
    """What a weight is in every layer: its name without the layer."""
    return name.rpartition(".")[2]


def matrix_formats(
    quantization: str, specs: Sequence[WeightSpec], given: Mapping[str, QuantFormat | Fp8Format | None], isa: str
) -> dict[str, QuantFormat]:
    """How each kind of matrix is quantized: all of a kind alike, for the layers share a graph.

    Args:
        quantization: "none"; "int8" or "int4"; or "auto": those that the checkpoint has quantized, as it has them.
        specs: The model's weights.
        given: How the checkpoint's tensors are quantized; None where they are not.
        isa: Instruction set of the kernels.

    Raises:
        ConfigError: Another ``quantization``, or a matrix whose columns make no groups.
    """
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"quantization is {quantization!r}; supported are {', '.join(QUANTIZATIONS)}")
    if quantization == "none":
        return {}
    groups = TILED_GROUPS if isa == "amx" else OWN_GROUPS
    matrices = [spec for spec in specs if len(spec.shape) == 2]
    formats: dict[str, QuantFormat] = {}
    for kind in dict.fromkeys(kind_of(spec.name) for spec in matrices):
        members = [spec for spec in matrices if kind_of(spec.name) == kind]
        own = _joined([given.get(source) for spec in members for source, _ in spec.sources])
        bits = BITS.get(quantization, own.bits if own else None)
        if own and own.bits == bits:
            formats[kind] = own
        elif bits:
            columns = members[0].shape[1]
            fitting = [group for group in groups[bits] if columns % group == 0]
            if not fitting:
                raise ConfigError(
                    f"{members[0].name} has {columns} columns, which make no groups of {groups[bits][-1]}; "
                    "load the model with --quantization none"
                )
            formats[kind] = QuantFormat(bits, fitting[0], offsets=False)
    return formats


def quantized_specs(specs: Sequence[WeightSpec], formats: Formats) -> list[WeightSpec]:
    """The same weights, those of a kind that has a format in it."""
    return [replace(spec, form=formats.get(kind_of(spec.name))) for spec in specs]


def scaled_specs(specs: Sequence[WeightSpec], dtype: str) -> list[WeightSpec]:
    """The same weights; packed matrices that are not quantized are of the type, with a scale for each row."""
    return [replace(spec, scaled=dtype) if spec.packed and not spec.form else spec for spec in specs]


def float8_kinds(
    quantization: str, specs: Sequence[WeightSpec], given: Mapping[str, QuantFormat | Fp8Format | None]
) -> tuple[str, ...]:
    """The kinds of matrices that stay e4m3 on a GPU: those that are so in every layer; "none" is none of them."""
    if quantization == "none":
        return ()

    def fits(spec: WeightSpec) -> bool:
        known = [(given.get(name), shape) for name, shape in spec.sources]
        return all(isinstance(form, Fp8Format) and form.fits_gpu(shape) for form, shape in known)

    return tuple(kind for kind in FLOAT8_KINDS if all(fits(spec) for spec in specs if kind_of(spec.name) == kind))


def float8_specs(specs: Sequence[WeightSpec], kinds: Collection[str]) -> list[WeightSpec]:
    """The same weights; each matrix of these kinds is two, its e4m3 numbers and its scales."""
    result = []
    for spec in specs:
        if kind_of(spec.name) in kinds:
            result.append(replace(spec, float8=Float8Part.NUMBERS))
            result.append(replace(spec, name=f"{spec.name}_scales", float8=Float8Part.SCALES))
        else:
            result.append(spec)
    return result


def describe(formats: Formats, dtype: str, float8: Collection[str] = ()) -> str:
    """The types of a model's matrices in words, such as ``int8``; ``dtype`` where none is quantized."""
    kinds = {f"int{form.bits}" for form in formats.values()} | ({"float8_e4m3"} if float8 else set())
    return " and ".join(sorted(kinds)) or dtype


def _joined(given: Sequence[QuantFormat | Fp8Format | None]) -> QuantFormat | None:
    """The least format that holds the numbers of all; None where one is not quantized."""
    known = [form for form in given if isinstance(form, QuantFormat)]
    if len(known) < len(given):
        return None
    return QuantFormat(
        max(form.bits for form in known), min(form.group for form in known), any(form.offsets for form in known)
    )
