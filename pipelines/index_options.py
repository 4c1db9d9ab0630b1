"""What the commands of `facepipe index` share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.options import Engine

if TYPE_CHECKING:
    from facepipe.config import Settings
    from pipelines.index_build import Workers

Several = list[str] | None
Index = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of the index.")]
From = Annotated[
    str, typer.Option("--from", metavar="DATASET", help="The dataset whose faces it holds.")
]
RestoreAll = Annotated[
    bool,
    typer.Option(
        "--restore-all",
        help="Take in again all that were deleted from the index and that DATASET keeps.",
    ),
]
NoPublish = Annotated[
    bool,
    typer.Option(
        "--no-publish", help="Write the version and leave the one in force; see `index publish`."
    ),
]


def not_in_force(made: Mapping[str, Any], index: str) -> str:
    """Return a line that says so of a version which waits; nothing of one in force."""
    if made["published"]:
        return ""
    version = made["version"][:12]
    return f"\nversion {version} is not in force yet: facepipe index publish {index} {version}"


@contextmanager
def build_workers(
    settings: Settings, engine: Engine, workers: int | None, options: list[str] | None
) -> Iterator[Workers]:
    """Open the engine that a command asks for."""
    from pipelines.engines import open_engine
    from pipelines.index_build import Workers
    from pipelines.stage import resources_of

    resources = resources_of(settings, "index")
    if settings.index.device == "cuda" and settings.run.resources.index.num_gpus is None:
        resources = replace(resources, num_gpus=1.0)
    with open_engine(engine.value, workers, settings.run.retries, options or ()) as runner:
        yield Workers(runner=runner, resources=resources)
