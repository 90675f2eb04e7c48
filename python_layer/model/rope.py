"""Frequencies of the rotary position embedding, with YaRN's longer context (arXiv:2309.00071, section 3)."""

import math

import numpy as np
from numpy.typing import NDArray

from python_layer.model.config import Qwen3Config, RopeConfig


def rope_frequencies(config: Qwen3Config) -> tuple[NDArray[np.float32], float]:
    """The angle per position of each pair of dimensions, and the factor of cosines and sines.

    Returns:
        Frequencies [head_dim / 2] float32 in radians per position, and the attention factor (1 without YaRN).
    """
    rope = config.rope
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    # The float32 nearest to each power: an error in the last bit grows with the position it is multiplied by.
    periods = np.power(rope.theta, exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1) / periods
    if rope.type == "linear":
        return frequencies / np.float32(rope.factor), 1.0
    if rope.type == "yarn":
        kept = np.float32(1) - _yarn_ramp(rope, config.head_dim)
        interpolated = np.float32(1) / (np.float32(rope.factor) * periods)
        mixed = interpolated * (np.float32(1) - kept) + frequencies * kept
        return mixed, _yarn_attention_factor(rope)
    return frequencies, 1.0


def _yarn_ramp(rope: RopeConfig, head_dim: int) -> NDArray[np.float32]:
    """0 where a frequency is kept, 1 where it is interpolated, linear between (equation 18)."""

    def dimension(rotations: float) -> float:
        """Where a frequency makes so many rotations over the original context (equation 17, inverted)."""
        context = rope.original_max_position_embeddings
        return head_dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001  # a step, without a division by zero
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)
    clipped: NDArray[np.float32] = np.clip(ramp, 0, 1).astype(np.float32)
    return clipped


def _yarn_attention_factor(rope: RopeConfig) -> float:
    """1 / sqrt(t) of section 3.4, unless the configuration states it."""
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)
