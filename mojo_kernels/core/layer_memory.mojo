"""What a transformer block on a CPU reads and keeps: its sizes, its small weights, and the memory between its phases."""

from ..utils.types import ReadPtr, WritePtr


@fieldwise_init
struct LayerSizes(TrivialRegisterPassable):
    """How large everything is."""

    var tokens: Int
    var hidden: Int
    var q_heads: Int
    var kv_heads: Int
    var head_dim: Int
    var inner: Int
    """Columns of the MLP."""

    def q_size(self) -> Int:
        """Numbers of a token's queries."""
        return self.q_heads * self.head_dim

    def heads(self) -> Int:
        """Heads of queries, keys and values."""
        return self.q_heads + 2 * self.kv_heads

    def scratch(self) -> Int:
        """Float32 numbers that a layer needs for each token beside its input and output."""
        var attention = self.heads() * self.head_dim + 3 * self.q_size()
        return 2 * self.hidden + max(attention, 3 * self.inner, self.hidden)


@fieldwise_init
struct Scratch(TrivialRegisterPassable):
    """What a layer keeps for all tokens between phases; attention and MLP take turns in the same memory."""

    var operand: WritePtr[DType.float32]
    """[T, hidden]: the normed rows, as the first matrix of either half takes them."""
    var between: WritePtr[DType.float32]
    """[T, hidden]: the residual stream between the halves."""
    var rows: WritePtr[DType.float32]
    """[T, ...]: of attention heads [heads, T, head_dim]; of the MLP [T, 2 inner]; and normed rows before either."""
    var queries: WritePtr[DType.float32]
    """[T, q_size]."""
    var attended: WritePtr[DType.float32]
    """[T, q_size]."""
    var attended_operand: WritePtr[DType.float32]
    """[T, q_size]."""
    var gated_operand: WritePtr[DType.float32]
    """[T, inner]."""

    def __init__(out self, memory: WritePtr[DType.float32], sizes: LayerSizes):
        var t = sizes.tokens
        self.operand = memory
        self.between = self.operand.unsafe_offset(t * sizes.hidden)
        self.rows = self.between.unsafe_offset(t * sizes.hidden)
        self.queries = self.rows.unsafe_offset(t * sizes.heads() * sizes.head_dim)
        self.attended = self.queries.unsafe_offset(t * sizes.q_size())
        self.attended_operand = self.attended.unsafe_offset(t * sizes.q_size())
        self.gated_operand = self.rows.unsafe_offset(t * 2 * sizes.inner)


@fieldwise_init
struct LayerVectors(TrivialRegisterPassable):
    """The weights of a layer that are no matrices."""

    var input_norm: ReadPtr[DType.float32]
    var q_norm: ReadPtr[DType.float32]
    var k_norm: ReadPtr[DType.float32]
    var post_norm: ReadPtr[DType.float32]
    var qkv_bias: ReadPtr[DType.float32]
    var o_bias: ReadPtr[DType.float32]
    var has_biases: Bool
    var eps: Float32

    @always_inline
    def later(self, layers: Int, sizes: LayerSizes) -> Self:
        """Those of the layer that comes so many after this one."""
        var biases = layers if self.has_biases else 0
        return {
            self.input_norm.unsafe_offset(layers * sizes.hidden),
            self.q_norm.unsafe_offset(layers * sizes.head_dim),
            self.k_norm.unsafe_offset(layers * sizes.head_dim),
            self.post_norm.unsafe_offset(layers * sizes.hidden),
            self.qkv_bias.unsafe_offset(biases * sizes.heads() * sizes.head_dim),
            self.o_bias.unsafe_offset(biases * sizes.hidden),
            self.has_biases,
            self.eps,
        }
