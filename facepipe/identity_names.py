"""Names of people that were found without labels: they stay with them from run to run.

Legend: N faces, G groups.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from facepipe import ids

PREFIX = "person-"
DIGEST_HEX = 12  # 48 bits: of a million people some two are alike by chance once in 560 sets

Int64 = npt.NDArray[np.int64]


def new_name(face_id: str, taken: Collection[str] = ()) -> str:
    """Return ``person-`` and 12 hex digits of a digest of a face id, none that is taken.

    Where the name is taken, the digest is of the face id and a number, from 1.
    """
    text, tries = face_id, 0
    while (name := PREFIX + ids.sha256_hex(text.encode())[:DIGEST_HEX]) in taken:
        tries += 1
        text = f"{face_id} {tries}"
    return name


def stable_names(
    group_N: Int64,
    face_ids: Sequence[str],
    previous: Mapping[str, str],
    taken: Collection[str] = (),
) -> list[str]:
    """Return a name for each group: the one that most of its faces had before, or a new one.

    group_N: int64, 0..G-1, every number in use; -1 is nobody. face_ids: ids of those faces.
    previous: the identity that faces had in the run before. taken: names that are somebody
    else's, such as labels.

    Pairs of group and earlier name, those that share most faces first: each takes the other
    where both are free. So a split leaves the name with the larger part, and of two groups
    that are now one the larger gives the name. Ties: the lower name, then the group with the
    lower face id. A group that nothing is left for is named after its lowest face id; an
    earlier name is not given to anybody else. Raises ValueError for a gap in the numbers.
    """
    groups = int(group_N.max(initial=-1)) + 1
    first: list[str | None] = [None] * groups
    shared: dict[tuple[int, str], int] = {}
    for group, face in zip(group_N.tolist(), face_ids, strict=True):
        if group < 0:
            continue
        lowest = first[group]
        first[group] = face if lowest is None else min(lowest, face)
        name = previous.get(face)
        if name is not None:
            shared[group, name] = shared.get((group, name), 0) + 1
    lowest_G = [face for face in first if face is not None]
    if len(lowest_G) != groups:
        raise ValueError(f"{groups - len(lowest_G)} of {groups} groups have no face")
    others = set(taken)
    names: dict[int, str] = {}
    gone: set[str] = set()
    for group, name in sorted(shared, key=lambda p: (-shared[p], p[1], lowest_G[p[0]])):
        if group not in names and name not in gone and name not in others:
            names[group] = name
            gone.add(name)
    others |= set(previous.values())
    for group in sorted(set(range(groups)) - set(names), key=lowest_G.__getitem__):
        names[group] = new_name(lowest_G[group], others)
        others.add(names[group])
    return [names[group] for group in range(groups)]
