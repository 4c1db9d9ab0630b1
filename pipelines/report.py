"""Writes one page to look at: counts, faces kept and dropped, duplicates, measures, times.

The page is one HTML file that loads nothing: pictures and figures are inside it. It holds
no date and nothing random, so that the same dataset always gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2

from facepipe.errors import DatasetNotFound, StoreFull, UsageError
from facepipe.object_client import is_object_uri
from facepipe.schema import Decision, FaceStatus
from facepipe.shards import Dataset
from facepipe.store import open_store
from pipelines import report_sections as sections
from pipelines.report_checks import find_checks
from pipelines.report_counts import failures, funnel, kept_reasons, read_photos
from pipelines.report_faces import read_faces
from pipelines.report_figures import MINUS, number
from pipelines.report_measures import measure_figures, similarity_figure, step_times
from pipelines.report_sheets import contact_sheets
from pipelines.report_shots import read_shots, shown

DEFAULT_NAME = "report.html"


def write_report(dataset: Dataset, out: str | None = None) -> str:
    """Write the report of a dataset as one HTML file and return its path or uri.

    ``out`` is DATASET/report.html where it is not given. Raises DatasetNotFound where
    detect has committed nothing, CorruptData, StoreFull, and UsageError for an ``out`` that
    is a folder or would overwrite something else of the dataset.
    """
    out = f"{dataset.uri}/{DEFAULT_NAME}" if out is None else out
    _check(out)
    data = _page(dataset).encode("utf-8", "replace")
    if is_object_uri(out):
        folder, _, name = out.rpartition("/")
        open_store(folder).put(name, data)
        return out
    path, local = Path(out), dataset.store.local
    try:
        if local is not None and path.resolve().is_relative_to(local.resolve()):
            dataset.store.put(path.resolve().relative_to(local.resolve()).as_posix(), data)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as error:
        raise StoreFull(f"cannot write {path} ({error.strerror}): choose another --out") from error
    return str(path)


def _check(out: str) -> None:
    """Raise UsageError for an --out that is no page."""
    if not is_object_uri(out) and Path(out).is_dir():
        raise UsageError(f"--out {out} is a folder: name a file, as in {Path(out) / DEFAULT_NAME}")
    if PurePosixPath(out).suffix.lower() not in {".html", ".htm"}:  # never over a table or photo
        raise UsageError(f"--out {out} is no page: give it a name that ends in .html")


def _name(dataset: Dataset) -> str:
    """Return the last part of a dataset's path or uri."""
    local = dataset.store.local
    return dataset.uri.rpartition("/")[2] if local is None else local.resolve().name


def _page(dataset: Dataset) -> str:
    if not dataset.files("photos") and not dataset.finished("detect"):
        raise DatasetNotFound(
            f"{dataset.uri} has no photos yet: run facepipe curate PHOTOS --out {dataset.uri}"
        )
    photos = read_photos(dataset)
    faces, problems = read_faces(dataset)
    cleaned, settings = "clean" not in problems, _quality_settings(dataset)
    threshold = _threshold(dataset) if cleaned else None
    sheets = contact_sheets(faces, settings, threshold)
    duplicate_N = faces.equal("duplicates.decision", Decision.DUPLICATE)
    groups, groups_in_all = sections.duplicate_groups(faces)
    moves, moves_in_all = sections.moves(faces)
    people, people_in_all = sections.people(faces, cleaned)
    checks = find_checks(dataset, faces, threshold)
    rows = [row for sheet in sheets for strip in sheet.strips for row in strip.rows]
    rows += sections.rows_of(groups, moves, people) + checks.rows
    view = {
        "name": shown(_name(dataset)),
        "root": shown(photos.root),
        "model": _model(dataset),
        "steps": _steps(dataset, problems),
        "cleaned": cleaned,
        "deduped": "dedup" not in problems,
        "photos": photos,
        "faces": len(faces),
        "kept": int(faces.kept().sum()),
        "kept_reasons": kept_reasons(faces),
        "funnel": funnel(photos, faces, settings, problems),
        "checks": checks,
        "failures": failures(photos),
        "sheets": sheets,
        "groups": groups,
        "groups_in_all": groups_in_all,
        "duplicates": int(duplicate_N.sum()),
        "duplicates_unfit": int((duplicate_N & ~faces.equal("status", FaceStatus.OK)).sum()),
        "moves": moves,
        "moves_in_all": moves_in_all,
        "people": people,
        "people_in_all": people_in_all,
        "without_dominant": sections.labels_without_dominant(faces),
        "similarity": similarity_figure(faces, threshold),
        "measures": measure_figures(faces, settings),
        "times": step_times(dataset),
        "shots": read_shots(dataset, faces, rows, photos.root),
    }
    return _render(view)


def _render(view: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # labels, paths and error texts are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "cosine": _cosine}
    environment.filters |= {"seconds": _seconds, "sha256": _sha256, "shown": shown}
    return environment.get_template("report.html.j2").render(view)


def _cosine(value: float) -> str:
    """Return a similarity to two places, never minus zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)


def _seconds(value: float) -> str:
    """Return seconds, and from an hour on how many hours that is."""
    hours = f" ({value / 3600:,.1f} h)" if value >= 3600 else ""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} s{hours}"


def _sha256(text: str) -> str:
    """Return a script's hash as a Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# -- about the dataset as a whole --------------------------------------------------------


def _model(dataset: Dataset) -> str:
    """Return the model_id of the embeddings, empty before the first."""
    try:
        return dataset.current_model()
    except DatasetNotFound:
        return ""


def _steps(dataset: Dataset, problems: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each step that is not done with why, in the order of the steps."""
    found = []
    for name in ("detect", "embed"):
        step = _embed_step(dataset) if name == "embed" else name
        plan = dataset.plan(step) if step else None
        if plan is None:
            found.append((name, "has not run yet"))
        elif not dataset.finished(step):
            done = len(dataset.commits(step))
            found.append((name, f"was interrupted: {done:,} of {len(plan.shards):,} shards done"))
    return found + [(step, problems[step]) for step in ("dedup", "clean") if step in problems]


def _embed_step(dataset: Dataset) -> str:
    model = _model(dataset)
    return dataset.step_of("embeddings", model) if model else ""


def _quality_settings(dataset: Dataset) -> dict[str, Any]:
    """Return the quality settings that detect ran with, empty where they are not recorded."""
    plan = dataset.plan("detect")
    found = plan.basis.get("quality", {}) if plan else {}
    return dict(found) if isinstance(found, Mapping) else {}


def _threshold(dataset: Dataset) -> float | None:
    """Return the cosine at which clean finds a face as good as not, if it recorded one."""
    for commit in dataset.commits("clean"):
        for facts in (commit.facts, *commit.facts.values()):
            value = facts.get("threshold") if isinstance(facts, Mapping) else None
            if isinstance(value, int | float):
                return float(value)
    return None
