"""From logits to a token: greedy, or temperature, top-k and top-p with a seed.

Order: temperature, then top-k, then top-p on what top-k left, then one draw. Log-probabilities are those of
the model itself, before any of them.
"""

import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from python_layer.utils.errors import InvalidRequestError

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token; above 0 divides the logits.
        top_k: Only the k likeliest tokens; 0 is no limit.
        top_p: Only the likeliest tokens whose probabilities first reach p (nucleus sampling, Holtzman et al.
            2020, arXiv:1904.09751, section 3.1).
        seed: The same seed gives the same draws; None takes a new one.

    Raises:
        InvalidRequestError: A value outside its range; names the parameter.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidRequestError(f"temperature is {self.temperature}; it must be 0 or more", "temperature")
        if self.top_k < 0:
            raise InvalidRequestError(f"top_k is {self.top_k}; it must be 0 (no limit) or more", "top_k")
        if not 0 < self.top_p <= 1:
            raise InvalidRequestError(f"top_p is {self.top_p}; it must be above 0 and at most 1", "top_p")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise InvalidRequestError(f"seed is {self.seed}; it must be from 0 to 2^64 - 1", "seed")


class Sampler:
    """Draws the tokens of one request. Draw i depends on the seed and i only.

    Args:
        params: How tokens are chosen.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._seed = secrets.randbits(64) if params.seed is None else params.seed

    def sample(self, logits: FloatArray, index: int) -> int:
        """The token drawn from ``logits`` [vocab] as the request's output number ``index``."""
        params = self._params
        if params.temperature == 0:
            return int(np.argmax(logits))
        scaled = logits.astype(np.float64) / params.temperature
        order = np.argsort(-scaled, kind="stable")
        if params.top_k:
            order = order[: params.top_k]
        weights = np.exp(scaled[order] - scaled[order[0]])
        cumulative = np.cumsum(weights / weights.sum())
        kept = int(np.searchsorted(cumulative, params.top_p)) + 1 if params.top_p < 1 else len(order)
        kept = min(kept, len(order))
        # Philox is counter based: draw i needs no draw before it.
        draw = np.random.Generator(np.random.Philox(key=self._seed, counter=index)).random()
        chosen = int(np.searchsorted(cumulative[:kept], draw * cumulative[kept - 1], side="right"))
        return int(order[min(chosen, kept - 1)])


def log_probabilities(logits: FloatArray) -> NDArray[np.float64]:
    """Log softmax of ``logits`` [vocab]."""
    shifted = logits.astype(np.float64) - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def top_log_probabilities(logprobs: NDArray[np.float64], count: int) -> list[tuple[int, float]]:
    """The ``count`` likeliest tokens as (id, log-probability), likeliest first, equal ones by id."""
    count = min(count, len(logprobs))
    if count == 0:
        return []
    threshold = np.partition(logprobs, -count)[-count]
    candidates = np.flatnonzero(logprobs >= threshold)
    order = candidates[np.argsort(-logprobs[candidates], kind="stable")][:count]
    return [(int(i), float(logprobs[i])) for i in order]
