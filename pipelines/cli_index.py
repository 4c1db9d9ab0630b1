"""`facepipe index`: build a gallery from a dataset, add to it, search it with a photo."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines import cli_index_life, cli_index_versions, cli_search
from pipelines.index_options import (
    From,
    Index,
    NoPublish,
    RestoreAll,
    Several,
    build_workers,
    not_in_force,
)
from pipelines.options import (
    Config,
    DryRun,
    Engine,
    EngineCommand,
    EngineOption,
    EngineOptions,
    Json,
    Quiet,
    SetOption,
    Workers,
    explained,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from facepipe.gallery import Include

app = typer.Typer(
    no_args_is_help=True,
    help="Galleries: build one from a dataset, search it with a photo, keep it right.\n\n"
    "`build` makes one, `add` brings new photos in, `delete` takes people out at once and "
    "`compact --all` off the disk, which `verify --absent` proves. Every change is a version of "
    "its own, put in force by one swap; `rollback` goes back to the one before.",
)


class Kind(StrEnum):
    """How vectors are coded."""

    auto = "auto"
    flat = "flat"
    ivf_sq8 = "ivf_sq8"
    ivf_pqfs = "ivf_pqfs"


MemoryBudget = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        metavar="SIZE",
        help="Memory that a search may keep busy, as in 2GB; decides the codes.",
    ),
]
RecallOption = Annotated[
    float | None,
    typer.Option(
        "--recall",
        metavar="SHARE",
        help="Share of the true matches that a search finds at least, measured; 0.99 if left "
        "out. Under it nothing is put in force (exit code 4).",
    ),
]
KindOption = Annotated[
    Kind | None, typer.Option("--kind", help="Take these codes; auto chooses by size.")
]


@app.command(cls=EngineCommand)
@explained
def build(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Folder of the dataset.")],
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="INDEX", help="DATASET/index if left out."),
    ] = None,
    memory_budget: MemoryBudget = None,
    recall: RecallOption = None,
    kind: KindOption = None,
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Also the faces that were dropped or marked.")
    ] = False,
    restore_all: RestoreAll = False,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    no_publish: NoPublish = False,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Put the kept faces of a dataset into a FAISS gallery, with a threshold from its own data.

    A small gallery is searched exactly; of a large one the codes, and the best candidates
    exactly, with as many lists searched as the recall asked for takes: --dry-run says how and
    why. Run the same command again after an interruption: what was finished is kept. Faces that
    `index delete` took out of INDEX stay out.
    """
    from facepipe.shards import open_dataset
    from pipelines.index import build_index, plan_build
    from pipelines.progress import Progress

    settings = settings_of(config, [*(set_ or []), *_asked(memory_budget, recall, kind)])
    where, faces = out or f"{dataset.rstrip('/')}/index", open_dataset(dataset)
    include: Include = "all" if all_faces else "kept"
    if dry_run:
        plan = plan_build(faces, settings.index, include, out=None if restore_all else where)
        print_json(plan) if json else typer.echo(_planned(plan, where))
        return
    with (
        Progress(quiet=quiet or json) as progress,
        build_workers(settings, engine, workers, engine_option) as who,
    ):
        given = (settings.index, include, progress, who.runner, who.resources)
        manifest = build_index(
            faces, where, *given, publish=not no_publish, restore_all=restore_all
        )
    print_json(manifest) if json else typer.echo(_built(manifest, where))


def _asked(memory_budget: str | None, recall: float | None, kind: Kind | None) -> list[str]:
    """Return the settings that options stand for."""
    given = {"memory_budget": memory_budget, "recall": recall, "kind": kind}
    return [f"index.{name}={value}" for name, value in given.items() if value is not None]


def _planned(plan: dict[str, Any], where: str) -> str:
    lines = [f"{plan['faces']} of {plan['expected']} faces would go into {where}:"]
    return "\n".join([*lines, *(f"  {reason}" for reason in plan["reasons"])])


def _built(manifest: dict[str, Any], where: str) -> str:
    totals, threshold = manifest["totals"], manifest["threshold"]
    done = "" if manifest["built"] else "nothing to do: "
    text = (
        f"{done}{totals['indexed']} of {totals['expected']} faces in {where}; "
        f"threshold {threshold['value']:.3f}"
    )
    if manifest["recall"] is not None:
        found, search = manifest["recall"], manifest["search"]
        text += (
            f"\n{manifest['template']['factory']}: finds {found['rth']:.4f} of the true matches "
            f"({found['rth_low']:.4f} to {found['rth_high']:.4f}, {found['queries']} queries), "
            f"{search['nprobe']} of {manifest['template']['nlist']} lists a search"
        )
    return text + not_in_force(manifest, where)


@app.command(cls=EngineCommand)
@explained
def add(
    index: Index,
    dataset: From,
    restore: Annotated[
        Several,
        typer.Option(
            "--restore",
            metavar="NAME",
            help="Take in again a face, photo or person that was deleted from the index: a face "
            "id, a photo's uri or id, or a name, as DATASET has them now; repeatable.",
        ),
    ] = None,
    restore_all: RestoreAll = False,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    no_publish: NoPublish = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a gallery hold what its dataset keeps now: after new photos, or another clean.

    New faces become new shards beside the others; faces that are no longer kept are taken
    out, renamed ones get their name; those that `index delete` took out stay out. The lists are
    those it was built with: build it again once it has grown several times.
    """
    from facepipe.shards import open_dataset
    from pipelines.index_add import add_to_index
    from pipelines.progress import Progress

    settings = settings_of(config, set_)
    with (
        Progress(quiet=quiet or json) as progress,
        build_workers(settings, engine, workers, engine_option) as who,
    ):
        made = add_to_index(
            index,
            open_dataset(dataset),
            settings.index,
            progress=progress,
            workers=who,
            publish=not no_publish,
            restore=tuple(restore or ()),
            restore_all=restore_all,
        )
    if json:
        print_json(made)
        return
    done = "" if made["built"] else "nothing to do: "
    typer.echo(
        f"{done}{made['added']} faces added, {made['removed']} removed: "
        f"{made['totals']['indexed']} in {index}; threshold {made['threshold']['value']:.3f}"
        f"{not_in_force(made, index)}"
    )


cli_search.register(app)
cli_index_life.register(app)
cli_index_versions.register(app)
