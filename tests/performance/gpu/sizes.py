"""How large the work of each case is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sizes of the kernels' cases.

    Attributes:
        hidden: Numbers of a row between layers.
        inner: Outputs of gate and of up.
        q_heads: Heads of queries.
        kv_heads: Heads of keys and values.
        head_dim: Numbers of a head.
        rows: Rows of norms and activations, few and many.
        linear_rows: Rows of linear layers.
        decode: Requests of a decode, and the positions of each.
        prompt: Positions of a prompt.
        square: Rows and columns of the matrix product that is the limit.
        copy: Bytes of the copy that is the limit.
        enough: Bytes that one execution moves at least, so that a cache does not hold them and a launch takes little.
    """

    hidden: int
    inner: int
    q_heads: int
    kv_heads: int
    head_dim: int
    rows: tuple[int, int]
    linear_rows: tuple[int, ...]
    decode: tuple[int, int]
    prompt: int
    square: int
    copy: int
    enough: int

    @property
    def q_size(self) -> int:
        """Numbers of a row's queries."""
        return self.q_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Numbers of a row's keys."""
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Outputs and columns of the linear layers."""
        return {
            "qkv": (self.q_size + 2 * self.kv_size, self.hidden),
            "gate_up": (2 * self.inner, self.hidden),
            "down": (self.hidden, self.inner),
        }

    def copies(self, size: float) -> int:
        """How many times work on so many bytes is done in one execution, each time on other memory."""
        return max(1, min(16, round(self.enough / size)))


QWEN3_8B = Sizes(
    hidden=4096,
    inner=12_288,
    q_heads=32,
    kv_heads=8,
    head_dim=128,
    rows=(64, 8192),
    linear_rows=(1, 16, 64, 2048),
    decode=(32, 4096),
    prompt=8192,
    square=8192,
    copy=2**31,
    enough=400_000_000,
)
SMALL = Sizes(
    hidden=256,
    inner=512,
    q_heads=4,
    kv_heads=2,
    head_dim=64,
    rows=(2, 24),
    linear_rows=(1, 3, 20),
    decode=(3, 40),
    prompt=70,
    square=128,
    copy=2**16,
    enough=200_000,
)
"""Enough to run every part, on any device; their times mean nothing."""
