"""Ragged batches: their layout, and that no inconsistent one reaches a kernel."""

from dataclasses import replace

import numpy as np
import pytest

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.utils.errors import InvalidRequestError

BATCH = RaggedBatch.of([RequestRows([5, 6, 7], 14, [3, 1]), RequestRows([8], 0, [2]), RequestRows([9, 4], 2, [0])])


def check(batch: RaggedBatch) -> None:
    batch.check(vocab_size=10, num_pages=4, page_size=16)


def test_layout() -> None:
    assert BATCH.token_ids.tolist() == [5, 6, 7, 8, 9, 4]
    assert BATCH.positions.tolist() == [14, 15, 16, 0, 2, 3]
    assert BATCH.row_offsets.tolist() == [0, 3, 4, 6]
    assert BATCH.page_table.tolist() == [[3, 1], [2, 0], [0, 0]]
    assert BATCH.logit_rows.tolist() == [2, 3, 5]
    arrays = (BATCH.token_ids, BATCH.positions, BATCH.row_offsets, BATCH.page_table, BATCH.logit_rows)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    check(BATCH)


def test_wanted_logits() -> None:
    rows = [
        RequestRows([1, 2], 0, [0], range(2)),
        RequestRows([3, 4], 0, [1], ()),
        RequestRows([5, 6], 0, [2], (-1, -1, -2)),
    ]
    assert RaggedBatch.of(rows).logit_rows.tolist() == [0, 1, 5, 5, 4]


def changed(field: str, index: object, value: int) -> RaggedBatch:
    array = getattr(BATCH, field).copy()
    array[index] = value
    return replace(BATCH, **{field: array})


@pytest.mark.parametrize(
    ("batch", "param"),
    [
        (changed("token_ids", 0, 10), "token_ids"),
        (changed("token_ids", 5, -1), "token_ids"),
        (changed("positions", 2, 32), "positions"),
        (changed("positions", 0, 13), "positions"),
        (changed("positions", 3, -1), "positions"),
        (changed("row_offsets", 0, 1), "row_offsets"),
        (changed("row_offsets", 3, 7), "row_offsets"),
        (changed("row_offsets", 1, 4), "row_offsets"),
        (changed("page_table", (0, 1), 4), "page_table"),
        (changed("page_table", (0, 0), -1), "page_table"),
        (changed("logit_rows", 0, 6), "logit_rows"),
        (replace(BATCH, positions=BATCH.positions[:-1]), "positions"),
        (replace(BATCH, row_offsets=BATCH.row_offsets[:-1]), "row_offsets"),
        (RaggedBatch.of([]), "token_ids"),
        (RaggedBatch.of([RequestRows([], 0, [0]), RequestRows([1], 0, [1])]), "row_offsets"),
    ],
)
def test_inconsistent_batches_are_refused(batch: RaggedBatch, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check(batch)
    assert caught.value.param == param


def test_pages_beyond_the_context_are_not_looked_at() -> None:
    check(changed("page_table", (1, 1), 99))
