"""The command line: facepipe curate, its steps, and the commands that look at the result.

Results go to stdout (--json for machines), progress and messages to stderr. Heavy modules
are imported by the command that needs them, so that --help is quick.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from facepipe import __version__
from pipelines import (
    cli_decide,
    cli_demo,
    cli_evaluate,
    cli_export,
    cli_index,
    cli_inspect,
    cli_plan,
    cli_promote,
    cli_train,
)
from pipelines.options import (
    DEFAULT_PACK,
    Config,
    ConstraintsOption,
    DryRun,
    Engine,
    EngineCommand,
    EngineOption,
    EngineOptions,
    Json,
    LabelsOption,
    Models,
    Out,
    Quiet,
    RetryFailed,
    SetOption,
    Sources,
    Workers,
    explained,
    pack_of,
    print_json,
    settings_of,
    terminate_like_ctrl_c,
)

if TYPE_CHECKING:
    from facepipe.constraints import Constraints
    from pipelines.curate import Request
    from pipelines.runners import Runner
    from pipelines.stage import StepReport

    After = Callable[[Runner, Callable[[str], None]], dict[str, Any]]


class Where(NamedTuple):
    """The engine of a run, its own options, and how many workers."""

    engine: Engine
    options: list[str] | None
    workers: int | None


app = typer.Typer(
    name="facepipe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From folders of photos to clean people and a searchable face gallery.\n\n"
    "Start with `facepipe curate PHOTOS --out DATASET`, then look at DATASET/report.html and "
    "try `facepipe index search DATASET/index PHOTO`.",
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"facepipe {__version__}")
        raise typer.Exit


@app.command(cls=EngineCommand, rich_help_panel="Pipeline")
@explained
def curate(
    sources: Sources,
    out: Out,
    models: Models = DEFAULT_PACK,
    labels: LabelsOption = None,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    retry_failed: RetryFailed = False,
    constraints: ConstraintsOption = None,
    index: Annotated[bool, typer.Option(help="Also build DATASET/index.")] = True,
    report: Annotated[bool, typer.Option(help="Also write DATASET/report.html.")] = True,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Do it all: detect, embed, dedup and clean, then build a gallery and a report.

    Run the same command again after an interruption, with new photos, or with changed
    settings: only what is missing is done.
    """
    from pipelines.curate import STEPS, Request

    request = Request(
        steps=STEPS,
        out=out,
        settings=settings_of(config, set_, labels),
        pack=pack_of(models),
        sources=sources,
        retry_failed=retry_failed,
        constraints=_said(constraints),
    )
    after = _gallery_and_report(request, index, report)
    _run(
        request,
        Where(engine, engine_option, workers),
        json=json,
        dry=dry_run,
        quiet=quiet,
        after=after,
    )


def _gallery_and_report(request: Request, index: bool, report: bool) -> After:
    def after(runner: Runner, say: Callable[[str], None]) -> dict[str, Any]:
        from facepipe.shards import open_dataset

        dataset, made = open_dataset(request.out), {}
        if index:
            from pipelines.index import build_index
            from pipelines.stage import resources_of

            made["index"] = f"{request.out.rstrip('/')}/index"
            manifest = build_index(
                dataset,
                made["index"],
                request.settings.index,
                runner=runner,
                resources=resources_of(request.settings, "index"),
            )
            done = "" if manifest["built"] else "nothing to do, "
            say(f"index: {done}{manifest['totals']['indexed']} faces in {made['index']}")
        if report:
            from pipelines.report import write_report

            made["report"] = str(write_report(dataset))
            say(f"report: {made['report']}")
        return made

    return after


