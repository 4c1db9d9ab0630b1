"""The few faces that a report shows: crops as small pictures inside the page, and captions."""

from __future__ import annotations

import base64
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe.align import decode_crop
from facepipe.shards import Dataset
from pipelines.report_faces import FaceRows
from pipelines.report_figures import number

SHOT_PX = 96
SHOTS_BYTES = 3_000_000  # of JPEG, 4 MB in base64: a page stays under 6 MB with any text
JPEG_QUALITIES = (80, 70, 60, 50, 40, 30, 20, 10)  # the first that fits in SHOTS_BYTES
_DIRECTION = {
    chr(c) for c in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
TITLE_CHARS, PATH_CHARS = 120, 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One face as the page shows it; ``source`` is a data URI, empty where there is none."""

    source: str
    face_id: str
    label: str
    path: str
    file: str  # the last part of the path
    similarity: float | None
    measures: str


def shown(text: str | None, limit: int = TITLE_CHARS) -> str:
    """Return text without control or direction characters, its middle cut out over ``limit``.

    A folder name can hold anything: a right-to-left override would turn the text after it.
    """
    if text is None:
        return ""
    clean = "".join("\ufffd" if _misleads(c) else c for c in text)
    if len(clean) <= limit:
        return clean
    return f"{clean[: limit // 2]} … {clean[-(limit - limit // 2 - 3) :]}"


def _misleads(character: str) -> bool:
    return character in _DIRECTION or unicodedata.category(character) in {"Cc", "Cs"}


def place_of(row: Mapping[str, Any], root: str) -> str:
    """Return the path of a photo below ``root``, with its name inside an archive."""
    member = f" / {row['member']}" if row["member"] else ""
    return shown(f"{row['uri'].removeprefix(root)}{member}", PATH_CHARS)


def read_shots(
    dataset: Dataset, faces: FaceRows, rows: Iterable[int], root: str
) -> dict[int, Shot]:
    """Return the faces of some rows to look at; reads only the shards that have them.

    A row counts as often as it is given: its picture is in the page as often.
    """
    times = Counter(rows)
    wanted = sorted(times)
    records = faces.records(wanted)
    pictures = _jpegs(_small_pictures(dataset, records), [times[row] for row in wanted])
    return {
        row: _shot(record, picture, root)
        for row, record, picture in zip(wanted, records, pictures, strict=True)
    }


def _small_pictures(
    dataset: Dataset, records: Sequence[dict[str, Any]]
) -> list[NDArray[np.uint8] | None]:
    """Return the crops of records; their paths are read with them, into the records."""
    files = dataset.files("faces")
    of_file: dict[int, list[int]] = {}
    for i, record in enumerate(records):
        of_file.setdefault(record["file"], []).append(i)
    pictures: list[NDArray[np.uint8] | None] = [None] * len(records)
    for file, places in of_file.items():
        table = dataset.read(files[file], ["crop", "uri", "member"])  # one shard at a time
        rows = table.take(pa.array([records[i]["row"] for i in places])).to_pylist()
        for i, row in zip(places, rows, strict=True):
            records[i] |= {"uri": row["uri"], "member": row["member"]}
            crop = decode_crop(row["crop"])
            if crop is not None:
                small = cv2.resize(crop, (SHOT_PX, SHOT_PX), interpolation=cv2.INTER_AREA)
                pictures[i] = np.asarray(small, np.uint8)
    return pictures


def _jpegs(pictures: Sequence[NDArray[np.uint8] | None], times: Sequence[int]) -> list[bytes]:
    """Return pictures as JPEG (empty for none), as good as the page's size allows."""
    encoded: list[bytes] = []
    for quality in JPEG_QUALITIES:
        encoded = [b"" if p is None else _jpeg(p, quality) for p in pictures]
        if sum(len(e) * n for e, n in zip(encoded, times, strict=True)) <= SHOTS_BYTES:
            break
    return encoded


def _jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    ok, data = cv2.imencode(".jpg", picture, flags)
    return bytes(data.tobytes()) if ok else b""


def _shot(row: Mapping[str, Any], jpeg: bytes, root: str) -> Shot:
    score, eyes, yaw = row["det_score"], row["eye_distance_px"], row["yaw_deg"]
    return Shot(
        source=f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else "",
        face_id=shown(row["face_id"]),
        label=shown(row["source_label"]),
        path=place_of(row, root),
        file=shown(str(row["member"] or row["uri"]).rpartition("/")[2]),
        similarity=row["decisions.similarity"],
        measures=f"score {score:.2f}, eyes {eyes:.0f} px apart, yaw {number(round(yaw))}°, "
        f"sharpness {row['sharpness']:.0f}, brightness {row['brightness']:.0f}",
    )
