"""Makes a gallery hold what its dataset keeps now: new faces in new shards, the rest untouched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe.errors import ModelMismatch, StoreError, UsageError
from facepipe.gallery import Include
from facepipe.gallery_changes import Indexed
from facepipe.index_manifest import Manifest, Origin, Shard, read_manifest
from facepipe.index_settings import IndexSettings
from facepipe.shards import Dataset
from facepipe.store import Store
from facepipe.suppressed import NOBODY, Suppressed
from pipelines.index import Plans, finished_plans, settings_inputs, table_inputs, totals_of
from pipelines.index_build import Build, Workers, changed, described
from pipelines.index_calibrate import unmeasured
from pipelines.index_delete import ROW_COLUMNS, Doomed, without
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
from pipelines.index_versions import all_versions, own_folder, retire, tidy
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
    restored = _Restored(restore)
    stretch = _looked(dataset, include, plans, suppressed, restored)
    restored.need_all(store, manifest)
    inputs = inputs_with(basis, listed(stretch.still_suppressed))
    with Build.begin(store, settings, dataset=dataset, workers=workers, progress=progress) as build:
        seen, (version, manifest) = manifest, read_manifest(store)  # as it is while it is held
        _need_alike(store, seen, manifest, dataset)
        works, gone = _difference(store, manifest, stretch, inputs)
        if not works and not any(map(len, gone)) and _is_accounted(stretch, manifest):
            retire(store, build.held)
            return _nothing(store, version, manifest, progress)
        draft = changed(
            manifest,
            inputs=inputs,
            parent=version,
            action="add",
            dataset=Origin(plans=plans, include=include, by=stretch.selector.by),
            totals=totals_of(stretch),
            suppressed=put_suppressed(store, stretch.still_suppressed),
            shards=_beside(without(store, manifest.shards, gone), _made(build, manifest, works)),
            threshold=unmeasured(settings),
            recall=None,
        )
        manifest = build.measured(draft)
        version = build.publish(manifest, in_force=publish)
    counts = {"added": sum(work.rows for work in works), "removed": sum(map(len, gone))}
    progress.say(f"index: {counts['added']} faces added, {counts['removed']} removed in {uri}")
    return described(version, manifest, built=True, published=publish, **counts)


def _made(build: Build, manifest: Manifest, works: Sequence[Work]) -> tuple[Shard, ...]:
    dim, template = manifest.embedding.dim, manifest.template
    makings = [Making(dim=dim, template=template, work=work) for work in works]
    return build.shards(makings, whole=False)


def _beside(old: Sequence[Shard], made: Sequence[Shard]) -> tuple[Shard, ...]:
    """Return old shards and new ones; of one that is both, all rows were deleted until now."""
    again = {shard.name for shard in made}
    return (*(shard for shard in old if shard.name not in again), *made)


def _looked(
    dataset: Dataset,
    include: Include,
    plans: Plans,
    suppressed: Suppressed,
    restored: _Restored,
) -> Stretch:
    """Judge the faces of a dataset, with those who were deleted and are not to come back."""
    return look(
        dataset,
        include,
        decided=plans["clean"] is not None,
        suppressed=suppressed,
        restore=restored.mask if restored.names else None,
    )


def _is_accounted(stretch: Stretch, manifest: Manifest) -> bool:
    """Tell whether a gallery counts its faces, and knows its deleted ones, as it would now."""
    same = listed(stretch.still_suppressed) == manifest.suppressed
    return same and totals_of(stretch) == manifest.totals


class _Restored:
    """Which of the deleted faces are to come back."""

    def __init__(self, names: Sequence[str]) -> None:
        names = tuple(names)
        self._doomed = Doomed(faces=names, photos=names, people=names)
        self.names, self._found = names, Counter[str]()

    def mask(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Return which of these deleted faces are named."""
        return self._doomed.mask(rows, self._found)

    def need_all(self, store: Store, manifest: Manifest) -> None:
        """Raise UsageError for a name that none of the deleted faces has.

        Nor one that the version in force has brought back: the same command is run again.
        """
        if not all(self._found[name] for name in self.names):
            self._find_back(store, manifest)
        unknown = [name for name in self.names if not self._found[name]]
        if unknown:
            raise UsageError(
                f"{unknown[0]!r} is nobody who was deleted and whom the dataset keeps: name a face "
                "id, a photo or a person as the dataset has them now"
            )

    def _find_back(self, store: Store, manifest: Manifest) -> None:
        parent = all_versions(store).get(manifest.parent or "")
        if parent is None or manifest.action != "add":
            return
        before, now = read_suppressed(store, parent), read_suppressed(store, manifest)
        for _, _, rows in living_rows(store, manifest.shards, ROW_COLUMNS):
            face_ids = rows.column("face_id")
            back = before.mask(face_ids) & ~now.mask(face_ids)
            self._doomed.mask(rows.filter(pa.array(back)), self._found)


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


def _need_alike(store: Store, seen: Manifest, now: Manifest, dataset: Dataset) -> None:
    """Raise StoreError where another version asks for other faces or promises something else."""
    _same_model(store, now, dataset)
    need_same(store, seen, now)
    settings = IndexSettings()
    alike = settings_like(seen, settings) == settings_like(now, settings)
    if not alike or seen.dataset.include != now.dataset.include:
        raise StoreError(f"{store.uri} has just got another version: run the same command again")


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
