"""Pictures that came under several labels: one row stands for them, and every label has a say.

Scraped sets file a picture under two names. dedup keeps it once, under one of them; if that is
the wrong one, the other label has lost a face, of which a small one has few. So the face is a
witness of each of its labels, and goes to one of the others where it is that label's person and
not its own label's. What is judged here is called an entry: a face under a label.

Legend: R rows of FACES, N entries sorted by label, C claims.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.schema import Decision, FaceStatus

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NO_ROW = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Faces under labels, by label; within one those of its own rows come first.

    row_N: of the face that is judged. further_N: that row is under another label, and a copy of
    it under this one. label_N: place in ``names``, which are sorted.
    """

    row_N: Int64
    further_N: Bool
    label_N: Int64
    names: pa.Array

    @classmethod
    def of(cls, faces: pa.Table, duplicates: pa.Table, rows: Int64) -> Entries:
        """Return the entries of rows that are still to be decided; both tables in one order.

        A label all of whose pictures are kept under others has none.
        """
        kept_X, copy_X = _copies(faces, duplicates, rows)
        labels = faces.column("source_label")
        own = labels.take(pa.array(rows)).combine_chunks()
        names = pc.unique(own)
        names = names.take(pc.sort_indices(names))
        label_N = _places(pa.chunked_array([own, *labels.take(pa.array(copy_X)).chunks]), names)
        row_N = np.concatenate([rows, kept_X])
        further_N = np.arange(len(row_N)) >= len(rows)
        order = np.lexsort((row_N, further_N, label_N))
        order = order[label_N[order] >= 0]
        row_N, further_N, label_N = row_N[order], further_N[order], label_N[order]
        # A face and a label are one entry, however many copies there are.
        again_N = np.zeros(len(order), bool)
        again_N[1:] = further_N[1:] & (np.diff(row_N) == 0) & (np.diff(label_N) == 0)
        at_home_N = further_N & (label_N == _home(row_N, further_N, label_N, len(faces)))
        fit_N = ~(again_N | at_home_N)
        return cls(
            row_N=row_N[fit_N], further_N=further_N[fit_N], label_N=label_N[fit_N], names=names
        )

    def decided(self, original_N: Int64, own_n: Int64) -> tuple[Int64, Int64]:
        """Return the row that each of some entries decides, and how many faces go as it does.

        NO_ROW for further ones. original_N, own_n: as `claims` takes them.
        """
        row_n = np.where(self.further_N[own_n], NO_ROW, self.row_N[own_n])
        copies_N = np.bincount(original_N[~self.further_N], minlength=len(original_N))
        return row_n, copies_N[own_n]

    def claims(self, original_N: Int64, own_n: Int64) -> tuple[Int64, Int64]:
        """Return which entries (C) other labels claim, and by which entry of theirs (C).

        original_N: the entry that each is a near copy of, or itself; own_n: those that are
        themselves, rising. Both answers are places in ``own_n``. An entry that is a near copy
        is decided as its original, and claimed by nobody.
        """
        entry_R = np.full(int(self.row_N.max(initial=-1)) + 1, -1)
        home_N = np.flatnonzero(~self.further_N)
        entry_R[self.row_N[home_N]] = home_N
        further = np.flatnonzero(self.further_N)
        claimed = entry_R[self.row_N[further]]
        itself = original_N[claimed] == claimed
        place_N = np.full(len(self.row_N), -1)
        place_N[own_n] = np.arange(len(own_n))
        return place_N[claimed[itself]], place_N[original_N[further[itself]]]


def _copies(faces: pa.Table, duplicates: pa.Table, rows: Int64) -> tuple[Int64, Int64]:
    """Return rows that copies with a label were kept as (X), and those copies (X).

    A face beside the one that a photo's label means, or unfit otherwise, is no copy of that label.
    """
    twin = pc.equal(duplicates.column("decision"), Decision.DUPLICATE.value)
    fit = pc.equal(faces.column("status"), FaceStatus.OK.value)
    labelled = pc.and_(fit, faces.column("source_label").is_valid())
    copy_X = np.flatnonzero(pc.and_(twin, labelled).to_numpy())
    if not len(copy_X):
        return copy_X, copy_X
    face_ids = faces.column("face_id").take(pa.array(rows)).combine_chunks()
    kept_X = _places(duplicates.column("evidence").take(pa.array(copy_X)), face_ids)
    found_X = kept_X >= 0
    return rows[kept_X[found_X]], copy_X[found_X]


def _home(row_N: Int64, further_N: Bool, label_N: Int64, rows: int) -> Int64:
    """Return the label under which each entry's row is kept."""
    label_R = np.full(rows, -1)
    label_R[row_N[~further_N]] = label_N[~further_N]
    return label_R[row_N]


def _places(values: pa.ChunkedArray, of: pa.Array) -> Int64:
    """Return the place of each value, -1 where it is not there."""
    places = pc.fill_null(pc.index_in(values, value_set=of), -1)
    return np.asarray(places).astype(np.int64)
