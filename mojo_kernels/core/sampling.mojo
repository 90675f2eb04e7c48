"""From logits to tokens, with penalties, temperature, top-k, top-p and min-p, without sorting the vocabulary.

The order of application: mask of allowed tokens; bias (minus infinity bans a token); repetition, presence and frequency
penalties; temperature; top-k; top-p on what top-k left; min-p on what top-p left; one draw by the inverse of the
cumulative distribution in the order of token ids. Passes over the row find a bound (`logits.mojo`) above which enough
tokens lie; radix selection among those finds the exact ones (`candidates.mojo`).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import iota, log

from ..gpu.sampling import launch_sample
from ..utils.parallel import parallel_ranges
from ..utils.simd import WIDTH, Vector
from ..utils.types import ReadPtr, untracked
from .candidates import Candidates, count_bound
from .logits import MINUS_INFINITY, LogitRow, total_of


@fieldwise_init
struct RowParams(TrivialRegisterPassable):
    """How one row is sampled, as it lies in `params[R, 6]`."""

    var temperature: Float32
    var top_p: Float32
    var min_p: Float32
    var repetition: Float32
    var presence: Float32
    var frequency: Float32

    def __init__(out self, p: ReadPtr[DType.float32]):
        self.temperature = p[unsafe_offset=0]
        self.top_p = p[unsafe_offset=1]
        self.min_p = p[unsafe_offset=2]
        self.repetition = p[unsafe_offset=3]
        self.presence = p[unsafe_offset=4]
        self.frequency = p[unsafe_offset=5]

    def edit(self, x: Float32, bias: Float32, seen: Bool, count: Int32) -> Float32:
        """A logit after bias and penalties."""
        var y = x + bias
        if seen:
            y = y / self.repetition if y > 0 else y * self.repetition
        if count > 0:
            y -= self.presence + self.frequency * count.cast[DType.float32]()
        return y


def copy_allowed(
    mut edited: List[Float32], logits: ReadPtr[DType.float32], mask: Optional[ReadPtr[DType.uint32]]
):
    """Copies logits; where there is a mask, tokens whose bit is not set get minus infinity.

    Args:
        edited: Receives as many logits as it is long.
        logits: As many.
        mask: Token t's bit is bit t % 32 of word t // 32.
    """
    var size = len(edited)
    var target = edited.unsafe_ptr()
    var lanes = iota[DType.uint32, WIDTH]()
    var i = 0
    while i + WIDTH <= size:
        var x = logits.unsafe_load[width=WIDTH](i)
        if mask:
            var bits = mask.value()[unsafe_offset=i // 32] >> UInt32(i % 32)
            var allowed = ((SIMD[DType.uint32, WIDTH](bits) >> lanes) & 1).ne(0)
            x = allowed.select(x, Vector(MINUS_INFINITY))
        target.unsafe_store(i, x)
        i += WIDTH
    while i < size:
        var allowed = True
        if mask:
            allowed = (mask.value()[unsafe_offset=i // 32] >> UInt32(i % 32)) & 1 != 0
        edited[i] = logits[unsafe_offset=i] if allowed else MINUS_INFINITY
        i += 1


def sample_row(row: LogitRow, params: RowParams, top_k: Int, uniform: Float64) -> Int32:
    """The token drawn from logits that are edited already."""
    if params.temperature == 0:
        return Int32(row.first_largest())
    var inverse = 1 / params.temperature
    var bound: Float32
    var mass = Float64(-1)
    if 0 < top_k < row.size:
        bound = count_bound(row, top_k)
    elif params.top_p < 1:
        mass = params.top_p.cast[DType.float64]() * total_of(row.span_sums(inverse))
        bound = row.mass_bound(inverse, mass)
    elif params.min_p > 0:
        # A little lower: what counts is the weight, which is rounded.
        bound = row.maximum + (log(params.min_p) - 1e-3) * params.temperature
    else:
        return Int32(row.draw(inverse, uniform))
    var candidates = Candidates(row, bound, inverse)
    if 0 < top_k < row.size:
        candidates.keep_largest[False](Float64(top_k))
    if params.top_p < 1:
        candidates.keep_largest[True](
            mass if mass >= 0 else params.top_p.cast[DType.float64]() * candidates.total()
        )
    if params.min_p > 0:
        candidates.keep_weights_from(params.min_p)
    return candidates.draw(uniform)


@extensibility.register("mili.sample")
struct Sample:
    """Draws one token for each of the first S rows of `logits[R, V]`, and reports log-probabilities where wanted.

    `params[S, 6]` holds temperature, top_p, min_p and the repetition, presence and frequency penalties;
    `top_k[S]` is 0 for no limit; `uniform[S]` are the draws, in [0, 1). Row r's logits are edited at the
    tokens `edit_tokens[edit_offsets[r]:edit_offsets[r + 1]]`, each named once: `edit_bias` is added, `edit_seen`
    says whether the repetition penalty applies, `edit_counts` how often the token is in the answer. Before that,
    where `mask_of[S]` is not negative, only tokens whose bit is set in that row of `masks[M, ceil(V / 32)]` are left.

    `wanted[S]` is the number of likeliest tokens to report in `top_ids[S, K]` and `top_logprobs[S, K]`, and -1
    for no log-probability at all. Those are of the logits before any edit.
    """

    @staticmethod
    def execute[
        target: StaticString
    ](
        tokens: OutputTensor[dtype=DType.int32, rank=1, ...],
        logprobs: OutputTensor[dtype=DType.float64, rank=1, ...],
        top_ids: OutputTensor[dtype=DType.int32, rank=2, ...],
        top_logprobs: OutputTensor[dtype=DType.float64, rank=2, ...],
        logits: InputTensor[dtype=DType.float32, rank=2, ...],
        params: InputTensor[dtype=DType.float32, rank=2, ...],
        top_k: InputTensor[dtype=DType.int32, rank=1, ...],
        uniform: InputTensor[dtype=DType.float64, rank=1, ...],
        wanted: InputTensor[dtype=DType.int32, rank=1, ...],
        edit_offsets: InputTensor[dtype=DType.int32, rank=1, ...],
        edit_tokens: InputTensor[dtype=DType.int32, rank=1, ...],
        edit_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        edit_seen: InputTensor[dtype=DType.int32, rank=1, ...],
        edit_counts: InputTensor[dtype=DType.int32, rank=1, ...],
        mask_of: InputTensor[dtype=DType.int32, rank=1, ...],
        masks: InputTensor[dtype=DType.uint32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        if tokens.dim_size(0) > logits.dim_size(0):
            raise Error("mili.sample: ", tokens.dim_size(0), " tokens from ", logits.dim_size(0), " rows of logits")
        comptime if target == "gpu":
            launch_sample(
                tokens.unsafe_ptr(),
                logprobs.unsafe_ptr(),
                top_ids.unsafe_ptr(),
                top_logprobs.unsafe_ptr(),
                logits.unsafe_ptr(),
                params.unsafe_ptr(),
                top_k.unsafe_ptr(),
                uniform.unsafe_ptr(),
                wanted.unsafe_ptr(),
                edit_offsets.unsafe_ptr(),
                edit_tokens.unsafe_ptr(),
                edit_bias.unsafe_ptr(),
                edit_seen.unsafe_ptr(),
                edit_counts.unsafe_ptr(),
                mask_of.unsafe_ptr(),
                masks.unsafe_ptr(),
                tokens.dim_size(0),
                logits.dim_size(1),
                top_ids.dim_size(1),
                masks.dim_size(1),
                ctx,
            )
        else:
            var size = logits.dim_size(1)
            var most = top_ids.dim_size(1)
            var tokens_out = untracked(tokens.unsafe_ptr())
            var logprobs_out = untracked(logprobs.unsafe_ptr())
            var top_ids_out = untracked(top_ids.unsafe_ptr())
            var top_logprobs_out = untracked(top_logprobs.unsafe_ptr())
            var logits_in = untracked(logits.unsafe_ptr())
            var params_in = untracked(params.unsafe_ptr())
            var top_k_in = untracked(top_k.unsafe_ptr())
            var uniform_in = untracked(uniform.unsafe_ptr())
            var wanted_in = untracked(wanted.unsafe_ptr())
            var offsets_in = untracked(edit_offsets.unsafe_ptr())
            var edit_tokens_in = untracked(edit_tokens.unsafe_ptr())
            var bias_in = untracked(edit_bias.unsafe_ptr())
            var seen_in = untracked(edit_seen.unsafe_ptr())
            var counts_in = untracked(edit_counts.unsafe_ptr())
            var mask_of_in = untracked(mask_of.unsafe_ptr())
            var masks_in = untracked(masks.unsafe_ptr())
            var words = masks.dim_size(1)

            def rows(begin: Int, end: Int) {imm}:
                for r in range(begin, end):
                    var raw = logits_in.unsafe_offset(r * size)
                    var row = RowParams(params_in.unsafe_offset(6 * r))
                    var first = Int(offsets_in[unsafe_offset=r])
                    var last = Int(offsets_in[unsafe_offset=r + 1])
                    var k = Int(top_k_in[unsafe_offset=r])
                    var token: Int32
                    var mask: Optional[ReadPtr[DType.uint32]] = None
                    var own = Int(mask_of_in[unsafe_offset=r])
                    if own >= 0:
                        mask = ReadPtr[DType.uint32](masks_in.unsafe_offset(own * words))
                    var edits = first < last or own >= 0
                    var count = Int(wanted_in[unsafe_offset=r])
                    var scanned = LogitRow(raw, size if not edits or count >= 0 else 0)
                    if not edits:
                        token = sample_row(scanned, row, k, uniform_in[unsafe_offset=r])
                    else:
                        var edited = List[Float32](unsafe_uninit_length=size)
                        copy_allowed(edited, raw, mask)
                        for e in range(first, last):
                            var t = Int(edit_tokens_in[unsafe_offset=e])
                            edited[t] = row.edit(
                                edited[t],
                                bias_in[unsafe_offset=e],
                                seen_in[unsafe_offset=e] != 0,
                                counts_in[unsafe_offset=e],
                            )
                        var rescanned = LogitRow(untracked(edited.unsafe_ptr()), size)
                        token = sample_row(rescanned, row, k, uniform_in[unsafe_offset=r])
                        _ = edited^
                    tokens_out[unsafe_offset=r] = token
                    logprobs_out[unsafe_offset=r] = 0
                    if count >= 0:
                        var normalizer = scanned.maximum.cast[DType.float64]() + log(total_of(scanned.span_sums(1)))
                        logprobs_out[unsafe_offset=r] = raw[unsafe_offset=Int(token)].cast[DType.float64]() - normalizer
                        var values = top_logprobs_out.unsafe_offset(r * most)
                        scanned.top(min(count, size), top_ids_out.unsafe_offset(r * most), values)
                        for i in range(min(count, size)):
                            values[unsafe_offset=i] -= normalizer

            parallel_ranges(tokens.dim_size(0), 8 * size, rows)
