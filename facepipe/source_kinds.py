"""Which files hold many photos, and how each kind of them is opened.

A file is looked into only where its name says that it may be a container: the millions of
others are not opened to be listed. Lists of paths are containers only where they are given
as a source themselves: a .csv in a folder of photos is somebody's notes.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from facepipe.containers import Container
from facepipe.list_rows import lists_photos
from facepipe.source_bin import is_bin, open_bin
from facepipe.source_list import is_list, open_list
from facepipe.source_parquet import is_parquet, open_parquet
from facepipe.source_rec import is_rec, open_rec
from facepipe.source_tar import is_tar, open_tar
from facepipe.source_tsv import is_tsv, open_tsv
from facepipe.source_video import is_video, open_video
from facepipe.source_zip import is_zip, open_zip
from facepipe.sources import Entry, SourceSettings, open_file, uri_of
from facepipe.url_guard import UrlSettings

HEAD_BYTES = 64 * 1024  # enough for the first line of a TSV with a small photo in it
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".taz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz")
_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
_SUFFIXES = (*_ARCHIVES, ".zip", ".rec", ".bin", ".tsv", ".parquet")
_LISTS = (".csv", ".tsv", ".parquet")
LIST = "list"


def with_kinds(entries: Iterable[Entry], root: str, settings: SourceSettings) -> Iterator[Entry]:
    """Yield the entries, containers with their kind, without what only belongs to a .rec."""
    given_uris = {root, uri_of(os.path.abspath(root))}  # noqa: PTH100 - as source_folder does
    kept, records = [], set()
    for entry in entries:
        given = entry.uri in given_uris
        try:
            kind = _kind(entry, given=given, settings=settings)
        except OSError as error:
            kept.append(replace(entry, problem=f"cannot be read: {error.strerror or error}"))
            continue
        if kind == "rec":
            records.add(entry.uri.removesuffix(".rec"))
        if kind is not None:  # the folder in which an archive lies names nobody in it
            label = None if given else entry.source_label
            entry = replace(entry, kind=kind, source_label=label)
        kept.append(entry)
    if not records:
        yield from kept
        return
    folders = {posixpath.dirname(stem) for stem in records}
    for entry in kept:
        stem, suffix = posixpath.splitext(entry.uri)
        folder, base = posixpath.split(entry.uri)
        if suffix in (".idx", ".lst") and stem in records:
            continue
        if base == "property" and folder in folders:
            continue
        yield entry


def _kind(entry: Entry, *, given: bool, settings: SourceSettings) -> str | None:
    name = entry.uri.lower()
    video = settings.video_frames_per_s is not None and name.endswith(_VIDEOS)
    if entry.problem is not None or settings.containers == "leave":
        return None
    if not (video or name.endswith(_SUFFIXES) or (given and name.endswith(_LISTS))):
        return None
    with open_file(entry.uri) as stream:
        kind = kind_of(stream.read(HEAD_BYTES), entry.uri, given=given, videos=video)
        if given and kind == "parquet" and _lists_photos(stream):
            return LIST
        return kind


def _lists_photos(stream: BinaryIO) -> bool:
    """Tell whether a Parquet file has paths and no pictures."""
    try:
        return lists_photos(pq.read_schema(stream))
    except pa.ArrowException:
        return False  # its one row will say so


def kind_of(head: bytes, name: str, *, given: bool = False, videos: bool = False) -> str | None:
    """Return the kind of container that a file is, from its first bytes and its name."""
    for kind, test in _TESTS.items():
        if test(head, name):
            return kind
    if videos and is_video(head, name):
        return "video"
    return LIST if given and is_list(head, name) else None


def open_container(entry: Entry, settings: SourceSettings, urls: UrlSettings) -> Container:
    """Open the container that an entry is. Raises OSError."""
    stream = open_file(entry.uri)
    try:
        return _open(entry, stream, settings, urls)
    except BaseException:
        stream.close()
        raise


def _open(entry: Entry, stream: BinaryIO, settings: SourceSettings, urls: UrlSettings) -> Container:
    folder, name = posixpath.split(entry.uri)
    if entry.kind == "tar":
        return open_tar(stream, label_key=settings.label_field)
    if entry.kind == "rec":
        return open_rec(stream, lambda other: _sibling(folder, other), name)
    if entry.kind == "video":
        rate = settings.video_frames_per_s or 1.0
        return open_video(stream, rate, settings.video_max_frames)
    if entry.kind == LIST:
        return open_list(stream, name, folder, urls)
    opened: Container = _OPEN[entry.kind or ""](stream)
    return opened


def _sibling(folder: str, name: str) -> BinaryIO | None:
    try:
        return open_file(f"{folder}/{name}")
    except OSError:
        return None


_TESTS: dict[str, Callable[[bytes, str], bool]] = {
    "tar": is_tar,
    "zip": is_zip,
    "rec": is_rec,
    "bin": is_bin,
    "tsv": is_tsv,
    "parquet": is_parquet,
}
_OPEN: dict[str, Callable[[BinaryIO], Container]] = {
    "zip": open_zip,
    "bin": open_bin,
    "tsv": open_tsv,
    "parquet": open_parquet,
}
