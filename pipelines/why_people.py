"""Which people a face is near to, measured anew from the vectors, for `facepipe why`.

Vectors are read a batch at a time; only those of a few people are held. Legend: F faces that
are asked about, B faces of a batch, M members of a person, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.errors import StoreError
from facepipe.neighbors import unit_rows, vector_matrix
from facepipe.schema import Decision, EmbeddingStatus
from facepipe.shards import Dataset

NEAREST_FACES = 64  # among which the nearest people are looked for
NEAREST_PEOPLE = 3
MOST_MEMBERS = 1000  # of a person, in the order of their ids: enough for a mean
BATCH_ROWS = 1 << 16  # 64 MB of 512 dimensions
_KEPT = pa.array([Decision.KEEP, Decision.RELABEL, Decision.MERGE])

Float32 = npt.NDArray[np.float32]


def people_near(
    dataset: Dataset, faces: Iterable[str], labels: Iterable[str]
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, str]]:
    """Return for each face the people it is near to, and for each label whom it stands for.

    Of a person: cosine of the face to the mean of the kept faces but itself, and how many those
    are. The people are those of the labels, and of the faces that are nearest; nearest first.
    Both empty where there are no vectors, or where clean has not finished.
    """
    try:
        vectors = _vectors(dataset, sorted(set(faces)))
        homes = _homes(dataset, sorted(set(labels)))
        near = _nearest_people(dataset, vectors)
    except StoreError:
        return {}, {}
    names = {name for found in near.values() for name in found} | set(homes.values())
    members = _members(dataset, sorted(names))
    known = _vectors(dataset, sorted({face for ids in members.values() for face in ids}))
    return {
        face: _measured(face, vector_D, {*near[face], *homes.values()}, members, known)
        for face, vector_D in vectors.items()
    }, homes


def _measured(
    face: str,
    vector_D: Float32,
    names: Iterable[str],
    members: Mapping[str, Sequence[str]],
    known: Mapping[str, Float32],
) -> dict[str, dict[str, Any]]:
    found = []
    for name in sorted(names):
        others = [known[m] for m in members.get(name, ()) if m != face and m in known]
        if others:
            centre_1D = unit_rows(np.sum(np.stack(others), axis=0, keepdims=True))
            cosine = float(np.sum(centre_1D[0] * vector_D))
            found.append((name, {"similarity": round(cosine, 6), "faces": len(others)}))
    return dict(sorted(found, key=lambda pair: (-pair[1]["similarity"], pair[0])))


def _vectors(dataset: Dataset, faces: Sequence[str]) -> dict[str, Float32]:
    """Return the vectors of some faces; reads those of a shard only where it has one of them."""
    wanted = pa.array(faces, pa.string())
    found: dict[str, Float32] = {}
    for file in dataset.files("embeddings"):
        known = dataset.read(file, ["face_id", "status"])
        fit = pc.equal(known["status"], EmbeddingStatus.OK.value)
        rows = np.flatnonzero(pc.and_(fit, pc.is_in(known["face_id"], value_set=wanted)).to_numpy())
        if len(rows):
            vectors_ND = vector_matrix(dataset.read(file, ["vector"]))[rows]
            names = known["face_id"].take(pa.array(rows)).to_pylist()
            found |= zip(names, unit_rows(vectors_ND), strict=True)
    return found


def _homes(dataset: Dataset, labels: Sequence[str]) -> dict[str, str]:
    """Return the identity that most of a label's own faces have."""
    own = pc.field("source_label").isin(pa.array(labels, pa.string()))
    own &= pc.field("decision").isin(pa.array([Decision.KEEP, Decision.MERGE]))
    table = dataset.scan("decisions").to_table(columns=["source_label", "identity_id"], filter=own)
    counts = table.group_by(["source_label", "identity_id"]).aggregate([([], "count_all")])
    rows = [r for r in counts.to_pylist() if r["identity_id"] is not None]
    rows.sort(key=lambda r: (r["count_all"], r["identity_id"]))
    return {r["source_label"]: r["identity_id"] for r in rows}


def _nearest_people(dataset: Dataset, vectors: Mapping[str, Float32]) -> dict[str, list[str]]:
    """Return the identities of the kept faces nearest to each face, a few, nearest first."""
    if not vectors:
        return {}
    ids = list(vectors)
    best = _nearest_faces(dataset, np.stack(list(vectors.values())))
    of_face = _identities(dataset, sorted({face for found in best for _, face in found}))
    return {
        face: list(dict.fromkeys(of_face[o] for _, o in found if o != face and o in of_face))[
            : NEAREST_PEOPLE
            + 1  # one of them may be its own
        ]
        for face, found in zip(ids, best, strict=True)
    }


def _nearest_faces(dataset: Dataset, vectors_FD: Float32) -> list[list[tuple[float, str]]]:
    """Return the faces nearest to each vector, with their cosines, nearest first.

    FAISS multiplies with 16-bit floats as they are stored; making them wider in numpy takes
    ten times as long.
    """
    import faiss

    best: list[list[tuple[float, str]]] = [[] for _ in vectors_FD]
    dim = vectors_FD.shape[1]
    for file in dataset.files("embeddings"):
        for start in range(0, file.rows, BATCH_ROWS):
            rows = range(start, min(start + BATCH_ROWS, file.rows))
            table = dataset.read(file, ["face_id", "vector", "status"], rows)
            table = table.filter(pc.equal(table["status"], EmbeddingStatus.OK.value))
            if not len(table):
                continue
            half = faiss.ScalarQuantizer.QT_fp16
            index = faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)
            index.add_sa_codes(np.ascontiguousarray(vector_matrix(table)).view(np.uint8))
            cosine_FK, place_FK = index.search(vectors_FD, min(NEAREST_FACES, len(table)))
            for f, (cosine_K, place_K) in enumerate(zip(cosine_FK, place_FK, strict=True)):
                names = table["face_id"].take(pa.array(place_K)).to_pylist()
                fresh = zip(cosine_K.tolist(), names, strict=True)
                best[f] = sorted({*best[f], *fresh}, key=lambda p: (-p[0], p[1]))[:NEAREST_FACES]
    return best


def _identities(dataset: Dataset, faces: Sequence[str]) -> dict[str, str]:
    chosen = pc.field("face_id").isin(pa.array(faces, pa.string()))
    chosen &= pc.field("decision").isin(_KEPT)
    table = dataset.scan("decisions").to_table(columns=["face_id", "identity_id"], filter=chosen)
    pairs = zip(table["face_id"].to_pylist(), table["identity_id"].to_pylist(), strict=True)
    return {face: name for face, name in pairs if name is not None}


def _members(dataset: Dataset, names: Sequence[str]) -> dict[str, list[str]]:
    chosen = pc.field("identity_id").isin(pa.array(names, pa.string()))
    chosen &= pc.field("decision").isin(_KEPT)
    table = dataset.scan("decisions").to_table(columns=["face_id", "identity_id"], filter=chosen)
    found: dict[str, list[str]] = {}
    for row in table.sort_by("face_id").to_pylist():
        members = found.setdefault(row["identity_id"], [])
        if len(members) < MOST_MEMBERS:
            members.append(row["face_id"])
    return found
