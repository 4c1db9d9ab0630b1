"""The command line: facepipe curate, its steps, and the commands that look at the result.

Results go to stdout (--json for machines), progress and messages to stderr. Heavy modules
are imported by the command that needs them, so that --help is quick.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from facepipe import __version__
from facepipe.errors import FacepipeError

if TYPE_CHECKING:
    from facepipe.config import Settings
    from pipelines.curate import Request
    from pipelines.stage import StepReport

DEFAULT_PACK = "buffalo_l"
INTERRUPTED = 130

app = typer.Typer(
    name="facepipe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From folders of photos to clean people and a searchable face gallery.\n\n"
    "Start with `facepipe curate PHOTOS --out DATASET`, then look at DATASET/report.html and "
    "try `facepipe index search DATASET/index PHOTO`.",
)
Command = TypeVar("Command", bound=Callable[..., Any])


class Engine(StrEnum):
    """Where shards run."""

    local = "local"


class Labels(StrEnum):
    """Where identities come from."""

    none = "none"
    folder = "folder"


Sources = Annotated[
    list[str], typer.Argument(metavar="SRC...", help="Folders of photos, or single photos.")
]
Out = Annotated[
    str, typer.Option("--out", metavar="DATASET", help="Folder of the dataset; made if missing.")
]
Models = Annotated[
    str,
    typer.Option(
        "--models",
        metavar="PACK",
        help="An insightface pack name (found in ~/.insightface/models or downloaded by "
        "insightface) or a folder with a detector and a recogniser as ONNX.",
    ),
]
LabelsOption = Annotated[
    Labels | None,
    typer.Option("--labels", help="folder: the first folder below SRC is the identity."),
]
EngineOption = Annotated[Engine, typer.Option("--engine", help="Where shards run.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes, one thread each; by default one a core."),
]
Config = Annotated[
    str | None, typer.Option("--config", metavar="F.yaml", help="Settings file; see `facepipe config`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="One setting, over the file's; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results.")]


def explained(command: Command) -> Command:
    """Turn facepipe's errors and Ctrl-C into a line on stderr and the exit code they stand for."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except FacepipeError as error:
            typer.echo(f"facepipe: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo(
                "facepipe: interrupted; what was finished is kept: run the same command again "
                "to go on",
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None

    return run  # type: ignore[return-value]


def settings_of(
    config: str | None, overrides: Sequence[str] | None, labels: Labels | None = None
) -> Settings:
    """Return the settings a command line asks for. Raises ConfigError."""
    from facepipe.config import load

    extra = [f"sources.labels={labels.value}"] if labels is not None else []
    return load(config, [*(overrides or []), *extra])


def print_json(value: Any) -> None:
    """Print a JSON value on stdout."""
    import json

    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"facepipe {__version__}")
        raise typer.Exit


