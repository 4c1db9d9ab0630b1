"""Proves that nothing of a face is left in an index: reads every file that lies in its folder.

Versions that are in force or not, orphans, unfinished writes and files that are none of ours:
their bytes as they are, and the values of those that are Parquet.
"""

from __future__ import annotations

import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe.absent import Traces
from facepipe.errors import StoreError, UsageError
from facepipe.neighbors import has_vector, vector_matrix
from facepipe.shards import Dataset
from facepipe.store import Store
from pipelines.index_delete import INSIDE, Doomed
from pipelines.index_files import version_files
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
    unknown: tuple[str, ...]  # names of which the dataset has no face


def find_traces(
    uri: str, names: Sequence[str], *, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Search all bytes of an index for faces, photos and people; return what was found where.

    names: face ids, photo ids, uris, identities; they are searched for in both of Unicode's normal
    forms, and a member of an archive, ``uri : member``, by the member's name. ``dataset``: where
    their faces are still known: the ids of these, and their vectors as they are stored, are
    searched for as well; ``unknown`` are names of which it has no face. ``found`` lists the files
    with traces (``bytes``: occurrences in the file itself, ``values``: in the decoded values of a
    Parquet file; ``unreadable``: it may hold anything); it is empty where everything is absent.
    The rest says what was searched. Codes hold no vector and no id: what is left of a vector in
    them, 1/8 to 1/64 of it, goes with the shard (`facepipe index verify --full` makes them again).
    A template holds the means of the faces that filled its lists when it was made; where few did,
    such a mean is near to them. Only `facepipe index build` anew makes another.

    Raises UsageError where nothing is named, StoreError where files came or went meanwhile.
    """
    if not any(names):
        raise UsageError("nothing to look for: give face ids, photo ids, uris or identities")
    Doomed(faces=tuple(names)).need_text()
    store = own_folder(uri)
    sought = _sought(tuple(n for n in names if n), dataset)
    texts = _spellings(sought.names)
    traces = Traces([*texts, *sought.faces], _matrix(sought.vectors))
    files, versions = _all_files(store), all_versions(store)
    needed = {named.key for manifest in versions.values() for named in version_files(manifest)}
    found: list[dict[str, Any]] = [
        {"file": key, "unreadable": True} for key in sorted(needed - files.keys())
    ]
    for key in files:
        try:
            in_bytes = traces.count(_blocks(store, key))
            in_values, readable = _count_values(store, key, traces)
        except FileNotFoundError:
            continue  # another run has removed it, which the listing below tells
        except OSError:
            in_bytes, in_values, readable = 0, 0, False
        if in_bytes or in_values:
            found.append({"file": key, "bytes": in_bytes, "values": in_values})
        if not readable:
            found.append({"file": key, "unreadable": True})
    if _all_files(store).keys() != files.keys():
        raise StoreError(f"{uri} was changed while it was searched: run the same command again")
    return {
        "found": found,
        "names": len(sought.names),
        "unknown": list(sought.unknown),
        "faces": len(sought.faces),
        "vectors": traces.vectors,
        "files": len(files),
        "bytes": sum(files.values()),
        "versions": len(versions),
    }


def _spellings(names: Iterable[str]) -> list[str]:
    """Return the texts that a name may stand in a file as."""
    parts = [part for name in names for part in (name, name.partition(INSIDE)[2]) if part]
    forms = [(part, *(unicodedata.normalize(f, part) for f in ("NFC", "NFD"))) for part in parts]
    return sorted({text for form in forms for text in form})


def _all_files(store: Store) -> dict[str, int]:
    """Return every file below an index with its bytes, unfinished writes too.

    What is linked to belongs to it, as it does for those who search. Raises OSError for a folder
    that may not be looked into.
    """
    if store.local is None:
        return {**store.list_all(), **{key: store.size(key) for key in store.list("_tmp")}}
    return {**store.list_all(), **store.list_all("_tmp")}


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
        return Sought(names, (), (), ())
    people = _people(dataset, names)
    known: Counter[str] = Counter()
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
        mask = doomed.mask(rows, known) | np.asarray(decided)
        if mask.any():
            faces += rows.column("face_id").filter(pa.array(mask)).to_pylist()
            table = dataset.read(of_vectors[shard], ["vector", "status"])
            stored = vector_matrix(table)[mask & has_vector(table)]
            vectors += [vector.astype("<f2").tobytes() for vector in stored]
    named = set() if people is None else _identities(dataset, names)
    unknown = tuple(name for name in names if not known[name] and name not in named)
    return Sought(names, tuple(sorted(set(faces))), tuple(sorted(set(vectors))), unknown)


def _people(dataset: Dataset, names: tuple[str, ...]) -> list[str] | None:
    """Return the faces that cleaning gave one of the names; None where labels are the names."""
    if dataset.plan("clean") is None:
        return None
    decided = dataset.table("decisions", ["face_id", "identity_id"])
    mask = pc.is_in(decided.column("identity_id"), value_set=pa.array(names))
    found: list[str] = decided.column("face_id").filter(mask).to_pylist()
    return found


def _identities(dataset: Dataset, names: tuple[str, ...]) -> set[str]:
    column = dataset.table("decisions", ["identity_id"]).column("identity_id")
    return set(pc.unique(column.filter(pc.is_in(column, value_set=pa.array(names)))).to_pylist())


def _matrix(vectors: Sequence[bytes]) -> NDArray[np.float16] | None:
    if not vectors:
        return None
    return np.stack([np.frombuffer(vector, "<f2") for vector in vectors])
