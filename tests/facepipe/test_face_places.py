"""Finding face ids by bisection, against a dictionary."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from facepipe.face_places import FacePlaces, id_bytes, joined

NAMES = st.lists(st.text("0123456789abcdef-", min_size=1, max_size=6))


@given(NAMES, NAMES, NAMES)
def test_places_are_those_of_the_sorted_distinct_ids(
    first: list[str], second: list[str], wanted: list[str]
) -> None:
    places = FacePlaces.of(pa.array(part, pa.string()) for part in (first, second))
    expected = {name: i for i, name in enumerate(sorted({*first, *second}))}
    assert [i.decode() for i in places.ids] == list(expected)
    assert len(places) == len(expected)
    found = places.find(pa.array(wanted, pa.string()))
    assert found.dtype == np.int64
    assert found.tolist() == [expected.get(name, -1) for name in wanted]
    assert places.find(id_bytes(pa.array(wanted, pa.string()))).tolist() == found.tolist()


def test_ids_of_different_lengths_are_joined() -> None:
    parts = [
        id_bytes(pa.array(["a"])),
        id_bytes(pa.array(["bcd"])),
        id_bytes(pa.array([], pa.string())),
    ]
    assert joined(parts).tolist() == [b"a", b"bcd"]
    assert len(joined([])) == 0
