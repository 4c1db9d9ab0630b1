"""`facepipe index delete`, `compact` and `migrate`: a gallery that is there is changed."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.index_options import From, Index, NoPublish, Several, build_workers, not_in_force
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

All = Annotated[
    bool,
    typer.Option(
        "--all",
        help="Rewrite every shard with a deleted row; else from index.compact_at of its rows.",
    ),
]
Erase = Annotated[
    bool,
    typer.Option(
        "--erase", help="Erase all other versions, also where no deleted row is rewritten."
    ),
]
KeepVersions = Annotated[
    bool,
    typer.Option(
        "--keep-versions", help="Keep the version before, with all that it holds, for rollback."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `facepipe index`."""
    app.command()(explained(delete))
    app.command(cls=EngineCommand)(explained(compact))
    app.command(cls=EngineCommand)(explained(migrate))


def delete(
    index: Index,
    face: Annotated[
        Several, typer.Option("--face", metavar="ID", help="A face id; repeatable.")
    ] = None,
    photo: Annotated[
        Several,
        typer.Option("--photo", metavar="URI_OR_ID", help="All faces of a photo; repeatable."),
    ] = None,
    person: Annotated[
        Several,
        typer.Option("--person", metavar="NAME", help="All faces of an identity; repeatable."),
    ] = None,
    no_publish: NoPublish = False,
    json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Take faces, photos or people out of a gallery at once: no search finds them any more.

    Their rows stay on disk until `index compact --all`. No later `index add` or `index build`
    takes them in again, though the dataset may still have them; `index add --restore` does.
    """
    from pipelines.index_delete import Doomed, delete_from_index
    from pipelines.progress import Progress

    doomed = Doomed(faces=tuple(face or ()), photos=tuple(photo or ()), people=tuple(person or ()))
    with Progress(quiet=quiet or json) as progress:
        made = delete_from_index(
            index, doomed, progress=progress, publish=not no_publish, dry=dry_run
        )
    if json:
        print_json(made)
        return
    what = f"{made['removed']} faces of {made['photos']} photos"
    if dry_run:
        typer.echo(f"{what} would be deleted from {index}")
        return
    left = made["totals"]["indexed"]
    if not made["published"]:
        waits = not_in_force(made, index)
        typer.echo(f"{what} will be deleted from {index}, {left} will be left{waits}")
        return
    typer.echo(
        f"{what} deleted from {index}, {left} are left; "
        f"off the disk with facepipe index compact {index} --all"
    )


def compact(
    index: Index,
    everything: All = False,
    erase: Erase = False,
    keep_versions: KeepVersions = False,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Take deleted faces off the disk, and join small shards.

    Shards are rewritten without their deleted rows. Where there are such rows, all other
    versions are erased, since they may hold them; to join small shards alone erases nothing.
    After --all, which always erases, no file has a row, id or vector of a deleted face.
    """
    from pipelines.index_compact import compact_index
    from pipelines.progress import Progress

    settings = settings_of(config, set_)
    with (
        Progress(quiet=quiet or json) as progress,
        build_workers(settings, engine, workers, engine_option) as who,
    ):
        made = compact_index(
            index,
            settings.index,
            everything=everything,
            erase=erase,
            keep_versions=keep_versions,
            progress=progress,
            workers=who,
            dry=dry_run,
        )
    if json:
        print_json(made)
        return
    would = "would be " if dry_run else ""
    text = f"{made['rewritten']} shards {would}rewritten, {made['erased']} rows {would}erased"
    if made["dead"]:
        text += f"; {made['dead']} deleted rows stay on disk: --all erases them too"
    typer.echo(f"{text}; {made['totals']['indexed']} faces in {index}")


def migrate(
    index: Index,
    dataset: From,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    no_publish: NoPublish = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a gallery one of another model: the same faces and names, their new vectors.

    Embed the dataset with the new model first. The new version is built beside the old one,
    which answers until the swap; `index rollback` goes back in a second. How far the two agree
    is said: the share of sampled faces whose nearest face in another photo is the same face,
    or the same person, in both.
    """
    from facepipe.shards import open_dataset
    from pipelines.index_migrate import migrate_index
    from pipelines.progress import Progress

    settings = settings_of(config, set_)
    with (
        Progress(quiet=quiet or json) as progress,
        build_workers(settings, engine, workers, engine_option) as who,
    ):
        made = migrate_index(
            index,
            open_dataset(dataset),
            settings.index,
            progress=progress,
            workers=who,
            publish=not no_publish,
        )
    if json:
        print_json(made)
        return
    if not made["built"]:
        typer.echo(f"nothing to do: {index} holds vectors of this model already")
        return
    agreement = made["agreement"]
    typer.echo(
        f"{made['totals']['indexed']} of {made['before']} faces in {index}, of model "
        f"{made['embedding']['model_id'][:12]}; of {agreement['faces']} sampled faces "
        f"{agreement['same_person']:.1%} find the same person as before, "
        f"{agreement['same_face']:.1%} the same face"
        f"{not_in_force(made, index)}"
    )
