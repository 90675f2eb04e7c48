"""What the kernels compute, written plainly in NumPy, float64."""

import numpy as np


def rms_norm(x: np.ndarray, gamma: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * gamma over the last axis."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gamma


def rotate(x: np.ndarray, positions: np.ndarray, frequencies: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """RoPE of [T, heads, D], pairs (i, i + D / 2); the angle itself is a float32 product, as in the model."""
    angles = (positions.astype(np.float32)[:, None] * frequencies.astype(np.float32)[None]).astype(np.float64)
    cos, sin = np.cos(angles)[:, None] * scale, np.sin(angles)[:, None] * scale
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Causal attention of one request: q [T, Hq, D] at ``positions``; k, v [S, Hkv, D] from position 0."""
    group = q.shape[1] // k.shape[1]
    out = np.zeros_like(q)
    for t, position in enumerate(positions):
        for head in range(q.shape[1]):
            keys = k[: position + 1, head // group]
            scores = keys @ q[t, head] / np.sqrt(q.shape[2])
            weights = np.exp(scores - scores.max())
            out[t, head] = weights / weights.sum() @ v[: position + 1, head // group]
    return out


def scaled_pages(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers [..., page_size, D] and scales [..., page_size] of a cache of integers, whose rows are D numbers and
    four bytes more."""
    *outer, page_size, row = stored.shape
    size = row - 4 // stored.itemsize
    flat = np.ascontiguousarray(stored).reshape(*outer, page_size * row)
    numbers, scales = np.split(flat, [page_size * size], axis=-1)
    return numbers.reshape(*outer, page_size, size), np.ascontiguousarray(scales).view(np.float32)


def plain_pages(stored: np.ndarray, pair: int) -> np.ndarray:
    """Rows of a KV cache [pages, layers, 2, kv_heads, page_size, D] that lies in panels (see ``kv_cache.mojo``)."""
    *outer, _, _, page_size, size = stored.shape
    if page_size % 16:
        return stored
    plain = np.empty_like(stored)
    shape = (*outer, stored.shape[-3], page_size // 16)
    keys = stored[..., 0, :, :, :].reshape(*shape, size // pair, 16, pair)
    plain[..., 0, :, :, :] = np.swapaxes(keys, -3, -2).reshape(plain[..., 0, :, :, :].shape)
    values = stored[..., 1, :, :, :].reshape(*shape, 16 // pair, size, pair)
    plain[..., 1, :, :, :] = np.swapaxes(values, -2, -1).reshape(plain[..., 1, :, :, :].shape)
    return plain
