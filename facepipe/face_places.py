"""Where a face stands in a list: millions of face ids in 40 bytes each, found by bisection.

Legend: M faces of the list, N faces that are looked for.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ids = npt.NDArray[np.bytes_]
Int64 = npt.NDArray[np.int64]


class FacePlaces:
    """Distinct face ids, sorted, and the place of each."""

    def __init__(self, ids: Ids) -> None:
        """Take over ids that are sorted and distinct."""
        self.ids = ids

    @classmethod
    def of(cls, columns: Iterable[pa.Array | pa.ChunkedArray]) -> FacePlaces:
        """Return the places of the distinct ids in some columns."""
        return cls(np.unique(joined([id_bytes(c) for c in columns])))

    def __len__(self) -> int:
        """Return how many faces there are."""
        return len(self.ids)

    def find(self, face_ids: pa.Array | pa.ChunkedArray | Ids) -> Int64:
        """Return the place of each id, (N,) int64; -1 where it is not in the list."""
        wanted_N = face_ids if isinstance(face_ids, np.ndarray) else id_bytes(face_ids)
        if not len(self.ids):
            return np.full(len(wanted_N), -1, np.int64)
        place_N = np.searchsorted(self.ids, wanted_N).astype(np.int64)
        place_N[place_N == len(self.ids)] = 0
        place_N[self.ids[place_N] != wanted_N] = -1
        return place_N


def id_bytes(column: pa.Array | pa.ChunkedArray) -> Ids:
    """Return ids as an array of fixed width: an object a string would take three times as much."""
    if not len(column):
        return np.empty(0, "S1")
    return np.array(column.to_pylist(), dtype=np.str_).astype(np.bytes_)


def joined(parts: list[Ids]) -> Ids:
    """Return ids one after the other."""
    return np.concatenate(parts) if parts else np.empty(0, "S1")
