"""How a producer warpgroup copies the steps of a linear layer on Hopper: rows of x and w in atoms, and scales.

A step has 128 bytes of each row, 64 columns of bfloat16 or 128 of e4m3, which are seen as words of two bytes here. Its
tile of x comes first, then that of w, then, of e4m3, the scales of x's rows and of each 8 outputs.
"""

from max.gpu import thread_idx
from max.gpu.memory import AddressSpace, async_copy, async_copy_wait_all
from std.math import ceildiv

from ..utils.types import ReadPtr
from .async_barrier import arrive_when_copied
from .block import GpuRead
from .linear_products import CHUNK, SCALED_OUTPUTS
from .mma import SharedTile, swizzled
from .ring import Ring
from .wgmma import GROUP

comptime STEP = 64
"""Words of a row of a step."""
comptime CHUNKS = STEP // 8
"""Of 16 bytes in a row of a step."""
comptime TOGETHER = GROUP // CHUNKS
"""Rows that the producer's threads copy at once."""


def step_words(rows: Int, outputs: Int, scaled: Bool) -> Int:
    """Words of a step, so many that the next one's atoms are aligned to 1024 bytes."""
    return ceildiv((rows + outputs) * STEP + (2 * (rows + outputs // SCALED_OUTPUTS) if scaled else 0), 512) * 512


@fieldwise_init
struct Source[tile: Int](TrivialRegisterPassable):
    """Where a producer's thread reads a tile's rows of a matrix: every 16th of them, the same 16 bytes of a step."""

    var next: ReadPtr[DType.bfloat16]
    """The next step's in its first row."""
    var row_size: Int
    """Words from a row to the next."""
    var rows: Int32
    """How many rows the thread copies; those outside of the matrix stay as they are, and nothing comes of them."""
    var words: Int32
    """How many words there are from `next` on in its row."""

    @staticmethod
    @always_inline
    def of(matrix: GpuRead[DType.uint8], first: Int, count: Int, words: Int) -> Self:
        """That of the tile whose first row is `first`, in a matrix of `count` rows of so many words."""
        var row = first + thread_idx.x % GROUP // CHUNKS
        var word = thread_idx.x % CHUNKS * 8
        var next = matrix.unsafe_bitcast[BFloat16]().unsafe_offset(row * words + word)
        var rows = min(ceildiv(max(count - row, 0), TOGETHER), Self.tile // TOGETHER)
        return Self(next.unsafe_origin_cast[ImmUntrackedOrigin](), words, Int32(rows), Int32(words - word))

    @always_inline
    def copy_step(mut self, target: SharedTile):
        """Begins to copy the next step, by all threads of the producer together; zeros behind the last column.

        Args:
            target: [tile, STEP] in atoms.
        """
        var thread = thread_idx.x % GROUP
        var bytes = Int32(CHUNK) if self.words > 0 else Int32(0)
        var from_row = self.next
        # Sixteen rows further, the swizzle is the same.
        var at = Int32(swizzled[STEP](thread // CHUNKS, thread % CHUNKS))
        for _ in range(self.rows):
            async_copy[CHUNK, fill=BFloat16(0)](
                from_row.unsafe_address_space_cast[AddressSpace.GLOBAL](), target.unsafe_offset(at), bytes
            )
            from_row = from_row.unsafe_offset(TOGETHER * self.row_size)
            at += Int32(TOGETHER * STEP)
        self.next = self.next.unsafe_offset(STEP)
        self.words -= Int32(STEP)


@always_inline
def copy_scales[
    tile_rows: Int, tile_outputs: Int
](
    step: SharedTile,
    x_scales: GpuRead[DType.float32],
    w_scales: GpuRead[DType.float32],
    row: Int,
    output: Int,
    rows: Int,
    outputs: Int,
    groups: Int,
    group: Int,
):
    """Begins to copy a group's scales of a tile's rows, and then of its outputs, by the producer.

    Rows and outputs outside of y take the scales of the last ones; nothing comes of them.
    """
    var floats = step.unsafe_offset((tile_rows + tile_outputs) * STEP).unsafe_bitcast[Float32]()
    var thread = thread_idx.x % GROUP
    if thread < tile_rows:
        var source = x_scales.unsafe_offset(min(row + thread, rows - 1) * groups + group)
        async_copy[4](source.unsafe_address_space_cast[AddressSpace.GLOBAL](), floats.unsafe_offset(thread))
    if thread < tile_outputs // SCALED_OUTPUTS:
        var place = min(output + thread * SCALED_OUTPUTS, outputs - 1) // SCALED_OUTPUTS
        var source = w_scales.unsafe_offset(place * groups + group)
        async_copy[4](
            source.unsafe_address_space_cast[AddressSpace.GLOBAL](), floats.unsafe_offset(tile_rows + thread)
        )


@always_inline
def produce_steps[
    stages: Int, size: Int, //, tile_rows: Int, tile_outputs: Int, scaled: Bool
](
    ring: Ring[stages, size],
    x: GpuRead[DType.uint8],
    w: GpuRead[DType.uint8],
    x_scales: GpuRead[DType.float32],
    w_scales: GpuRead[DType.float32],
    row: Int,
    output: Int,
    rows: Int,
    outputs: Int,
    words: Int,
):
    """Fills a ring with all steps of a tile, by the producer.

    Parameters:
        stages: Steps of the ring.
        size: Words of a step, `step_words`.
        tile_rows: Rows of the tile.
        tile_outputs: Outputs of the tile.
        scaled: Whether x and w have scales.

    Args:
        ring: The ring, at its beginning.
        x: As in `linear_rows_kernel`, like the others that are not explained.
        w: Likewise.
        x_scales: Likewise.
        w_scales: Likewise.
        row: First row of the tile.
        output: First output of the tile.
        rows: Rows of x.
        outputs: Rows of w.
        words: Of a row of either.
    """
    var here = ring
    var of_x = Source[tile_rows].of(x, row, rows, words)
    var of_w = Source[tile_outputs].of(w, output, outputs, words)
    var steps = Int32(ceildiv(words, STEP))
    for step in range(steps):
        here.wait_until_empty()
        of_x.copy_step(here.current())
        of_w.copy_step(here.current().unsafe_offset(tile_rows * STEP))
        comptime if scaled:
            copy_scales[tile_rows, tile_outputs](
                here.current(), x_scales, w_scales, row, output, rows, outputs, Int(steps), Int(step)
            )
        arrive_when_copied(here.came())
        here.advance()
    async_copy_wait_all()  # nobody leaves while its copies are under way
