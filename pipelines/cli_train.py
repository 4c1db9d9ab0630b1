"""facepipe train: a recogniser from a cleaned dataset, or from any labelled crops."""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.options import (
    INTERRUPTED,
    DryRun,
    Json,
    Quiet,
    SetOption,
    explained,
    print_json,
)

if TYPE_CHECKING:
    from pipelines.progress import Progress
    from training.launcher import Launch
    from training.run_report import StepReport, TrainResult
    from training.settings import TrainSettings


class Launcher(StrEnum):
    """Who starts the ranks."""

    here = "here"
    ray = "ray"


Source = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="A dataset that facepipe curate cleaned, a .rec, or folders of aligned 112 x 112 "
        "crops, one a person.",
    ),
]
RunOut = Annotated[
    str,
    typer.Option("--out", metavar="RUN", help="Folder of the run; one that is there goes on."),
]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help="Settings that come with facepipe: tiny, ms1mv3_r50, ms1mv3_mbf, "
        "glint360k_r100_pfc, vit_b.",
    ),
]
TrainConfig = Annotated[
    str | None,
    typer.Option("--config", metavar="F.yaml", help="Settings over the recipe's."),
]
LauncherOption = Annotated[
    Launcher,
    typer.Option(
        "--launcher",
        help="here: this process, or the ranks that torchrun started; ray: workers of Ray Train.",
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Ray's workers; by default one a GPU of the cluster."),
]
Detector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="PACK",
        help="A pack whose detector goes into the run's own, which then does for facepipe curate.",
    ),
]
Mlflow = Annotated[
    str | None,
    typer.Option(
        "--mlflow",
        metavar="URI",
        help="MLflow's server, or sqlite:///FILE; by default MLFLOW_TRACKING_URI, or a database "
        "of your own.",
    ),
]
NoMlflow = Annotated[bool, typer.Option("--no-mlflow", help="Track nothing but in RUN.")]
Experiment = Annotated[
    str | None, typer.Option("--experiment", metavar="NAME", help="Of MLflow, for this run.")
]
Register = Annotated[
    str | None,
    typer.Option("--register", metavar="NAME", help="Register the pack as a version of a model."),
]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command(rich_help_panel="Train")(explained(train))


def train(
    source: Source,
    out: RunOut,
    recipe: Recipe = "tiny",
    config: TrainConfig = None,
    set_: SetOption = None,
    launcher: LauncherOption = Launcher.here,
    workers: RayWorkers = None,
    detector: Detector = None,
    mlflow: Mlflow = None,
    no_mlflow: NoMlflow = False,
    experiment: Experiment = None,
    register: Register = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train a recogniser; the result is a model pack in RUN/pack.

    Run the same command again after an interruption: it goes on where it was, exactly. Several
    GPUs: `torchrun --nproc-per-node 8 -m pipelines.cli train ...`.
    """
    from pathlib import Path

    from facepipe.errors import UsageError
    from training.launcher import Launch
    from training.settings import load

    if register is not None and no_mlflow:
        raise UsageError("--register writes to MLflow's registry: leave out --no-mlflow")
    settings = load(recipe, set_ or [], config=config)
    if dry_run:
        _show_plan(source, settings, json)
        return
    launch = Launch(
        sources=tuple(source),
        out=Path(out),
        settings=settings,
        track=not no_mlflow,
        mlflow_uri=mlflow,
        experiment=experiment,
        detector=detector,
    )
    result = _run(launch, launcher, workers, quiet)
    if result.stopped:
        if _speaks():
            raise KeyboardInterrupt
        raise typer.Exit(INTERRUPTED)
    if not _speaks():
        return
    told = result.as_json()
    if register is not None:
        told["registered"] = _registered(result, register, mlflow)
    print_json(told) if json else typer.echo(_text(told))


def _run(launch: Launch, launcher: Launcher, workers: int | None, quiet: bool) -> TrainResult:
    from pipelines.progress import Progress
    from training.launcher import train_on_ray, train_rank

    if launcher is Launcher.ray:
        return train_on_ray(launch, workers)
    with _Wish() as wish, Progress(quiet=quiet or not _speaks()) as progress:
        shown = _Shown(progress)
        result = train_rank(launch, on_step=shown.step, stop=wish.to_stop)
        shown.end(result)
    return result


def _speaks() -> bool:
    """Return whether this rank prints: the only one, or the first of those torchrun started."""
    return os.environ.get("RANK", "0") == "0"


class _Wish:
    """Whether somebody asked the run to stop: Ctrl-C, or SIGTERM of a preempted machine.

    The step is finished and a checkpoint written. Asked twice, it stops at once.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Wish:
        for kind in (signal.SIGINT, signal.SIGTERM):
            self._before[kind] = signal.signal(kind, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def to_stop(self) -> bool:
        """Return whether it was asked."""
        return self._asked

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


class _Shown:
    """The steps of a run as progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._begun = False

    def step(self, report: StepReport) -> None:
        """Show a step; its loss only where it is logged: a GPU would have to be waited for."""
        if not self._begun:
            self._progress.begin("train", report.total_samples, report.position - report.samples)
            self._begun = True
        extra = {}
        if report.logged is not None and "loss" in report.logged:
            extra["extra"] = f"epoch {report.epoch:.2f}, loss {report.logged['loss']:.4f}"
        self._progress.advance(report.samples, **extra)

    def end(self, result: TrainResult) -> None:
        """Close with a line."""
        if self._begun:
            loss = "" if result.loss is None else f", loss {result.loss:.4f}"
            self._progress.end(f"step {result.step:,}, epoch {result.epochs:.2f}{loss}")


def _show_plan(sources: list[str], settings: TrainSettings, json: bool) -> None:
    from training.pretrained import need_weights
    from training.run_data import open_samples
    from training.run_plan import format_plan, plan_run

    if not _speaks():
        return
    if settings.weights is not None:
        need_weights(settings.weights)
    samples, _ = open_samples(sources, settings.data.samples)
    plan = plan_run(settings, samples, int(os.environ.get("WORLD_SIZE", "1")))
    print_json(plan) if json else typer.echo(format_plan(plan))


def _registered(result: TrainResult, name: str, uri: str | None) -> dict[str, Any]:
    from training.registry import register as add

    assert result.pack is not None  # of a run that has finished
    return {"name": name, "version": add(result.pack, result.mlflow_run_id, name, uri=uri)}


def _text(told: dict[str, Any]) -> str:
    """Return the result as a person wants it."""
    lines = [f"{'run':<10} {told['run']}: {told['step']:,} steps, {told['epochs']:.2f} epochs"]
    if told["loss"] is not None:
        lines.append(f"{'loss':<10} {told['loss']:.4f}, mean of the last steps logged")
    bad = ", ".join(f"{count:,} {kind}" for kind, count in told["bad"].items())
    if bad:
        lines.append(f"{'no crop':<10} {bad}")
    lines.append(f"{'speed':<10} {told['samples_per_s']:,.0f} samples/s in training")
    lines.append(f"{'pack':<10} {told['pack']} (cosine with the net {told['cosine']:.7f})")
    if "registered" in told:
        lines.append(
            f"{'registered':<10} {told['registered']['name']} {told['registered']['version']}"
        )
    return "\n".join(lines)
