"""Runs an evaluation: one or more packs, or a dataset's own vectors, on the same pictures.

What is measured is in ``evaluate_pairs``, ``evaluate_templates``, ``evaluate_people`` and
``evaluate_groups``; where the vectors come from in ``evaluate_faces``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facepipe.bootstrap import SAMPLES
from facepipe.config import Settings
from facepipe.det import Det, TarBand, require_supported
from facepipe.errors import UsageError
from facepipe.packs import Pack
from facepipe.shards import Dataset, open_dataset
from pipelines.evaluate_faces import Faces, embed_source, own_faces
from pipelines.evaluate_groups import groups_result, read_groups
from pipelines.evaluate_pairs import (
    Judged,
    PairList,
    Resampling,
    bin_pair_list,
    difference_result,
    judge,
    judge_scores,
    narrowed,
    pairs_result,
    read_pair_list,
    require_both_kinds,
)
from pipelines.evaluate_people import Roles, assign_roles, identification_result, identify
from pipelines.evaluate_sources import Source, open_source
from pipelines.evaluate_templates import TemplateLists, read_templates, template_similarities
from pipelines.evaluate_text import beside_name
from pipelines.progress import Progress

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to evaluate, on what, and how."""

    data: str
    packs: tuple[tuple[str, Pack], ...] = ()  # by the name they were asked for
    beside: tuple[str, Pack] | None = None  # not asked for, shown for comparison after those
    settings: Settings
    pairs: str | None = None
    templates: tuple[str, str] | None = None  # the list of faces, the list of pairs
    identify: bool = False
    distractors: str | None = None
    groups: str | None = None
    fars: tuple[float, ...] | None = None
    samples: int = SAMPLES
    workers: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a pack beside none."""
        if self.beside is not None and not self.packs:
            raise ValueError("a dataset's own vectors stand alone: nothing is embedded for them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a figure shows of one model: its curve, its FARs' intervals, its similarities."""

    model: str
    det: Det
    bands: tuple[TarBand, ...]
    matched: Float
    mismatched: Float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The result as numbers and lists, and what figures are drawn from, by protocol."""

    result: dict[str, Any]
    curves: dict[str, list[Curve]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Protocols:
    """The lists of a request, read and found to fit its source."""

    source: Source
    pairs: PairList | None
    templates: TemplateLists | None
    roles: Roles | None
    groups: npt.NDArray[np.str_] | None
    distractors: Source | None


def evaluate_pairs(
    dataset: Dataset, pairs_file: str, *, fars: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return what a dataset's own vectors do on pairs in LFW's format; see `evaluate`.

    The face of a photo is its large, central one (`facepipe.quality.labelled_face`), whatever its
    quality. Pairs that name a photo which is not in the dataset are left out and counted.
    Raises UsageError where the pairs file is missing or too few of its pairs are in the dataset.
    """
    request = Request(
        data=dataset.uri,
        settings=Settings(),
        pairs=pairs_file,
        fars=None if fars is None else tuple(fars),
    )
    return evaluate(request, Progress(quiet=True)).result


def evaluate(request: Request, progress: Progress) -> Evaluation:
    """Measure what is asked for, for each pack on the same pictures.

    Without packs, with the dataset's own vectors; then the result is that one model's. What
    nobody asked for is under ``beside``, apart from ``models``. Raises UsageError for lists that
    do not fit the pictures and for a FAR they cannot support.
    """
    lists = _read(request)
    _say_beside(request, lists, progress)
    models = _faces(request, lists.source, progress)
    others = None
    if lists.distractors is not None:
        others = _faces(request, lists.distractors, progress)
    resampling = Resampling(samples=request.samples)
    curves: dict[str, list[Curve]] = {}
    rows: list[dict[str, Any]] = []
    first: dict[str, Judged] = {}
    for n, (name, faces) in enumerate(models):
        row: dict[str, Any] = {"model": name, "model_id": faces.model_id}
        if request.packs:
            row["flip"] = request.settings.embed.flip
        unit_ND = faces.unit_ND()
        for protocol, judged, pairs in _judged(faces, unit_ND, lists, request, resampling):
            found = pairs_result(judged, pairs)
            if n:
                found["difference"] = difference_result(judged, first[protocol], pairs, resampling)
            if protocol == "pairs" and lists.groups is not None:
                fmr = min(request.fars) if request.fars else None
                found["groups"] = groups_result(judged, pairs, lists.groups, fmr, resampling)
            row |= found if protocol == "pairs" else {protocol: found}
            first.setdefault(protocol, judged)
            shown = beside_name(name) if n == len(request.packs) > 0 else name
            curves.setdefault(protocol, []).append(_curve(shown, judged, pairs))
        if lists.roles is not None:
            known = None if others is None else others[n][1].unit_ND()
            searches = identify(unit_ND, lists.roles, known)
            row["identification"] = identification_result(
                searches, lists.roles, 0 if known is None else len(known), request.fars, resampling
            )
        rows.append(row)
    result = {"data": request.data, "pictures": len(lists.source.pictures)}
    beside = {} if request.beside is None else {"beside": rows.pop()}
    result |= ({"models": rows} if request.packs else rows[0]) | beside
    return Evaluation(result=result, curves=curves)


