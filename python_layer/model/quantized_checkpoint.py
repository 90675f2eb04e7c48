"""The matrices of a quantized safetensors checkpoint, each put together from its tensors."""

from collections.abc import Callable, Collection, Mapping

from python_layer.model.awq_gptq import AwqTensor, GptqTensor, Parts
from python_layer.model.dtype_conversion import STORAGE
from python_layer.model.fp8 import Fp8Tensor
from python_layer.model.quantization_config import CheckpointQuantization
from python_layer.model.safetensors_file import PlainTensor
from python_layer.model.tensor_source import TensorSource

FLOATS = tuple(STORAGE)
Wanted = Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]
"""Shape and types of a matrix's tensors, by the ends of their names."""


class Assembly:
    """A checkpoint's tensors as they would be if it were not quantized.

    Layers that are not quantized ("modules_to_not_convert") stay as they are.

    Args:
        plain: The tensors of the files.
        quantization: What they mean.
        promised: Tensors that are not missing, though they are in none of the files that could be read.

    Attributes:
        tensors: The tensors; without the matrices that have something wrong with them.
        problems: What is wrong, a line each.
        broken: The names of those matrices.
    """

    def __init__(
        self, plain: Mapping[str, PlainTensor], quantization: CheckpointQuantization, promised: Collection[str]
    ) -> None:
        self.tensors: dict[str, TensorSource] = dict(plain)
        self.problems: list[str] = []
        self.broken: set[str] = set()
        self._plain = plain
        self._quantization = quantization
        self._promised = promised
        for name, tensor in plain.items():
            if quantization.method == "fp8":
                if name.endswith(".weight") and tensor.dtype == "float8_e4m3fn":
                    self._fp8(name.removesuffix("weight"))
            elif name.endswith(".qweight"):
                self._words(name.removesuffix("qweight"))

    def _fp8(self, layer: str) -> None:
        shape, block = self._plain[f"{layer}weight"].shape, self._quantization.block
        blocks = tuple(-(-size // part) for size, part in zip(shape, block, strict=False))
        wanted = {"weight": (shape, ("float8_e4m3fn",)), "weight_scale_inv": (blocks, FLOATS)}
        if len(shape) != 2:
            self._refuse(layer, wanted, f"{layer}weight has shape {list(shape)}; it must be a matrix")
        else:
            self._put(layer, wanted, lambda parts: Fp8Tensor(parts["weight"], parts["weight_scale_inv"], block))

    def _words(self, layer: str) -> None:
        """A layer of AWQ or GPTQ."""
        known = self._quantization
        awq, group, together = known.method == "awq", known.group, 32 // known.bits
        words = self._plain[f"{layer}qweight"].shape
        wanted = {"qweight": (words, ("int32",)), "qzeros": ((), ("int32",)), "scales": ((), FLOATS)}
        if f"{layer}g_idx" in self._plain:
            wanted["g_idx"] = ((), ("int32",))
        if len(words) != 2:
            self._refuse(layer, wanted, f"{layer}qweight has shape {list(words)}; it must be a matrix")
            return
        rows, columns = (words[1] * together, words[0]) if awq else (words[1], words[0] * together)
        if columns % group or rows % together:
            what = f"has {columns} inputs and {rows} outputs, which must be multiples of {group} and {together}"
            self._refuse(layer, wanted, f"{layer}qweight {what}")
            return
        groups = columns // group
        shapes = {"qweight": words, "qzeros": (groups, rows // together), "scales": (groups, rows), "g_idx": (columns,)}
        wanted = {part: (shapes[part], dtypes) for part, (_, dtypes) in wanted.items()}
        if awq:
            self._put(layer, wanted, lambda parts: AwqTensor(parts, group))
        else:
            self._put(layer, wanted, lambda parts: GptqTensor(parts, known.bits, group, known.zero_shift))

    def _put(self, layer: str, wanted: Wanted, make: Callable[[Parts], TensorSource]) -> None:
        """Replaces the parts of a layer by its weight."""
        parts = {part: self._plain.get(layer + part) for part in wanted}
        found = {part: tensor for part, tensor in parts.items() if tensor is not None}
        lost = [layer + part for part, tensor in parts.items() if tensor is None]
        problems = [f"{name} is missing" for name in lost if name not in self._promised]
        for part, tensor in found.items():
            shape, dtypes = wanted[part]
            if tensor.shape != shape:
                problems.append(f"{layer}{part} has shape {list(tensor.shape)}; it must be {list(shape)}")
            elif tensor.dtype not in dtypes:
                problems.append(f"{layer}{part} has type {tensor.dtype}; it must be {' or '.join(dtypes)}")
        if not problems and not lost and "g_idx" in found:
            group_of, groups = found["g_idx"].whole(), found["scales"].shape[0]
            if group_of.min() < 0 or group_of.max() >= groups:
                problems.append(f"{layer}g_idx points beyond the {groups} groups there are")
        if problems or lost:
            self._refuse(layer, wanted, *problems)
            return
        self._remove(layer, wanted)
        self.tensors[f"{layer}weight"] = make(found)

    def _refuse(self, layer: str, wanted: Wanted, *problems: str) -> None:
        self.problems += problems
        self.broken.add(f"{layer}weight")
        self._remove(layer, wanted)

    def _remove(self, layer: str, wanted: Wanted) -> None:
        for part in wanted:
            self.tensors.pop(layer + part, None)
