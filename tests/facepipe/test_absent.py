"""Traces are found wherever they lie, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.absent import LONG_BYTES, SHORT_BYTES, Traces

RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(5, 32)).astype(np.float16)
FACE = "0123456789abcdef0123456789abcdef-0000"
NAME = "Ann Example"


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut a stream into blocks of these sizes, and the rest."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def often(data: bytes, patterns: list[bytes]) -> int:
    return sum(data.startswith(p, at) for p in patterns for at in range(len(data)))


@given(
    st.integers(0, 40),
    st.sampled_from([FACE.encode(), NAME.encode(), VECTORS[3].tobytes()]),
    st.lists(st.integers(0, 90), max_size=6),
    st.integers(1, 2),
)
def test_a_trace_is_found_at_every_offset_and_over_every_cut(
    before: int, trace: bytes, sizes: list[int], times: int
) -> None:
    noise = np.random.default_rng(before).bytes(before + 60)
    data = (noise[:before] + trace) * times + noise[before:]
    traces = Traces([FACE, NAME], VECTORS)
    assert traces.count(cut(data, sizes)) == times
    assert often(data, [FACE.encode(), NAME.encode(), *(v.tobytes() for v in VECTORS)]) == times


def test_one_changed_byte_is_no_trace() -> None:
    data = bytearray(VECTORS[2].tobytes())
    for at in range(len(data)):
        changed = bytes(data[:at]) + bytes([data[at] ^ 1]) + bytes(data[at + 1 :])
        assert Traces([], VECTORS).count([b"xyz", changed, b"xyz"]) == 0


@pytest.mark.parametrize("length", range(1, LONG_BYTES + 3))
def test_short_texts_are_searched_for_where_chance_does_not_find_them(length: int) -> None:
    text = "Zoe Bloggs-Example"[:length]
    raw = Traces([text]).count([b"....", text.encode(), b"...."])
    assert raw == (1 if length >= SHORT_BYTES else 0)
    rows = pa.table({"name": ["someone", text, None]})
    assert Traces([text]).count_rows(rows) >= 1
    assert Traces([text]).count_rows(rows.slice(2)) == 0 or length >= SHORT_BYTES


def test_values_of_any_column_are_searched() -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel(), pa.float16()), 32)
    rows = pa.table({"v": lists, "f": pa.array(["a"] * 5).dictionary_encode()})
    assert Traces([], VECTORS[:2]).count_rows(rows.select(["f"])) == 0
    assert Traces(["a"]).count_rows(rows) == 5


def test_a_vector_of_zeros_is_not_searched_for() -> None:
    traces = Traces([], np.zeros((2, 32), np.float16))
    assert traces.vectors == 0
    assert traces.count([bytes(1000)]) == 0


def test_nothing_is_found_where_nothing_is_looked_for() -> None:
    assert Traces([]).count([b"anything", b"at all"]) == 0
