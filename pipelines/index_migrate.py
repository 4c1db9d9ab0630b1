"""Makes a gallery one of another model: built beside the old one, compared, put in force by a swap.

Legend: S sampled faces, K hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from facepipe import ids
from facepipe.gallery import Selector
from facepipe.gallery_changes import Named
from facepipe.id_keys import joined, text_keys
from facepipe.index import NO_HIT, Gallery, open_version
from facepipe.index_manifest import Manifest, Origin, Search, Totals, read_manifest
from facepipe.index_plan import plan_index
from facepipe.index_settings import IndexSettings
from facepipe.shards import Dataset
from facepipe.store import Store
from pipelines.index import embedding_of, finished_plans, settings_inputs, table_inputs
from pipelines.index_add import settings_like
from pipelines.index_build import Build, Workers, changed, described
from pipelines.index_calibrate import unmeasured
from pipelines.index_files import living_rows
from pipelines.index_select import Stretch, cut, look
from pipelines.index_shards import Making
from pipelines.index_suppressed import need_same, read_suppressed
from pipelines.index_training import Training
from pipelines.index_versions import own_folder, tidy
from pipelines.progress import Progress

SAMPLE_FACES = 1000  # a share of one half is then known to 3 points
HITS = 32  # asked for: the nearest of another photo may come behind those of the same one
NOT_MIGRATED = "not_migrated"  # faces of the dataset that the old gallery did not hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How alike two galleries answer for the same faces; shares of the sampled ones."""

    faces: int
    same_face: float
    same_person: float

    def text(self) -> str:
        """Return it as a sentence."""
        return (
            f"of {self.faces} sampled faces {self.same_person:.4f} find the same person as with "
            f"the model before, {self.same_face:.4f} the same face"
        )


def migrate_index(
    uri: str,
    dataset: Dataset,
    settings: IndexSettings,
    *,
    progress: Progress | None = None,
    workers: Workers | None = None,
    publish: bool = True,
) -> dict[str, Any]:
    """Build a gallery of the same faces and names with the dataset's present vectors.

    A face is taken over if the dataset still has it, in the same place of its photo, with a
    vector. The manifest comes with ``version``, ``built`` (False where the index holds vectors
    of this model already), ``before`` (faces of the old gallery) and ``agreement``.

    Raises DatasetNotFound where there is no index, GateFailed where the new one finds too little.
    """
    progress = progress or Progress(quiet=True)
    store = own_folder(uri, dataset)
    version, manifest = read_manifest(store)
    plans = finished_plans(dataset)
    before = manifest.totals.indexed
    if dataset.current_model() == manifest.embedding.model_id:
        tidy(store)
        progress.say(f"index: nothing to do, {uri} holds vectors of this model")
        return described(version, manifest, built=False, published=True, before=before)
    settings = settings_like(manifest, settings)
    suppressed = read_suppressed(store, manifest)
    stretch = look(dataset, "all", decided=False, suppressed=suppressed)
    with Build.begin(store, settings, dataset=dataset, workers=workers, progress=progress) as build:
        seen, (version, manifest) = manifest, read_manifest(store)
        need_same(store, seen, manifest)
        tables = table_inputs(dataset, plans, manifest.dataset.include)
        inputs = ids.digest(["migrate", version, tables, settings_inputs(settings)])
        origin = Origin(plans=plans, include=manifest.dataset.include, by=manifest.dataset.by)
        draft = _moved(build, stretch, version, manifest, inputs, origin)
        later = build.measured(draft)
        agreement = agree(store, (version, manifest), later, settings.seed)
        later = changed(later, note=(*later.note, agreement.text()))
        version = build.publish(later, in_force=publish)
    progress.say(f"index: {agreement.text()}")
    shares = {name: getattr(agreement, name) for name in Agreement.__slots__}
    return described(version, later, built=True, published=publish, before=before, agreement=shares)


