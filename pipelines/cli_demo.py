"""facepipe demo: everything once, on sample photos, in half a minute and offline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.demo_files import MIN_FACES
from pipelines.options import (
    DEFAULT_PACK,
    DryRun,
    Json,
    Models,
    Quiet,
    Workers,
    explained,
    pack_of,
    print_json,
    terminate_like_ctrl_c,
)

if TYPE_CHECKING:
    from pipelines.progress import Progress

DEFAULT_OUT = "facepipe-demo"
# Enough for a curve that falls, few enough for seconds without a GPU; every step is logged.
TRAIN_SETTINGS = (
    *("steps=24", "data.loader.batch_samples=32", "log_every_steps=1", "device=cpu"),
    *("schedule.warmup_epochs=0", "ema_decay=null", "checkpoint.every_steps=24"),
    f"data.samples.min_faces={MIN_FACES}",
)
NO_TORCH = (
    "torch is not installed, so that nothing is trained: pip install 'facepipe[train]', then "
    "facepipe demo again"
)

DemoOut = Annotated[
    str,
    typer.Option("--out", metavar="FOLDER", help="Folder of the demo; made if missing."),
]
Open = Annotated[bool, typer.Option("--open", help="Show the page in the browser at the end.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command(rich_help_panel="Look")(explained(demo))


def demo(
    out: DemoOut = DEFAULT_OUT,
    models: Models = DEFAULT_PACK,
    workers: Workers = None,
    open_: Open = False,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """See everything once: curate, train, export, evaluate, index and search sample photos.

    The photos come with packages that facepipe installs, and what is made of them: copies,
    bursts, wrong labels, turned, damaged and useless files. Ends with one page that says of each
    file what it is, what became of it and why, and whether that was expected. Needs no network;
    run again, it does only what is missing. Without torch nothing is trained, and it says so.
    """
    from facepipe.errors import UsageError
    from pipelines.demo import outline
    from pipelines.demo_result import plan_text, result_text

    if "://" in out:
        raise UsageError(f"--out {out}: the demo's folder is one of this machine, and new")
    place = Path(out)
    left_out = "" if find_spec("torch") is not None else NO_TORCH
    if dry_run:
        plan = outline(place, left_out)
        print_json(plan) if json else typer.echo(plan_text(plan))
        return
    began = time.monotonic()
    told = _run(place, models, workers, left_out, quiet)
    told["seconds"] = round(time.monotonic() - began, 1)
    if open_:
        _show(Path(told["page"]))
    print_json(told) if json else typer.echo(result_text(told))


def _run(out: Path, models: str, workers: int | None, left_out: str, quiet: bool) -> dict[str, Any]:
    from pipelines.demo import Demo, run_demo
    from pipelines.demo_page import write_page
    from pipelines.demo_result import result_json
    from pipelines.engines import open_engine, usable_cores
    from pipelines.progress import Progress

    asked = Demo(
        out=out,
        pack=pack_of(models),
        pack_name=models,
        workers=workers or usable_cores(),
        train=None if left_out else train_a_little,
        left_out=left_out,
    )
    terminate_like_ctrl_c()
    with Progress(quiet=quiet) as progress, open_engine("local", workers, 2) as runner:
        shown = run_demo(asked, runner, progress)
    return result_json(shown, write_page(shown))


def train_a_little(
    dataset: str,
    out: Path,
    detector: str,
    progress: Progress,
    *,
    overrides: Sequence[str] = TRAIN_SETTINGS,
) -> dict[str, Any]:
    """Train the recipe tiny for a few steps; a run that is there is not run again."""
    from training.launcher import Launch, train_rank
    from training.run_report import StepReport
    from training.settings import load

    began = False

    def on_step(report: StepReport) -> None:
        nonlocal began
        if not began:
            progress.begin("train", report.total_samples, report.position - report.samples)
            began = True
        progress.advance(report.samples, f"loss {report.loss:.3f}")

    launch = Launch(
        sources=(dataset,),
        out=out,
        settings=load("tiny", overrides),
        track=False,  # in RUN alone: MLflow's own database is no place for a demo
        detector=detector,
    )
    result = train_rank(launch, on_step=on_step)
    if began:
        progress.end(f"{result.step} steps, a model pack in {out.name}/pack")
    return result.as_json()


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        typer.echo(f"facepipe: no browser could be opened: open {page} in one", err=True)