@app.command(rich_help_panel="Pipeline")
@explained
def curate(
    sources: Sources,
    out: Out,
    models: Models = DEFAULT_PACK,
    labels: LabelsOption = None,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
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
    from facepipe.packs import find_pack
    from pipelines.curate import STEPS, Request

    request = Request(
        steps=STEPS,
        out=out,
        settings=settings_of(config, set_, labels),
        pack=find_pack(models),
        sources=sources,
    )
    after = _gallery_and_report(request, index, report)
    _run(request, workers, json=json, dry=dry_run, quiet=quiet, after=after)


def _gallery_and_report(
    request: Request, index: bool, report: bool
) -> Callable[[Callable[[str], None]], dict[str, Any]]:
    def after(say: Callable[[str], None]) -> dict[str, Any]:
        from facepipe.shards import open_dataset

        dataset, made = open_dataset(request.out), {}
        if index:
            from pipelines.index import build_index

            made["index"] = os.path.join(request.out, "index")  # noqa: PTH118
            manifest = build_index(dataset, made["index"], request.settings.index)
            say(f"index: {manifest['totals']['indexed']} faces in {made['index']}")
        if report:
            from pipelines.report import write_report

            made["report"] = str(write_report(dataset))
            say(f"report: {made['report']}")
        return made

    return after


@app.command(rich_help_panel="Pipeline")
@explained
def detect(
    sources: Sources,
    out: Out,
    models: Models = DEFAULT_PACK,
    labels: LabelsOption = None,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Find, align and measure the faces of photos: the tables photos and faces."""
    from facepipe.packs import find_pack
    from pipelines.curate import Request

    settings = settings_of(config, set_, labels)
    request = Request(
        steps=("detect",), out=out, settings=settings, pack=find_pack(models), sources=sources
    )
    _run(request, workers, json=json, dry=dry_run, quiet=quiet)


@app.command(rich_help_panel="Pipeline")
@explained
def embed(
    out: Out,
    models: Models = DEFAULT_PACK,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Turn a dataset's faces into unit vectors: the table embeddings, one per model."""
    from facepipe.packs import find_pack
    from pipelines.curate import Request

    settings = settings_of(config, set_)
    request = Request(steps=("embed",), out=out, settings=settings, pack=find_pack(models))
    _run(request, workers, json=json, dry=dry_run, quiet=quiet)


@app.command(rich_help_panel="Pipeline")
@explained
def dedup(
    out: Out,
    engine: EngineOption = Engine.local,
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
    _run(request, workers, json=json, dry=dry_run, quiet=quiet)


@app.command(rich_help_panel="Pipeline")
@explained
def clean(
    out: Out,
    engine: EngineOption = Engine.local,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Decide which faces to keep, drop or relabel, and why: the table decisions."""
    from pipelines.curate import Request

    request = Request(steps=("clean",), out=out, settings=settings_of(config, set_))
    _run(request, workers, json=json, dry=dry_run, quiet=quiet)


def _run(
    request: Request,
    workers: int | None,
    *,
    json: bool,
    dry: bool,
    quiet: bool,
    after: Callable[[Callable[[str], None]], dict[str, Any]] | None = None,
) -> None:
    from facepipe.errors import QuarantineExceeded
    from pipelines import curate as runs
    from pipelines.progress import Progress
    from pipelines.runners.local import LocalRunner

    if dry:
        rows = runs.dry_run(request)
        print_json(rows) if json else typer.echo(_dry_text(rows))
        return
    exceeded: QuarantineExceeded | None = None
    _terminate_like_ctrl_c()
    with Progress(quiet=quiet) as progress:
        count = workers or len(os.sched_getaffinity(0))
        with LocalRunner(count, request.settings.run.retries) as runner:
            reports, exceeded = runs.run(request, runner, progress)
        made = after(progress.say) if after is not None else {}
    if json:
        print_json({"dataset": request.out, "steps": [r.as_json() for r in reports], **made})
    else:
        typer.echo(_text(request.out, reports))
    if exceeded is not None:
        raise exceeded


def _terminate_like_ctrl_c() -> None:
    """Let SIGTERM (a preempted node, a stopped service) end a run as Ctrl-C does."""
    import signal

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _dry_text(rows: Sequence[dict[str, Any]]) -> str:
    return "\n".join(
        f"{r['step']}: after {r['after']}, whose result it needs"
        if "after" in r
        else f"{r['step']}: {r['items_to_do']} of {r['items']} items to do, "
        f"in {r['shards_to_do']} of {r['shards']} shards"
        for r in rows
    )


def _text(out: str, reports: Sequence[StepReport]) -> str:
    from pipelines.stage import summary

    lines = [f"{r.step.split('-')[0]}: {summary(r)}" for r in reports]
    done = "" if any(r.shards_run for r in reports) else "nothing to do: all of it was done before\n"
    return done + "\n".join([*lines, f"dataset: {out}"])


def main() -> None:
    """Run the command line."""
    from pipelines import cli_index, cli_inspect

    app.add_typer(cli_index.app, name="index")
    cli_inspect.register(app)
    app()


if __name__ == "__main__":
    sys.exit(main())
