"""What ``mili.sample`` computes, written as the definition reads, in float64."""

import numpy as np

from python_layer.model.sampler import SampledToken, SamplingRow
from python_layer.model.sampling import uniform_draw


def sample(logits: np.ndarray, row: SamplingRow) -> SampledToken:
    """The token drawn from ``logits`` [vocab], and the log-probabilities that are wanted."""
    token = _draw(_edited(logits, row), row)
    if row.logprobs is None:
        return SampledToken(token, None, [])
    exact = logits.astype(np.float64)
    scores = exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())
    order = np.argsort(-exact, kind="stable")[: row.logprobs]
    return SampledToken(token, scores[token], [(int(i), scores[i]) for i in order])


def _edited(logits: np.ndarray, row: SamplingRow) -> np.ndarray:
    """In float32, as logits are."""
    params, edited = row.params, logits.copy()
    if row.mask is not None:
        allowed = [int(row.mask[t // 32]) >> (t % 32) & 1 == 1 for t in range(len(logits))]
        edited[~np.array(allowed)] = -np.inf
    for token, bias in params.logit_bias.items():
        edited[token] += np.float32(bias)
    edited[list(row.banned)] = -np.inf
    for token in set(row.seen):
        penalty = np.float32(params.repetition_penalty)
        edited[token] = edited[token] / penalty if edited[token] > 0 else edited[token] * penalty
    for token, count in row.counts.items():
        edited[token] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * np.float32(count)
    return edited


def _draw(edited: np.ndarray, row: SamplingRow) -> int:
    params = row.params
    if params.temperature == 0:
        return int(np.argmax(edited))
    scaled = (edited.astype(np.float64) - edited.max()) / params.temperature
    kept = np.argsort(-edited, kind="stable")
    if params.top_k:
        kept = kept[: params.top_k]
    mass = np.cumsum(np.exp(scaled[kept]))
    if params.top_p < 1:
        kept = kept[: int(np.searchsorted(mass, params.top_p * mass[-1])) + 1]
    kept = np.sort(kept[np.exp(scaled[kept]) >= params.min_p])
    cumulative = np.cumsum(np.exp(scaled[kept]))
    return int(kept[np.searchsorted(cumulative, uniform_draw(row.seed, row.index) * cumulative[-1], side="right")])
