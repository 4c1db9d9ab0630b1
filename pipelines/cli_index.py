"""`facepipe index`: build a gallery from a dataset, search it with a photo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.options import (
    DEFAULT_PACK,
    Config,
    Engine,
    EngineCommand,
    EngineOption,
    EngineOptions,
    Json,
    Models,
    SetOption,
    explained,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from facepipe.gallery import Include

app = typer.Typer(
    no_args_is_help=True, help="Galleries: build one from a dataset, search it with a photo."
)
Index = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of the index.")]


@app.command(cls=EngineCommand)
@explained
def build(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Folder of the dataset.")],
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="INDEX", help="DATASET/index if left out."),
    ] = None,
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Also the faces that were dropped or marked.")
    ] = False,
    engine: EngineOption = Engine.local,
    engine_option: EngineOptions = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
) -> None:
    """Put the kept faces of a dataset into a FAISS gallery, with a threshold from its own data."""
    from facepipe.shards import open_dataset
    from pipelines.engines import open_engine
    from pipelines.index import build_index

    settings = settings_of(config, set_)
    where = out or f"{dataset}/index"
    include: Include = "all" if all_faces else "kept"
    with open_engine(engine.value, 1, settings.run.retries, engine_option or ()) as runner:
        manifest = build_index(open_dataset(dataset), where, settings.index, include, runner=runner)
    if json:
        print_json(manifest)
        return
    totals, threshold = manifest["totals"], manifest["threshold"]
    done = "" if manifest["built"] else "nothing to do: "
    typer.echo(
        f"{done}{totals['indexed']} of {totals['expected']} faces in {where}; "
        f"threshold {threshold['value']:.3f}"
    )


@app.command()
@explained
def search(
    index: Index,
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Photos to search with.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Hits a face.")] = 5,
    models: Models = DEFAULT_PACK,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
) -> None:
    """Who is on this photo? Every face in it, with the gallery's most similar ones.

    A hit above the gallery's threshold is the same person at the stated false-match rate;
    where there is none, the answer is that nobody is above the threshold.
    """
    from facepipe.index import open_index
    from facepipe.packs import find_pack
    from pipelines.index import format_results, search_photos

    pack, settings = find_pack(models), settings_of(config, set_)
    results = search_photos(open_index(index), pack, settings, photos, k)
    if json:
        print_json(results)
    else:
        typer.echo(format_results(results))
