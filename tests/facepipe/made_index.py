"""Makes small indexes on disk, of any kind and number of shards, by the product's own writers."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe.commits import write_parquet
from facepipe.gallery import GALLERY
from facepipe.index_codes import ShardCodes
from facepipe.index_manifest import (
    CODES,
    CURRENT,
    ROWS,
    VECTORS,
    CodeKind,
    Embedding,
    IndexFile,
    Manifest,
    Origin,
    Search,
    Shard,
    Threshold,
    Totals,
    manifest_key,
    shard_name,
)
from facepipe.index_plan import plan_index
from facepipe.index_template import (
    TrainedTemplate,
    describe_template,
    read_template,
    train_template,
)
from facepipe.shard_rows import GROUP_ROWS
from facepipe.tombstones import with_dead
from facepipe.vector_file import VectorWriter

Half = NDArray[np.float16]
DIM = 16
LISTS = 8
THRESHOLD = Threshold(
    value=0.25,
    fpir=0.01,
    fmr=0.01,
    method="prior",
    note="",
    probes=0,
    comparisons=0,
    impostor_mean=0,
    impostor_std=0.05,
    seed=0,
)


def units(count: int, dim: int = DIM, seed: int = 0) -> Half:
    """Return random unit vectors."""
    raw = np.random.default_rng(seed).normal(size=(count, dim))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def people(count: int, faces: int, dim: int = DIM, seed: int = 0) -> Half:
    """Return unit vectors of ``count`` people with ``faces`` each, one after the other."""
    rng = np.random.default_rng([seed, 1])
    centres = rng.normal(size=(count, dim)).repeat(faces, axis=0)
    raw = centres + 0.6 * rng.normal(size=centres.shape)
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def names(count: int) -> list[str]:
    """Return face ids in their order."""
    return [f"{i:032x}-0000" for i in range(count)]


def rows_of(face_ids: Sequence[str], identities: Sequence[str | None] | None = None) -> pa.Table:
    """Return rows of GALLERY; the photo of face i is /p/i.jpg."""
    numbers = [int(face.split("-")[0], 16) for face in face_ids]
    rows = [
        {"face_id": face, "uri": f"/p/{i}.jpg", "box_xyxy_px": [i, 1, 2, 3], "identity_id": person}
        for face, i, person in zip(
            face_ids, numbers, identities or [None] * len(face_ids), strict=True
        )
    ]
    return pa.Table.from_pylist(rows, schema=GALLERY)


def file_of(data: bytes) -> IndexFile:
    """Return size and hash."""
    return IndexFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@lru_cache(maxsize=32)
def template(kind: CodeKind, dim: int = DIM, lists: int = LISTS) -> tuple[bytes, TrainedTemplate]:
    """Return a trained template of few lists."""
    plan = plan_index(10**6, dim, memory_budget_bytes=None, recall=0.99, kind=kind)
    suffix = plan.factory.split(",")[-1]
    plan = replace(plan, nlist=lists, factory=f"IVF{lists},{suffix}", sample=2048)
    sample = people(512, 4, dim, seed=77)
    data = train_template(sample, plan, 0)
    record = describe_template(data, plan, 0, len(sample))
    return data, read_template(data, record, dim)


def vector_bytes(vectors_ND: Half) -> bytes:
    """Return a file of vectors."""
    stream = io.BytesIO()
    writer = VectorWriter(stream, vectors_ND.shape[1])
    writer.add(vectors_ND)
    writer.close()
    return stream.getvalue()


def code_bytes(vectors_ND: Half, kind: CodeKind, lists: int = LISTS) -> bytes:
    """Return a file of codes."""
    stream = io.BytesIO()
    codes = ShardCodes(template(kind, vectors_ND.shape[1], lists)[1], len(vectors_ND))
    codes.add(vectors_ND)
    codes.write(stream)
    return stream.getvalue()


def shard_bytes(
    vectors_ND: Half, rows: pa.Table, kind: CodeKind, lists: int = LISTS
) -> dict[str, bytes]:
    """Return the files of a shard; its rows are by face_id."""
    files = {
        VECTORS: vector_bytes(vectors_ND),
        ROWS: write_parquet(rows, GALLERY, group_rows=GROUP_ROWS),
    }
    if kind != "flat":
        files[CODES] = code_bytes(vectors_ND, kind, lists)
    return files


def shard_of(files: dict[str, bytes], rows: int) -> Shard:
    """Return the record of a shard."""
    described = {name: file_of(data) for name, data in files.items()}
    return Shard(name=shard_name(described), rows=rows, files=described, inputs="0" * 64)


def manifest_of(
    shards: Sequence[Shard],
    kind: CodeKind = "flat",
    dim: int = DIM,
    search: Search | None = None,
    lists: int = LISTS,
) -> Manifest:
    """Return a manifest of shards."""
    living = sum(shard.rows - shard.dead for shard in shards)
    coded = kind != "flat"
    return Manifest(
        inputs="0" * 64,
        parent=None,
        action="build",
        embedding=Embedding(model_id="m" * 64, flip="none", dim=dim),
        dataset=Origin(plans={}, include="kept", by="status"),
        totals=Totals(expected=living, indexed=living, left_out={}, identities=0),
        kind=kind,
        template=template(kind, dim, lists)[1].record if coded else None,
        search=search or Search(nprobe=lists if coded else 0, candidates=50 if coded else 0),
        recall=None,
        threshold=THRESHOLD,
        shards=tuple(shards),
        shard_rows=2**18,
        note=(),
    )


def put(folder: Path, key: str, data: bytes) -> None:
    """Write a file; nothing here has to survive a power cut."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def publish(
    folder: Path, manifest: Manifest | bytes, files: Sequence[tuple[Shard, dict[str, bytes]]]
) -> Path:
    """Write shards, a manifest, and CURRENT; return the folder."""
    for shard, contents in files:
        for name, data in contents.items():
            put(folder, shard.key(name), data)
    data = manifest if isinstance(manifest, bytes) else manifest.to_json()
    version = hashlib.sha256(data).hexdigest()
    put(folder, manifest_key(version), data)
    put(folder, CURRENT, f"{version}\n".encode())
    return folder


