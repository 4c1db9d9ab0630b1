"""The gallery on disk: searched by codes where it is large, scored exactly always.

A search takes the rows whose codes look best (of a flat gallery, all), scores them exactly from
their float16 vectors, and orders them by falling score and then face_id. What a gallery does
not have of codes it does not approximate: a flat one is exact, and so is a search whose filter
leaves few rows. Which rows look best is the same however the gallery is cut into shards.

Legend: Q queries, N rows of all shards, K hits, D dimensions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe.errors import CorruptData, ModelMismatch, UsageError
from facepipe.exact_scores import NO_ROW, Float32, Hits
from facepipe.gallery import UNIT_TOLERANCE
from facepipe.gallery_codes import Codes
from facepipe.index_filter import Filter
from facepipe.index_manifest import (
    Manifest,
    Shard,
    current_version,
    read_manifest,
    suppressed_key,
)
from facepipe.index_settings import IndexSettings
from facepipe.open_shards import OpenShard, Shards
from facepipe.shard_files import Check, open_codes, open_shard, verify_file, verify_shard
from facepipe.shard_search import Allowed, is_exact_cheaper, search_all, search_codes
from facepipe.store import Store, open_store

__all__ = [
    "NO_HIT",
    "Gallery",
    "IndexSettings",
    "open_index",
    "open_version",
    "verify_shard",
]

NO_HIT = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """An open gallery; safe to search from several threads."""

    uri: str
    version: str
    record: Manifest = field(repr=False)
    shards: Shards = field(repr=False)
    codes: Codes | None = field(repr=False)  # None: flat
    threads: int
    _chosen: dict[Filter | None, Allowed | None] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Return the number of faces."""
        return self.record.totals.indexed

    @property
    def manifest(self) -> dict[str, Any]:
        """Return the manifest as it is stored."""
        return self.record.model_dump(mode="json")

    @property
    def threshold(self) -> float:
        """Return the score from which a hit is called the same person."""
        return self.record.threshold.value

    @property
    def model_id(self) -> str:
        """Return the id of the model (and flip test) that made the vectors."""
        return self.record.embedding.model_id

    @property
    def dim(self) -> int:
        """Return D."""
        return self.record.embedding.dim

    def search(
        self,
        vectors_ND: NDArray[np.floating],
        k: int,
        *,
        where: Filter | None = None,
        nprobe: int | None = None,
    ) -> tuple[Float32, NDArray[np.object_]]:
        """Return the cosines (N x K, float32, falling) and face ids (N x K, str) of the best.

        The cosines are exact, and equal ones are in the order of face_id. A flat gallery finds
        the best; one of lists finds those of them that are in the ``nprobe`` lists searched (as
        calibrated, if None; ``record.recall`` says what that finds) and among the best by
        their codes. Missing hits have the score -inf and the id "". A query's result does not
        depend on the others.

        where: only faces for which this holds (`facepipe.index_filter.parse_filter`); it is
        applied inside the search, so that no other face takes a place among the k.

        Raises UsageError for k or nprobe < 1, for an unknown column, and for queries that are
        no finite unit vectors; ModelMismatch for vectors of another length than the gallery's.
        """
        queries = self._checked_queries(vectors_ND, k)
        if nprobe is not None and nprobe < 1:
            raise UsageError(f"nprobe is {nprobe}: search at least one list")
        search = self.record.search
        scores, rows = self._search(
            queries, k, nprobe or search.nprobe, search.candidates, self._allowed(where)
        )
        face_ids = np.full(rows.shape, NO_HIT, dtype=object)
        found = rows != NO_ROW
        face_ids[found] = np.char.decode(self.shards.face_ids(rows[found]), "utf-8")
        return scores, face_ids

    def search_approximate(
        self, queries_QD: Float32, k: int, *, nprobe: int, candidates: int
    ) -> Hits:
        """Return scores and rows as a search with these settings finds them."""
        return self._search(queries_QD, k, nprobe, candidates, self._allowed(None))

    def search_exact(self, queries_QD: Float32, k: int) -> Hits:
        """Return scores and rows of the best of all faces."""
        return search_all(self.shards, queries_QD, k, self._allowed(None), self.threads)

    def rows(self, face_ids: Sequence[str]) -> pa.Table:
        """Return the rows (face_id, uri, member, box, identity) of faces, in their order.

        Raises UsageError for a face that is not in the gallery.
        """
        rows = self.shards.rows_of(face_ids)
        missing = np.flatnonzero(rows == NO_ROW)
        if len(missing):
            raise UsageError(f"face {face_ids[int(missing[0])]!r} is not in the gallery {self.uri}")
        return self.shards.table(rows)

    def _search(
        self, queries_QD: Float32, k: int, nprobe: int, candidates: int, allowed: Allowed | None
    ) -> Hits:
        if self.codes is None or is_exact_cheaper(self.codes, nprobe, allowed):
            return search_all(self.shards, queries_QD, k, allowed, self.threads)
        return search_codes(
            self.shards, self.codes, queries_QD, k, nprobe, candidates, allowed, self.threads
        )

    def _checked_queries(self, vectors_ND: NDArray[np.floating], k: int) -> Float32:
        if k < 1:
            raise UsageError(f"k is {k}: ask for at least one hit")
        queries = np.ascontiguousarray(vectors_ND, dtype=np.float32)
        if queries.ndim != 2:
            raise UsageError(f"queries have the shape {queries.shape}: give N x {self.dim}")
        if queries.shape[1] != self.dim:
            raise ModelMismatch(
                f"queries have {queries.shape[1]} dimensions, the gallery {self.uri} has "
                f"{self.dim}: embed them with its model, {self.model_id[:12]}"
            )
        lengths = np.sqrt(np.einsum("nd,nd->n", queries, queries))
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
        if len(wrong):
            raise UsageError(
                f"query {wrong[0]} is no unit vector (length {lengths[wrong[0]]}): "
                "normalise it first, as facepipe.embed.normalise does"
            )
        return queries

    def _allowed(self, where: Filter | None) -> Allowed | None:
        """Return the rows a search may find, None for all; those of the last filter are kept."""
        with suppress(KeyError):
            return self._chosen[where]
        mask = self.shards.living
        if where is not None:
            fulfilled = self.shards.mask(where)
            mask = fulfilled if mask is None else fulfilled & mask
        allowed = None if mask is None else Allowed.of(mask, self.codes)
        if len(self._chosen) > 1:
            self._chosen.clear()
        self._chosen[where] = allowed
        return allowed


