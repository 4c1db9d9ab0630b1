"""The rows of OVERLAPS and OVERLAP_IDENTITIES, with the evidence for each.

Legend: N rows of FACES, I identities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.overlap import LEVELS, SAME_PICTURE_COSINE, Marks
from facepipe.person_search import Hits
from facepipe.schema import OVERLAP_IDENTITIES, OVERLAPS, OverlapLevel
from facepipe.shards import Dataset
from pipelines.overlap_rows import Identities, ProbeRows, aligned_files

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What is known of each face of the dataset, in the order of the shards."""

    hits: Hits
    identity_N: Int32
    photo_N: Int32  # place of its photo among the probes' photos; -1


def face_table(
    dataset: Dataset,
    model: str,
    name: str,
    rows: ProbeRows,
    identities: Identities,
    compared: Compared,
    marks: Marks,
) -> pa.Table:
    """Return the marked faces as schema OVERLAPS, by face id."""
    people = pa.array(identities.names, pa.string())
    tables = [OVERLAPS.empty_table()]
    start = 0
    for file, _ in aligned_files(dataset, model):
        marked = np.flatnonzero(marks.level_N[start : start + file.rows] >= 0)
        if len(marked):
            faces = dataset.read(file, ["face_id", "uri", "member"])
            columns = faces.take(pa.array(marked)).combine_chunks()
            row = start + marked
            named = {
                **{n: columns[n] for n in columns.column_names},
                "identity_id": _taken(people, compared.identity_N[row]),
                "probe": pa.array([name] * len(row), pa.string()),
                **_evidence(rows, compared, marks, row),
            }
            tables.append(pa.table([named[n] for n in OVERLAPS.names], schema=OVERLAPS))
        start += file.rows
    keys = [(n, "ascending") for n in ("face_id", "uri", "member")]
    return pa.concat_tables(tables).sort_by(keys).combine_chunks()


def _taken(values: pa.Array | pa.ChunkedArray, places: npt.NDArray[np.integer]) -> Any:
    """Return values by their places; null for -1."""
    return values.take(pa.array(places, mask=places < 0))


def _evidence(
    rows: ProbeRows, compared: Compared, marks: Marks, row: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Return what speaks for some marked faces: whom and which face or photo of the probes."""
    hits = compared.hits
    level = marks.level_N[row]
    by_bytes = level == LEVELS.index(OverlapLevel.SAME_BYTES)
    by_picture = level == LEVELS.index(OverlapLevel.SAME_PICTURE)
    by_identity = level == LEVELS.index(OverlapLevel.SAME_IDENTITY)
    cosine, similarity = hits.cosine_N[row], hits.similarity_N[row]
    similarity = np.where(by_bytes | by_picture, cosine, similarity)
    by_face = ~by_bytes & ~by_identity & (similarity == cosine)
    face = np.where(by_face, hits.nearest_N[row], -1)
    photo = np.where(by_bytes, compared.photo_N[row], -1)
    person = np.where(by_face, _person_of(rows, face), marks.person_N[row])
    labels = pa.array(rows.probes.label_of, pa.string())
    # What the photo's own face in the probes is not, its face here cannot be compared with.
    shown = ~by_identity & ~(by_bytes & (cosine < SAME_PICTURE_COSINE))
    decided: dict[str, Any] = {
        "probe_label": pc.coalesce(
            _taken(rows.photos["source_label"], photo),
            _taken(labels, np.where(by_bytes, -1, person)),
        ),
        "probe_face_id": _taken(rows.faces["face_id"], face),
        "level": pa.array([LEVELS[i].value for i in level], pa.string()),
        "similarity": pa.array(similarity.astype(np.float32), mask=~shown),
        "confidence": pa.array(marks.confidence_N[row]),
    }
    for name in ("uri", "member"):
        of_photo = _taken(rows.photos[name], photo)
        decided[f"probe_{name}"] = pc.coalesce(of_photo, _taken(rows.faces[name], face))
    return decided


def _person_of(rows: ProbeRows, face: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    if not len(rows.faces):
        return np.full(len(face), -1)
    return np.where(face < 0, -1, rows.probes.person_P[face])


def people_table(
    name: str, rows: ProbeRows, identities: Identities, compared: Compared, marks: Marks
) -> pa.Table:
    """Return the identities with a marked face as schema OVERLAP_IDENTITIES, by their name."""
    count = len(identities.names)
    has_N = compared.identity_N >= 0
    faces_I = np.bincount(compared.identity_N[has_N], minlength=count)
    by_level = [
        np.bincount(compared.identity_N[has_N & (marks.level_N == i)], minlength=count)
        for i in range(len(LEVELS))
    ]
    rows_I = np.flatnonzero(sum(by_level)) if count else np.empty(0, np.int64)
    labels = pa.array(rows.probes.label_of, pa.string())
    columns = {
        "identity_id": pa.array(identities.names, pa.string()).take(pa.array(rows_I)),
        "probe": pa.array([name] * len(rows_I), pa.string()),
        "probe_label": _taken(labels, marks.person_I[rows_I]),
        "overlaps": pa.array(marks.by_identity_I[rows_I]),
        "confidence": pa.array(marks.confidence_I[rows_I]),
        "faces": pa.array(faces_I[rows_I], pa.int64()),
        **{
            level.value: pa.array(of_level[rows_I], pa.int64())
            for level, of_level in zip(LEVELS, by_level, strict=True)
        },
    }
    return pa.table([columns[n] for n in OVERLAP_IDENTITIES.names], schema=OVERLAP_IDENTITIES)
