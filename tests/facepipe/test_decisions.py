"""Rows taken in an order, also where text columns are taken in pieces."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from facepipe import decisions
from facepipe.decisions import take_rows


def test_a_table_in_pieces_is_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"/photos/{'é' * (n % 7)}{n}.jpg" if n % 5 else None for n in range(100)]
    column = pa.chunked_array([texts[:33], texts[33:]], pa.string())
    schema = pa.schema([pa.field("uri", pa.string()), pa.field("n", pa.int64(), nullable=False)])
    table = pa.table([column, pa.array(range(100))], schema=schema)
    order = pa.array(np.random.default_rng(3).permutation(100)[:80])
    whole = table.take(order)
    for limit, several in ((1 << 20, False), (300, True), (1, True)):
        monkeypatch.setattr(decisions, "MAX_TEXT_BYTES", limit)
        found = take_rows(table, order)
        found.validate(full=True)
        assert found.equals(whole) and found.schema.equals(schema)
        assert (found["uri"].num_chunks > 1) == several
        none = take_rows(table, order.slice(0, 0))
        assert len(none) == 0 and none.schema.equals(schema)
