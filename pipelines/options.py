"""What the commands share: their options, and errors turned into exit codes."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from facepipe.builtin_pack import BUILTIN
from facepipe.errors import FacepipeError, StoreError
from pipelines.progress import printable

if TYPE_CHECKING:
    from facepipe.config import Settings
    from facepipe.packs import Pack

DEFAULT_PACK = BUILTIN  # the one that needs neither a download nor anyone's permission
INTERRUPTED = 130

Command = TypeVar("Command", bound=Callable[..., Any])


class Engine(StrEnum):
    """Where shards run."""

    local = "local"
    ray = "ray"
    beam = "beam"


class EngineCommand(TyperCommand):
    """A command whose ``-- ...`` are options of the engine's own, where the engine is Beam.

    Without --engine beam, ``--`` is what it is everywhere: the end of the options.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turn each argument behind ``--`` into an --engine-option."""
        if "--" in args and _engine_in(args) == Engine.beam:
            end = args.index("--")
            args = [*args[:end], *(f"--engine-option={option}" for option in args[end + 1 :])]
        return super().parse_args(ctx, args)


def _engine_in(args: Sequence[str]) -> str | None:
    for i, arg in enumerate(args[: args.index("--")]):
        if arg.startswith("--engine="):
            return arg.removeprefix("--engine=")
        if arg == "--engine":
            return args[i + 1]
    return None


class Labels(StrEnum):
    """Where identities come from."""

    none = "none"
    folder = "folder"


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SRC...",
        help="Folders of photos, single photos, archives (tar, zip, webdataset), .rec, .bin, "
        "TSV and Parquet files of photos, lists (CSV, Parquet) of paths; local, or below an "
        "s3://, gs:// or az:// prefix.",
    ),
]
Out = Annotated[
    str,
    typer.Option(
        "--out",
        metavar="DATASET",
        help="Folder of the dataset, or an s3://, gs:// or az:// prefix; made if missing.",
    ),
]
Models = Annotated[
    str,
    typer.Option(
        "--models",
        metavar="PACK",
        help="builtin (small models that come with facepipe; never a folder: that is "
        "./builtin) or builtin-int8, an insightface pack name (found in ~/.insightface/models or "
        "downloaded by insightface), a folder with a detector and a recogniser as ONNX, or "
        "models:/NAME@champion of an MLflow registry.",
    ),
]
LabelsOption = Annotated[
    Labels | None,
    typer.Option("--labels", help="folder: the first folder below SRC is the identity."),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="Where shards run: processes of this machine, Ray (the cluster of RAY_ADDRESS, or "
        "one on this machine), or Beam (any runner: `-- --runner=FlinkRunner ...`).",
    ),
]
EngineOptions = Annotated[
    list[str] | None, typer.Option("--engine-option", hidden=True, help="What is behind --.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Processes, one thread each; by default one a core, of the cluster with RAY_ADDRESS.",
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Also try again the photos of earlier runs that could not be read, or that killed "
        "or hung their worker; nothing else is redone.",
    ),
]
ConstraintsOption = Annotated[
    str | None,
    typer.Option(
        "--constraints",
        metavar="FILE.csv",
        help="What you know: lines `same,A,B`, `different,A,B`, `keep,FACE`, `drop,FACE`, "
        "`name,FACE,NAME` (A, B: a face id or `label:NAME`). Added to the dataset's own list, "
        "which every later run obeys.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option("--config", metavar="F.yaml", help="Settings file; see `facepipe config`."),
]
PairsFile = Annotated[
    str | None,
    typer.Option("--pairs", metavar="pairs.txt", help="Pairs in LFW's format (folds, pairs)."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="One setting, over the file's; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results.")]


def explained(command: Command) -> Command:
    """Turn facepipe's errors, a file's and Ctrl-C into a line on stderr and their exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except FacepipeError as error:
            typer.echo("facepipe: " + printable(str(error), keep="\n"), err=True)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if error.errno is None or error.errno == errno.EPIPE:  # not of a file; no reader
                raise
            name = "" if error.filename is None else f"{error.filename}: "
            typer.echo(
                f"facepipe: {printable(name)}{error.strerror}: what is there must be readable, and "
                "writable where the command writes",
                err=True,
            )
            raise typer.Exit(StoreError.exit_code) from None
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


def pack_of(models: str, *, download: bool = True) -> Pack:
    """Return the pack that --models names: builtin, insightface's, a folder, `models:/NAME@alias`.

    A registered model is fetched into the cache. Raises ModelNotFound, UsageError, StoreError,
    CorruptData.
    """
    from facepipe.packs import find_pack

    if not models.startswith("models:/"):
        if models == BUILTIN and any(Path(BUILTIN).glob("*.onnx")):
            typer.echo(
                "facepipe: --models builtin is the pack that comes with facepipe; the folder of "
                "that name here is ./builtin",
                err=True,
            )
        return find_pack(models, download=download)
    from training.registry import fetch

    return find_pack(str(fetch(models, download=download)))


def print_json(value: Any) -> None:
    """Print a JSON value on stdout."""
    import json

    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def terminate_like_ctrl_c() -> None:
    """Let SIGTERM (a preempted node, a stopped service) end a run as Ctrl-C does."""
    import signal

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
