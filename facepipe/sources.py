"""What can be read: folders of photos, flat or one folder per identity.

Every regular file below the roots is an input and will have exactly one outcome in PHOTOS,
whatever it holds; so has every folder or special file that cannot be read. Links are
followed, each folder once, so that a loop ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field

from facepipe.errors import SourceNotFound, UsageError


class SourceSettings(BaseModel):
    """How the inputs are listed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Literal["none", "folder"] = Field(
        "none",
        description="folder: the first folder below a source is the identity of its photos",
    )
    gone: Literal["keep", "drop"] = Field(
        "keep",
        description="photos of earlier runs whose file is no longer there: keep their rows, or "
        "drop them from the dataset",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One input as it was listed; ``problem`` says why its bytes cannot be asked for."""

    uri: str
    bytes: int = 0
    mtime_ns: int = 0
    source_label: str | None = None
    problem: str | None = None


def list_sources(
    roots: Sequence[str], settings: SourceSettings, leave_out: str | None = None
) -> list[Entry]:
    """List every input below the roots, sorted by uri, each once.

    Roots may overlap or repeat; what lies below ``leave_out`` (the dataset that is being
    made) is no input. Raises SourceNotFound for a root that does not exist,
    UsageError where two roots give one file two labels.
    """
    found: dict[str, Entry] = {}
    for root in roots:
        for entry in _list_root(Path(os.path.abspath(root)), settings, leave_out):  # noqa: PTH100
            before = found.setdefault(entry.uri, entry)
            if before.source_label != entry.source_label:
                raise UsageError(
                    f"{entry.uri} is in two of the sources, once as {before.source_label!r} and "
                    f"once as {entry.source_label!r}: give sources that do not overlap"
                )
    return [found[uri] for uri in sorted(found)]


def uri_of(path: str) -> str:
    """Return the uri of a local path: the path itself, or file:// where it is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return path


def path_of(uri: str) -> str:
    """Return the local path of a uri that `uri_of` made."""
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    return uri


def read_bytes(entry: Entry, max_bytes: int) -> bytes:
    """Return the bytes of an input, at most ``max_bytes`` + 1 of them. Raises OSError."""
    if entry.problem is not None:
        raise OSError(entry.problem)
    with Path(path_of(entry.uri)).open("rb") as stream:
        return stream.read(max_bytes + 1)


def _list_root(root: Path, settings: SourceSettings, leave_out: str | None) -> Iterator[Entry]:
    if not os.path.exists(root):  # noqa: PTH110 - Path.exists raises on a forbidden folder
        raise SourceNotFound(f"source {root} does not exist: give a folder of photos or one photo")
    if not root.is_dir():
        label = root.parent.name if settings.labels == "folder" else None
        yield _entry(os.fspath(root), label)
        return
    visited: set[tuple[int, int]] = set()
    if leave_out is not None and Path(leave_out).is_dir():
        info = Path(leave_out).stat()
        visited.add((info.st_dev, info.st_ino))
    for path, problem in _walk(os.fspath(root), visited):
        label = _label(path, os.fspath(root)) if settings.labels == "folder" else None
        yield _entry(path, label, problem)


def _walk(folder: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, str | None]]:
    """Yield (path, problem) of everything below a folder that is not a readable folder."""
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            info = os.stat(current)  # noqa: PTH116
            if (info.st_dev, info.st_ino) in visited:
                continue  # a link back to a folder that is being listed anyway
            visited.add((info.st_dev, info.st_ino))
            with os.scandir(current) as entries:
                found = sorted(entries, key=lambda e: e.name)
        except OSError as error:
            yield current, f"folder cannot be listed: {error.strerror}"
            continue
        # Real folders are visited before linked ones, so that which of two names a folder
        # reached by both gets does not depend on the order of the listing.
        real = [e.path for e in found if e.is_dir(follow_symlinks=False)]
        linked = [e.path for e in found if e.is_symlink() and _is_folder(e)]
        yield from ((e.path, None) for e in found if not _is_folder(e))
        pending = [*reversed(linked), *pending, *reversed(real)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _label(path: str, root: str) -> str | None:
    parts = Path(path).relative_to(root).parts
    return uri_of(parts[0]) if len(parts) > 1 else None


def _entry(path: str, label: str | None, problem: str | None = None) -> Entry:
    uri = uri_of(path)
    if problem is not None:
        return Entry(uri=uri, source_label=label, problem=problem)
    try:
        info = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return Entry(uri=uri, source_label=label, problem=f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(info.st_mode):
        return Entry(uri=uri, source_label=label, problem="not a regular file")
    if not os.access(path, os.R_OK):  # asked for here, so that a mended file is done again
        return Entry(uri=uri, source_label=label, problem="cannot be read: Permission denied")
    return Entry(uri=uri, bytes=info.st_size, mtime_ns=info.st_mtime_ns, source_label=label)
