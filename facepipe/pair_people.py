"""Who is on the items of a list of pairs, as far as the pairs tell.

A .bin set and IJB's template lists say which pairs are one person, not who the people are;
what is resampled must be people (``facepipe.bootstrap``). Legend: N items, P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]


def people_of_pairs(
    items: int, first_P: npt.ArrayLike, second_P: npt.ArrayLike, same_P: npt.ArrayLike
) -> Int:
    """Return a person for each item, (N,) int64 from 0 by first item.

    Items joined by matched pairs, also over others, are one person; an item in none is a
    person of its own. Two components may in truth be one person: then there are fewer
    independent people than this says.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    matched_P = np.asarray(same_P, bool)
    one, other = (np.asarray(side, np.int64)[matched_P] for side in (first_P, second_P))
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(items, items))
    part_N = connected_components(graph, directed=False)[1]
    _, first, part_N = np.unique(part_N, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[part_N], np.int64)
