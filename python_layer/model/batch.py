"""The input of one step of the model: rows of several requests, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from python_layer.utils.errors import InvalidRequestError

Int32Array = NDArray[np.int32]


@dataclass(frozen=True)
class RequestRows:
    """What one request brings to a step.

    Attributes:
        tokens: Token ids to compute, at positions ``start``, ``start + 1``, ...
        start: Number of the request's tokens whose keys and values are in the cache already.
        pages: Pages of the request in order; position p lies in ``pages[p // page_size]``.
        logits: Tokens whose logits are wanted, as indices into ``tokens`` that may be negative: the last one,
            none of a chunk with more to come, one several times for several answers.
    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    logits: Sequence[int] = (-1,)


@dataclass(frozen=True)
class RaggedBatch:
    """One step's tokens, T rows of B requests. All arrays are int32.

    Attributes:
        token_ids: [T].
        positions: [T], of each token in its request.
        row_offsets: [B + 1]; request b owns rows ``row_offsets[b]`` to ``row_offsets[b + 1]``.
        page_table: [B, P]; entries past a request's last page are never read.
        logit_rows: [R], the rows whose logits are wanted; may be empty.
    """

    token_ids: Int32Array
    positions: Int32Array
    row_offsets: Int32Array
    page_table: Int32Array
    logit_rows: Int32Array

    @classmethod
    def of(cls, requests: Sequence[RequestRows]) -> "RaggedBatch":
        """Lays the rows of the requests out one after the other."""
        lengths = [len(request.tokens) for request in requests]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int32)]).astype(np.int32)
        table = np.zeros((len(requests), max((len(r.pages) for r in requests), default=0)), np.int32)
        for row, request in zip(table, requests, strict=True):
            row[: len(request.pages)] = request.pages
        wanted = [
            begin + np.asarray(request.logits, np.int32) % length
            for request, begin, length in zip(requests, offsets, lengths, strict=False)
        ]
        return cls(
            token_ids=_concatenate([np.asarray(request.tokens) for request in requests]),
            positions=_concatenate([r.start + np.arange(n) for r, n in zip(requests, lengths, strict=True)]),
            row_offsets=offsets,
            page_table=table,
            logit_rows=_concatenate(wanted),
        )

    def check(self, vocab_size: int, num_pages: int, page_size: int) -> None:
        """Refuses a batch that would make a kernel read or write outside its memory.

        Args:
            vocab_size: Token ids lie below this.
            num_pages: Page numbers lie below this.
            page_size: Positions per page.

        Raises:
            InvalidRequestError: Names the first array that is wrong, and how.
        """
        rows, requests = len(self.token_ids), len(self.page_table)
        lengths = np.diff(self.row_offsets)
        if rows == 0:
            raise InvalidRequestError("token_ids is empty; a step computes at least one token", "token_ids")
        if len(self.positions) != rows:
            raise InvalidRequestError(f"positions has {len(self.positions)} entries for {rows} tokens", "positions")
        if (
            len(self.row_offsets) != requests + 1
            or self.row_offsets[0] != 0
            or self.row_offsets[-1] != rows
            or (lengths <= 0).any()
        ):
            raise InvalidRequestError(
                f"row_offsets must rise from 0 to {rows} in {requests} steps, not {self.row_offsets.tolist()}",
                "row_offsets",
            )
        _check_range("token_ids", self.token_ids, vocab_size)
        _check_range("positions", self.positions, self.page_table.shape[1] * page_size)
        inner = np.ones(rows - 1, bool)
        inner[self.row_offsets[1:-1] - 1] = False
        if (np.diff(self.positions)[inner] != 1).any():
            raise InvalidRequestError("positions of one request must be consecutive", "positions")
        _check_range("logit_rows", self.logit_rows, rows)
        last_page = self.positions[self.row_offsets[1:] - 1] // page_size
        used = np.arange(self.page_table.shape[1]) <= last_page[:, None]
        _check_range("page_table", self.page_table[used], num_pages)


def _concatenate(parts: Sequence[NDArray[np.integer]]) -> Int32Array:
    return np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)


def _check_range(name: str, values: Int32Array, end: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= end):
        bad = values[(values < 0) | (values >= end)][0]
        raise InvalidRequestError(f"{name} holds {bad}; values must be from 0 to {end - 1}", name)
