"""The demo: every step of facepipe on sample photos and what is made of them, and a page of it.

Photos, their labels and what should become of them are made here; all the rest is what the
commands do, through the same functions. Run again, it does what is missing, and nothing twice.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facepipe.config import Settings, load
from facepipe.errors import QuarantineExceeded, StoreFull, UsageError
from facepipe.index import open_index
from facepipe.packs import Pack, find_pack
from facepipe.shards import Dataset, open_dataset
from pipelines import curate
from pipelines.demo_files import MIN_FACES, Kind, PhotoSet, Query, write_photos
from pipelines.demo_outcomes import Outcome, read_outcomes
from pipelines.demo_photos import make_photos
from pipelines.evaluate import Request as EvaluateRequest
from pipelines.evaluate import evaluate
from pipelines.export import Export, run_export
from pipelines.index import build_index
from pipelines.progress import Progress
from pipelines.report import write_report
from pipelines.runners import Runner
from pipelines.search import search_photos
from pipelines.stage import resources_of

MARK = "demo.json"  # says that a folder is a demo's own
PAGE = "demo.html"
PHOTOS, QUERIES, DATASET, INDEX = "photos", "queries", "dataset", "index"
PLAN_CHARS = 8
HITS = 3
RESAMPLES = 200  # of people, behind the intervals of eight people: more show nothing

Json = dict[str, Any]
# Trains on a dataset into a folder with a pack's detector; returns the run's result.
Train = Callable[[str, Path, str, Progress], Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What to run, and where."""

    out: Path
    pack: Pack
    pack_name: str
    workers: int = 1
    train: Train | None = None
    left_out: str = ""  # why nothing is trained, where nothing is


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A search with a photo that was kept out, and whether it found whom it should."""

    query: Query
    result: Json
    as_expected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A training run: its result, and the line of metrics of each step."""

    result: Json
    metrics: tuple[Json, ...]


@dataclass(slots=True, kw_only=True)
class Shown:
    """All that the page is made from."""

    demo: Demo
    photos: PhotoSet
    outcomes: list[Outcome] = field(default_factory=list)
    searches: list[Searched] = field(default_factory=list)
    export: Json = field(default_factory=dict)
    trained: Trained | None = None
    evaluation: Json | None = None
    evaluation_problem: str = ""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # of tables, by status
    threshold: float = 0.0

    @property
    def surprises(self) -> list[Outcome]:
        """Return the files that did not end as expected."""
        return [o for o in self.outcomes if not o.as_expected]

    @property
    def surprises_in_all(self) -> int:
        """Return them, and searches, in number."""
        return len(self.surprises) + sum(not s.as_expected for s in self.searches)


def outline(out: Path, train_left_out: str) -> Json:
    """Return what a demo would do. Writes nothing; raises UsageError, SourceNotFound."""
    check_folder(out)
    photos = make_photos()
    found = Counter(made.kind for made in photos.photos)
    kinds = {kind.value: found[kind] for kind in Kind if found[kind]}
    steps = ["curate", "index", "report", "search", "export", "train", "evaluate"]
    return {
        "out": str(out),
        "photos": len(photos.photos),
        "kinds": kinds,
        "queries": len(photos.queries),
        "missing": list(photos.missing),
        "steps": [step for step in steps if step != "train" or not train_left_out],
        **({"training_left_out": train_left_out} if train_left_out else {}),
    }


