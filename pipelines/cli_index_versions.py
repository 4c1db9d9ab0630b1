"""`facepipe index verify`, `publish`, `rollback` and `versions`: what is there, and in force."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.index_options import Index, Several
from pipelines.options import Json, Quiet, explained, print_json

SHOWN = 20  # problems and files in a text


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `facepipe index`."""
    app.command()(explained(verify))
    app.command()(explained(versions))
    app.command()(explained(publish))
    app.command()(explained(rollback))


def verify(
    index: Index,
    full: Annotated[
        bool, typer.Option("--full", help="Make the codes of all shards again, not of some.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="DATASET", help="Compare with what it keeps now."),
    ] = None,
    absent: Annotated[
        Several,
        typer.Option(
            "--absent",
            metavar="ID",
            help="Prove that a face, photo or person is in no file of any version; repeatable.",
        ),
    ] = None,
    vectors_of: Annotated[
        str | None,
        typer.Option(
            "--vectors-of",
            metavar="DATASET",
            help="With --absent: also their face ids and vectors, which this dataset still has.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check every byte of an index, and that its counts, vectors and codes are right.

    With --absent: search all files instead, for what must not be there (exit code 4 if it is).
    """
    if absent:
        _prove_absent(index, absent, vectors_of, json)
        return
    from facepipe.errors import CorruptData
    from facepipe.shards import open_dataset
    from pipelines.index_verify import verify_index

    whole = None if dataset is None else open_dataset(dataset)
    result = verify_index(index, full=full, dataset=whole)
    if json:
        print_json(result)
    else:
        lines = result["problems"][:SHOWN]
        lines += [f"no version names {key}" for key in result["unknown"][:SHOWN]]
        lines.append(
            f"{result['files']} files of {result['versions']} versions checked, "
            f"{result['bytes']} bytes, {result['rows']} rows in force"
        )
        typer.echo("\n".join(lines))
    if result["problems"]:
        raise CorruptData(
            f"{len(result['problems'])} problems in {index}: where it is damaged, facepipe index "
            "rollback goes back to the version before, and facepipe index build makes it anew"
        )


def _prove_absent(index: str, names: list[str], vectors_of: str | None, json: bool) -> None:
    from facepipe.errors import GateFailed
    from facepipe.shards import open_dataset
    from pipelines.index_absent import find_traces

    known = None if vectors_of is None else open_dataset(vectors_of)
    result = find_traces(index, names, dataset=known)
    if json:
        print_json(result)
    else:
        lines = [_trace(found) for found in result["found"][:SHOWN]]
        lines.append(
            f"searched {result['files']} files of {result['versions']} versions, "
            f"{result['bytes']} bytes, for {result['names']} names, {result['faces']} face ids "
            f"and {result['vectors']} vectors: "
            + (f"traces in {len(result['found'])} files" if result["found"] else "nothing found")
        )
        lines += [f"{name}: no face of {vectors_of} is called so" for name in result["unknown"]]
        typer.echo("\n".join(lines))
    if result["found"]:
        raise GateFailed(
            f"traces are left in {len(result['found'])} files of {index}: facepipe index delete "
            "takes faces out, and facepipe index compact --all off the disk"
        )


def _trace(found: dict[str, Any]) -> str:
    if found.get("unreadable"):
        return f"{found['file']}: missing, or cannot be read, and so not be searched"
    return f"{found['file']}: {found['bytes']} in its bytes, {found['values']} in its values"


def publish(
    index: Index,
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="The start of its hash; the one that waits."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a version that is not in force, every byte of it, and put it in force."""
    from pipelines.index_publish import publish_version
    from pipelines.progress import Progress

    with Progress(quiet=quiet or json) as progress:
        made = publish_version(index, version, progress=progress)
    text = f"{made['version'][:12]} is in force in {index}: {made['totals']['indexed']} faces"
    print_json(made) if json else typer.echo(text)


def rollback(index: Index, json: Json = False, quiet: Quiet = False) -> None:
    """Go back to the version before the one in force; `index publish` goes forward again."""
    from pipelines.index_publish import roll_back
    from pipelines.progress import Progress

    with Progress(quiet=quiet or json) as progress:
        made = roll_back(index, progress=progress)
    text = f"{made['version'][:12]} is in force in {index}: {made['totals']['indexed']} faces"
    print_json(made) if json else typer.echo(text)


def versions(index: Index, json: Json = False) -> None:
    """List the versions of an index: in force, the one before, and those that wait."""
    from pipelines.index_publish import list_versions

    rows = list_versions(index)
    if json:
        print_json(rows)
        return
    lines = [f"{'version':<12}  {'state':<8}  {'by':<7}  {'faces':>10}  {'deleted':>8}  {'MB':>9}"]
    lines += [
        f"{row['version'][:12]}  {row['state']:<8}  {row['action']:<7}  {row['indexed']:>10}  "
        f"{row['dead']:>8}  {row['bytes'] / 1e6:>9.1f}"
        for row in rows
    ]
    typer.echo("\n".join(lines))
