"""Reads what `facepipe overlap` compares: the faces of probes, and the identities of a dataset.

Legend: N rows of FACES, P faces of the probes, M faces with an identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.commits import ShardFile
from facepipe.face_places import FacePlaces, id_bytes, joined
from facepipe.neighbors import has_vector, vector_matrix
from facepipe.overlap import UNFIT
from facepipe.person_search import Probes
from facepipe.schema import Decision, FaceStatus
from facepipe.shards import Dataset
from pipelines.batches import table_batches

FACE_COLUMNS = ("face_id", "photo_id", "uri", "member", "source_label", "status")
Int32 = npt.NDArray[np.int32]
_NO_CODES: Int32 = np.empty(0, np.int32)


def aligned_files(dataset: Dataset, model: str) -> list[tuple[ShardFile, ShardFile]]:
    """Return the files of FACES and EMBEDDINGS, shard by shard; their rows are the same faces."""
    vectors = {c.shard: c.files[0] for c in dataset.commits(dataset.step_of("embeddings", model))}
    faces = {c.shard: f for c in dataset.commits("detect") for f in c.files if f.table == "faces"}
    return [(file, vectors[shard]) for shard, file in faces.items()]


def cleaned(dataset: Dataset) -> bool:
    """Tell whether a dataset has decisions on all its faces."""
    return dataset.plan("clean") is not None and dataset.finished("clean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """Who each face of a dataset is: by its decisions, or by its labels where it has none."""

    names: list[str]
    places: FacePlaces | None  # None: by label
    code_M: Int32

    def codes(self, faces: pa.Table) -> Int32:
        """Return the number of each face's identity, (N,); -1 where it has none."""
        if self.places is not None:
            place_N = self.places.find(faces.column("face_id"))
            if not len(self.places):
                return np.full(len(faces), -1, np.int32)
            return np.where(place_N < 0, -1, self.code_M[place_N]).astype(np.int32)
        names = pa.array(self.names, pa.string())
        code_N = pc.index_in(faces.column("source_label"), value_set=names).fill_null(-1)
        # A bystander is on the photo of the labelled person, and nobody knows who it is.
        own_N = pc.not_equal(faces.column("status"), FaceStatus.BYSTANDER.value)
        return np.asarray(pc.if_else(own_N, code_N, -1).to_numpy()).astype(np.int32)


def read_identities(dataset: Dataset) -> Identities:
    """Return who the faces of a dataset are; its decisions are read as a stream."""
    if not cleaned(dataset):
        found: set[str] = set()
        for file in dataset.files("faces"):
            labels = dataset.read(file, ["source_label"]).column("source_label")
            found.update(pc.unique(labels).drop_null().to_pylist())
        return Identities(names=sorted(found), places=None, code_M=np.empty(0, np.int32))
    ids, codes, ranks = [], [], []
    names: dict[str, int] = {}
    for batch in table_batches(dataset, "decisions", ("face_id", "identity_id", "decision")):
        table = pa.table(batch)
        known = pc.and_(
            pc.is_valid(table["identity_id"]), pc.not_equal(table["decision"], Decision.DROP.value)
        )
        table = table.filter(known)
        ids.append(id_bytes(table["face_id"]))
        people = table["identity_id"].to_pylist()
        codes.append(np.array([names.setdefault(p, len(names)) for p in people], np.int32))
        # Of a photo that is there twice, what was kept says who its faces are.
        ranks.append(pc.equal(table["decision"], Decision.DUPLICATE.value).to_numpy())
    return _distinct(
        joined(ids), np.concatenate([*codes, _NO_CODES]), np.concatenate([*ranks, _NO_CODES]), names
    )


def _distinct(
    ids: npt.NDArray[np.bytes_],
    codes: Int32,
    ranks: Int32,
    names: dict[str, int],
) -> Identities:
    order = np.lexsort((ranks, ids)) if len(ids) else np.empty(0, np.int64)
    distinct, first = np.unique(ids[order], return_index=True)
    ordered = sorted(names)
    renamed = np.empty(len(names), np.int32)
    renamed[[names[n] for n in ordered]] = np.arange(len(names))
    code_M = renamed[codes[order][first]]
    return Identities(names=ordered, places=FacePlaces(distinct), code_M=code_M)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRows:
    """A probe set as it was read: what is searched for, and what a row of it says."""

    probes: Probes
    faces: pa.Table  # face_id, uri, member of the P faces
    photo_places: FacePlaces  # of the ids of all its photos
    photos: pa.Table  # uri, member, source_label by the same places
    all_photos: int
    all_faces: int


def read_probes(dataset: Dataset, model: str) -> ProbeRows:
    """Return the faces of a probe set, by face id; one that is there twice comes once."""
    identities = read_identities(dataset)
    faces, codes, vectors, total = [], [], [], 0
    for table, vectors_ND in _with_vectors(dataset, model):
        total += len(table)
        unfit = pc.is_in(table["status"], value_set=pa.array([s.value for s in UNFIT]))
        rows = np.flatnonzero(has_vector(vectors_ND) & ~unfit.to_numpy())
        faces.append(table.take(pa.array(rows)))
        codes.append(identities.codes(table)[rows])
        vectors.append(vector_matrix(vectors_ND)[rows])
    rows = pa.concat_tables(faces)
    _, first = np.unique(id_bytes(rows["face_id"]), return_index=True)
    table = rows.take(pa.array(first)).combine_chunks()
    code_P = np.concatenate(codes)[first].astype(np.int64)
    alone = np.flatnonzero(code_P < 0)
    code_P[alone] = len(identities.names) + np.arange(len(alone))
    photo_places, photos, count = _photos(dataset)
    return ProbeRows(
        probes=Probes(
            vectors_PD=np.concatenate(vectors)[first],
            person_P=code_P,
            label_of=[*identities.names, *[None] * len(alone)],
            photos_P=table["photo_id"].to_pylist(),
        ),
        faces=table.select(["face_id", "uri", "member"]),
        photo_places=photo_places,
        photos=photos,
        all_photos=count,
        all_faces=total,
    )


def _with_vectors(dataset: Dataset, model: str) -> Iterator[tuple[pa.Table, pa.Table]]:
    for faces, vectors in aligned_files(dataset, model):
        yield dataset.read(faces, FACE_COLUMNS), dataset.read(vectors, ["vector", "status"])


def _photos(dataset: Dataset) -> tuple[FacePlaces, pa.Table, int]:
    """Return the first occurrence of each photo, and how many occurrences there are."""
    table = dataset.table("photos", ["photo_id", "uri", "member", "source_label"])
    known = table.filter(pc.is_valid(table["photo_id"]))
    distinct, first = np.unique(id_bytes(known["photo_id"]), return_index=True)
    rows = known.take(pa.array(first)).combine_chunks()
    return FacePlaces(distinct), rows.select(["uri", "member", "source_label"]), len(table)
