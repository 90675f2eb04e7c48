"""From logits to a token.

The order of application: logit_bias; repetition, presence and frequency penalties; banned tokens;
temperature; top-k; top-p on what top-k left; min-p on what top-p left; one draw among what is left, by the
inverse of the cumulative distribution in the order of token ids. Log-probabilities are those of the model
itself, before any of this.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from python_layer.utils.errors import InvalidRequestError

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

FIRST_SORTED = 1024
"""Likeliest tokens looked at first for top-p: they nearly always hold enough of the probability."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token; above 0 divides the logits.
        top_k: Only the k likeliest tokens; 0 is no limit.
        top_p: Only the likeliest tokens whose probabilities first reach p (nucleus sampling, Holtzman et al.
            2020, arXiv:1904.09751, section 3.1).
        seed: The same seed gives the same draws; None takes a new one.
        min_p: Only tokens at least min_p times as likely as the likeliest (Nguyen et al. 2024, arXiv:2407.01082).
        repetition_penalty: Divides positive and multiplies negative logits of tokens in prompt or answer (CTRL,
            Keskar et al. 2019, arXiv:1909.05858, section 4.1).
        presence_penalty: Taken from the logit of each token in the answer.
        frequency_penalty: Likewise, times its number of occurrences.
        logit_bias: Token id -> what is added to its logit.

    Raises:
        InvalidRequestError: A value outside its range; names the parameter.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._require("temperature", 0 <= self.temperature < np.inf, "0 or more")
        self._require("top_k", self.top_k >= 0, "0 (no limit) or more")
        self._require("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        self._require("seed", self.seed is None or 0 <= self.seed < 2**64, "from 0 to 2^64 - 1")
        self._require("min_p", 0 <= self.min_p <= 1, "from 0 to 1")
        self._require("repetition_penalty", 0 < self.repetition_penalty < np.inf, "above 0")
        self._require("presence_penalty", abs(self.presence_penalty) <= 2, "from -2 to 2")
        self._require("frequency_penalty", abs(self.frequency_penalty) <= 2, "from -2 to 2")
        biases = all(abs(bias) <= 100 for bias in self.logit_bias.values())
        self._require("logit_bias", biases, "token ids with values from -100 to 100")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise InvalidRequestError(f"{name} is {getattr(self, name)}; it must be {allowed}", name)


class Sampler:
    """Draws the tokens of one answer. Draw i depends on the seed and i only, whatever else runs.

    Args:
        params: How tokens are chosen.
        stream: Which of several answers with the same seed this is.
    """

    def __init__(self, params: SamplingParams, stream: int = 0) -> None:
        self._params = params
        seed = secrets.randbits(64) if params.seed is None else params.seed
        self._seed = (seed + stream) % 2**64

    def sample(
        self, logits: FloatArray, prompt: Sequence[int], output: Sequence[int], banned: Sequence[int] = ()
    ) -> int:
        """The next token of an answer.

        Args:
            logits: [vocab].
            prompt: Token ids before the answer.
            output: Token ids of the answer so far; their number is the draw's.
            banned: Token ids that must not be chosen.
        """
        params = self._params
        logits = _adjusted(logits, params, prompt, output, banned)
        if params.temperature == 0:
            return int(np.argmax(logits))
        scaled = logits.astype(np.float64)
        scaled -= scaled.max()
        scaled /= params.temperature
        kept = _kept(scaled, params)
        cumulative = np.cumsum(np.exp(scaled if kept is None else scaled[kept]))
        # Philox is counter based: draw i needs no draw before it.
        draw = np.random.Generator(np.random.Philox(key=self._seed, counter=len(output))).random()
        place = int(np.searchsorted(cumulative, draw * cumulative[-1], side="right"))
        return place if kept is None else int(kept[min(place, len(kept) - 1)])


def _adjusted(
    logits: FloatArray, params: SamplingParams, prompt: Sequence[int], output: Sequence[int], banned: Sequence[int]
) -> FloatArray:
    """The logits after bias, penalties and bans; the same array where there are none."""
    repetition = params.repetition_penalty != 1
    counted = bool(output) and (params.presence_penalty != 0 or params.frequency_penalty != 0)
    if not (params.logit_bias or repetition or counted or banned):
        return logits
    logits = logits.copy()
    for token, bias in params.logit_bias.items():
        logits[token] += bias
    if repetition:
        seen = np.unique(np.concatenate([prompt, output]).astype(np.int64))
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if counted:
        tokens, counts = np.unique(np.asarray(output), return_counts=True)
        logits[tokens] -= params.presence_penalty + params.frequency_penalty * counts
    logits[list(banned)] = -np.inf
    return logits


def _kept(scaled: NDArray[np.float64], params: SamplingParams) -> IntArray | None:
    """The ids, ascending, that top-k, top-p and min-p leave; None is all."""
    kept = None
    if 0 < params.top_k < len(scaled):
        kept = _likeliest(scaled, params.top_k)
    if params.top_p < 1:
        kept = _nucleus(scaled, params.top_p, kept)
    if params.min_p > 0:
        values = scaled if kept is None else scaled[kept]
        enough = np.flatnonzero(values >= np.log(params.min_p))  # the likeliest is at 0
        kept = enough if kept is None else kept[enough]
    return kept if kept is None else np.sort(kept)


def _likeliest(scaled: FloatArray, count: int) -> IntArray:
    """The ``count`` largest, largest first, equal ones by id."""
    threshold = np.partition(scaled, -count)[-count]
    candidates = np.flatnonzero(scaled >= threshold)
    return candidates[np.argsort(-scaled[candidates], kind="stable")][:count]


def _nucleus(scaled: NDArray[np.float64], top_p: float, kept: IntArray | None) -> IntArray:
    """The smallest set of likeliest tokens, among ``kept``, that holds ``top_p`` of its probability."""
    total = np.exp(scaled if kept is None else scaled[kept]).sum()
    ordered = _likeliest(scaled, min(FIRST_SORTED, len(scaled))) if kept is None else kept
    cumulative = np.cumsum(np.exp(scaled[ordered]))
    if kept is None and cumulative[-1] < top_p * total:
        ordered = np.argsort(-scaled, kind="stable")
        cumulative = np.cumsum(np.exp(scaled[ordered]))
    return ordered[: int(np.searchsorted(cumulative, top_p * total)) + 1]


def log_probabilities(logits: FloatArray) -> NDArray[np.float64]:
    """The logarithm of the softmax of ``logits`` [vocab]."""
    shifted = logits.astype(np.float64) - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def top_log_probabilities(logprobs: NDArray[np.float64], count: int) -> list[tuple[int, float]]:
    """The ``count`` likeliest tokens as (id, log-probability), likeliest first, equal ones by id."""
    count = min(count, len(logprobs))
    return [(int(i), float(logprobs[i])) for i in _likeliest(logprobs, count)] if count else []
