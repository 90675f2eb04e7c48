"""The numbers of each case, made anew for each system, so that none keeps them while it is measured."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tests.performance.gpu.numbers import bfloat16_bits
from tests.performance.gpu.sizes import Sizes

EPS = 1e-6


@dataclass(frozen=True)
class LinearWork:
    """x[rows, columns] @ w[outputs, columns].T."""

    rows: int
    outputs: int
    columns: int

    def x(self) -> NDArray[np.uint16]:
        return bfloat16_bits(self.rows, self.columns)

    def w(self) -> NDArray[np.uint16]:
        return bfloat16_bits(self.outputs, self.columns, seed=1, scale=self.columns**-0.5)


@dataclass(frozen=True)
class AttentionWork:
    """The last tokens of some requests.

    Attributes:
        sizes: Heads and their size.
        requests: How many.
        tokens: Of each, the last ones, which are computed.
        context: Positions of each.
    """

    sizes: Sizes
    requests: int
    tokens: int
    context: int

    @property
    def rows(self) -> int:
        return self.requests * self.tokens

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key of one head."""
        return self.requests * sum(range(self.context - self.tokens + 1, self.context + 1))

    def whole_context(self) -> "AttentionWork":
        """The same requests, with all positions computed."""
        return replace(self, tokens=self.context)

    def queries(self) -> NDArray[np.uint16]:
        """[rows, q_heads * head_dim]."""
        return bfloat16_bits(self.rows, self.sizes.q_size, seed=2, unit=self.sizes.head_dim)

    def keys(self) -> NDArray[np.uint16]:
        """[requests, context, kv_heads, head_dim]; the root mean square of each is 1, as after their norm."""
        return self._of_heads(3, self.sizes.head_dim)

    def values(self) -> NDArray[np.uint16]:
        """Likewise, of any size."""
        return self._of_heads(4, 0)

    def qkv(self) -> NDArray[np.uint16]:
        """Queries, keys and values of all positions side by side, as a linear layer gives them."""
        rows = self.requests * self.context
        parts = [
            bfloat16_bits(rows, self.sizes.q_size, seed=5),
            self.keys().reshape(rows, -1),
            self.values().reshape(rows, -1),
        ]
        return np.concatenate(parts, 1)

    def rope(self) -> NDArray[np.float32]:
        """[rows, head_dim]: the cosines of each row's angles, then their sines."""
        positions = np.tile(np.arange(self.context - self.tokens, self.context), self.requests)
        half = self.sizes.head_dim // 2
        angles = positions[:, None] * 1e6 ** (-np.arange(half) / half)
        return np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def _of_heads(self, seed: int, unit: int) -> NDArray[np.uint16]:
        shape = (self.requests, self.context, self.sizes.kv_heads, self.sizes.head_dim)
        return bfloat16_bits(*shape, seed=seed, unit=unit)
