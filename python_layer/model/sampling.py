"""How tokens are chosen, and the random numbers they are chosen with.

The order of application: logit_bias; repetition, presence and frequency penalties; temperature; top-k; top-p
on what top-k left; min-p on what top-p left; one draw. Log-probabilities are those of the model itself,
before any of this.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from python_layer.utils.errors import InvalidRequestError

MOST_LOGPROBS = 20
"""Likeliest tokens of which log-probabilities can be had."""

PHILOX_A, PHILOX_C = 0xD2E7470EE14C6C93, 0xCA5A826395121157
"""What a round multiplies the counter's first and third word with."""
WEYL_LEFT, WEYL_RIGHT = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
"""What the key's words grow by from round to round."""


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


def uniform_draw(seed: int, index: int) -> float:
    """Draw number ``index`` of a seed below 2^64, in [0, 1), without those before it.

    Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3), bit by bit that of
    NumPy's generator at the counter ``index``, which takes longer to make.
    """
    a, b, c, d = index + 1, 0, 0, 0
    left, right = seed, 0
    for _ in range(10):
        high, low = divmod(PHILOX_A * a, 2**64)
        other_high, other_low = divmod(PHILOX_C * c, 2**64)
        a, b, c, d = other_high ^ b ^ left, other_low, high ^ d ^ right, low
        left, right = (left + WEYL_LEFT) % 2**64, (right + WEYL_RIGHT) % 2**64
    return (a >> 11) / 2**53


def seed_of(params: SamplingParams, answer: int = 0) -> int:
    """The seed of one of several answers; a fresh one where the parameters state none."""
    return ((secrets.randbits(64) if params.seed is None else params.seed) + answer) % 2**64
