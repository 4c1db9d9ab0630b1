"""The command that makes a registered model the champion, if it beats the present one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.options import (
    Config,
    DryRun,
    Json,
    PairsFile,
    Quiet,
    SetOption,
    Workers,
    explained,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from facepipe.config import Settings
    from facepipe.packs import Pack
    from training.promotion import Measure, Outcome
    from training.promotion_checks import Check, Scores

_PANEL = "Train"

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the registered model.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="What decides: a dataset, a folder of aligned crops, or a .bin set.",
    ),
]
Candidate = Annotated[
    str | None,
    typer.Option(
        "--candidate",
        metavar="VERSION|RUN|PACK",
        help="What is to be promoted; the latest version if left out. A pack is registered once "
        "it has won.",
    ),
]
Alias = Annotated[str, typer.Option("--alias", help="The alias to move.")]
AtLeast = Annotated[
    float | None,
    typer.Option(
        "--at-least", metavar="ACCURACY", min=0, max=1, help="Accuracy it must reach, as .995."
    ),
]
First = Annotated[
    bool, typer.Option("--first", help="There is no champion yet: ask nothing of the first.")
]
Repin = Annotated[
    bool, typer.Option("--repin", help="Decide on other data than before, from now on.")
]
Rollback = Annotated[
    bool, typer.Option("--rollback", help="Move the alias back to the version before.")
]
Mlflow = Annotated[
    str | None,
    typer.Option("--mlflow", metavar="URI", help="The registry; else MLFLOW_TRACKING_URI."),
]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command(rich_help_panel=_PANEL)(explained(promote))


def promote(
    name: Name,
    data: Data = None,
    pairs: PairsFile = None,
    candidate: Candidate = None,
    alias: Alias = "champion",
    at_least: AtLeast = None,
    first: First = False,
    repin: Repin = False,
    rollback: Rollback = False,
    mlflow: Mlflow = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Make a registered model the champion, if it beats the present one on the same pairs.

    It must be right on more pairs than chance explains, and accept no fewer matched ones at the
    lowest FAR that the pairs can show. Else nothing changes, and the exit code is 4.
    """
    from facepipe.errors import GateFailed, UsageError
    from training import promotion
    from training.promotion_checks import PromotionSettings
    from training.registry import Registry

    if rollback == (data is not None):
        raise UsageError("give either --data, on which to compare, or --rollback")
    if rollback:
        outcome = promotion.roll_back(Registry(mlflow), name, alias, dry_run=dry_run)
    else:
        asked = promotion.Asked(
            name=name,
            alias=alias,
            candidate=candidate,
            first=first,
            repin=repin,
            dry_run=dry_run,
        )
        measure = _measure(str(data), pairs, settings_of(config, set_), workers, quiet)
        settings = PromotionSettings(at_least=at_least)
        outcome = promotion.promote(Registry(mlflow), asked, measure, settings)
    print_json(outcome.as_json()) if json else typer.echo(_text(outcome, dry_run))
    if not outcome.passed:
        failed = "; ".join(f"{c.name} is not {c.rule}" for c in outcome.checks if not c.holds)
        raise GateFailed(f"{outcome.candidate} is not promoted: {failed}")


def _measure(
    data: str, pairs: str | None, settings: Settings, workers: int | None, quiet: bool
) -> Measure:
    def measure(packs: Sequence[Pack]) -> Scores:
        from pipelines.engines import usable_cores
        from pipelines.pinned_pairs import measure_pinned
        from pipelines.progress import Progress
        from training.promotion_checks import Scores

        with Progress(quiet=quiet) as progress:
            found = measure_pinned(
                data, pairs, packs, settings, workers or usable_cores(), progress
            )
        about = {
            "pairs": len(found.pairs.same_P),
            "matched": int(found.pairs.same_P.sum()),
            "pictures": found.pictures,
            "pairs_not_in_data": found.pairs.absent,
            "flip": settings.embed.flip,
        }
        return Scores(
            digest=found.digest,
            about=about,
            same_P=found.pairs.same_P,
            people_P2=found.pairs.people_P2,
            similarity_MP=found.similarity_MP,
            right_MP=found.right_MP,
        )

    return measure


def _text(outcome: Outcome, dry_run: bool) -> str:
    lines = [
        f"candidate   {outcome.candidate}",
        f"{outcome.alias:<11} {outcome.champion or 'none yet'}",
    ]
    about: dict[str, Any] = dict(outcome.evaluation)
    if outcome.checks:
        lines += [f"data        {about['pairs']:,} pairs, digest {about['digest'][:12]}", ""]
        lines += _table(outcome.checks)
    lines.append("")
    if outcome.moved:
        lines.append(f"{outcome.name}@{outcome.alias} is version {outcome.version} now")
    else:
        now = "no version" if outcome.version is None else f"version {outcome.version}"
        lines.append(f"{outcome.name}@{outcome.alias} stays {now}")
    if dry_run:
        lines.append("nothing was written (--dry-run)")
    return "\n".join(lines)


def _table(checks: Sequence[Check]) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("", "candidate", "champion", "difference", "95 % interval", "asked", "")
    ]
    rows += [_row(check) for check in checks]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _row(check: Check) -> tuple[str, ...]:
    gain = check.difference
    return (
        check.name,
        f"{check.candidate:.2%}",
        "" if check.champion is None else f"{check.champion:.2%}",
        "" if gain is None else f"{gain.value:+.2%}",
        "" if gain is None else f"{gain.low:+.2%} to {gain.high:+.2%}",
        check.rule,
        "yes" if check.holds else "NO",
    )
