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
    """Draw number ``index`` of a seed, in [0, 1): Philox is counter based, so it needs no draw before it."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=index)).random())


def seed_of(params: SamplingParams, answer: int = 0) -> int:
    """The seed of one of several answers; a fresh one where the parameters state none."""
    return ((secrets.randbits(64) if params.seed is None else params.seed) + answer) % 2**64
