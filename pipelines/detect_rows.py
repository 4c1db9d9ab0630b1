"""The rows that detect writes: one a photo, one a face."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import ids
from facepipe.align import CROP_PX, AlignSettings, aligned_crop, encode_crop
from facepipe.crop_hash import crop_grey, crop_hash
from facepipe.decode import Decoded
from facepipe.detect import Faces
from facepipe.quality import QualitySettings, labelled_face, mark, measure
from facepipe.schema import FaceStatus, PhotoStatus
from facepipe.sources import Entry


def pixels_of(decoded: Decoded) -> NDArray[np.uint8]:
    """Return a decoded photo's pixels. Raises ValueError where it has none."""
    if decoded.pixels_HWC is None:
        raise ValueError("only photos with pixels wait for the detector")
    return decoded.pixels_HWC


def failed(status: PhotoStatus, error: str) -> Decoded:
    """Return what stands for a photo that was not decoded."""
    return Decoded(status, error)


def crashed() -> Decoded:
    """Return what stands for a photo that killed its worker, also alone."""
    text = "reading or detecting it killed the process, also when tried alone"
    return failed(PhotoStatus.CRASHED, text)


def photo_row(
    entry: Entry, photo_id: str | None, decoded: Decoded, phash: bytes | None = None, faces: int = 0
) -> dict[str, Any]:
    """Return a row of PHOTOS."""
    return {
        "photo_id": photo_id,
        "uri": entry.uri,
        "member": entry.member,
        "bytes": entry.bytes,
        "format": decoded.format,
        "width_px": decoded.width_px,
        "height_px": decoded.height_px,
        "orientation": decoded.orientation,
        "source_label": entry.source_label,
        "phash": phash,
        "faces": faces,
        "status": str(decoded.status),
        "error": decoded.error,
    }


def face_rows(
    entry: Entry,
    photo_id: str,
    pixels_HWC: NDArray[np.uint8],
    faces: Faces,
    quality: QualitySettings,
    align: AlignSettings,
) -> list[dict[str, Any]]:
    """Align, measure and mark the faces of a photo; return their rows of FACES.

    In a labelled photo every face but the large, central one is a bystander.
    """
    height, width = pixels_HWC.shape[:2]
    labelled = labelled_face(faces.boxes_N4, width, height) if entry.source_label else None
    rows = []
    for k in range(len(faces)):
        row = _face_row(pixels_HWC, faces, k, quality, align)
        if labelled is not None and k != labelled:
            row["status"] = str(FaceStatus.BYSTANDER)
        named = {"face_id": ids.face_id(photo_id, k), "photo_id": photo_id}
        source = {"uri": entry.uri, "member": entry.member, "source_label": entry.source_label}
        rows.append({**named, **source, **row})
    return rows


def _face_row(
    pixels_HWC: NDArray[np.uint8],
    faces: Faces,
    k: int,
    settings: QualitySettings,
    align: AlignSettings,
) -> dict[str, Any]:
    points, box, score = faces.landmarks_N52[k], faces.boxes_N4[k], float(faces.scores_N[k])
    try:
        crop = aligned_crop(pixels_HWC, points)
        encoded = encode_crop(crop, align)
        whole, cut = crop_grey(pixels_HWC, points)
        hashed: dict[str, Any] = {"crop_hash": crop_hash(whole), "crop_grey": cut.tobytes()}
    except ValueError:  # landmarks that coincide: marked by its pose, embedded as bad_crop
        crop, encoded = np.zeros((CROP_PX, CROP_PX, 3), dtype=np.uint8), b""
        hashed = {"crop_hash": None, "crop_grey": None}
    height, width = pixels_HWC.shape[:2]
    measured = measure(crop, points, box, width, height)
    return {
        "box_xyxy_px": box,
        "landmarks_xy_px": points.ravel(),
        "det_score": score,
        "rotation_deg": faces.rotation_deg,
        "padded": bool(faces.padded_N[k]),
        "crop": encoded,
        **hashed,
        "eye_distance_px": measured.eye_distance_px,
        "sharpness": measured.sharpness,
        "yaw_deg": measured.yaw_deg,
        "pitch_deg": measured.pitch_deg,
        "roll_deg": measured.roll_deg,
        "brightness": measured.brightness,
        "inside_frame": measured.inside_frame,
        "status": str(mark(measured, score, settings)),
    }