# -- opening -----------------------------------------------------------------------------


def open_index(
    uri: str | Path, *, check: Check = "all", threads: int | None = None, merge: bool = True
) -> Gallery:
    """Open the gallery in a folder or at a uri.

    check: "all" hashes every byte of every file first (about 1 s for a million faces of 512
    dimensions). "sizes", for very large local galleries, compares only the files' sizes, and
    the hashes of the manifest, the template and the lists of the deleted: a changed bit in
    vectors, codes or rows then goes unseen until facepipe index verify, and may give a wrong
    answer. What comes from an object store is hashed as it comes, always.

    threads: of a search and of opening; None: one a processor.

    merge: bring the codes of several shards together in a temporary file, at two million faces a
    second, so that they are searched as those of one; not where that would take more than half
    of the temporary disk. False opens at once, and up to some thousands of queries are answered
    sooner; the answers are the same.

    Raises DatasetNotFound where there is none, CorruptData where a file is missing, changed,
    or not what its manifest says.
    """
    store = open_store(uri)
    while True:
        seen = current_version(store)
        try:
            version, manifest = read_manifest(store)
            seen = version
            return open_version(store, version, manifest, check=check, threads=threads, merge=merge)
        except (CorruptData, OSError) as error:
            if current_version(store) == seen:
                if isinstance(error, CorruptData):
                    raise
                raise CorruptData(f"{uri} cannot be opened ({error}): {_REMEDY}") from error
            # Another run has published since, and removed this version's files.


def open_version(
    store: Store,
    version: str,
    manifest: Manifest,
    *,
    check: Check = "all",
    threads: int | None = None,
    merge: bool = True,
) -> Gallery:
    """Open a version of a gallery, also one that is not published yet; as `open_index`."""
    dim, threads = manifest.embedding.dim, threads or cpu_count() or 1
    if manifest.suppressed is not None:  # not used here, and no gallery is opened that is damaged
        verify_file(store, suppressed_key(manifest.suppressed), manifest.suppressed)
    firsts = accumulate((shard.rows for shard in manifest.shards), initial=0)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:

        def opened(shard: Shard, first: int) -> OpenShard:
            return open_shard(store, shard, dim, first, Path(folder), check)

        shards = list(pool.map(opened, manifest.shards, firsts))
        codes = open_codes(store, manifest, Path(folder), check, merge)
    # What is mapped stays, though the folder has gone.
    return Gallery(
        uri=store.uri,
        version=version,
        record=manifest,
        shards=Shards.of(shards, dim),
        codes=codes,
        threads=threads,
    )


_REMEDY = "look with facepipe index verify whether its files are whole"
