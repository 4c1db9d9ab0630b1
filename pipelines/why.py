"""Why a face ended as it did: the chain from its photo to its decision."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facepipe.errors import DatasetNotFound, StoreError, UsageError
from facepipe.schema import Decision, Reason
from facepipe.shards import Dataset
from pipelines.constraints import read_constraints
from pipelines.why_people import NEAREST_PEOPLE, people_near
from pipelines.why_text import format_faces

__all__ = ["explain_face", "format_faces"]

_FACE = (
    "face_id",
    "photo_id",
    "uri",
    "member",
    "source_label",
    "status",
    "det_score",
    "box_xyxy_px",
    "eye_distance_px",
    "sharpness",
    "yaw_deg",
    "pitch_deg",
    "roll_deg",
    "brightness",
    "inside_frame",
)
_PHOTO = ("photo_id", "uri", "member", "format", "width_px", "height_px", "status")
_DECISION = ("decision", "reason", "identity_id", "confidence", "evidence", "similarity", "weight")
_KEY = ("face_id", "uri", "member", "source_label")
_ID = re.compile(r"[0-9a-fA-F]{1,32}(-[0-9]{0,9})?")
_MOST = 20  # faces shown for a short prefix
_MOST_PAIRS = 5

Row = dict[str, Any]


def explain_face(dataset: Dataset, face_id: str) -> list[Row]:
    """Return, for each occurrence of a face (or of faces whose id starts so), its chain.

    What is no hexadecimal id is the end of a photo's path: all of its faces. Raises UsageError
    where no face has that id, or more than 20 do.
    """
    face_id = face_id.lower() if _ID.fullmatch(face_id) else face_id
    table = _matching(dataset, "faces", face_id, _FACE)
    if table.num_rows == 0:
        raise UsageError(
            f"no face in {dataset.uri} has an id that starts with {face_id!r}, or "
            "a photo whose path ends so"
        )
    if table.num_rows > _MOST:
        raise UsageError(
            f"{table.num_rows} faces have an id that starts with {face_id!r}: give more of it"
        )
    faces: list[Row] = table.to_pylist()
    steps = {
        "dedup": _by_occurrence(dataset, "duplicates", face_id),
        "clean": _by_occurrence(dataset, "decisions", face_id),
    }
    for face in faces:
        face["chain"] = [
            {"step": step, **found[key].pop(0)}  # one photo may be there twice under one path
            for step, found in steps.items()
            if found.get(key := tuple(face[k] for k in _KEY))
        ]
    _add_photos(dataset, faces)
    _add_evidence(dataset, faces)
    _add_people(dataset, faces)
    _add_pairs(dataset, faces)
    _add_said(dataset, faces)
    return faces


def _matching(dataset: Dataset, table: str, face_id: str, columns: Sequence[str]) -> pa.Table:
    if _ID.fullmatch(face_id):
        chosen = pc.starts_with(pc.field("face_id"), face_id)
    else:
        chosen = pc.ends_with(pc.field("uri"), face_id)
        chosen |= pc.ends_with(pc.field("member"), face_id)
    return dataset.scan(table, partial=True).to_table(columns=list(columns), filter=chosen)


def _by_occurrence(dataset: Dataset, table: str, face_id: str) -> dict[tuple[Any, ...], list[Row]]:
    try:
        rows = _matching(dataset, table, face_id, (*_KEY, *_DECISION))
    except DatasetNotFound:
        return {}  # the step has not run yet
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows.to_pylist():
        key = tuple(row[k] for k in _KEY)
        found.setdefault(key, []).append({k: row[k] for k in _DECISION})
    return found


def _rows(dataset: Dataset, table: str, columns: Sequence[str], chosen: pc.Expression) -> list[Row]:
    """Return some rows of a table; none where it is not there."""
    try:
        found: list[Row] = (
            dataset.scan(table, partial=True).to_table(list(columns), filter=chosen).to_pylist()
        )
    except StoreError:
        return []
    return found


def _add_photos(dataset: Dataset, faces: Sequence[Row]) -> None:
    ids = pa.array(sorted({face["photo_id"] for face in faces}))
    rows = _rows(dataset, "photos", _PHOTO, pc.field("photo_id").isin(ids))
    of_key = {(r.pop("photo_id"), r.pop("uri"), r.pop("member")): r for r in rows}
    for face in faces:
        face["photo"] = of_key.get((face["photo_id"], face["uri"], face["member"]))


def _add_evidence(dataset: Dataset, faces: Sequence[Row]) -> None:
    """Say where the photo is of a face that decided."""
    steps = [step for face in faces for step in face["chain"]]
    named = sorted({str(step["evidence"]) for step in steps if step["evidence"]})
    chosen = pc.field("face_id").isin(pa.array(named, pa.string()))
    rows = _rows(dataset, "faces", ("face_id", "uri", "member"), chosen) if named else []
    if any(step["step"] == "dedup" for step in steps):
        # Of one photo under several names the kept row last, which then is the one that is named.
        chosen &= pc.field("decision") == Decision.KEEP
        rows += _rows(dataset, "duplicates", ("face_id", "uri", "member"), chosen) if named else []
    place = {r["face_id"]: {"uri": r["uri"], "member": r["member"]} for r in rows}
    for step in steps:
        step["evidence_photo"] = place.get(step["evidence"])


def _add_people(dataset: Dataset, faces: Sequence[Row]) -> None:
    """Say how near the face is to its label's person, and to others."""
    labels = {face["source_label"] for face in faces} - {None}
    near, homes = people_near(dataset, {face["face_id"] for face in faces}, labels)
    for face in faces:
        found = near.get(face["face_id"], {})
        label = face["source_label"]
        own = homes.get(label, label) if label is not None else _cleaned(face).get("identity_id")
        face["label_identity"] = None
        if own in found:
            face["label_identity"] = {
                "identity_id": own,
                **found[own],
                "posterior": _posterior(_cleaned(face)),
            }
        others = [{"identity_id": name, **p} for name, p in found.items() if name != own]
        face["other_identities"] = others[:NEAREST_PEOPLE]


def _cleaned(face: Row) -> Row:
    return next((step for step in face["chain"] if step["step"] == "clean"), {})


def _posterior(step: Mapping[str, Any]) -> float | None:
    """Return the probability that a face is its label's person, where clean states it."""
    if step.get("reason") == Reason.OUTLIER:
        return 1.0 - float(step["confidence"])
    if step.get("decision") in (Decision.KEEP, Decision.MERGE):
        return float(step["confidence"])
    return None


def _add_pairs(dataset: Dataset, faces: Sequence[Row]) -> None:
    """Say which labels were looked at as one person with the face's label."""
    labels = pa.array(sorted({f["source_label"] for f in faces} - {None}), pa.string())
    chosen = pc.field("label_a").isin(labels) | pc.field("label_b").isin(labels)
    columns = ("label_a", "label_b", "verdict", "confidence", "similarity", "support", "rank")
    rows = _rows(dataset, "label_pairs", columns, chosen) if len(labels) else []
    rows.sort(key=lambda r: (-r["similarity"], r["label_a"], r["label_b"]))
    for face in faces:
        own = [r for r in rows if face["source_label"] in (r["label_a"], r["label_b"])]
        face["label_pairs"] = own[:_MOST_PAIRS]


def _add_said(dataset: Dataset, faces: Sequence[Row]) -> None:
    """Say which lines of a person's list are about the face, or about its label."""
    lines = read_constraints(dataset).lines
    for face in faces:
        face["said"] = [
            line.text
            for line in lines
            if face["face_id"] in line.faces or face["source_label"] in line.labels
        ]
