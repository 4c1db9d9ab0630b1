"""What `facepipe overlap` prints, and its list of identities as CSV and Parquet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from facepipe.errors import StoreFull, UsageError
from facepipe.overlap import LEVELS
from pipelines.progress import printable


def format_probes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what each set of probes was taken for as text."""
    return "\n".join(
        f"{printable(r['probe'])}: {r['kind']}, {r['photos']} photos or containers" for r in rows
    )


def format_overlaps(found: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found in each set of probes as text."""
    return "\n".join(line for result in found for line in _lines(result))


def _lines(result: Mapping[str, Any]) -> list[str]:
    levels = result["overlaps"]
    total = sum(levels.values())
    people = result["overlap_identities"].get("overlaps", 0)
    shown = ", ".join(f"{levels[level]:,} {level}" for level in LEVELS if levels.get(level))
    lines = [
        f"{printable(result['probe'])}: {total:,} faces and {people:,} people of the dataset are "
        "in it too",
        f"  {shown or 'none'}",
        f"  of {result['probe_photos']:,} photos with {result['probe_faces']:,} faces "
        f"{result['probe_faces_searched']:,} were searched for",
    ]
    if "face_threshold" in result:
        centre = result.get("centre_threshold")
        beside = "" if centre is None else f", {centre:.3f} to the centre of a person"
        lines.append(
            f"  found at cosine {result['face_threshold']:.3f} to a face{beside}, which a "
            f"stranger reaches in {100 * result['fpir']:g} of 100 cases"
        )
    return lines


def write_identities(table: pa.Table, out: str) -> tuple[Path, Path]:
    """Write the identities to FILE.csv and FILE.parquet; return both paths.

    What was there is replaced. Raises UsageError for a name that does not end in .csv, StoreFull
    where it cannot be written.
    """
    import pyarrow.csv
    import pyarrow.parquet

    path = Path(out)
    if path.suffix.lower() != ".csv" or "://" in out:
        raise UsageError(f"--out {out} is no local .csv file: give one, as in overlap.csv")
    beside = path.with_suffix(".parquet")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, write in ((path, pyarrow.csv.write_csv), (beside, pyarrow.parquet.write_table)):
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            try:
                write(table, temporary)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreFull(f"--out {out} cannot be written: {error.strerror}") from error
    return path, beside
