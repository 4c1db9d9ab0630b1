"""Measures a gallery that has been written and is not in force yet: threshold, search, recall.

Legend: S sampled faces, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe import ids
from facepipe.gallery import GALLERY
from facepipe.id_keys import UInt64, joined, text_keys
from facepipe.index import open_version
from facepipe.index_codes import CODES_VERSION
from facepipe.index_manifest import INDEX_VERSION, VECTORS, Manifest, Shard, Threshold
from facepipe.index_settings import IndexSettings
from facepipe.search_calibration import calibrate_search
from facepipe.store import Store
from facepipe.threshold import calibrate
from facepipe.vector_file import open_vectors
from pipelines.index_files import living_rows, vector_blocks
from pipelines.index_shards import room
from pipelines.runners.process import give_memory_back

SAMPLE_FACES = 200_000  # a file of 200 MB; the threshold is of all faces, by their number
SAMPLE_COLUMNS = ("face_id", "identity_id", "uri")
PART_ROWS = 8192  # of the sample, copied at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A gallery to be measured; what the draft says of threshold and recall is not used."""

    draft: Manifest

    @property
    def inputs(self) -> str:
        """Return a digest of all that the result depends on, but for the settings."""
        draft = self.draft
        shards = [
            [s.name, None if s.tombstones is None else s.tombstones.sha256] for s in draft.shards
        ]
        template = None
        if draft.template is not None:
            template = [CODES_VERSION, draft.template.file.sha256]
        search = draft.search.model_dump()
        return ids.digest([INDEX_VERSION, "calibrate", draft.kind, template, shards, search])


def unmeasured(settings: IndexSettings) -> Threshold:
    """Return the threshold of a draft: nobody is above it."""
    return Threshold(
        value=1.0,
        fpir=settings.fpir,
        fmr=0.0,
        method="prior",
        note="not measured yet",
        probes=0,
        comparisons=0,
        impostor_mean=0.0,
        impostor_std=0.0,
        seed=settings.seed,
    )


def calibrate_gallery(
    store: Store, calibration: Calibration, settings: IndexSettings
) -> dict[str, Any]:
    """Return threshold, search and recall of a gallery as JSON."""
    draft = calibration.draft
    threshold = _threshold(store, draft, settings)
    give_memory_back()
    gallery = open_version(store, ids.sha256_hex(draft.to_json()), draft, check="sizes", threads=1)
    search, recall = calibrate_search(gallery, target=settings.recall, seed=settings.seed)
    return {
        "threshold": threshold.model_dump(mode="json"),
        "search": search.model_dump(),
        "recall": None if recall is None else recall.model_dump(mode="json"),
    }


def _threshold(store: Store, draft: Manifest, settings: IndexSettings) -> Threshold:
    with _sample(store, draft, settings.seed) as (vectors_SD, rows):
        return calibrate(
            vectors_SD,
            rows.column("identity_id").to_pylist(),
            rows.column("uri").to_pylist(),
            fpir=settings.fpir,
            seed=settings.seed,
            total=draft.totals.indexed,
        )


@contextmanager
def _sample(
    store: Store, draft: Manifest, seed: int
) -> Iterator[tuple[NDArray[np.float16], pa.Table]]:
    """Give at most SAMPLE_FACES living faces by face_id, chosen by a seeded key of their ids."""
    rows, place_S, chosen = _chosen(store, draft, seed)
    give_memory_back()  # what choosing took
    done, dim = 0, draft.embedding.dim
    with room(store, len(rows), dim) as vectors_SD:
        for shard, places in zip(draft.shards, chosen, strict=True):
            here = place_S[done : done + len(places)]
            for some, vectors in _vectors(store, shard, places, dim):
                vectors_SD[here[some]] = vectors
            done += len(places)
        yield vectors_SD, rows


def _chosen(
    store: Store, draft: Manifest, seed: int
) -> tuple[pa.Table, NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return the sampled rows by face_id, and where each comes from, shard by shard.

    The places are those among the rows returned, and those in each shard. All rows are read
    twice, so that of those that are not chosen only the keys are held.
    """
    keys = [_keys(rows, seed) for *_, rows in living_rows(store, draft.shards, ("face_id",))]
    least = _least(np.concatenate([np.empty(0, np.uint64), *keys]))
    tables = [GALLERY.empty_table().select(SAMPLE_COLUMNS)]
    chosen: list[list[NDArray[np.int64]]] = [[np.empty(0, np.int64)] for _ in draft.shards]
    parts = zip(keys, living_rows(store, draft.shards, SAMPLE_COLUMNS), strict=True)
    for own, (number, places, rows) in parts:
        taken = np.flatnonzero(own <= least)
        tables.append(rows.take(pa.array(taken)))
        chosen[number].append(places[taken])
    sampled = pa.concat_tables(tables)
    order = np.asarray(pc.sort_indices(sampled.column("face_id"))).astype(np.int64)
    place_S = np.empty(len(order), np.int64)
    place_S[order] = np.arange(len(order))
    return sampled.take(pa.array(order)), place_S, [np.concatenate(own) for own in chosen]


def _keys(rows: pa.Table, seed: int) -> UInt64:
    return joined(np.full(len(rows), seed, np.uint64), text_keys(rows.column("face_id")))


def _least(keys: UInt64) -> np.uint64:
    """Return the key up to which SAMPLE_FACES are taken."""
    if len(keys) <= SAMPLE_FACES:
        return np.uint64(2**64 - 1)
    return np.uint64(np.partition(keys, SAMPLE_FACES - 1)[SAMPLE_FACES - 1])


def _vectors(
    store: Store, shard: Shard, rows: NDArray[np.int64], dim: int
) -> Iterator[tuple[slice, NDArray[np.float16]]]:
    """Yield some vectors of a shard, by rising row, part by part with their places in ``rows``."""
    if store.local is not None:
        mapped = open_vectors(store.local / shard.key(VECTORS), shard.rows, dim)
        for start in range(0, len(rows), PART_ROWS):
            some = slice(start, start + PART_ROWS)
            yield some, np.asarray(mapped[rows[some]])
        return
    for start, block in vector_blocks(store, shard, dim):
        low, high = np.searchsorted(rows, [start, start + len(block)])
        yield slice(low, high), block[rows[low:high] - start]
