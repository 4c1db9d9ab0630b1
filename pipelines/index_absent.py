"""Proves that nothing of a face is left in an index: reads every file that lies in its folder.

Versions that are in force or not, orphans, unfinished writes and files that are none of ours:
their bytes as they are, and the values of those that are Parquet.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe.absent import Traces
from facepipe.errors import UsageError
from facepipe.neighbors import has_vector, vector_matrix
from facepipe.shards import Dataset
from facepipe.store import Store
from pipelines.index_delete import Doomed
from pipelines.index_versions import all_versions, own_folder

BLOCK_BYTES = 2**24
PARQUET = b"PAR1"
ROW_COLUMNS = ("face_id", "uri", "member")


@dataclass(frozen=True, slots=True)
class Sought:
    """Ids to be searched for, with what a dataset knows of them."""

    names: tuple[str, ...]
    faces: tuple[str, ...]
    vectors: tuple[bytes, ...]


def find_traces(
    uri: str, names: Sequence[str], *, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Search all bytes of an index for faces, photos and people; return what was found where.

    names: face ids, photo ids, uris, identities. ``dataset``: where their faces are still known:
    the ids of these, and their vectors as they are stored, are searched for as well. ``found``
    lists the files with traces (``bytes``: occurrences in the file itself, ``values``: in the
    decoded values of a Parquet file); it is empty where everything is absent. The rest says
    what was searched. Codes hold no vector and no id: what is left of a vector in them, 1/8 to
    1/64 of it, goes with the shard (`facepipe index verify --full` makes them again).

    Raises UsageError where nothing is named.
    """
    if not any(names):
        raise UsageError("nothing to look for: give face ids, photo ids, uris or identities")
    store = own_folder(uri)
    sought = _sought(tuple(n for n in names if n), dataset)
    traces = Traces([*sought.names, *sought.faces], _matrix(sought.vectors))
    found, files, size = [], 0, 0
    for key, length in _all_files(store).items():
        files, size = files + 1, size + length
        in_bytes = traces.count(_blocks(store, key))
        in_values, readable = _count_values(store, key, traces)
        if in_bytes or in_values:
            found.append({"file": key, "bytes": in_bytes, "values": in_values})
        if not readable:
            found.append({"file": key, "unreadable": True})
    return {
        "found": found,
        "names": len(sought.names),
        "faces": len(sought.faces),
        "vectors": traces.vectors,
        "files": files,
        "bytes": size,
        "versions": len(all_versions(store)),
    }


def _all_files(store: Store) -> dict[str, int]:
    """Return every file below an index with its bytes, unfinished writes too."""
    if store.local is None:
        return {**store.list_all(), **{key: store.size(key) for key in store.list("_tmp")}}
    files = sorted(path for path in store.local.rglob("*") if path.is_file())
    return {path.relative_to(store.local).as_posix(): path.stat().st_size for path in files}


def _blocks(store: Store, key: str) -> Iterator[bytes]:
    with store.open(key) as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


def _count_values(store: Store, key: str, traces: Traces) -> tuple[int, bool]:
    """Return the traces in the values of a Parquet file, and False where it cannot be read."""
    with store.open(key) as stream:
        if stream.read(len(PARQUET)) != PARQUET:
            return 0, True
        stream.seek(0)
        data = io.BytesIO(stream.read())
    found = 0
    try:
        parquet = pq.ParquetFile(data)
        for group in range(parquet.num_row_groups):
            found += traces.count_rows(parquet.read_row_group(group, use_threads=False))
    except (pa.ArrowException, OSError):
        return found, False
    return found, True


# -- what a dataset knows of them --------------------------------------------------------


def _sought(names: tuple[str, ...], dataset: Dataset | None) -> Sought:
    if dataset is None:
        return Sought(names, (), ())
    people = _people(dataset, names)
    doomed = Doomed(faces=names, photos=names, people=names if people is None else ())
    faces: list[str] = []
    vectors: list[bytes] = []
    of_faces = {
        c.shard: f for c in dataset.commits("detect") for f in c.files if f.table == "faces"
    }
    of_vectors = {
        c.shard: f
        for c in dataset.commits(dataset.step_of("embeddings"))
        for f in c.files
        if f.table == "embeddings"
    }
    for shard, file in of_faces.items():
        rows = dataset.read(file, [*ROW_COLUMNS, "source_label"])
        rows = rows.rename_columns([*ROW_COLUMNS, "identity_id"])
        decided = pc.is_in(rows.column("face_id"), value_set=pa.array(people or [], pa.string()))
        mask = doomed.mask(rows) | np.asarray(decided)
        if mask.any():
            faces += rows.column("face_id").filter(pa.array(mask)).to_pylist()
            table = dataset.read(of_vectors[shard], ["vector", "status"])
            stored = vector_matrix(table)[mask & has_vector(table)]
            vectors += [vector.astype("<f2").tobytes() for vector in stored]
    return Sought(names, tuple(sorted(set(faces))), tuple(sorted(set(vectors))))


def _people(dataset: Dataset, names: tuple[str, ...]) -> list[str] | None:
    """Return the faces that cleaning gave one of the names; None where labels are the names."""
    if dataset.plan("clean") is None:
        return None
    decided = dataset.table("decisions", ["face_id", "identity_id"])
    mask = pc.is_in(decided.column("identity_id"), value_set=pa.array(names))
    found: list[str] = decided.column("face_id").filter(mask).to_pylist()
    return found


def _matrix(vectors: Sequence[bytes]) -> NDArray[np.float16] | None:
    if not vectors:
        return None
    return np.stack([np.frombuffer(vector, "<f2") for vector in vectors])
