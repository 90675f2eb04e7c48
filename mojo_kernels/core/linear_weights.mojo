"""What a transformer block asks of a packed matrix of any type: rows are brought into the form it is multiplied with,
then panels follow.
"""

from .float_rows import Columns
from ..utils.types import ReadPtr, WritePtr


@fieldwise_init
struct RowRange(TrivialRegisterPassable):
    """Some rows of a batch, one after the other."""

    var first: Int
    var count: Int


trait LinearWeights(TrivialRegisterPassable):
    """A matrix w of a linear layer y = x @ w.T."""

    comptime plain: Bool
    """Whether x is multiplied as it is, in float32."""
    comptime together: Int
    """Rows of x that are brought into form at once, because their forms share cache lines."""

    def panels(self) -> Int:
        """How many panels there are."""
        ...

    def row_block(self, tokens: Int) -> Int:
        """Rows that `multiply` takes at most of so many: those whose forms stay in a core's cache."""
        ...

    def take_rows(
        self, memory: WritePtr[DType.float32], tokens: Int, t: Int, x: ReadPtr[DType.float32], x_stride: Int
    ):
        """Brings up to `together` rows of x into the form in which they are multiplied.

        Args:
            memory: Room for `tokens` rows of as many float32.
            tokens: Rows of x.
            t: Number of the first of these rows, a multiple of `together`.
            x: That row.
            x_stride: Numbers from one row to the next.
        """
        ...

    def unit(self) -> Int:
        """Columns whose form does not depend on other columns, from each multiple of as many on; 0 where `take_columns`
        takes none."""
        ...

    def take_columns(
        self, memory: WritePtr[DType.float32], tokens: Int, t: Int, part: Columns, x: ReadPtr[DType.float32]
    ):
        """Brings some columns of a row of x into form.

        Args:
            memory: As in `take_rows`.
            tokens: See there.
            t: Number of the row.
            part: The columns, whole units.
            x: The first of them.
        """
        ...

    def multiply(
        self,
        y: WritePtr[DType.float32],
        y_stride: Int,
        memory: WritePtr[DType.float32],
        tokens: Int,
        rows: RowRange,
        panel: Int,
        next: ReadPtr[DType.uint8],
    ):
        """Computes the outputs of a panel for a block of rows.

        Args:
            y: The panel's first output of the first of these rows.
            y_stride: Elements from one row of y to the next.
            memory: All rows, from `take_rows`.
            tokens: How many.
            rows: A block of them, see `row_block`.
            panel: Number of the panel.
            next: The panel, of any matrix, that is needed next.
        """
        ...

    def group(self, tokens: Int) -> Int:
        """Panels that `multiply_group` takes at once, or 1 where that is no better than one after the other."""
        ...

    def multiply_group(
        self,
        y: WritePtr[DType.float32],
        memory: WritePtr[DType.float32],
        tokens: Int,
        rows: RowRange,
        first: Int,
        next: ReadPtr[DType.uint8],
    ):
        """Computes the outputs of a group of panels, some columns at a time: rows of many columns stay in no cache.

        Args:
            y: [panels, rows, PANEL], written.
            memory: As in `multiply`, and so are the others.
            tokens: See there.
            rows: See there.
            first: Number of the first panel.
            next: See there.
        """
        ...

    def panel(self, index: Int) -> ReadPtr[DType.uint8]:
        """Where a panel begins."""
        ...

    def later(self, matrices: Int) -> Self:
        """The matrix of the same shape that lies so many after this one."""
        ...
