"""Datasets and sources of made crops, each of which is known again by its colours."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe import ids, schema
from facepipe.commits import Plan, write_shard
from facepipe.record_writer import RecordStreams, write_records
from facepipe.shards import Dataset
from facepipe.store import open_store

CROP_PX = 112


def crop(number: int) -> NDArray[np.uint8]:
    """Return the RGB pixels of a crop: 7 x 7 blocks of its own colours."""
    return _crop(number).copy()


@functools.cache
def _crop(number: int) -> NDArray[np.uint8]:
    blocks = np.random.default_rng([5, number]).integers(0, 256, (7, 7, 3))
    return np.kron(blocks, np.ones((16, 16, 1))).astype(np.uint8)


@functools.cache
def encoded(number: int, suffix: str = ".png") -> bytes:
    """Return a crop as PNG (without loss) or JPEG."""
    ok, data = cv2.imencode(suffix, crop(number)[:, :, ::-1])
    assert ok
    return bytes(data.tobytes())


@dataclass(frozen=True, kw_only=True)
class Face:
    """A row of FACES and its decision; its crop is that of its number."""

    number: int
    person: str | None = "ann"
    decision: str = "keep"
    weight: float = 1.0
    data: bytes | None = None  # instead of the number's crop
    copy: int = 0  # the same face in another file

    @property
    def face_id(self) -> str:
        """Return its id."""
        return ids.face_id(ids.photo_id(b"%d" % self.number), 0)

    @property
    def crop(self) -> bytes:
        """Return its encoded crop."""
        return encoded(self.number) if self.data is None else self.data


def faces_of(people: dict[str, int], **given: Any) -> list[Face]:
    """Return faces of some people, numbered through."""
    names = [name for name, count in people.items() for _ in range(count)]
    return [Face(number=n, person=name, **given) for n, name in enumerate(names)]


def dataset_of(folder: Path, faces: list[Face], shard_faces: int = 5) -> Dataset:
    """Write FACES in shards of some faces, in their order, and DECISIONS in the order of ids."""
    dataset = Dataset(open_store(str(folder)))
    keys: dict[str, str] = {}
    for start in range(0, len(faces), shard_faces):
        shard = f"{len(keys):06d}"
        rows = faces[start : start + shard_faces]
        keys[shard] = ids.digest([shard, [f.face_id for f in rows]])
        table = _table(schema.FACES, [_face_row(f) for f in rows])
        _commit(dataset, "detect", shard, keys[shard], "faces", table)
    decided = sorted(faces, key=lambda f: (f.face_id, f.copy))
    table = _table(schema.DECISIONS, [_decision_row(f) for f in decided])
    _commit(dataset, "clean", "000000", "0" * 64, "decisions", table)
    dataset.write_plan(Plan(step="detect", shards=keys, basis={}))
    dataset.write_plan(Plan(step="clean", shards={"000000": "0" * 64}, basis={}))
    dataset.write_manifest()
    return dataset


def rec_of(folder: Path, labels: list[int], suffix: str = ".png") -> Path:
    """Write a .rec with a crop of its own for each label."""
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        rec, idx, lst, prop = (
            stack.enter_context((folder / name).open("wb"))
            for name in ("train.rec", "train.idx", "train.lst", "property")
        )
        rows = ((label, f"{n}.png", encoded(n, suffix)) for n, label in enumerate(labels))
        write_records(rows, RecordStreams(rec=rec, idx=idx, lst=lst, property=prop))
    return folder


def _face_row(face: Face) -> dict[str, Any]:
    return {**_key(face), "photo_id": ids.photo_of(face.face_id), "crop": face.crop, "status": "ok"}


def _decision_row(face: Face) -> dict[str, Any]:
    return {
        **_key(face),
        "identity_id": face.person,
        "decision": face.decision,
        "weight": face.weight,
    }


def _key(face: Face) -> dict[str, Any]:
    return {"face_id": face.face_id, "uri": f"{face.number:04d}/{face.copy}"}


def _commit(dataset: Dataset, step: str, shard: str, key: str, name: str, table: pa.Table) -> None:
    write_shard(
        dataset.store,
        step=step,
        shard=shard,
        key=key,
        tables=[(name, name, table, table.schema)],
        counts={name: {"ok": table.num_rows}},
    )


def _table(like: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows in a schema; columns that are not given say nothing."""
    filled = [{field.name: row.get(field.name, _nothing(field)) for field in like} for row in rows]
    return pa.Table.from_pylist(filled, schema=like)


def _nothing(field: pa.Field) -> Any:
    if field.nullable:
        return None
    if pa.types.is_fixed_size_list(field.type):
        return [0] * field.type.list_size
    empty: dict[pa.DataType, Any] = {pa.string(): "", pa.binary(): b"", pa.bool_(): False}
    return empty.get(field.type, 0)
