"""The command that measures verification and identification."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.options import (
    Config,
    DryRun,
    Json,
    PairsFile,
    Quiet,
    SetOption,
    explained,
    pack_of,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from facepipe.packs import Pack
    from pipelines.evaluate import Evaluation, Request

_PANEL = "Look"


class Flip(StrEnum):
    """What is done with the mirrored crop."""

    none = "none"
    sum = "sum"
    concat = "concat"


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A dataset; with PACKs also a folder of photos or aligned crops, or a .bin set.",
    ),
]
Packs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PACK]...",
        help="Packs that embed the same crops, side by side; without one, a dataset's own "
        "vectors are measured.",
    ),
]
TemplateFaces = Annotated[
    str | None,
    typer.Option(
        "--template-faces",
        metavar="F",
        help="IJB's list: picture, template, medium, and its subject if it is known.",
    ),
]
TemplatePairs = Annotated[
    str | None,
    typer.Option("--template-pairs", metavar="F", help="IJB's list: template, template, 1 or 0."),
]
Identify = Annotated[
    bool,
    typer.Option("--identify", help="Search each person's pictures for their first, by labels."),
]
Distractors = Annotated[
    str | None,
    typer.Option("--distractors", metavar="DATA", help="Strangers to enrol too, with PACKs."),
]
Groups = Annotated[
    str | None,
    typer.Option("--groups", metavar="F.csv", help="path,group: error rates of each group."),
]
Fars = Annotated[
    list[float] | None,
    typer.Option("--far", metavar="RATE", help="A FAR (and FPIR) to report at; repeatable."),
]
FlipOption = Annotated[
    Flip | None,
    typer.Option("--flip", help="Embed mirrored crops too; short for --set embed.flip=..."),
]
Alone = Annotated[
    bool,
    typer.Option(
        "--alone",
        help="Only the PACKs. Else builtin, if it is none of them, embeds the same crops and is "
        "shown beside them, so that it is seen what they give beyond it.",
    ),
]
Samples = Annotated[
    int, typer.Option("--samples", min=100, help="Resamples of people behind each interval.")
]
Threads = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads; by default one a core.")
]
Page = Annotated[
    str | None,
    typer.Option("--report", metavar="evaluation.html", help="Also write a page to look at."),
]
Plots = Annotated[
    str | None, typer.Option("--plots", metavar="FOLDER", help="Also write the figures as PNG.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command(rich_help_panel=_PANEL)(explained(evaluate))


def evaluate(
    data: Data,
    packs: Packs = None,
    pairs: PairsFile = None,
    template_faces: TemplateFaces = None,
    template_pairs: TemplatePairs = None,
    identify: Identify = False,
    distractors: Distractors = None,
    groups: Groups = None,
    far: Fars = None,
    flip: FlipOption = None,
    alone: Alone = False,
    samples: Samples = 2000,
    workers: Threads = None,
    report: Page = None,
    plots: Plots = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Measure verification and identification: a dataset's own vectors, or packs side by side.

    Beside the packs that are named, builtin is shown on the same crops, unless --alone.
    A pair with a photo in which no face was found counts as wrong. Intervals resample people,
    who err together. A FAR that the pairs are too few to show is refused.
    """
    from pipelines.evaluate import Request as Asked
    from pipelines.evaluate import evaluate as measure
    from pipelines.evaluate_text import format_evaluation
    from pipelines.progress import Progress

    _check(report, plots, mirrored=flip is not None, packs=packs or [])
    mirrored = [f"embed.flip={flip.value}"] if flip is not None else []
    named = _packs(packs or [])
    request = Asked(
        data=data,
        packs=named,
        beside=None if alone else _beside([pack for _, pack in named], quiet),
        settings=settings_of(config, [*(set_ or []), *mirrored]),
        pairs=pairs,
        templates=_both(template_faces, template_pairs),
        identify=identify,
        distractors=distractors,
        groups=groups,
        fars=tuple(sorted(set(far), reverse=True)) if far else None,
        samples=samples,
        workers=workers or len(os.sched_getaffinity(0)),
    )
    if dry_run:
        _print_outline(request, json)
        return
    with Progress(quiet=quiet) as progress:
        evaluation = measure(request, progress)
    result = evaluation.result | _written(evaluation, report, plots)
    print_json(result) if json else typer.echo(format_evaluation(result))


def _check(report: str | None, plots: str | None, *, mirrored: bool, packs: list[str]) -> None:
    """Raise UsageError for what cannot be done, before anything is embedded."""
    from facepipe.errors import UsageError
    from pipelines.evaluate_page import check_places

    if mirrored and not packs:
        raise UsageError("--flip embeds crops anew: name the PACK to embed them with")
    check_places(report, plots)


def _print_outline(request: Request, json: bool) -> None:
    from pipelines.evaluate import outline

    found = outline(request)
    if json:
        print_json(found)
    else:
        typer.echo("\n".join(f"{key}: {value}" for key, value in found.items()))


def _written(evaluation: Evaluation, report: str | None, plots: str | None) -> dict[str, object]:
    from pipelines.evaluate_page import write_page, write_pictures

    written: dict[str, object] = {}
    if report is not None:
        written["report"] = write_page(evaluation, report)
    if plots is not None:
        written["plots"] = write_pictures(evaluation, plots)
    return written


def _packs(names: list[str]) -> tuple[tuple[str, Pack], ...]:
    """Return packs by the last part of their names, where that tells them apart."""
    short = [_short(name) for name in names]
    shown = short if len(set(short)) == len(set(names)) else names
    return tuple((name, pack_of(given)) for name, given in zip(shown, names, strict=True))


def _beside(packs: list[Pack], quiet: bool) -> tuple[str, Pack] | None:
    """Return builtin, where it is none of the packs; where it cannot be opened, say so."""
    from facepipe.builtin_pack import BUILTIN
    from facepipe.errors import FacepipeError

    if not packs:
        return None
    try:
        builtin = pack_of(BUILTIN)
        own = builtin.digest(builtin.need_recogniser())
    except FacepipeError as error:
        if not quiet:
            typer.echo(f"facepipe: without builtin beside: {error}", err=True)
        return None
    named = [pack.digest(pack.recogniser) for pack in packs if pack.recogniser is not None]
    return None if own in named else (BUILTIN, builtin)


def _short(name: str) -> str:
    registered = name.removeprefix("models:/")
    return registered if registered != name else name.rstrip("/").rpartition("/")[2]


def _both(faces: str | None, pairs: str | None) -> tuple[str, str] | None:
    """Return the two lists of templates. Raises UsageError for one without the other."""
    from facepipe.errors import UsageError

    if faces is not None and pairs is not None:
        return faces, pairs
    if faces is not None or pairs is not None:
        raise UsageError("--template-faces and --template-pairs go together: give both")
    return None
