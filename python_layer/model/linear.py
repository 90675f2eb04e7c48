"""The linear layers of a CPU's graph, on plain or quantized matrices; and tables of embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass

from max.dtype import DType
from max.graph import TensorType, TensorValue, ops

from python_layer.model.graph_ops import CPU, FLOAT
from python_layer.model.precision import SCALED_DTYPES
from python_layer.model.quantized import QuantFormat


@dataclass(frozen=True)
class LinearLayers:
    """Builds the ops of linear layers and of tables of embeddings.

    Attributes:
        isa: Instruction set of the kernels.
        compute: Type of what is multiplied with matrices that are not quantized. With bfloat16, for CPUs with
            AVX512-BF16, those of bfloat16 take it so, and queries beside a bfloat16 cache are of it too. With float16
            or int16, all matrices are scaled rows of it.
        formats: How matrices are quantized, by kind.
    """

    isa: str
    compute: DType
    formats: Mapping[str, QuantFormat]

    @property
    def scaled(self) -> bool:
        """Whether matrices that are not quantized are scaled rows."""
        return self.compute.name in SCALED_DTYPES

    def apply(self, kind: str, x: TensorValue, w: TensorValue, outputs: int) -> TensorValue:
        """x[T, K] @ w[outputs, K].T, in float32, on a CPU.

        Args:
            kind: Which matrix of the model w is.
            x: float32.
            w: Packed.
            outputs: Rows of w.
        """
        out = [TensorType(FLOAT, [x.shape[0], outputs], CPU)]
        form = self.formats.get(kind)
        if form:
            groups = w.shape[1]
            rounded = [TensorType(DType.int8, x.shape, CPU), TensorType(FLOAT, [x.shape[0], groups, 2], CPU)]
            inputs = [*ops.custom("mili.quantize_rows", CPU, [x], rounded), w]
            parameters = {"isa": self.isa, "bits": form.bits, "offsets": form.offsets}
            (y,) = ops.custom("mili.quantized_linear", CPU, inputs, out, parameters)
        elif self.scaled:
            (y,) = ops.custom("mili.scaled_linear", CPU, [x, w], out, {"isa": self.isa})
        else:
            if self.compute == DType.bfloat16 and w.dtype == DType.bfloat16:
                x = ops.cast(x, DType.bfloat16)
            (y,) = ops.custom("mili.linear", CPU, [x, w], out, {"isa": self.isa})
        return y.tensor

    def embed(self, kind: str, table: TensorValue, packed: bool, rows: TensorValue, size: int) -> TensorValue:
        """The ``rows`` [R] of a table as float32 [R, size]; a quantized one is packed, another one perhaps."""
        device = rows.device
        out = [TensorType(FLOAT, [rows.shape[0], size], device)]
        form = self.formats.get(kind)
        if form:
            parameters = {"bits": form.bits, "offsets": form.offsets, "group": form.group}
            return ops.custom("mili.gather_quantized_rows", device, [table, rows], out, parameters)[0].tensor
        layout = "" if not packed else "scaled_" if self.scaled else "packed_"
        return ops.custom(f"mili.gather_{layout}rows", device, [table, rows], out)[0].tensor