def check_folder(out: Path) -> None:
    """Raise UsageError unless a demo can begin here or go on: nothing of others is written to."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: give a new folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise UsageError(
            f"--out {out} is not empty, and no demo of before: give a new folder, such as "
            f"{out / 'facepipe-demo'}"
        )


def run_demo(demo: Demo, runner: Runner, progress: Progress) -> Shown:
    """Run every step and return what there is to show; write_page of demo_page shows it.

    Raises UsageError for a folder that is not the demo's, SourceNotFound where no sample photo
    is installed, and what the steps raise.
    """
    check_folder(demo.out)
    shown = Shown(demo=demo, photos=make_photos())
    _write_set(shown, progress)
    settings = load(None, ["sources.labels=folder"])
    dataset = _curated(demo, settings, runner, progress)
    shown.outcomes = read_outcomes(dataset, demo.out / PHOTOS, shown.photos.photos)
    shown.counts = _counts(dataset)
    _gallery(shown, dataset, settings, runner, progress)
    write_report(dataset)
    plan = dataset.plan("clean")
    assert plan is not None  # it has run just now
    own = plan.plan_id[:PLAN_CHARS]  # other decisions are another export and another run
    images = _exported(shown, dataset, settings, demo.out / f"cleaned-{own}", progress)
    _train(shown, dataset, demo.out / f"run-{own}", progress)
    _evaluate(shown, images, settings, progress)
    return shown


def _write_set(shown: Shown, progress: Progress) -> None:
    began, out = time.monotonic(), shown.demo.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text(json.dumps({"facepipe": "demo"}) + "\n")
    except OSError as error:
        raise StoreFull(f"cannot write {out} ({error.strerror}): choose another --out") from error
    made = {photo.name: photo.data for photo in shown.photos.photos}
    written = write_photos(out / PHOTOS, made)
    written += write_photos(out / QUERIES, {q.name: q.data for q in shown.photos.queries})
    progress.say(
        f"photos: {len(made)} in {out / PHOTOS}, {written} of them and of {QUERIES} written "
        f"({time.monotonic() - began:.1f} s)"
    )
    for missing in shown.photos.missing:
        progress.say(f"photos: {missing}")


def _curated(demo: Demo, settings: Settings, runner: Runner, progress: Progress) -> Dataset:
    """Run detect, embed, dedup and clean. Raises QuarantineExceeded beside the steps' errors."""
    place = str(demo.out / DATASET)
    request = curate.Request(
        steps=curate.STEPS,
        out=place,
        settings=settings,
        pack=demo.pack,
        sources=[str(demo.out / PHOTOS)],
    )
    exceeded: QuarantineExceeded | None = curate.run(request, runner, progress)[1]
    if exceeded is not None:
        raise exceeded
    return open_dataset(place)


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return the rows of each table by status or decision."""
    columns = {
        "photos": "status",
        "faces": "status",
        "embeddings": "status",
        "duplicates": "decision",
        "decisions": "decision",
    }
    found = {}
    for table, column in columns.items():
        values = dataset.table(table, [column])[column].to_pylist()
        found[table] = dict(sorted(Counter(values).items()))
    return found


def _gallery(
    shown: Shown, dataset: Dataset, settings: Settings, runner: Runner, progress: Progress
) -> None:
    """Build the gallery and search it with the photos that were kept out."""
    demo, place = shown.demo, f"{dataset.uri}/{INDEX}"
    resources = resources_of(settings, "index")
    made = build_index(dataset, place, settings.index, runner=runner, resources=resources)
    progress.say(f"index: {made['totals']['indexed']} faces in {demo.out / DATASET / INDEX}")
    gallery = open_index(place, merge=False)
    shown.threshold = float(gallery.threshold)
    names = [query.name for query in shown.photos.queries]
    paths = [str(demo.out / QUERIES / name) for name in names]
    results = search_photos(gallery, demo.pack, settings, paths, HITS)
    homes = {
        o.made.person: o.face.identity
        for o in shown.outcomes
        if o.as_expected and o.face is not None and o.face.kept and o.face.identity is not None
    }
    for query, result in zip(shown.photos.queries, results, strict=True):
        found = {f["identity_id"] for f in result["faces"] if f["above_threshold"]}
        wanted = {homes.get(query.person)} if query.person is not None else set()
        right = bool(result["faces"]) and found == wanted
        shown.searches.append(Searched(query=query, result=result, as_expected=right))
    progress.say(f"search: {len(results)} photos that were kept out")


def _exported(
    shown: Shown, dataset: Dataset, settings: Settings, out: Path, progress: Progress
) -> Path:
    """Export the cleaned set as folders, once; return the folder of its crops."""
    record = out / "export.json"
    if not record.is_file():
        asked = Export(
            out=str(out), format="folders", min_faces=MIN_FACES, settings=settings.export
        )
        run_export(dataset, asked, progress)
    shown.export = {"out": str(out), **json.loads(record.read_bytes())}
    return out / "images"


def _train(shown: Shown, dataset: Dataset, out: Path, progress: Progress) -> None:
    demo = shown.demo
    if demo.train is None:
        progress.say(f"train: {demo.left_out}")
        return
    if not shown.export["people"]:
        progress.say("train: left out, since no face was kept")
        return
    result = demo.train(dataset.uri, out, demo.pack.folder, progress)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    shown.trained = Trained(result=result, metrics=tuple(json.loads(line) for line in lines))


def _evaluate(shown: Shown, images: Path, settings: Settings, progress: Progress) -> None:
    """Let the pack, and the model trained here, name the exported crops."""
    demo = shown.demo
    packs = [(demo.pack_name, demo.pack)]
    if shown.trained is not None:
        packs.append(("trained here", find_pack(str(shown.trained.result["pack"]))))
    request = EvaluateRequest(
        data=str(images),
        packs=tuple(packs),
        settings=settings,
        identify=True,
        samples=RESAMPLES,
        workers=demo.workers,
    )
    try:
        shown.evaluation = evaluate(request, progress).result
    except UsageError as error:  # a weak pack may have left nobody with two faces
        shown.evaluation_problem = str(error)
