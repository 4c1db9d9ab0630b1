"""Datasets of made vectors on disk, as detect, embed and clean would have committed them.

A face is one row: who it is of, in which photo, and a vector near its person's. So galleries
of thousands are tested in a second, with answers that can be worked out beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe import ids, open_index, schema
from facepipe.commits import Plan, write_shard
from facepipe.shards import Dataset
from facepipe.store import open_store

DIM = 32
SHARD_FACES = 40
NOISE = 0.6  # of a face, beside its person: cosines of about 0.7 within a person


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face; photo and ordinal make its id."""

    person: int
    shot: int
    ordinal: int = 0
    left_px: float = 10.0
    identity: str | None = ""  # "": the person's own name
    decision: str = "keep"

    @property
    def uri(self) -> str:
        return f"photos/p{self.person:03d}/{self.shot:03d}.jpg"

    @property
    def photo_id(self) -> str:
        return ids.photo_id(self.uri.encode())

    @property
    def face_id(self) -> str:
        return ids.face_id(self.photo_id, self.ordinal)

    @property
    def name(self) -> str | None:
        return f"person-{self.person:03d}" if self.identity == "" else self.identity


class Copy(Face):
    """The same bytes under another uri."""

    @property
    def uri(self) -> str:
        return f"copies/{super().uri}"

    @property
    def photo_id(self) -> str:
        return ids.photo_id(super().uri.encode())


@dataclass(kw_only=True)
class Made:
    """A dataset that can be written again with other faces, decisions or another model."""

    folder: Path
    model: str = "first"
    faces: list[Face] = field(default_factory=list)

    @property
    def model_id(self) -> str:
        return ids.digest(["made", self.model])

    def vector(self, face: Face) -> NDArray[np.float16]:
        """Return a face's vector: its person's, with the noise of its shot."""
        seed = int(self.model_id[:8], 16)
        centre = np.random.default_rng([seed, face.person]).normal(size=DIM)
        noise = np.random.default_rng([seed, face.person, face.shot, face.ordinal]).normal(size=DIM)
        vector = centre / np.linalg.norm(centre) + NOISE * noise / np.linalg.norm(noise)
        return (vector / np.linalg.norm(vector)).astype(np.float16)

    def vectors(self, faces: Sequence[Face]) -> NDArray[np.float16]:
        return np.stack([np.empty(DIM, np.float16), *map(self.vector, faces)])[1:]

    def write(self, *, clean: bool = True) -> Dataset:
        """Write all tables. Faces that were there keep their shards; new ones come behind."""
        dataset = Dataset(open_store(str(self.folder)))
        keys: dict[str, str] = {}
        for first in range(0, len(self.faces), SHARD_FACES):
            some, shard = self.faces[first : first + SHARD_FACES], f"{len(keys):06d}"
            keys[shard] = ids.digest([shard, [f.face_id for f in some], [f.left_px for f in some]])
            self._write_shard(dataset, shard, keys[shard], some)
        step = f"embed-{self.model_id[:12]}"
        plan_keys = {s: ids.digest([k, self.model]) for s, k in keys.items()}
        dataset.write_plan(Plan(step="detect", shards=keys, basis={}))
        dataset.write_plan(Plan(step=step, shards=plan_keys, basis={"model_id": self.model_id}))
        dataset.set_current_model(self.model_id)
        if clean:
            self._write_decisions(dataset)
        dataset.write_manifest()
        return dataset

    def _write_shard(self, dataset: Dataset, shard: str, key: str, faces: list[Face]) -> None:
        values: list[dict[str, Any]] = [
            {
                "face_id": f.face_id,
                "photo_id": f.photo_id,
                "uri": f.uri,
                "box_xyxy_px": [f.left_px, 0.0, f.left_px + 50, 50.0],
                "source_label": f"person-{f.person:03d}",
                "status": "ok",
            }
            for f in faces
        ]
        count = len(faces)
        flat = pa.array(self.vectors(faces).ravel(), pa.float16())
        vectors = pa.FixedSizeListArray.from_arrays(flat, DIM)
        face_ids = pa.array([f.face_id for f in faces])
        embeddings = pa.table(
            [face_ids, vectors, pa.array(np.full(count, 20, np.float32)), ["ok"] * count],
            schema=schema.embeddings(DIM, self.model_id),
        )
        detected = write_shard(
            dataset.store,
            step="detect",
            shard=shard,
            key=key,
            tables=[
                ("photos", "photos", schema.PHOTOS.empty_table(), schema.PHOTOS),
                ("faces", "faces", filled(schema.FACES, values), schema.FACES),
            ],
            counts={"faces": {"ok": count}},
        )
        folder = f"embeddings/{self.model_id[:12]}"
        write_shard(
            dataset.store,
            step=f"embed-{self.model_id[:12]}",
            shard=shard,
            key=ids.digest([key, self.model]),
            tables=[("embeddings", folder, embeddings, embeddings.schema)],
            counts={"embeddings": {"ok": count}},
            facts={"faces": detected.files[1].sha256},
        )

    def _write_decisions(self, dataset: Dataset) -> None:
        ordered = sorted(self.faces, key=lambda f: (f.face_id, f.uri))
        values = [
            {
                "face_id": f.face_id,
                "uri": f.uri,
                "identity_id": f.name,
                "decision": f.decision,
                "reason": "same_person" if f.decision == "keep" else "outlier",
            }
            for f in ordered
        ]
        key = ids.digest(values)
        write_shard(
            dataset.store,
            step="clean",
            shard="000000",
            key=key,
            tables=[("decisions", "decisions", filled(schema.DECISIONS, values), schema.DECISIONS)],
            counts={"decisions": {"keep": len(values)}},
        )
        dataset.write_plan(Plan(step="clean", shards={"000000": key}, basis={}))


