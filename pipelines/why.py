"""Why a face ended as it did: the chain from its photo to its decision."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facepipe.errors import DatasetNotFound, UsageError
from facepipe.shards import Dataset
from pipelines.progress import printable

_FACE = (
    "face_id",
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
_DECISION = ("decision", "reason", "identity_id", "confidence", "evidence", "similarity", "weight")
_ID = re.compile(r"[0-9a-fA-F]{1,32}(-[0-9]{0,9})?")
_MOST = 20  # faces shown for a short prefix


def explain_face(dataset: Dataset, face_id: str) -> list[dict[str, Any]]:
    """Return, for each occurrence of a face (or of faces whose id starts so), its chain.

    What is no hexadecimal id is the end of a photo's path: all of its faces. Raises UsageError
    where no face has that id, or more than 20 do.
    """
    face_id = face_id.lower() if _ID.fullmatch(face_id) else face_id
    faces = _matching(dataset, "faces", face_id, _FACE)
    if faces.num_rows == 0:
        raise UsageError(
            f"no face in {dataset.uri} has an id that starts with {face_id!r}, or "
            "a photo whose path ends so"
        )
    if faces.num_rows > _MOST:
        raise UsageError(
            f"{faces.num_rows} faces have an id that starts with {face_id!r}: give more of it"
        )
    steps = {
        "dedup": _by_occurrence(dataset, "duplicates", face_id),
        "clean": _by_occurrence(dataset, "decisions", face_id),
    }
    chains = []
    for row in faces.to_pylist():
        occurrence = (row["face_id"], row["uri"], row["member"])
        chain = [
            {"step": step, **rows[occurrence]} for step, rows in steps.items() if occurrence in rows
        ]
        chains.append({**row, "chain": chain})
    return chains


def _matching(dataset: Dataset, table: str, face_id: str, columns: tuple[str, ...]) -> pa.Table:
    if _ID.fullmatch(face_id):
        chosen = pc.starts_with(pc.field("face_id"), face_id)
    else:
        chosen = pc.ends_with(pc.field("uri"), face_id)
        chosen |= pc.ends_with(pc.field("member"), face_id)
    return dataset.scan(table, partial=True).to_table(columns=list(columns), filter=chosen)


def _by_occurrence(
    dataset: Dataset, table: str, face_id: str
) -> dict[tuple[str, str, str | None], dict[str, Any]]:
    try:
        rows = _matching(dataset, table, face_id, ("face_id", "uri", "member", *_DECISION))
    except DatasetNotFound:
        return {}  # the step has not run yet
    return {
        (r["face_id"], r["uri"], r["member"]): {k: r[k] for k in _DECISION}
        for r in rows.to_pylist()
    }


def format_faces(faces: list[dict[str, Any]]) -> str:
    """Return explained faces as text."""
    return "\n\n".join(_format(face) for face in faces)


def _format(face: dict[str, Any]) -> str:
    box = ", ".join(f"{v:.0f}" for v in face["box_xyxy_px"])
    member = f" : {face['member']}" if face["member"] else ""
    lines = [
        f"face {face['face_id']}",
        printable(f"  photo     {face['uri']}{member}"),
        printable(f"  label     {face['source_label'] or '-'}"),
        f"  detect    {face['status']}: score {face['det_score']:.2f}, box ({box}) px, "
        f"eyes {face['eye_distance_px']:.0f} px apart, yaw {face['yaw_deg']:.0f}, "
        f"pitch {face['pitch_deg']:.0f}, roll {face['roll_deg']:.0f} deg, "
        f"sharpness {face['sharpness']:.0f}, brightness {face['brightness']:.0f}",
    ]
    lines += [_format_step(step) for step in face["chain"]]
    if not face["chain"]:
        lines.append("  no decision yet: run facepipe dedup and facepipe clean")
    return "\n".join(lines)


def _format_step(step: dict[str, Any]) -> str:
    similarity = step["similarity"]
    parts = [
        f"  {step['step']:<9} {step['decision']}: {step['reason'].replace('_', ' ')}",
        f"evidence {step['evidence']}" if step["evidence"] else "",
        f"similarity {similarity:.3f}" if similarity is not None else "",
        f"identity {step['identity_id']}" if step["identity_id"] else "",
        f"confidence {step['confidence']:.3f}",
        f"weight {step['weight']:.3f}",
    ]
    return printable(", ".join(p for p in parts if p))
