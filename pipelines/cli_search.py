"""`facepipe index search`: who is on a photo?"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pipelines.index_options import Index
from pipelines.options import (
    DEFAULT_PACK,
    Config,
    Json,
    Models,
    SetOption,
    explained,
    pack_of,
    print_json,
    settings_of,
)


class Check(StrEnum):
    """What of an index is read before it is believed."""

    all = "all"
    sizes = "sizes"


@explained
def search(
    index: Index,
    photos: Annotated[
        list[str],
        typer.Argument(metavar="PHOTO...", help="Photos to search with, or folders of them."),
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="Hits a face.")] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Find only faces for which this holds; also !=, <, <=, >, >=, and COLUMN~PART for "
            "a part of a text. Columns: face_id, uri, member, identity_id. Several must all hold.",
        ),
    ] = None,
    nprobe: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lists to search in a gallery that has lists; what the build has measured as "
            "enough, if left out. All lists are the most.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a search; one a processor if left out.")
    ] = None,
    check: Annotated[
        Check,
        typer.Option(
            help="all: compare every byte of the index with its checksum first. sizes: only the "
            "sizes of its files, for galleries of tens of millions; damage may go unseen."
        ),
    ] = Check.all,
    models: Models = DEFAULT_PACK,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
) -> None:
    """Who is on this photo? Every face in it, with the gallery's most similar ones.

    A hit at or above the gallery's threshold is a lead, not a proof: searches with strangers reach
    it at the stated rate (FPIR). Where there is none, nobody is above the threshold.
    """
    from facepipe.index import open_index
    from facepipe.index_filter import parse_filter
    from pipelines.search import format_results, search_photos

    pack, settings, chosen = pack_of(models), settings_of(config, set_), parse_filter(where or [])
    # The faces of some photos are too few for merging shards to pay.
    gallery = open_index(index, check=check.value, threads=threads, merge=False)
    results = search_photos(gallery, pack, settings, photos, k, where=chosen, nprobe=nprobe)
    if json:
        print_json(results)
    else:
        typer.echo(format_results(results))


def register(app: typer.Typer) -> None:
    """Add the command to `facepipe index`."""
    app.command()(search)
