"""Lists every input below the roots: files of folders, objects of buckets, containers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from facepipe.errors import SourceNotFound, UsageError
from facepipe.object_client import OBJECT_SCHEMES
from facepipe.source_folder import list_folder
from facepipe.source_kinds import with_kinds
from facepipe.sources import Entry, SourceSettings


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
        entries = (
            _list_bucket(root, settings, leave_out)
            if root.startswith(OBJECT_SCHEMES)
            else list_folder(root, settings, leave_out)
        )
        for entry in with_kinds(entries, root, settings):
            before = found.setdefault(entry.uri, entry)
            if before.kind is None and entry.kind is not None:  # given, and below another source
                found[entry.uri] = entry
            elif before.source_label != entry.source_label and entry.kind == before.kind:
                raise UsageError(
                    f"{entry.uri} is in two of the sources, once as {before.source_label!r} and "
                    f"once as {entry.source_label!r}: give sources that do not overlap"
                )
    return [found[uri] for uri in sorted(found)]


def _list_bucket(root: str, settings: SourceSettings, leave_out: str | None) -> Iterator[Entry]:
    """List the objects below a prefix; the first folder below it is the label."""
    from facepipe.object_files import list_objects  # obstore: only where a bucket is read

    prefix, empty = root.rstrip("/") + "/", True
    own = None if leave_out is None else leave_out.rstrip("/") + "/"
    for item in list_objects(root):
        empty = False
        if own is not None and item.uri.startswith(own):
            continue
        folders = item.uri.removeprefix(prefix).split("/")[:-1]
        label = folders[0] if settings.labels == "folder" and folders else None
        yield Entry(uri=item.uri, bytes=item.bytes, version=item.version, source_label=label)
    if empty:
        raise SourceNotFound(f"source {root} holds no object: give a prefix with photos below it")
