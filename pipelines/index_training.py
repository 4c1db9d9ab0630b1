"""Trains the template of a gallery: one task, on a sample spread over all that goes in.

Legend: S faces of the sample, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facepipe import ids
from facepipe.gallery import people_of
from facepipe.id_keys import text_keys
from facepipe.index_manifest import INDEX_VERSION, Template
from facepipe.index_plan import IndexPlan
from facepipe.index_sample import sample_by_key
from facepipe.index_settings import IndexSettings
from facepipe.index_template import describe_template, train_template
from facepipe.shards import Dataset
from facepipe.store import Store
from pipelines.index_select import Work, read_work
from pipelines.index_shards import Float16, Int64, room

KEPT = 4  # of each source then a few per cent more or less are taken than its share


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A template to be trained on the vectors of these shards to be."""

    dim: int
    plan: IndexPlan
    seed: int
    works: tuple[Work, ...]

    @property
    def inputs(self) -> str:
        """Return a digest of all that the template's bytes depend on."""
        plan = self.plan
        layout = [plan.kind, plan.factory, plan.nlist, plan.sample, self.dim, self.seed]
        return ids.digest([INDEX_VERSION, "template", layout, [w.inputs for w in self.works]])


def make_template(
    store: Store, dataset: Dataset, training: Training, settings: IndexSettings
) -> Template:
    """Train a template, write it, and return its record."""
    plan, seed = training.plan, training.seed
    work_S, row_S = _sampled(store, training)
    with room(store, len(work_S), training.dim) as sample_SD:
        for number, work in enumerate(training.works):
            inside = np.flatnonzero(work_S == number)
            _fill(store, dataset, work, row_S[inside], inside, sample_SD)
        data = train_template(sample_SD, plan, seed, device=settings.device)
        template = describe_template(data, plan, seed, len(sample_SD))
    store.put(template.key, data)
    return template


def _sampled(store: Store, training: Training) -> tuple[Int64, Int64]:
    """Return work and row of each face of the sample, in its order.

    Of many faces only those with the least keys are looked at, KEPT times as many as needed:
    which those are does not depend on how they are cut into shards.
    """
    wanted, total = training.plan.sample, sum(work.rows for work in training.works)
    share = min(1.0, KEPT * wanted / max(total, 1))
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    number_of: dict[str, int] = {}
    parts = [np.empty((4, 0), np.uint64)]
    for number, work in enumerate(training.works):
        rows = read_work(store, work, ["face_id", "stratum"])
        keys = text_keys(rows.column("face_id"), salt=training.seed)
        kept = np.flatnonzero(keys <= limit)
        strata = people_of(rows.column("stratum").take(pa.array(kept)), number_of)
        same = np.full(len(kept), number)
        parts.append(np.stack([p.astype(np.uint64) for p in (keys[kept], strata, same, kept)]))
    keys, strata, works, places = np.concatenate(parts, axis=1)
    chosen = sample_by_key(keys, strata.astype(np.int64), wanted)
    return works[chosen].astype(np.int64), places[chosen].astype(np.int64)


def _fill(
    store: Store, dataset: Dataset, work: Work, rows: Int64, at: Int64, sample_SD: Float16
) -> None:
    """Write the vectors of some rows of a shard into the sample, a file at a time."""
    table = read_work(store, work, ["row", "file"]).take(pa.array(rows))
    file, row = np.asarray(table.column("file")), np.asarray(table.column("row"))
    for place in np.unique(file).tolist():
        own = np.flatnonzero(file == place)
        own = own[np.argsort(row[own])]
        sample_SD[at[own]] = dataset.vectors(work.sources[place], row[own].astype(np.int64))
