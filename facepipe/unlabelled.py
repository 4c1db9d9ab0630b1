"""Faces without a label: which of them are looked at, and their people as tables and decisions.

Legend: R rows of FACES, N faces without a label that can be compared, G clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.centres import VectorRows
from facepipe.cluster import ClusterSettings, People, find_people, photo_constraints
from facepipe.decisions import ROW_KEY, row_order, take_rows
from facepipe.errors import CorruptData
from facepipe.identity_names import stable_names
from facepipe.neighbors import vector_rows
from facepipe.schema import (
    CLUSTER_PAIRS,
    CLUSTERS,
    DECISIONS,
    LABEL_PAIRS,
    Decision,
    FaceStatus,
    PairVerdict,
    Reason,
)

Int64 = npt.NDArray[np.int64]
FacePairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class SomeRows:
    """Some rows of stored vectors, used as an array of them is."""

    vectors: VectorRows
    row_N: Int64

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (rows, dimensions)."""
        return len(self.row_N), self.vectors.shape[1]

    def __getitem__(self, rows: Int64, /) -> npt.NDArray[np.floating]:
        """Return the vectors of rows."""
        return self.vectors[self.row_N[rows]]


def cluster_faces(
    faces: pa.Table,
    duplicates: pa.Table,
    embeddings: pa.Table,
    settings: ClusterSettings,
    vectors: VectorRows,
    same: FacePairs = (),
    different: FacePairs = (),
) -> tuple[pa.Table, pa.Table]:
    """Return schema.CLUSTERS of the faces that can be compared, and schema.CLUSTER_PAIRS.

    faces: rows without a label, with the columns face_id, photo_id, uri, member and status;
    duplicates: what dedup made of them (face_id, uri, member, decision). embeddings and
    vectors: as for ``clean_faces``. same, different: pairs of face ids that a person said are
    one, and two; others than of these faces are passed over. Faces fit for use that are no
    duplicate of another are looked at. Rows by (face_id, uri, member).
    """
    faces = _usable(faces, duplicates)
    row_N = vector_rows(faces.column("face_id"), embeddings)
    faces, row_N = faces.filter(pa.array(row_N >= 0)), row_N[row_N >= 0]
    order = np.argsort(row_N, kind="stable")  # stored vectors are read in their own order
    faces, stored = take_rows(faces, pa.array(order)), SomeRows(vectors, row_N[order])
    if not len(faces):
        return CLUSTERS.empty_table(), CLUSTER_PAIRS.empty_table()
    face_ids = faces.column("face_id").combine_chunks()
    photo_N = faces.column("photo_id").combine_chunks().dictionary_encode().indices.to_numpy()
    apart = [photo_constraints(photo_N.astype(np.int64), stored), _rows_of(different, face_ids)]
    found = find_people(
        stored,
        settings,
        cannot_link=np.concatenate(apart),
        must_link=_rows_of(same, face_ids),
    )
    return _clusters(faces, found), _pairs(found)


def _usable(faces: pa.Table, duplicates: pa.Table) -> pa.Table:
    faces = faces.filter(
        pc.and_(
            pc.equal(faces.column("status"), FaceStatus.OK.value),
            faces.column("source_label").is_null(),
        )
    )
    gone = duplicates.filter(pc.equal(duplicates.column("decision"), Decision.DUPLICATE.value))
    faces = take_rows(faces, row_order(faces))
    return faces.filter(pc.invert(pa.array(_among(faces, gone))))


