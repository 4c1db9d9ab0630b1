"""The commands that prepare a cleaned set for training: overlap with test sets, export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.options import (
    DEFAULT_PACK,
    Config,
    DryRun,
    Json,
    Models,
    Quiet,
    SetOption,
    Workers,
    explained,
    pack_of,
    print_json,
    settings_of,
    terminate_like_ctrl_c,
)

if TYPE_CHECKING:
    from facepipe.config import Settings
    from facepipe.errors import QuarantineExceeded
    from facepipe.shards import Dataset
    from pipelines.overlap_probes import ProbeSet

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Folder of the dataset.")]
Probes = Annotated[
    list[str],
    typer.Option(
        "--probes",
        metavar="PROBES",
        help="A test set: a folder of photos (flat, or one a person), a pairs file in LFW's "
        "format (with --images), a .bin set, or a dataset with the same model; repeatable.",
    ),
]
Work = Annotated[
    str | None,
    typer.Option(
        "--work",
        metavar="FOLDER",
        help="Keep the probes' faces here, so that the next time they are not looked for again; "
        "else they are forgotten.",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        "--to",
        metavar="FORMAT",
        help="folders: one a person; webdataset: tar files; rec: insightface's train.rec; "
        "removed: only the lists; pack: the model of a training run, given instead of DATASET.",
    ),
]
PACK_FORMAT = "pack"  # of --format: what it writes is no data set
_PANEL = "Train"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    for command in (overlap, export):
        app.command(rich_help_panel=_PANEL)(explained(command))


def overlap(
    dataset: DatasetArgument,
    probes: Probes,
    images: Annotated[
        str | None,
        typer.Option("--images", metavar="FOLDER", help="Where the photos of a pairs file are."),
    ] = None,
    models: Models = DEFAULT_PACK,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE.csv",
            help="Also write the identities with counts, as CSV and, beside it, as Parquet.",
        ),
    ] = None,
    work: Work = None,
    workers: Workers = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Mark the faces and people of a dataset that are in test sets too.

    The tables overlaps and overlap_identities; `facepipe export` leaves such faces out.
    """
    from facepipe.shards import open_dataset
    from pipelines.overlap_probes import count_photos, find_probes
    from pipelines.overlap_text import format_overlaps, format_probes, write_identities

    opened, sets = open_dataset(dataset), find_probes(probes, images)
    settings = settings_of(config, set_)
    if dry_run:
        rows = [{"probe": s.name, "kind": s.kind, "photos": count_photos(s)} for s in sets]
        print_json(rows) if json else typer.echo(format_probes(rows))
        return
    found, exceeded = _overlap(
        opened, sets, models=models, settings=settings, work=work, workers=workers, quiet=quiet
    )
    if out is not None:
        from pipelines.overlap import identity_list

        write_identities(identity_list(opened), out)
    full = {"dataset": dataset, "probes": found}
    print_json(full) if json else typer.echo(format_overlaps(found))
    if exceeded is not None:
        raise exceeded


def _overlap(
    dataset: Dataset,
    sets: list[ProbeSet],
    *,
    models: str,
    settings: Settings,
    work: str | None,
    workers: int | None,
    quiet: bool,
) -> tuple[list[dict[str, Any]], QuarantineExceeded | None]:
    import contextlib
    import tempfile
    from pathlib import Path

    from pipelines.engines import open_engine
    from pipelines.overlap import NamedProbes, run_overlap
    from pipelines.overlap_probes import ProbeReader, check_model
    from pipelines.progress import Progress

    pack = None if all(s.kind == "dataset" for s in sets) else pack_of(models)
    if pack is not None:
        check_model(dataset, pack, settings)
    terminate_like_ctrl_c()
    with contextlib.ExitStack() as lent:
        if work is None:
            work = lent.enter_context(tempfile.TemporaryDirectory(prefix="facepipe-probes-"))
        progress = lent.enter_context(Progress(quiet=quiet))
        runner = lent.enter_context(open_engine("local", workers, settings.run.retries))
        reader = ProbeReader(
            model=dataset.current_model(),
            pack=pack,
            settings=settings,
            work=Path(work),
            runner=runner,
            progress=progress,
        )
        read = [(s.name, *reader.read(s)) for s in sets]
        named = [NamedProbes(name=name, dataset=found.uri) for name, found, _ in read]
        exceeded = next((error for _, _, error in read if error is not None), None)
        asked = settings.overlap
        return run_overlap(dataset, named, asked, runner, progress), exceeded


def export(
    dataset: DatasetArgument,
    out: Annotated[
        str, typer.Option("--out", metavar="FOLDER", help="A new folder or bucket prefix.")
    ],
    format_: Format = "folders",
    min_weight: Annotated[
        float, typer.Option("--min-weight", min=0, max=1, help="Leave out faces of less weight.")
    ] = 0.0,
    min_faces: Annotated[
        int, typer.Option("--min-faces", min=1, help="Leave out people with fewer faces left.")
    ] = 1,
    overlap: Annotated[
        bool | None,
        typer.Option(
            "--with-overlap/--without-overlap",
            help="Keep, or leave out, faces that are in test sets; by default they are left out "
            "where facepipe overlap has marked them.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many faces, to try it out.")
    ] = None,
    config: Config = None,
    set_: SetOption = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Write the cleaned faces for training, and the list of those that were removed.

    Every face of the dataset is in one of the two lists, faces and removed.
    """
    if format_ == PACK_FORMAT:
        _export_pack(dataset, out, json)
        return
    from facepipe.shards import open_dataset
    from pipelines.export import Export, format_export, run_export
    from pipelines.progress import Progress

    settings = settings_of(config, set_).export
    asked = Export(
        out=out,
        format=format_,
        min_weight=min_weight,
        min_faces=min_faces,
        overlap=overlap,
        limit=limit,
        settings=settings,
    )
    with Progress(quiet=quiet) as progress:
        result = run_export(open_dataset(dataset), asked, progress, dry=dry_run)
    print_json(result) if json else typer.echo(format_export(result))


def _export_pack(run: str, out: str, json: bool) -> None:
    """Write the newest checkpoint of a training run as a model pack."""
    from pathlib import Path

    from training.run_end import export_from

    exported = export_from(Path(run), Path(out))
    found = {"pack": out, "model_id": exported.model_id, "cosine": exported.parity.cosine}
    print_json(found) if json else typer.echo(
        f"{out}: cosine with the net {exported.parity.cosine:.7f}"
    )