def cuts(count: int, shards: int) -> list[NDArray[np.int64]]:
    """Return the places of faces in each shard: stretches of faces that have been dealt out."""
    dealt = np.random.default_rng(5).permutation(count)
    return [np.sort(part) for part in np.array_split(dealt, shards)]


def made(
    folder: Path,
    vectors_ND: Half,
    *,
    kind: CodeKind = "flat",
    shards: int = 1,
    identities: Sequence[str | None] | None = None,
    dead: Sequence[int] = (),
    search: Search | None = None,
    lists: int = LISTS,
) -> Path:
    """Write an index of the faces ``names(N)`` and return its folder.

    dead: faces that are deleted. Which shard a face is in has nothing to do with its id.
    """
    dim, face_ids = vectors_ND.shape[1], names(len(vectors_ND))
    people_of = identities or [None] * len(vectors_ND)
    written = []
    for places in cuts(len(vectors_ND), shards):
        rows = rows_of([face_ids[i] for i in places], [people_of[i] for i in places])
        files = shard_bytes(vectors_ND[places], rows, kind, lists)
        gone = np.flatnonzero(np.isin(places, np.asarray(dead, np.int64)))
        shard, tombstones = with_dead(shard_of(files, len(places)), gone)
        if shard.tombstones_key is not None:
            put(folder, shard.tombstones_key, tombstones)
        written.append((shard, files))
    if kind != "flat":
        data, trained = template(kind, dim, lists)
        put(folder, trained.record.key, data)
    manifest = manifest_of([shard for shard, _ in written], kind, dim, search, lists)
    return publish(folder, manifest, written)