def people(count: int, shots: int, first: int = 0) -> list[Face]:
    """Return so many faces of so many people, shot by shot."""
    return [
        Face(person=person, shot=shot)
        for shot in range(shots)
        for person in range(first, first + count)
    ]


def filled(like: pa.Schema, values: list[dict[str, Any]]) -> pa.Table:
    """Return rows with the values given, null or nothing in the other columns."""
    columns = []
    for column in like:
        kind, given = column.type, [value.get(column.name) for value in values]
        if column.nullable or all(v is not None for v in given):
            columns.append(pa.array(given, kind))
        elif pa.types.is_fixed_size_list(kind):
            flat = pa.array(np.zeros(len(values) * kind.list_size, np.float32))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, kind.list_size))
        else:
            zero: Any = "" if pa.types.is_string(kind) else b"" if pa.types.is_binary(kind) else 0
            columns.append(pa.array([zero] * len(values)).cast(kind))
    return pa.Table.from_arrays(columns, schema=like)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below an index, byte for byte, but for locks."""
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {k: p.read_bytes() for k, p in files.items() if k not in ("_lock", "_tmp/swapping")}


def nearest(made: Made, faces: Sequence[Face], queries: Sequence[Face], k: int) -> list[list[str]]:
    """Return the k faces of a gallery that are nearest to each query, worked out in float64."""
    gallery = made.vectors(faces).astype(np.float64)
    scores = made.vectors(queries).astype(np.float64) @ gallery.T
    face_ids = [face.face_id for face in faces]
    order = [sorted(range(len(faces)), key=lambda i: (-row[i], face_ids[i])) for row in scores]
    return [[face_ids[i] for i in best[:k]] for best in order]


def search(index: Path, made: Made, queries: Sequence[Face], k: int) -> list[list[str]]:
    """Return what an index finds for faces."""
    _, face_ids = open_index(index).search(made.vectors(queries).astype(np.float32), k)
    return [[str(face) for face in row] for row in face_ids]
