"""Pages of the report, parsed; and datasets made of tables alone, for the tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from facepipe import ids
from facepipe.commits import Plan, write_shard
from facepipe.schema import DECISIONS, DUPLICATES, FACES, LABEL_PAIRS, PHOTOS
from facepipe.shards import Dataset
from facepipe.store import LocalStore
from pipelines.report import write_report

VOID = {"meta", "img", "br", "hr", "input", "link", "col", "wbr", "source", "base", "embed"}
Row = dict[str, Any]


class Page(HTMLParser):
    """A parsed page: fails on a tag that is not closed in turn; keeps attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.open = html, []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text_of: dict[str, str] = {}
        self.sheets: dict[str, list[str]] = {}  # face ids under the innermost element with an id
        self.feed(html)
        self.close()
        assert self.open == [], "not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if given.get("data-id"):
            for _, place in self.open:
                self.sheets.setdefault(place, []).append(given["data-id"] or "")
        if tag not in VOID:
            self.open.append((tag, given.get("id") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag, f"</{tag}> out of turn at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        for _, place in self.open:
            if place:
                self.text_of[place] = self.text_of.get(place, "") + data

    def words(self, place: str) -> str:
        return " ".join(self.text_of[place].split())


def page_of(dataset: Dataset, tmp_path: Path) -> Page:
    path = write_report(dataset, str(tmp_path / "page" / "report.html"))
    return Page(Path(path).read_text(encoding="utf-8"))


# -- made tables -------------------------------------------------------------------------


def picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    ok, data = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert ok
    return bytes(data.tobytes())


def a_face(number: int, **given: Any) -> dict[str, Any]:
    photo = ids.photo_id(str(number).encode())
    face: dict[str, Any] = {
        "face_id": ids.face_id(photo, 0),
        "photo_id": photo,
        "uri": f"/photos/anna/{number:04d}.jpg",
        "member": None,
        "box_xyxy_px": [10.0, 10.0, 60.0, 60.0],
        "landmarks_xy_px": [20.0] * 10,
        "det_score": 0.8,
        "rotation_deg": 0,
        "padded": False,
        "crop": picture(number % 40),
        "eye_distance_px": 40.0,
        "sharpness": 100.0,
        "yaw_deg": 3.0,
        "pitch_deg": -4.0,
        "roll_deg": 0.0,
        "brightness": 120.0,
        "inside_frame": 1.0,
        "source_label": "anna",
        "status": "ok",
    }
    return face | given


def a_photo(face: dict[str, Any] | None, **given: Any) -> dict[str, Any]:
    photo: dict[str, Any] = dict.fromkeys(PHOTOS.names)
    photo |= {"bytes": 9, "faces": int(face is not None), "status": "ok", "error": "", "uri": "/p"}
    if face is not None:
        photo |= {k: face[k] for k in ("photo_id", "uri", "member", "source_label")}
    return photo | given


def decided(face: dict[str, Any], decision: str, reason: str, **given: Any) -> dict[str, Any]:
    row = {k: face[k] for k in ("face_id", "uri", "member", "source_label")}
    row |= {"decision": decision, "reason": reason, "confidence": 1.0, "weight": 1.0}
    return {**dict.fromkeys(DECISIONS.names), **row, **given}


def store_step(
    dataset: Dataset, step: str, shards: Sequence[Sequence[tuple[str, pa.Table, pa.Schema]]]
) -> None:
    plan = {f"{i:06d}": ids.digest([step, i]) for i in range(len(shards))}
    basis = {"quality": {"min_eye_distance_px": 8.0, "max_yaw_deg": 75.0}}
    dataset.write_plan(Plan(step=step, shards=plan, basis=basis))
    for (shard, key), tables in zip(plan.items(), shards, strict=True):
        write_shard(
            dataset.store,
            step=step,
            shard=shard,
            key=key,
            tables=[(name, name, rows, schema) for name, rows, schema in tables],
            counts={},
            seconds={"read": 0.25, step: 1.0},
            facts={"threshold": 0.25} if step == "clean" else {},
        )


def stored(
    folder: Path,
    faces: list[dict[str, Any]],
    photos: list[dict[str, Any]] | None = None,
    duplicates: list[dict[str, Any]] | None = None,
    decisions: list[dict[str, Any]] | None = None,
    shard_faces: int = 50,
    pairs: list[dict[str, Any]] | None = None,
) -> Dataset:
    """Write tables as the steps do; the photos of the faces where none are given.

    Pairs of labels belong to clean, as its second table.
    """
    dataset = Dataset(LocalStore(folder))
    photos = [a_photo(f) for f in faces] if photos is None else photos
    cuts = range(0, max(1, len(faces)), shard_faces)
    shards = [
        [
            ("photos", pa.Table.from_pylist(photos if i == 0 else [], schema=PHOTOS), PHOTOS),
            ("faces", pa.Table.from_pylist(faces[i : i + shard_faces], schema=FACES), FACES),
        ]
        for i in cuts
    ]
    store_step(dataset, "detect", shards)
    for step, name, rows, schema in (
        ("dedup", "duplicates", duplicates, DUPLICATES),
        ("clean", "decisions", decisions, DECISIONS),
    ):
        if rows is not None:
            tables = [(name, pa.Table.from_pylist(rows, schema=schema), schema)]
            if pairs is not None and step == "clean":
                listed = pa.Table.from_pylist(pairs, schema=LABEL_PAIRS)
                tables.append(("label_pairs", listed, LABEL_PAIRS))
            store_step(dataset, step, [tables])
    return dataset
