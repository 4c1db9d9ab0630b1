"""The command that takes decisions back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.options import DryRun, Json, Quiet, explained, print_json

if TYPE_CHECKING:
    from facepipe.shards import Dataset
    from pipelines.undo import Undo

_PANEL = "Look"


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command(rich_help_panel=_PANEL)(explained(undo))


def undo(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Folder of the dataset.")],
    faces: Annotated[
        list[str] | None, typer.Argument(metavar="FACE_ID...", help="Face ids, or their starts.")
    ] = None,
    run: Annotated[
        int | None,
        typer.Option(
            "--run", metavar="GENERATION", min=0, help="Faces of the photos that came so: 0, 1, .."
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Decisions for this reason, such as outlier.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="NAME", help="Faces under this source label.")
    ] = None,
    said: Annotated[
        bool, typer.Option("--said", help="Forget what was said about them, and say nothing new.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Print all that was said, as CSV; change nothing.")
    ] = False,
    clean: Annotated[bool, typer.Option(help="Run clean, which obeys the list, at once.")] = True,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Take decisions back: keep what was dropped, moved, a duplicate; part what was merged.

    Several options take back what meets all of them. What you say is kept in
    DATASET/_plan/constraints.csv, and every later run obeys it. A decision of your own is
    taken back by forgetting its line.
    """
    from facepipe.shards import open_dataset
    from pipelines import undo as undoing

    opened = open_dataset(dataset)
    if list_:
        _print_list(opened, json)
        return
    choice = undoing.Choice(
        faces=[face.lower() for face in faces or ()],
        generation=run,
        reason=reason,
        label=label,
        said=said,
    )
    found = undoing.plan_undo(opened, choice) if dry_run else undoing.undo(opened, choice)
    steps: list[dict[str, Any]] = []
    if clean and not dry_run and (found.added or found.removed):
        steps = _clean(dataset, undoing.settings_as_run(opened), quiet)
    if json:
        print_json({"dataset": dataset, **found.as_json(), "steps": steps})
    else:
        typer.echo(_text(dataset, found, cleaned=bool(steps), dry=dry_run))


def _print_list(dataset: Dataset, json: bool) -> None:
    from facepipe.constraints import format_constraints
    from pipelines.constraints import read_constraints

    found = read_constraints(dataset)
    if json:
        print_json([{"kind": line.kind, "a": line.a, "b": line.b} for line in found.lines])
    else:
        typer.echo(format_constraints(found).decode(), nl=False)


def _clean(dataset: str, settings: Any, quiet: bool) -> list[dict[str, Any]]:
    from pipelines import curate
    from pipelines.engines import open_engine
    from pipelines.options import Engine
    from pipelines.progress import Progress

    request = curate.Request(steps=("clean",), out=dataset, settings=settings)
    with Progress(quiet=quiet) as progress:
        with open_engine(Engine.local, 1, settings.run.retries, ()) as runner:
            reports, _ = curate.run(request, runner, progress)
    return [report.as_json() for report in reports]


def _text(dataset: str, found: Undo, *, cleaned: bool, dry: bool) -> str:
    from pipelines.undo import format_undo

    lines = [format_undo(found)]
    if dry:
        lines.append("nothing was written (--dry-run)")
    elif cleaned:
        lines.append(
            f"done; facepipe report {dataset} and facepipe index build {dataset} show it too"
        )
    elif found.added or found.removed:
        lines.append(f"facepipe clean --out {dataset} applies it")
    return "\n".join(lines)
