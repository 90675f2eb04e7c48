"""What attention gives within a transformer block, on its way to the projection that mixes heads."""

from ..utils.simd import store_row
from ..utils.types import ReadPtr
from .attention_tile import HeadOutput
from .layer_memory import LayerSizes, Scratch
from .linear_weights import LinearWeights


@fieldwise_init
struct MixRows[W: LinearWeights](HeadOutput):
    """Takes heads, and brings them into the form in which the projection multiplies them where one by one is enough."""

    var w: Self.W
    var scratch: Scratch
    var sizes: LayerSizes
    var formed: Bool
    """Whether heads are brought into form one by one; else rows are, later."""

    @always_inline
    def put(self, place: Int, x: ReadPtr[DType.float32], size: Int):
        if self.formed:
            var t, column = divmod(place, self.sizes.q_size())
            self.w.take_columns(self.scratch.attended_operand, self.sizes.tokens, t, {column, column + size}, x)
        else:
            store_row(self.scratch.attended.unsafe_offset(place), x, size)
