"""The commands that look at a dataset: report, why, verify, config, doctor."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.options import (
    DEFAULT_PACK,
    Config,
    Json,
    Models,
    SetOption,
    explained,
    print_json,
    settings_of,
)

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Folder of the dataset.")]
_PANEL = "Look"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    for command in (report, why, verify, config, doctor):
        app.command(rich_help_panel=_PANEL)(explained(command))


def report(
    dataset: DatasetArgument,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="DATASET/report.html if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a page to look at: counts, kept and dropped faces, duplicates, similarities, times."""
    from facepipe.shards import open_dataset
    from pipelines.report import write_report

    path = write_report(open_dataset(dataset), out)
    print_json({"report": str(path)}) if json else typer.echo(str(path))


def why(
    dataset: DatasetArgument,
    face_id: Annotated[
        str,
        typer.Argument(
            metavar="FACE_ID", help="A face id or its start, or the end of a photo's path."
        ),
    ],
    json: Json = False,
) -> None:
    """Say why a face was kept, dropped, relabelled or called a duplicate, with the evidence."""
    from facepipe.shards import open_dataset
    from pipelines.why import explain_face, format_faces

    faces = explain_face(open_dataset(dataset), face_id)
    print_json(faces) if json else typer.echo(format_faces(faces))


def verify(
    dataset: DatasetArgument,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Forget what is broken, so that the next run redoes just that."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check every file's checksum and rows, and that the counts of all steps add up."""
    from facepipe.errors import CorruptData
    from facepipe.shards import open_dataset
    from pipelines.verify import verify_dataset

    result = verify_dataset(open_dataset(dataset), repair=repair)
    if json:
        print_json(result)
    else:
        lines = [*result["problems"], f"{result['files']} files checked, {result['rows']} rows"]
        if result["forgotten"]:
            count = len(result["forgotten"])
            lines.append(f"{count} broken shards forgotten: now run what made the dataset again")
        typer.echo("\n".join(lines))
    if result["problems"] and not repair:
        remedy = "run the command that made the dataset again, which does what is missing"
        if result["broken"]:
            remedy = (
                f"run facepipe verify {dataset} --repair, which forgets broken shards, then the "
                "command that made the dataset, which does them and what else is missing again"
            )
        raise CorruptData(f"{len(result['problems'])} problems in {dataset}: {remedy}")


def config(config: Config = None, set_: SetOption = None, json: Json = False) -> None:
    """Print every setting with its meaning, as a YAML file to start from."""
    from pipelines.settings_yaml import as_yaml

    settings = settings_of(config, set_)
    print_json(settings.model_dump(mode="json")) if json else typer.echo(as_yaml(settings))


def _mark(check: dict[str, Any]) -> str:
    if check["ok"]:
        return "ok"
    return "not here" if check["optional"] else "MISSING"


def doctor(models: Models = DEFAULT_PACK, json: Json = False) -> None:
    """Check this machine: packages, cores, model pack, and what is missing for what."""
    from facepipe.errors import GateFailed
    from pipelines.doctor import examine

    checks = examine(models)
    if json:
        print_json(checks)
    else:
        typer.echo("\n".join(f"{_mark(c):<8}  {c['name']}: {c['detail']}" for c in checks))
    if not all(c["ok"] or c["optional"] for c in checks):
        raise GateFailed("something that facepipe needs is missing: see above")