@app.command(cls=EngineCommand, rich_help_panel="Pipeline")
@explained
def detect(
    sources: Sources,
    out: Out,
    models: Models = DEFAULT_PACK,
    labels: LabelsOption = None,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    retry_failed: RetryFailed = False,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Find, align and measure the faces of photos: the tables photos and faces."""
    from pipelines.curate import Request

    settings = settings_of(config, set_, labels)
    request = Request(
        steps=("detect",),
        out=out,
        settings=settings,
        pack=pack_of(models),
        sources=sources,
        retry_failed=retry_failed,
    )
    _run(request, Where(engine, engine_option, workers), json=json, dry=dry_run, quiet=quiet)


@app.command(cls=EngineCommand, rich_help_panel="Pipeline")
@explained
def embed(
    out: Out,
    models: Models = DEFAULT_PACK,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Turn a dataset's faces into unit vectors: the table embeddings, one per model."""
    from pipelines.curate import Request

    settings = settings_of(config, set_)
    request = Request(steps=("embed",), out=out, settings=settings, pack=pack_of(models))
    _run(request, Where(engine, engine_option, workers), json=json, dry=dry_run, quiet=quiet)


@app.command(cls=EngineCommand, rich_help_panel="Pipeline")
@explained
def dedup(
    out: Out,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Find the same picture stored twice: the table duplicates, a row for every face."""
    from pipelines.curate import Request

    request = Request(steps=("dedup",), out=out, settings=settings_of(config, set_))
    _run(request, Where(engine, engine_option, workers), json=json, dry=dry_run, quiet=quiet)


@app.command(cls=EngineCommand, rich_help_panel="Pipeline")
@explained
def clean(
    out: Out,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    constraints: ConstraintsOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Decide which faces to keep, drop or relabel, which labels are one person, and why.

    Faces without a label are put together to people. With --dry-run nothing is written, and
    the counts of what would be decided are shown.
    """
    from pipelines.curate import Request

    request = Request(
        steps=("clean",),
        out=out,
        settings=settings_of(config, set_),
        constraints=_said(constraints),
    )
    _run(request, Where(engine, engine_option, workers), json=json, dry=dry_run, quiet=quiet)


def _said(path: str | None) -> Constraints:
    from facepipe.constraints import Constraints
    from pipelines.constraints import read_file

    return Constraints() if path is None else read_file(path)


def _run(
    request: Request,
    where: Where,
    *,
    json: bool,
    dry: bool,
    quiet: bool,
    after: After | None = None,
) -> None:
    from facepipe.errors import QuarantineExceeded
    from pipelines import curate as runs
    from pipelines import curate_text as texts
    from pipelines.engines import open_engine, with_cores
    from pipelines.progress import Progress

    if dry:
        rows = runs.dry_run(request)
        print_json(rows) if json else typer.echo(texts.dry_text(rows))
        return
    exceeded: QuarantineExceeded | None = None
    request = replace(request, settings=with_cores(request.settings, where.engine, where.workers))
    terminate_like_ctrl_c()
    with Progress(quiet=quiet) as progress:
        retries = request.settings.run.retries
        with open_engine(where.engine, where.workers, retries, where.options or ()) as runner:
            reports, exceeded = runs.run(request, runner, progress)
            planned = _planned(request, reports, where.workers, progress.say)
            made = after(runner, progress.say) if after is not None else {}
    if json:
        steps = [r.as_json() for r in reports]
        print_json({"dataset": request.out, "steps": steps, **planned, **made})
    else:
        typer.echo(texts.result_text(request.out, reports, made))
    if exceeded is not None:
        raise exceeded


def _planned(
    request: Request,
    reports: Sequence[StepReport],
    workers: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Say how right `facepipe plan` was, where it was asked about this dataset."""
    if not any(r.shards_run for r in reports):
        return {}
    from facepipe.shards import open_dataset
    from pipelines.plan import compare
    from pipelines.plan_text import format_comparison

    planned = compare(open_dataset(request.out), reports, workers)
    if planned is None:
        return {}
    say(format_comparison(planned))
    return {"plan": planned}


app.add_typer(cli_index.app, name="index", rich_help_panel="Gallery")
cli_decide.register(app)
cli_demo.register(app)
cli_evaluate.register(app)
cli_export.register(app)
cli_inspect.register(app)
cli_plan.register(app)
cli_promote.register(app)
cli_train.register(app)


def main() -> None:
    """Run the command line.

    Everything is closed by then. Without the last line a process now and then ends with
    SIGABRT instead of its exit code: pyarrow's threads are torn down while they start.
    """
    code: int | str | None = 0
    try:
        app()
    except SystemExit as end:
        code = end.code
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
