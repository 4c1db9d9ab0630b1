"""What `facepipe why` found, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.progress import printable

Face = Mapping[str, Any]


def format_faces(faces: Sequence[Face]) -> str:
    """Return explained faces as text."""
    return "\n\n".join(_format(face) for face in faces)


def _format(face: Face) -> str:
    box = ", ".join(f"{v:.0f}" for v in face["box_xyxy_px"])
    lines = [
        f"face {face['face_id']}",
        f"  photo     {_place(face)}{_photo(face['photo'])}",
        f"  label     {face['source_label'] or '-'}",
        f"  detect    {face['status']}: score {face['det_score']:.2f}, box ({box}) px, "
        f"eyes {face['eye_distance_px']:.0f} px apart, yaw {face['yaw_deg']:.0f}, "
        f"pitch {face['pitch_deg']:.0f}, roll {face['roll_deg']:.0f} deg, "
        f"sharpness {face['sharpness']:.0f}, brightness {face['brightness']:.0f}",
    ]
    lines += [_step(step) for step in face["chain"]]
    if not face["chain"]:
        lines.append("  no decision yet: run facepipe dedup and facepipe clean")
    lines += _people(face)
    lines += [_pair(pair) for pair in face["label_pairs"]]
    lines += [f"  said      {line}" for line in face["said"]]
    return "\n".join(printable(line) for line in lines)


def _place(where: Mapping[str, Any]) -> str:
    return f"{where['uri']} : {where['member']}" if where["member"] else str(where["uri"])


def _photo(photo: Mapping[str, Any] | None) -> str:
    if photo is None or photo["width_px"] is None:
        return ""
    return f" ({photo['format']}, {photo['width_px']} x {photo['height_px']} px)"


def _step(step: Mapping[str, Any]) -> str:
    similarity = step["similarity"]
    where = f" ({_place(step['evidence_photo'])})" if step["evidence_photo"] else ""
    parts = [
        f"  {step['step']:<9} {step['decision']}: {step['reason'].replace('_', ' ')}",
        f"evidence {step['evidence']}{where}" if step["evidence"] else "",
        f"similarity {similarity:.3f}" if similarity is not None else "",
        f"identity {step['identity_id']}" if step["identity_id"] else "",
        f"confidence {step['confidence']:.3f}",
        f"weight {step['weight']:.3f}",
    ]
    return ", ".join(p for p in parts if p)


def _people(face: Face) -> list[str]:
    lines = []
    own = face["label_identity"]
    if own is not None:
        sure = "" if own["posterior"] is None else f", probability {own['posterior']:.3f}"
        lines.append(f"  own       {_person(own)}{sure}")
    if face["other_identities"]:
        lines.append(f"  others    {'; '.join(map(_person, face['other_identities']))}")
    return lines


def _person(person: Mapping[str, Any]) -> str:
    faces = f"{person['faces']} kept face{'s' if person['faces'] > 1 else ''}"
    return f"{person['identity_id']}: {person['similarity']:.3f} to {faces}"


def _pair(pair: Mapping[str, Any]) -> str:
    return (
        f"  labels    {pair['label_a']} and {pair['label_b']}: {pair['verdict']}, similarity "
        f"{pair['similarity']:.3f}, support {pair['support']:.2f}, rank {pair['rank']}, "
        f"confidence {pair['confidence']:.3f}"
    )
