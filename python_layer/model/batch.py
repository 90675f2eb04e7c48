"""The input of one step of the model: rows of several requests, one after the other."""

import itertools
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
        # Lists, for after a step, which has swept the CPU's caches, every NumPy call costs many microseconds.
        tokens: list[int] = []
        positions: list[int] = []
        offsets, wanted = [0], []
        for request in requests:
            begin, count = offsets[-1], len(request.tokens)
            tokens.extend(request.tokens)
            positions.extend(range(request.start, request.start + count))
            offsets.append(begin + count)
            wanted += [begin + row % max(1, count) for row in request.logits]
        table = np.zeros((len(requests), max((len(request.pages) for request in requests), default=0)), np.int32)
        for row, request in zip(table, requests, strict=True):
            row[: len(request.pages)] = request.pages
        return cls(
            token_ids=np.array(tokens, np.int32),
            positions=np.array(positions, np.int32),
            row_offsets=np.array(offsets, np.int32),
            page_table=table,
            logit_rows=np.array(wanted, np.int32),
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
        if rows == 0:
            raise InvalidRequestError("token_ids is empty; a step computes at least one token", "token_ids")
        if len(self.positions) != rows:
            raise InvalidRequestError(f"positions has {len(self.positions)} entries for {rows} tokens", "positions")
        offsets = self.row_offsets.tolist()
        rising = all(begin < end for begin, end in itertools.pairwise(offsets))
        if len(offsets) != requests + 1 or offsets[0] != 0 or offsets[-1] != rows or not rising:
            raise InvalidRequestError(
                f"row_offsets must rise from 0 to {rows} in {requests} steps, not {offsets}", "row_offsets"
            )
        _check_range("token_ids", self.token_ids, vocab_size)
        _check_range("positions", self.positions, self.page_table.shape[1] * page_size)
        if rows > requests:
            steps = np.diff(self.positions)
            steps[self.row_offsets[1:-1] - 1] = 1
            if (steps != 1).any():
                raise InvalidRequestError("positions of one request must be consecutive", "positions")
        _check_range("logit_rows", self.logit_rows, rows)
        # What is not used of a table may be anything, but to look at all of it first is cheaper.
        if not _in_range(self.page_table, num_pages):
            last_page = self.positions[self.row_offsets[1:] - 1] // page_size
            used = np.arange(self.page_table.shape[1]) <= last_page[:, None]
            _check_range("page_table", self.page_table[used], num_pages)


def _in_range(values: Int32Array, end: int) -> bool:
    # Without a sign, negative numbers are the largest.
    return values.size == 0 or int(values.view(np.uint32).max()) < end


def _check_range(name: str, values: Int32Array, end: int) -> None:
    if not _in_range(values, end):
        bad = values[(values < 0) | (values >= end)][0]
        raise InvalidRequestError(f"{name} holds {bad}; values must be from 0 to {end - 1}", name)
