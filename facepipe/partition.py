"""Faces by label: the shuffle between steps, as sorted runs that are merged when read.

Shards are in the order in which photos came, and cleaning goes label by label. So stretches
of shards are sorted by label into *runs*, each a file of short row groups. As every run has
the order of the whole, the faces of neighbouring labels lie in a few row groups of each: who
goes through the labels in order reads every row group once, whatever the number of faces,
and who needs some labels reads only theirs. A run depends on its own shards alone, so that
new photos add runs and leave the others as they are. There is no number of partitions that
a growing dataset would outgrow.

Legend: N rows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.errors import CorruptData
from facepipe.neighbors import vector_matrix
from facepipe.schema import SCHEMA_VERSION, EmbeddingStatus, FaceStatus

# A run is never of more shards than that, so that a shard that changes leaves all runs alone
# but its own, and a night's few new photos rewrite one short run.
RUN_SHARDS = 64
RUN_FACES = 32768  # 32 MB of 512-d vectors; a task holds about three times as much
# Row groups of a run: 256 kB of 512-d vectors. Merging M runs keeps one of each, 1/128 of
# the vectors; shorter ones would spend more time on opening than on reading.
GROUP_ROWS = 256

RUN_KEY = ("source_label", "face_id", "uri", "member")
Float16 = npt.NDArray[np.float16]


def by_label(dim: int, model_id: str) -> pa.Schema:
    """Return the schema of faces by label: a row for every row of FACES.

    Rows that can be compared with their label (``vector`` is not null) come first, by
    RUN_KEY, then the others. ``vector`` is float16 as bytes, which Parquet reads 20 times as
    fast as a list of float16; ``embedded`` says whether the face has a vector at all.
    """
    fields = [
        *(pa.field(n, pa.string(), nullable=n in ("source_label", "member")) for n in RUN_KEY),
        pa.field("embedded", pa.bool_(), nullable=False),
        pa.field("vector", pa.binary(2 * dim)),
    ]
    metadata = {"facepipe.table": "by_label", "facepipe.schema_version": str(SCHEMA_VERSION)}
    return pa.schema(fields, metadata={**metadata, "facepipe.model_id": model_id})


def runs(shards: Sequence[tuple[str, int]]) -> list[range]:
    """Return which of the shards, given as (name, faces) in order, make up each run.

    A run ends with a multiple of RUN_SHARDS, and before it would exceed RUN_FACES; a shard
    with more than that is a run of its own. Parts of a container make runs of their own.
    What is added later changes only the last run.
    """
    found: list[range] = []
    start = faces = 0
    for place, (name, count) in enumerate(shards):
        block = _block(shards[start][0])
        if place > start and (_block(name) != block or faces + count > RUN_FACES):
            found.append(range(start, place))
            start, faces = place, 0
        faces += count
    return [*found, range(start, len(shards))] if shards else []


def _block(shard: str) -> tuple[int, ...]:
    """Return what shards of one run have in common: 000013.0004 is a part of container 13."""
    number, dot, part = shard.partition(".")
    return (int(number), int(part) // RUN_SHARDS) if dot else (int(number) // RUN_SHARDS,)


def sorted_run(faces: pa.Table, embeddings: pa.Table, model_id: str) -> tuple[pa.Table, int]:
    """Return the rows of some shards by label, and how many of them, the first, have vectors.

    faces: schema.FACES, of which face_id, uri, member, source_label and status are read;
    embeddings: face_id, vector and status, row for row of the same faces. Raises CorruptData
    where they are of others.
    """
    if not faces.column("face_id").equals(embeddings.column("face_id")):
        raise CorruptData("the embeddings are not of these faces: run embed again")
    embedded = pc.equal(embeddings.column("status"), EmbeddingStatus.OK.value)
    usable = pc.and_(pc.equal(faces.column("status"), FaceStatus.OK.value), embedded)
    last = pc.invert(pc.and_(usable, pc.is_valid(faces.column("source_label"))))
    keys = faces.select(RUN_KEY).append_column("last", last)
    order = pc.sort_indices(
        keys, sort_keys=[(n, "ascending", "at_start") for n in ("last", *RUN_KEY)]
    )
    stored = len(keys) - int(pc.sum(last).as_py() or 0)
    vectors_ND = vector_matrix(embeddings)
    columns = {n: faces.column(n).take(order) for n in RUN_KEY}
    columns["embedded"] = embedded.take(order)
    rows = order[:stored].to_numpy(zero_copy_only=False)
    columns["vector"] = _as_bytes(vectors_ND[rows], len(keys))
    schema = by_label(vectors_ND.shape[1], model_id)
    return pa.table([columns[n] for n in schema.names], schema=schema), stored


def _as_bytes(vectors_ND: Float16, rows: int) -> pa.ChunkedArray:
    """Return vectors as bytes, with nulls after them to make so many rows."""
    kind = pa.binary(2 * vectors_ND.shape[1])
    data = pa.py_buffer(np.ascontiguousarray(vectors_ND))
    full = pa.Array.from_buffers(kind, len(vectors_ND), [None, data])
    return pa.chunked_array([full, pa.nulls(rows - len(vectors_ND), kind)], kind)


def from_bytes(column: pa.ChunkedArray) -> Float16:
    """Return the vectors of ``by_label``, (N, D) float16; those of null rows mean nothing."""
    width = column.type.byte_width
    parts = [
        np.frombuffer(c.buffers()[1], np.uint8)[c.offset * width : (c.offset + len(c)) * width]
        for c in column.chunks
        if len(c)
    ]
    flat = parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, np.uint8)])
    return flat.view(np.float16).reshape(-1, width // 2)