def _among(rows: pa.Table, others: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are among others, by (face_id, uri, member)."""
    names = []
    for table in (rows, others):  # together longer than a string column may be
        parts = [table.column(name).cast(pa.large_string()) for name in ROW_KEY]
        filled = [*parts[:-1], pc.fill_null(parts[-1], "")]
        names.append(pc.binary_join_element_wise(*filled, pa.scalar("\0", pa.large_string())))
    found: npt.NDArray[np.bool_] = pc.is_in(
        names[0], value_set=names[1].combine_chunks()
    ).to_numpy()
    return found


def _rows_of(pairs: FacePairs, face_ids: pa.Array) -> Int64:
    """Return the rows of pairs of faces, (E, 2); a pair with another face is left out."""
    names = pa.array([face for pair in pairs for face in pair], pa.string())
    found = pc.index_in(names, value_set=face_ids).fill_null(-1).to_numpy()
    rows = np.asarray(found, np.int64).reshape(-1, 2)
    kept: Int64 = rows[(rows >= 0).all(axis=1) & (rows[:, 0] != rows[:, 1])]
    return kept


def _clusters(faces: pa.Table, found: People) -> pa.Table:
    person_N = found.person_N
    known_N = person_N >= 0
    typical_N = _typical(person_N, found.cosine_N)
    columns = {
        **{name: faces.column(name) for name in ROW_KEY},
        "cluster": pa.array(person_N),
        "confidence": pa.array(found.confidence_N.astype(np.float32)),
        "evidence": faces.column("face_id").take(pa.array(typical_N, mask=typical_N < 0)),
        "similarity": pa.array(found.cosine_N.astype(np.float32), mask=~known_N),
    }
    table = pa.table([columns[f.name] for f in CLUSTERS], schema=CLUSTERS)
    return take_rows(table, row_order(table))


def _typical(person_N: Int64, cosine_N: npt.NDArray[np.float64]) -> Int64:
    """Return for each face the one of its cluster nearest to the middle; -1 for a face alone.

    For that face itself the next one.
    """
    order = np.lexsort((-cosine_N, person_N))
    order = order[person_N[order] >= 0]
    first = np.searchsorted(person_N[order], np.arange(int(person_N.max(initial=-1)) + 1))
    typical_N = np.full(len(person_N), -1)
    known = np.flatnonzero(person_N >= 0)
    typical_N[known] = order[first[person_N[known]]]
    typical_N[order[first]] = order[first + 1]
    return typical_N


def _pairs(found: People) -> pa.Table:
    pairs = found.pairs
    verdict = np.where(pairs.apart_P, PairVerdict.REFUSED.value, PairVerdict.AMBIGUOUS.value)
    columns = [
        pairs.first_P,
        pairs.second_P,
        verdict.astype(object),
        pairs.probability_P.astype(np.float32),
        pairs.cosine_P.astype(np.float32),
    ]
    return pa.table([pa.array(c) for c in columns], schema=CLUSTER_PAIRS)


def name_clusters(
    decisions: pa.Table,
    clusters: pa.Table,
    pairs: pa.Table,
    previous: Mapping[str, str],
) -> tuple[pa.Table, pa.Table]:
    """Return decisions with the people found without labels, and their pairs by name.

    decisions: schema.DECISIONS by (face_id, uri, member), in which faces without a label are
    keep/unlabelled; clusters, pairs: what ``cluster_faces`` made of them; previous: the identity
    that faces had in an earlier run. Faces of a cluster become keep/clustered, and their
    duplicates get the same identity. A weight is multiplied by the confidence. Returns the
    decisions, and schema.LABEL_PAIRS. Raises CorruptData where clusters are of other faces.
    """
    if not len(clusters):
        return decisions, LABEL_PAIRS.empty_table()
    group_N = clusters.column("cluster").to_numpy()
    face_ids = clusters.column("face_id").combine_chunks()
    labels = pc.unique(decisions.column("source_label")).drop_null().to_pylist()
    names = pa.array(stable_names(group_N, face_ids.to_pylist(), previous, labels), pa.string())
    place_R = pc.index_in(decisions.column("face_id"), value_set=face_ids)
    place_R = place_R.fill_null(-1).to_numpy().astype(np.int64)
    plain_R = pc.equal(decisions.column("reason"), Reason.UNLABELLED.value).to_numpy()
    if (plain_R & (place_R >= 0)).sum() != len(clusters):
        raise CorruptData("the clusters are not of these faces: run facepipe clean again")
    in_R = plain_R & (place_R >= 0)
    in_R[in_R] = group_N[place_R[in_R]] >= 0
    identity = names.take(pa.array(group_N[place_R], mask=~in_R))
    duplicate_R = pc.equal(decisions.column("decision"), Decision.DUPLICATE.value).to_numpy()
    bare_R = decisions.column("identity_id").is_null().to_numpy()
    twin_R = duplicate_R & bare_R  # its kept face may have an identity now
    kept = pc.index_in(decisions.column("evidence"), value_set=face_ids).fill_null(-1).to_numpy()
    of_twin = twin_R & (kept >= 0)
    group_of_twin = np.where(of_twin, group_N[np.maximum(kept, 0)], -1)
    identity = pc.coalesce(identity, names.take(pa.array(group_of_twin, mask=group_of_twin < 0)))
    mark = pa.array(in_R)

    def filled(name: str) -> pa.ChunkedArray:
        rows = pa.array(place_R, mask=~in_R)
        return pc.if_else(mark, clusters.column(name).take(rows), decisions.column(name))

    confidence_R = filled("confidence")
    columns = {name: decisions.column(name) for name in DECISIONS.names}
    columns["identity_id"] = pc.coalesce(decisions.column("identity_id"), identity)
    columns["reason"] = pc.if_else(mark, Reason.CLUSTERED.value, decisions.column("reason"))
    columns["evidence"], columns["similarity"] = filled("evidence"), filled("similarity")
    columns["confidence"] = confidence_R
    weight = decisions.column("weight")
    columns["weight"] = pc.if_else(mark, pc.multiply(weight, confidence_R), weight)
    table = pa.table([columns[f.name] for f in DECISIONS], schema=DECISIONS)
    return table, _named_pairs(pairs, names)


def _named_pairs(pairs: pa.Table, names: pa.Array) -> pa.Table:
    ends = [names.take(pairs.column(c).combine_chunks()) for c in ("cluster_a", "cluster_b")]
    columns = {
        "label_a": pc.min_element_wise(*ends),
        "label_b": pc.max_element_wise(*ends),
        "verdict": pairs.column("verdict"),
        "confidence": pairs.column("confidence"),
        "similarity": pairs.column("similarity"),
        "support": pa.nulls(len(pairs), pa.float32()),
        "rank": pa.nulls(len(pairs), pa.int32()),
    }
    table = pa.table([columns[f.name] for f in LABEL_PAIRS], schema=LABEL_PAIRS)
    return table.sort_by([("label_a", "ascending"), ("label_b", "ascending")])
