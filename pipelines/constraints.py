"""A dataset's own list of what a person said: read, added to, stored.

It is one file, which every run of clean reads, so that what was said once holds for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facepipe.constraints import Constraints, format_constraints, label_rules, parse_constraints
from facepipe.errors import UsageError
from facepipe.schema import Decision
from facepipe.shards import Dataset

KEY = "_plan/constraints.csv"


def read_constraints(dataset: Dataset) -> Constraints:
    """Return a dataset's list, an empty one where nobody has said anything.

    Raises UsageError, naming the line, for a file that somebody has broken.
    """
    if not dataset.has(KEY):
        return Constraints()
    return parse_constraints(dataset.store.get(KEY), f"{dataset.uri}/{KEY}")


def has_list(dataset: Dataset) -> bool:
    """Tell whether a dataset has a list, be it empty by now."""
    return dataset.has(KEY)


def store_constraints(dataset: Dataset, constraints: Constraints) -> None:
    """Store a dataset's list; only while the dataset is held."""
    if constraints.lines or dataset.has(KEY):
        dataset.put(KEY, format_constraints(constraints))


def read_file(path: str) -> Constraints:
    """Return the list in a file of one's own. Raises UsageError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"--constraints {path} cannot be read: {error.strerror}") from error
    return parse_constraints(data, path)


def add_constraints(dataset: Dataset, more: Constraints) -> Constraints:
    """Add lines to a dataset's list, which must be held; return all of them.

    Raises UsageError, naming the lines, where old and new ones contradict.
    """
    merged = read_constraints(dataset).added(more.lines)
    store_constraints(dataset, merged)
    return merged


def check_constraints(dataset: Dataset, constraints: Constraints) -> None:
    """Raise UsageError, naming the lines, where a list contradicts itself with these faces.

    Only where dedup has run. A list that is stored as it is passes: clean looks at it.
    """
    if constraints.lines != read_constraints(dataset).lines:
        label_rules(constraints, own_labels(dataset, constraints.faces))


def own_labels(
    dataset: Dataset, faces: Sequence[str], table: str = "duplicates"
) -> dict[str, str | None]:
    """Return the source label of faces: that of the row in use, whatever the order of files.

    table: duplicates, or decisions. As `DecidedRows.own_row` chooses: the row in use, else no
    duplicate, else a labelled one, else the first by uri and member.
    """
    if not faces:
        return {}
    rows = dataset.scan(table).to_table(
        columns=["face_id", "uri", "member", "source_label", "decision"],
        filter=pc.field("face_id").isin(pa.array(faces, pa.string())),
    )
    found: dict[str, str | None] = {}
    for row in sorted(rows.to_pylist(), key=_rank):
        found.setdefault(row["face_id"], row["source_label"])
    return found


def _rank(row: dict[str, Any]) -> tuple[bool, bool, bool, str, bool, str]:
    decision, member = row["decision"], row["member"]
    return (
        decision in (Decision.DROP, Decision.DUPLICATE),
        decision == Decision.DUPLICATE,
        row["source_label"] is None,
        row["uri"],
        member is not None,
        member or "",
    )
