"""A dataset's own list of what a person said: read, added to, stored.

It is one file, which every run of clean reads, so that what was said once holds for good.
"""

from __future__ import annotations

from pathlib import Path

from facepipe.constraints import Constraints, format_constraints, parse_constraints
from facepipe.errors import UsageError
from facepipe.shards import Dataset

KEY = "_plan/constraints.csv"


def read_constraints(dataset: Dataset) -> Constraints:
    """Return a dataset's list, an empty one where nobody has said anything.

    Raises UsageError, naming the line, for a file that somebody has broken.
    """
    if not dataset.has(KEY):
        return Constraints()
    return parse_constraints(dataset.store.get(KEY), f"{dataset.uri}/{KEY}")


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