def _moved(
    build: Build, stretch: Stretch, version: str, manifest: Manifest, inputs: str, origin: Origin
) -> Manifest:
    """Make template and shards of the new vectors; return their manifest, not measured yet."""
    settings, dim, store = build.job.settings, stretch.dim, build.store
    named = Named.read(living_rows(store, manifest.shards))
    plan = plan_index(
        len(named.keys),
        dim,
        memory_budget_bytes=settings.memory_budget_bytes,
        recall=settings.recall,
        kind=None if settings.kind == "auto" else settings.kind,
    )
    works = cut(store, inputs, stretch, plan.shard_rows, keep=named.keep)
    template = None
    if plan.kind != "flat":
        training = Training(dim=dim, plan=plan, seed=settings.seed, works=tuple(works))
        template = build.template(training)
    makings = [Making(dim=dim, template=template, work=work) for work in works]
    return Manifest(
        inputs=inputs,
        parent=version,
        action="migrate",
        embedding=embedding_of(stretch.dataset, dim),
        dataset=origin,
        totals=_account(stretch.selector, named.taken, len(stretch.names)),
        kind=plan.kind,
        template=template,
        search=Search(nprobe=plan.nprobe, candidates=plan.candidates),
        recall=None,
        threshold=unmeasured(settings),
        shards=build.shards(makings, whole=False),
        shard_rows=plan.shard_rows,
        note=plan.reasons,
        suppressed=manifest.suppressed,
    )


def _account(selector: Selector, taken: int, people: int) -> Totals:
    left_out = {**selector.left_out, NOT_MIGRATED: selector.count - taken}
    return Totals(
        expected=selector.expected,
        indexed=taken,
        left_out={name: count for name, count in sorted(left_out.items()) if count},
        identities=people,
    )


# -- agreement ---------------------------------------------------------------------------


def agree(store: Store, old: tuple[str, Manifest], new: Manifest, seed: int) -> Agreement:
    """Search sampled faces of both galleries in each, and compare who is nearest to them."""
    before = open_version(store, *old, check="sizes")
    after = open_version(store, ids.sha256_hex(new.to_json()), new, check="sizes")
    faces = _sampled(store, new, seed)
    pairs = list(zip(_nearest(before, faces), _nearest(after, faces), strict=True))
    same_face = [a[0] == b[0] for a, b in pairs]
    same_person = [a[0] == b[0] or (a[1] == b[1] and a[1] is not None) for a, b in pairs]
    count = max(len(pairs), 1)
    return Agreement(
        faces=len(pairs),
        same_face=round(sum(same_face) / count, 4),
        same_person=round(sum(same_person) / count, 4),
    )


def _sampled(store: Store, manifest: Manifest, seed: int) -> list[str]:
    """Return SAMPLE_FACES living faces, or all if fewer, by a seeded key of their ids."""
    kept, keys = pa.array([], pa.string()), np.empty(0, np.uint64)
    for _, _, rows in living_rows(store, manifest.shards, ("face_id",)):
        ids_here = rows.column("face_id").combine_chunks()
        own = joined(np.full(len(ids_here), seed, np.uint64), text_keys(ids_here))
        both, keys = pa.concat_arrays([kept, ids_here]), np.concatenate([keys, own])
        best = np.argsort(keys, kind="stable")[:SAMPLE_FACES]
        kept, keys = both.take(pa.array(best)), keys[best]
    return sorted(kept.to_pylist())


def _nearest(gallery: Gallery, faces: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return the nearest face of another photo, and who it is, for each; "" where there is none."""
    if not faces:
        return []
    rows = gallery.shards.rows_of(faces)
    queries_SD = gallery.shards.vectors(rows).astype(np.float32)
    queries_SD /= np.linalg.norm(queries_SD, axis=1, keepdims=True)
    _, found_SK = gallery.search(queries_SD, HITS)
    first = [
        next((hit for hit in hits if hit and ids.photo_of(hit) != ids.photo_of(face)), NO_HIT)
        for face, hits in zip(faces, found_SK.tolist(), strict=True)
    ]
    wanted = sorted({face for face in first if face})
    people = gallery.rows(wanted).column("identity_id").to_pylist() if wanted else []
    identity = dict(zip(wanted, people, strict=True))
    return [(face, identity.get(face)) for face in first]
