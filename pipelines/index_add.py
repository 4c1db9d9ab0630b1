"""Makes a gallery hold what its dataset keeps now: new faces in new shards, the rest untouched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe.errors import ModelMismatch, UsageError
from facepipe.gallery import Include
from facepipe.gallery_changes import Indexed
from facepipe.index_manifest import Manifest, Origin, read_manifest
from facepipe.index_settings import IndexSettings
from facepipe.shards import Dataset
from facepipe.store import Store
from facepipe.suppressed import NOBODY, Suppressed
from pipelines.index import Plans, finished_plans, settings_inputs, table_inputs, totals_of
from pipelines.index_build import Build, Workers, changed, described
from pipelines.index_calibrate import unmeasured
from pipelines.index_delete import Doomed, without
from pipelines.index_files import living_rows
from pipelines.index_select import Stretch, Work, cut, look
from pipelines.index_shards import Making
from pipelines.index_suppressed import (
    inputs_with,
    listed,
    need_same,
    put_suppressed,
    read_suppressed,
)
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
    restore: Sequence[str] = (),
    restore_all: bool = False,
) -> dict[str, Any]:
    """Make a gallery hold what its dataset keeps now, and return its manifest.

    New faces become new shards with the template that is there; faces that are no longer kept
    are deleted, those whose name or box has changed are deleted and come again. Faces that were
    deleted from the gallery stay out, unless ``restore`` names them (face ids, uris or ids of
    photos, people, as the dataset has them now), or ``restore_all``. The manifest comes with
    ``version``, ``built``, and the counts ``added`` and ``removed``.

    Raises DatasetNotFound where there is no index, ModelMismatch where the dataset has been
    embedded with another model since, UsageError for a name to restore of nobody deleted,
    GateFailed where the gallery would find too little.
    """
    progress = progress or Progress(quiet=True)
    store, plans = own_folder(uri, dataset), finished_plans(dataset)
    version, manifest = read_manifest(store)
    _same_model(store, manifest, dataset)
    settings, include = settings_like(manifest, settings), manifest.dataset.include
    basis = ["add", table_inputs(dataset, plans, include), settings_inputs(settings)]
    if manifest.inputs == inputs_with(basis, manifest.suppressed) and not (restore or restore_all):
        return _nothing(store, version, manifest, progress)
    suppressed = NOBODY if restore_all else read_suppressed(store, manifest)
    stretch = _looked(dataset, include, plans, suppressed, restore)
    inputs = inputs_with(basis, listed(stretch.still_suppressed))
    with Build.begin(store, settings, dataset=dataset, workers=workers, progress=progress) as build:
        seen, (version, manifest) = manifest, read_manifest(store)  # as it is while it is held
        need_same(store, seen, manifest)
        works, gone = _difference(store, manifest, stretch, inputs)
        if not works and not any(map(len, gone)) and _is_accounted(stretch, manifest):
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
            suppressed=put_suppressed(store, stretch.still_suppressed),
            shards=(*without(store, manifest.shards, gone), *build.shards(makings, whole=False)),
            threshold=unmeasured(settings),
            recall=None,
        )
        manifest = build.measured(draft)
        version = build.publish(manifest, in_force=publish)
    counts = {"added": sum(work.rows for work in works), "removed": sum(map(len, gone))}
    progress.say(f"index: {counts['added']} faces added, {counts['removed']} removed in {uri}")
    return described(version, manifest, built=True, published=publish, **counts)


def _looked(
    dataset: Dataset,
    include: Include,
    plans: Plans,
    suppressed: Suppressed,
    restore: Sequence[str],
) -> Stretch:
    """Judge the faces of a dataset, with those who were deleted and are not to come back."""
    restored = _Restored(restore)
    stretch = look(
        dataset,
        include,
        decided=plans["clean"] is not None,
        suppressed=suppressed,
        restore=restored.mask if restore else None,
    )
    restored.need_all()
    return stretch


def _is_accounted(stretch: Stretch, manifest: Manifest) -> bool:
    """Tell whether a gallery counts its faces, and knows its deleted ones, as it would now."""
    same = listed(stretch.still_suppressed) == manifest.suppressed
    return same and totals_of(stretch) == manifest.totals


class _Restored:
    """Which of the deleted faces are to come back."""

    def __init__(self, names: Sequence[str]) -> None:
        names = tuple(names)
        self._doomed = Doomed(faces=names, photos=names, people=names)
        self._names, self._found = names, Counter[str]()

    def mask(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Return which of these deleted faces are named."""
        return self._doomed.mask(rows, self._found)

    def need_all(self) -> None:
        """Raise UsageError for a name that none of the deleted faces has."""
        unknown = [name for name in self._names if not self._found[name]]
        if unknown:
            raise UsageError(
                f"{unknown[0]!r} is nobody who was deleted and whom the dataset keeps: name a face "
                "id, a photo or a person as the dataset has them now"
            )


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
