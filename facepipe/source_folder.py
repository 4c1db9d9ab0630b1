"""Lists the files below a local folder, each once, whatever links and loops there are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from facepipe.errors import SourceNotFound
from facepipe.sources import Entry, SourceSettings, uri_of


def list_folder(name: str, settings: SourceSettings, leave_out: str | None) -> Iterator[Entry]:
    """Yield what lies below a folder, or the one file of that name.

    Raises SourceNotFound where there is none.
    """
    root = Path(os.path.abspath(name))  # noqa: PTH100 - resolve() would follow links
    if not os.path.exists(root):  # noqa: PTH110 - Path.exists raises on a forbidden folder
        if "://" in name:
            raise SourceNotFound(
                f"source {name} is no kind of URL that is read here: s3://, gs:// and az:// are; "
                "photos at http URLs are named in a list (docs/guides/sources.md)"
            )
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
    top, below, _ = path.removeprefix(root).lstrip(os.sep).partition(os.sep)
    return uri_of(top) if below else None


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
    return Entry(uri=uri, bytes=info.st_size, version=str(info.st_mtime_ns), source_label=label)
