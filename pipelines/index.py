"""Runs `facepipe.index`: builds a gallery from a dataset's tables."""

from __future__ import annotations

from typing import Any

from facepipe import ids
from facepipe.errors import CorruptData, DatasetNotFound
from facepipe.gallery import Include
from facepipe.index_manifest import (
    INDEX_VERSION,
    Embedding,
    Manifest,
    Origin,
    Search,
    Template,
    Totals,
)
from facepipe.index_plan import IndexPlan, plan_index
from facepipe.index_settings import IndexSettings
from facepipe.shards import Dataset
from facepipe.store import Store
from facepipe.suppressed import NOBODY
from pipelines.index_build import Build, Workers, described
from pipelines.index_calibrate import unmeasured
from pipelines.index_files import check_bytes, version_files
from pipelines.index_select import Stretch, cut, look
from pipelines.index_shards import Making
from pipelines.index_suppressed import (
    inputs_with,
    listed,
    need_same,
    put_suppressed,
    suppressed_before,
)
from pipelines.index_training import Training
from pipelines.index_versions import in_force, own_folder, tidy
from pipelines.progress import Progress
from pipelines.runners import ONE_CORE, Resources, Runner
from pipelines.search import format_results, search_photos

__all__ = ["build_index", "format_results", "plan_build", "search_photos"]

Plans = dict[str, str | None]


def build_index(
    dataset: Dataset,
    out: str,
    settings: IndexSettings,
    include: Include = "kept",
    progress: Progress | None = None,
    runner: Runner | None = None,
    resources: Resources = ONE_CORE,
    *,
    publish: bool = True,
    restore_all: bool = False,
) -> dict[str, Any]:
    """Put a dataset's faces into the gallery at ``out`` and return its manifest.

    The manifest comes with ``version``, ``published`` and ``built``: False where the index in
    force was made from the same tables and settings and all its bytes are right; then nothing
    is written. The version before this one is kept, older ones are removed. The work is done
    by workers of ``runner``, each of which needs ``resources``; without one, in this process.
    Not ``publish``: the version is written and not put in force. Faces that were deleted from
    the gallery that is there stay out, unless ``restore_all``.

    Raises DatasetNotFound before the first embed, StoreError where a step has not finished or
    the tables do not belong together, UsageError for ``out`` = the dataset and for a memory
    budget that nothing fits in, GateFailed where the gallery finds too little.
    """
    progress = progress or Progress(quiet=True)
    store = own_folder(out, dataset)
    plans = finished_plans(dataset)
    before = in_force(store)
    suppressed = NOBODY if restore_all else suppressed_before(store, before and before[1])
    basis = [table_inputs(dataset, plans, include), settings_inputs(settings)]
    inputs = inputs_with(basis, listed(suppressed))
    if before is not None and before[1].inputs == inputs and _intact(store, before[1]):
        tidy(store)
        progress.say(f"index: nothing to do, {out} is up to date")
        return described(*before, built=False, published=True)
    decided = plans["clean"] is not None
    stretch = look(dataset, include, decided=decided, suppressed=suppressed)
    workers = Workers(runner=runner, resources=resources)
    with Build.begin(store, settings, dataset=dataset, workers=workers, progress=progress) as build:
        need_same(store, before and before[1], build.before and build.before[1])
        draft = _built(
            build, stretch, inputs, Origin(plans=plans, include=include, by=stretch.selector.by)
        )
        manifest = build.measured(draft)
        version = build.publish(manifest, in_force=publish)
    totals = manifest.totals
    progress.say(f"index: {totals.indexed} of {totals.expected} faces in {out}")
    return described(version, manifest, built=True, published=publish)


def plan_build(
    dataset: Dataset, settings: IndexSettings, include: Include, *, out: str | None = None
) -> dict[str, Any]:
    """Return what a build would do, from the ids alone; nothing is written.

    out: where there may be a gallery already, whose deleted faces stay out.
    """
    plans = finished_plans(dataset)
    store = None if out is None else own_folder(out, dataset)
    before = None if store is None else in_force(store)
    suppressed = NOBODY if store is None else suppressed_before(store, before and before[1])
    decided = plans["clean"] is not None
    stretch = look(dataset, include, decided=decided, suppressed=suppressed)
    plan = _planned(stretch, settings)
    return {
        "faces": stretch.selector.count,
        "expected": stretch.selector.expected,
        "left_out": stretch.selector.left_out,
        "kind": plan.kind,
        "factory": plan.factory,
        "nlist": plan.nlist,
        "bytes_per_vector": plan.bytes_per_vector,
        "memory_bytes": plan.memory_bytes,
        "disk_bytes": plan.disk_bytes,
        "shard_rows": plan.shard_rows,
        "reasons": list(plan.reasons),
    }


