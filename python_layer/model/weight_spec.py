"""What the graph's weights are made of."""

from dataclasses import dataclass
from enum import Enum

from python_layer.model.fp8 import gpu_scales_shape
from python_layer.model.packing import packed_shape, quantized_shape, scaled_shape
from python_layer.model.quantized import QuantFormat


class Float8Part(Enum):
    """Which part of an FP8 matrix a weight is; see ``fp8.py``."""

    NUMBERS = "numbers"
    SCALES = "scales"


@dataclass(frozen=True)
class WeightSpec:
    """A weight of the graph and where its rows come from.

    Attributes:
        name: The weight's name in the graph.
        shape: Its shape; where it is of several layers, that of one.
        sources: The checkpoint's tensors, (name, shape), that make it up along the first axis.
        dtype: Its type in memory; None is the model's.
        packed: It is a matrix that lies in memory as the kernels of linear layers want it.
        form: How it is quantized, and then packed too; None is not.
        scaled: It is packed in this type, float16 or int16, with a scale for each row; None is not.
        float8: It is a part of a matrix [N, K] of this shape that stays e4m3: its numbers, or its scales.
        layers: It is that of so many layers, one after the other; in memory they are its first dimension.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[tuple[str, tuple[int, ...]], ...]
    dtype: str | None = None
    packed: bool = False
    form: QuantFormat | None = None
    scaled: str | None = None
    float8: Float8Part | None = None
    layers: int | None = None

    def dtype_in_memory(self, dtype: str) -> str:
        """Its type in a model of the type ``dtype``: that, its own, uint8 where quantized, or that of scaled rows."""
        if self.float8:
            return "uint8" if self.float8 is Float8Part.NUMBERS else "float32"
        return "uint8" if self.form else self.scaled or self.dtype or dtype

    def shape_in_memory(self, dtype: str) -> tuple[int, ...]:
        """Its shape in the model's type ``dtype``."""
        shape = self._layer_in_memory(dtype)
        return shape if self.layers is None else (self.layers, *shape)

    def _layer_in_memory(self, dtype: str) -> tuple[int, ...]:
        if self.form:
            return quantized_shape(self.shape, self.form)
        if self.scaled:
            return scaled_shape(self.shape)
        if self.float8 is Float8Part.SCALES:
            return gpu_scales_shape(self.shape)
        return packed_shape(self.shape, self.dtype or dtype) if self.packed else self.shape

    def __post_init__(self) -> None:
        """Refuses sources that would not fill the weight."""
        rows = sum(shape[0] for _, shape in self.sources)
        if self.shape[0] * (self.layers or 1) != rows or any(shape[1:] != self.shape[1:] for _, shape in self.sources):
            raise ValueError(f"the sources of {self.name} do not add up to {self.shape}: {self.sources}")