def outline(request: Request) -> dict[str, Any]:
    """Return what an evaluation would measure, without embedding a picture."""
    lists = _read(request)
    same = lists.source.same_P
    pairs = len(same) if same is not None else 0 if lists.pairs is None else len(lists.pairs.same_P)
    beside = {} if request.beside is None else {"beside": request.beside[0]}
    return {
        "data": request.data,
        "pictures": len(lists.source.pictures),
        "models": [name for name, _ in request.packs] or ["the dataset's own vectors"],
        **beside,
        "pairs": pairs,
        "template_pairs": 0 if lists.templates is None else len(lists.templates.pairs.same_P),
        "searches": 0 if lists.roles is None else len(lists.roles.searched),
        "distractors": 0 if lists.distractors is None else len(lists.distractors.pictures),
    }


def _read(request: Request) -> _Protocols:
    """Open the source and read every list. Raises UsageError for what does not fit."""
    source = open_source(request.data)
    if not request.packs and not source.dataset:
        raise UsageError(f"{request.data} is no dataset: name a PACK to embed its pictures with")
    if request.pairs is not None and source.same_P is not None:
        raise UsageError(f"{request.data} has pairs of its own: leave out --pairs")
    has_pairs = request.pairs is not None or source.same_P is not None
    if not has_pairs and request.templates is None and not request.identify:
        raise UsageError("nothing to measure: give --pairs, --template-faces or --identify")
    if request.groups is not None and not has_pairs:
        raise UsageError("--groups are of the people of --pairs: give those too")
    if request.distractors is not None and not request.identify:
        raise UsageError("--distractors are for --identify: give that too")
    if request.distractors is not None and not request.packs:
        raise UsageError("--distractors are embedded by a PACK: name the one of the dataset")
    pairs = None if request.pairs is None else read_pair_list(Path(request.pairs), source)
    if pairs is not None and request.packs and request.templates is None and not request.identify:
        source, pairs = narrowed(source, pairs)
    templates = None if request.templates is None else read_templates(*request.templates, source)
    roles = assign_roles(source) if request.identify else None
    fars = request.fars or ()
    if source.same_P is not None:
        require_both_kinds(source)
        require_supported(fars, source.same_P.count(False))
    for listed in (pairs, None if templates is None else templates.pairs):
        if listed is not None:
            require_supported(fars, int((~listed.same_P).sum()))
    if roles is not None:
        require_supported(fars, roles.strangers, "FPIR")
    return _Protocols(
        source=source,
        pairs=pairs,
        templates=templates,
        roles=roles,
        groups=None if request.groups is None else read_groups(Path(request.groups), source),
        distractors=None if request.distractors is None else open_source(request.distractors),
    )


def _say_beside(request: Request, lists: _Protocols, progress: Progress) -> None:
    if request.beside is None:
        return
    also = 0 if lists.distractors is None else len(lists.distractors.pictures)
    progress.say(
        f"beside, {request.beside[0]} embeds the same {len(lists.source.pictures) + also:,} "
        "crops, to compare with; --alone leaves it out"
    )


def _faces(request: Request, source: Source, progress: Progress) -> list[tuple[str, Faces]]:
    """Return the vectors of every pack and of the one beside, or the dataset's own."""
    if not request.packs:
        return [("own vectors", own_faces(open_dataset(source.name), source))]
    named = list(request.packs)
    if request.beside is not None:
        name, pack = request.beside
        # Without its detector: it must not decide which faces the others are measured on.
        named.append((name, pack.model_copy(update={"detector": None})))
    packs = [pack for _, pack in named]
    found = embed_source(source, packs, request.settings, request.workers, progress)
    return [(name, faces) for (name, _), faces in zip(named, found, strict=True)]


def _judged(
    faces: Faces, unit_ND: Float, lists: _Protocols, request: Request, resampling: Resampling
) -> list[tuple[str, Judged, PairList]]:
    """Return the pairs protocols that are asked for: pairs of pictures, pairs of templates."""
    found = []
    pairs = lists.pairs if faces.source.same_P is None else bin_pair_list(faces)
    if pairs is not None:
        found.append(("pairs", judge(unit_ND, pairs, request.fars, resampling), pairs))
    if lists.templates is not None:
        cosine, pooled = template_similarities(faces.raw_ND, lists.templates)
        judged = judge_scores(cosine, pooled, request.fars, resampling)
        found.append(("templates", judged, pooled))
    return found


def _curve(name: str, judged: Judged, pairs: PairList) -> Curve:
    seen_P = ~np.isnan(judged.similarity_P)
    return Curve(
        model=name,
        det=judged.curve,
        bands=judged.bands,
        matched=judged.similarity_P[seen_P & pairs.same_P],
        mismatched=judged.similarity_P[seen_P & ~pairs.same_P],
    )
