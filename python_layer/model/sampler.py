"""Draws tokens on the device that holds the logits."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from max.driver import Buffer
from max.engine import InferenceSession
from numpy.typing import NDArray

from python_layer.model.compile_cache import CompiledGraphs
from python_layer.model.device import CPU_DEVICE, ComputeDevice
from python_layer.model.device_arrays import on_device
from python_layer.model.host_copies import Copying, HostCopies
from python_layer.model.sample_graph import SampleGraph
from python_layer.model.sampling import SamplingParams, uniform_draw

BANNED = -np.inf


@dataclass(frozen=True)
class SamplingRow:
    """What one row of logits is sampled with.

    Attributes:
        params: How the token is chosen.
        seed: Of the draws.
        index: Number of the draw: the answer's tokens so far.
        seen: Tokens of prompt and answer, for the repetition penalty; only looked at if there is one.
        counts: Token -> occurrences in the answer, likewise for the other penalties.
        banned: Tokens that must not be chosen.
        logprobs: Likeliest tokens to report, up to 20; None reports no log-probability.
        forced: The token to take whatever its logit; None draws one.
        mask: uint32 [ceil(vocab / 32)]: token t may be chosen if bit t % 32 of word t // 32 is set. None allows all.
    """

    params: SamplingParams
    seed: int
    index: int
    seen: Sequence[int] = ()
    counts: Mapping[int, int] = field(default_factory=dict)
    banned: Sequence[int] = ()
    logprobs: int | None = None
    forced: int | None = None
    mask: NDArray[np.uint32] | None = None

    def edits(self) -> list[tuple[int, float, bool, int]]:
        """(token, bias, whether it was seen, occurrences) of each token whose logit changes."""
        params = self.params
        bias = dict(params.logit_bias) | dict.fromkeys(self.banned, BANNED)
        if self.forced is not None:
            bias = {self.forced: np.inf}
        seen = set(self.seen) if params.repetition_penalty != 1 else set()
        counts = self.counts if params.presence_penalty or params.frequency_penalty else {}
        return [(t, bias.get(t, 0.0), t in seen, counts.get(t, 0)) for t in sorted(bias.keys() | seen | counts.keys())]


@dataclass(frozen=True)
class SampledToken:
    """A drawn token.

    Attributes:
        token: Its id.
        logprob: Its log-probability under the model, before any edit; None if not wanted.
        top: The likeliest tokens as (id, log-probability), likeliest first, equal ones by id.
    """

    token: int
    logprob: float | None
    top: list[tuple[int, float]]


class Sampler:
    """Samples rows of logits, in a graph of its own.

    Args:
        cache: Holds the compiled graph.
        device: Where it samples.

    Raises:
        CompileError: The graph can't be compiled here.
    """

    def __init__(self, cache: CompiledGraphs, device: ComputeDevice = CPU_DEVICE) -> None:
        compiled, _ = cache.get(SampleGraph(device.ref))
        self._device = device.open()
        self._model = InferenceSession(devices=[self._device]).init(compiled)
        self._copies = HostCopies(self._device, staged=device.is_gpu)

    def sample(self, logits: Buffer | NDArray[np.float32], rows: Sequence[SamplingRow]) -> list[SampledToken]:
        """One token for each row of ``logits`` [R, vocab]."""
        return self.draw(logits, rows).read()

    def draw(self, logits: Buffer | NDArray[np.float32], rows: Sequence[SamplingRow]) -> "Drawn":
        """As :meth:`sample`, but does not wait for the device; what was drawn before must have been read."""
        if not rows:
            return Drawn((), 0, None, None)
        source = Buffer.from_numpy(logits) if isinstance(logits, np.ndarray) else logits
        vocab = source.shape[1]
        inputs = on_device(sampler_inputs(rows, vocab), self._device)
        outputs = self._model.execute(source.to(self._device), *inputs)
        return Drawn.of(rows, vocab, outputs, self._copies)


@dataclass(frozen=True)
class Drawn:
    """Tokens that are drawn, or will be once the device comes to it.

    Attributes:
        rows: How; one for each.
        vocab: Size of the vocabulary.
        tokens: int32 [S], on the device; None if there are none.
        copying: Them and, where a row wants them, their log-probabilities on the way to the host.
    """

    rows: tuple[SamplingRow, ...]
    vocab: int
    tokens: Buffer | None
    copying: Copying | None

    @classmethod
    def of(cls, rows: Sequence[SamplingRow], vocab: int, outputs: Sequence[Buffer], copies: HostCopies) -> "Drawn":
        """What the op ``mili.sample`` gave, with what is wanted of it on the way to the host."""
        wanted = outputs if any(row.logprobs is not None for row in rows) else outputs[:1]
        return cls(tuple(rows), vocab, outputs[0], copies.begin(wanted))

    def read(self) -> list[SampledToken]:
        """The tokens, once they are on the host; only ids leave the device where nothing else is wanted."""
        if self.copying is None:
            return []
        tokens, *more = self.copying.wait()
        ids: list[int] = tokens.tolist()
        if not more:
            return [SampledToken(token, None, []) for token in ids]
        logprobs, top_ids, top_logprobs = more
        sampled = []
        for r, row in enumerate(self.rows):
            if row.logprobs is None:
                sampled.append(SampledToken(ids[r], None, []))
                continue
            count = min(row.logprobs, self.vocab)
            top = list(zip(top_ids[r, :count].tolist(), top_logprobs[r, :count].tolist(), strict=True))
            sampled.append(SampledToken(ids[r], float(logprobs[r]), top))
        return sampled


def sampler_inputs(rows: Sequence[SamplingRow], vocab: int) -> tuple[NDArray[np.generic], ...]:
    """What ``mili.sample`` gets for rows of ``vocab`` logits, beside these, in the order of its arguments."""
    edits = [row.edits() for row in rows]
    flat = [edit for of_row in edits for edit in of_row]
    params = [
        (
            0.0 if forced else p.temperature,
            p.top_p,
            p.min_p,
            p.repetition_penalty,
            p.presence_penalty,
            p.frequency_penalty,
        )
        for p, forced in ((row.params, row.forced is not None) for row in rows)
    ]
    masks = [row.mask for row in rows if row.mask is not None]
    masked = itertools.accumulate(row.mask is not None for row in rows)
    return (
        np.array(params, np.float32).reshape(-1, 6),
        np.array([min(row.params.top_k, vocab) for row in rows], np.int32),
        np.array([uniform_draw(row.seed, row.index) if row.params.temperature else 0.0 for row in rows]),
        np.array([-1 if row.logprobs is None else row.logprobs for row in rows], np.int32),
        np.array([0, *itertools.accumulate(map(len, edits))], np.int32),
        np.array([token for token, _, _, _ in flat], np.int32),
        np.array([bias for _, bias, _, _ in flat], np.float32),
        np.array([seen for _, _, seen, _ in flat], np.int32),
        np.array([count for _, _, _, count in flat], np.int32),
        np.array([-1 if row.mask is None else n - 1 for row, n in zip(rows, masked, strict=True)], np.int32),
        np.stack(masks) if masks else np.zeros((1, 1), np.uint32),
    )