def _planned(stretch: Stretch, settings: IndexSettings) -> IndexPlan:
    return plan_index(
        stretch.selector.count,
        stretch.dim,
        memory_budget_bytes=settings.memory_budget_bytes,
        recall=settings.recall,
        kind=None if settings.kind == "auto" else settings.kind,
    )


def _built(build: Build, stretch: Stretch, inputs: str, origin: Origin) -> Manifest:
    """Make template and shards, and return the manifest that names them, not measured yet."""
    settings, dim = build.job.settings, stretch.dim
    plan = _planned(stretch, settings)
    for reason in plan.reasons:
        build.progress.say(f"index: {reason}")
    works = cut(build.store, inputs, stretch, plan.shard_rows)
    template: Template | None = None
    if plan.kind != "flat":
        training = Training(dim=dim, plan=plan, seed=settings.seed, works=tuple(works))
        template = build.template(training)
    makings = [Making(dim=dim, template=template, work=work) for work in works]
    before = build.before
    again = before is not None and before[1].inputs == inputs  # made anew, since it is damaged
    return Manifest(
        inputs=inputs,
        parent=before[1].parent if before and again else before[0] if before else None,
        action="build",
        embedding=embedding_of(stretch.dataset, dim),
        dataset=origin,
        totals=totals_of(stretch),
        kind=plan.kind,
        template=template,
        search=Search(nprobe=plan.nprobe, candidates=plan.candidates),
        recall=None,
        threshold=unmeasured(settings),
        shards=build.shards(makings, whole=True),
        shard_rows=plan.shard_rows,
        note=plan.reasons,
        suppressed=put_suppressed(build.store, stretch.still_suppressed),
    )


# -- what it is made from ----------------------------------------------------------------


def finished_plans(dataset: Dataset) -> Plans:
    """Return the plan ids of the steps that decide the gallery; clean may not have run yet.

    Raises DatasetNotFound and StoreError where another of them has not run or not finished.
    """
    embed = dataset.step_of("embeddings")
    dataset.require_embeddings(dataset.current_model())
    plans: Plans = {}
    for name, step in (("detect", "detect"), ("embed", embed), ("clean", "clean")):
        plan = dataset.plan(step)
        if plan is None and name != "clean":
            raise DatasetNotFound(
                f"{dataset.uri} has not been through {name}: run facepipe {name} or curate first"
            )
        if plan is not None:
            dataset.require(step)
        plans[name] = plan.plan_id if plan is not None else None
    return plans


def table_inputs(dataset: Dataset, plans: Plans, include: Include) -> str:
    """Return a digest of the tables that a gallery is made from."""
    tables = ["faces", "embeddings", *(["decisions"] if plans["clean"] else [])]
    files = {name: [f.sha256 for f in dataset.files(name)] for name in tables}
    return ids.digest([INDEX_VERSION, plans, files, include])


def settings_inputs(settings: IndexSettings) -> dict[str, Any]:
    """Return the settings that a version's bytes depend on."""
    return settings.model_dump(mode="json", exclude={"compact_at"})


def embedding_of(dataset: Dataset, dim: int) -> Embedding:
    """Return which vectors a dataset has now."""
    plan = dataset.plan(dataset.step_of("embeddings"))
    embed = plan.basis.get("embed", {}) if plan is not None else {}
    return Embedding(model_id=dataset.current_model(), flip=embed.get("flip"), dim=dim)


def totals_of(stretch: Stretch) -> Totals:
    """Return the account of a dataset's faces, once their rows have been taken."""
    selector = stretch.selector
    return Totals(
        expected=selector.expected,
        indexed=selector.count,
        left_out=selector.left_out,
        identities=len(stretch.names),
    )


def _intact(store: Store, manifest: Manifest) -> bool:
    try:
        for named in version_files(manifest):
            check_bytes(store, named)
    except CorruptData:
        return False
    return True
