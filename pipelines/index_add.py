"""Makes a gallery hold what its dataset keeps now: new faces in new shards, the rest untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe import ids
from facepipe.errors import ModelMismatch
from facepipe.gallery_changes import Indexed
from facepipe.index_manifest import Manifest, Origin, read_manifest
from facepipe.index_settings import IndexSettings
from facepipe.shards import Dataset
from facepipe.store import Store
from pipelines.index import finished_plans, settings_inputs, table_inputs, totals_of
from pipelines.index_build import Build, Workers, changed, described
from pipelines.index_calibrate import unmeasured
from pipelines.index_delete import without
from pipelines.index_files import living_rows
from pipelines.index_select import Stretch, Work, cut, look
from pipelines.index_shards import Making
from pipelines.index_versions import own_folder, retire, tidy
from pipelines.progress import Progress


def settings_like(manifest: Manifest, settings: IndexSettings) -> IndexSettings:
    """Return settings that promise what a gallery promises already."""
    recall = settings.recall if manifest.recall is None else manifest.recall.target
    threshold = manifest.threshold
    return settings.model_copy(
        update={"fpir": threshold.fpir, "seed": threshold.seed, "recall": recall}
    )


def add_to_index(
    uri: str,
    dataset: Dataset,
    settings: IndexSettings,
    *,
    progress: Progress | None = None,
    workers: Workers | None = None,
    publish: bool = True,
) -> dict[str, Any]:
    """Make a gallery hold what its dataset keeps now, and return its manifest.

    New faces become new shards with the template that is there; faces that are no longer kept
    are deleted, those whose name or box has changed are deleted and come again. The manifest
    comes with ``version``, ``built``, and the counts ``added`` and ``removed``.

    Raises DatasetNotFound where there is no index, ModelMismatch where the dataset has been
    embedded with another model since, GateFailed where the gallery would find too little.
    """
    progress = progress or Progress(quiet=True)
    store = own_folder(uri, dataset)
    version, manifest = read_manifest(store)
    _same_model(store, manifest, dataset)
    settings, include = settings_like(manifest, settings), manifest.dataset.include
    plans = finished_plans(dataset)
    tables = table_inputs(dataset, plans, include)
    inputs = ids.digest(["add", tables, settings_inputs(settings)])
    if manifest.inputs == inputs:
        return _nothing(store, version, manifest, progress)
    stretch = look(dataset, include, decided=plans["clean"] is not None)
    with Build.begin(store, settings, dataset=dataset, workers=workers, progress=progress) as build:
        version, manifest = read_manifest(store)  # as it is while it is held
        works, gone = _difference(store, manifest, stretch, inputs)
        if not works and not any(map(len, gone)) and totals_of(stretch) == manifest.totals:
            retire(store, build.held)
            return _nothing(store, version, manifest, progress)
        dim, template = manifest.embedding.dim, manifest.template
        makings = [Making(dim=dim, template=template, work=work) for work in works]
        draft = changed(
            manifest,
            inputs=inputs,
            parent=version,
            action="add",
            dataset=Origin(plans=plans, include=include, by=stretch.selector.by),
            totals=totals_of(stretch),
            shards=(
                *without(store, manifest.shards, gone),
                *build.shards(makings, whole=False),
            ),
            threshold=unmeasured(settings),
            recall=None,
        )
        manifest = build.measured(draft)
        version = build.publish(manifest, in_force=publish)
    counts = {"added": sum(work.rows for work in works), "removed": sum(map(len, gone))}
    progress.say(f"index: {counts['added']} faces added, {counts['removed']} removed in {uri}")
    return described(version, manifest, built=True, published=publish, **counts)


def _difference(
    store: Store, manifest: Manifest, stretch: Stretch, inputs: str
) -> tuple[list[Work], list[NDArray[np.int64]]]:
    """Return the shards to be made of new rows, and the rows of each old one that are to go."""
    indexed = Indexed.read(lambda: living_rows(store, manifest.shards))

    def new(table: pa.Table) -> pa.Table:
        stretch.note(table)  # of those that stay, too
        return indexed.new(table)

    works = cut(store, inputs, stretch, manifest.shard_rows, keep=new)
    return works, indexed.gone(len(manifest.shards))


def _same_model(store: Store, manifest: Manifest, dataset: Dataset) -> None:
    model = dataset.current_model()
    if model != manifest.embedding.model_id:
        raise ModelMismatch(
            f"{dataset.uri} is embedded with model {model[:12]}, {store.uri} holds vectors of "
            f"{manifest.embedding.model_id[:12]}: facepipe index migrate {store.uri} --from "
            f"{dataset.uri} makes it a gallery of the new model"
        )


def _nothing(store: Store, version: str, manifest: Manifest, progress: Progress) -> dict[str, Any]:
    tidy(store)
    progress.say(f"index: nothing to do, {store.uri} is up to date")
    return described(version, manifest, built=False, published=True, added=0, removed=0)
