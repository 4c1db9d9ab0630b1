"""Which faces a gallery is trained and measured on: a seeded sample, a share of each source.

Legend: N faces, S of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.id_keys import UInt64, text_keys

Int64 = NDArray[np.int64]


def sample_places(
    face_ids: Sequence[str] | pa.Array | pa.ChunkedArray,
    strata: Sequence[str | None] | pa.Array | pa.ChunkedArray | None,
    count: int,
    seed: int,
) -> Int64:
    """Return the places of a sample of ``count`` faces (S, int64), or of all if there are fewer.

    strata: what each face belongs to, such as its source; None: all to one. Each gives its
    share, and one at least while there is room. A face is taken by a seeded hash of its id,
    and the places are in the order of the hashes: the same faces in the same order whatever
    order they come in, and never the first ones.
    """
    keys_N = text_keys(_array(face_ids), salt=seed)
    strata_N = np.zeros(len(keys_N), np.int64)
    if strata is not None:
        codes = pc.fill_null(_array(strata), "").dictionary_encode()
        if isinstance(codes, pa.ChunkedArray):
            codes = codes.combine_chunks()
        strata_N = codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return sample_by_key(keys_N, strata_N, count)


def sample_by_key(keys_N: UInt64, strata_N: Int64, count: int) -> Int64:
    """Return the places of the sample, given a key of each face (unique) and its stratum.

    In each stratum the faces are ranked by key, and taken by rank over size: rank 0 of all
    first, then each stratum's share.
    """
    order = np.lexsort((keys_N, strata_N))
    sorted_strata = strata_N[order]
    _, first, sizes = np.unique(sorted_strata, return_index=True, return_counts=True)
    rank_N = np.arange(len(order)) - np.repeat(first, sizes)
    turn_N = rank_N / np.repeat(sizes, sizes)
    taken = order[np.lexsort((keys_N[order], turn_N))[:count]]
    places: Int64 = taken[np.argsort(keys_N[taken], kind="stable")]
    return places


def _array(
    texts: Sequence[str | None] | pa.Array | pa.ChunkedArray,
) -> pa.Array | pa.ChunkedArray:
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        return texts
    return pa.array(list(texts), pa.string())
