"""Lists of photos: CSV, TSV or Parquet with a column of paths or URLs.

A row is a photo, whatever becomes of it; the columns are found by their names. To list a
list no photo is read, and to read a row's photo nothing but its name is needed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

from facepipe.containers import Member
from facepipe.errors import UsageError
from facepipe.list_rows import Row, decoded, find_columns, parquet_rows, text_rows
from facepipe.object_client import OBJECT_SCHEMES
from facepipe.source_url import fetch
from facepipe.sources import Entry, path_of, read_at_most, read_bytes, uri_of
from facepipe.url_guard import UrlRefused, UrlSettings, check_url

MAX_LINE_BYTES = 1 << 20
MAX_ROWS = 1_000_000_000  # run-length encoding holds any number of them in a few bytes
PARQUET_MAGIC = b"PAR1"

_URL = re.compile(r"https?:", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NO_URLS = UrlSettings()


def is_list(head: bytes, name: str) -> bool:
    """Return whether a file may be a list: by its suffix, and a TSV by its header too.

    A TSV without a known column is of another kind (MS-Celeb's has no header). A Parquet
    file may hold the photos themselves: ask ``list_rows.lists_photos``, which sees its columns.
    """
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - not always a file's
    if suffix == ".tsv":
        return find_columns(decoded(head.split(b"\n", 1)[0]), ("\t",)) is not None
    return suffix == ".csv" or (suffix == ".parquet" and head.startswith(PARQUET_MAGIC))


def open_list(
    stream: BinaryIO,
    name: str,
    base: str,
    urls: UrlSettings = _NO_URLS,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> PhotoList:
    """Return a list of photos as a container.

    ``base`` is the folder, or the s3:// gs:// az:// prefix, that relative paths start from.
    Nothing is read from the stream before members() is asked for, and read() never does.
    """
    return PhotoList(stream, name, base, urls, max_line_bytes)


def read_listed(name: str, urls: UrlSettings, max_bytes: int) -> bytes:
    """Return the bytes of the photo that a member of a list names.

    At most ``max_bytes`` + 1 of a file; a URL with more than ``max_bytes`` raises
    UrlTooLarge. Raises OSError with words for the table.
    """
    if _URL.match(name):
        return fetch(name, urls, max_bytes)
    if name.startswith(OBJECT_SCHEMES):
        try:
            return read_bytes(Entry(uri=name), max_bytes)
        except UsageError as error:  # a name that no object can have
            raise OSError(str(error)) from error
    try:
        return _read_file(path_of(name), max_bytes)
    except OSError as error:
        raise OSError(f"cannot be read: {error.strerror or error}") from error


def _read_file(path: str, max_bytes: int) -> bytes:
    # Asked before it is opened: opening a pipe or a device may hang, or do something.
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise OSError("not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # another file by now
            raise OSError("not a regular file")
        return read_at_most(stream, max_bytes)


class PhotoList:
    """A list as a container: its members are its rows, and their photos lie elsewhere."""

    sequential = False

    def __init__(
        self, stream: BinaryIO, name: str, base: str, urls: UrlSettings, max_line_bytes: int
    ) -> None:
        """Take a stream, and read nothing from it yet."""
        self._stream, self._urls, self._max_line_bytes = stream, urls, max_line_bytes
        self._parquet = name.lower().endswith(".parquet")
        local = not base.startswith(OBJECT_SCHEMES)
        self._base = os.path.abspath(path_of(base)) if local else base  # noqa: PTH100

    def members(self) -> Iterator[Member]:
        """Yield a Member for each row; its offset is the row's number, from 0."""
        self._stream.seek(0)
        rows = parquet_rows if self._parquet else text_rows
        for number, row in enumerate(rows(self._stream, self._max_line_bytes)):
            if number >= MAX_ROWS:
                problem = f"more than {MAX_ROWS} rows: not read from here on"
                yield Member(name=row.where, offset=number, problem=problem)
                return
            yield self._member(number, row)

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return the bytes of a row's photo."""
        if member.problem is not None:
            raise OSError(member.problem)
        return read_listed(member.name, self._urls, max_bytes)

    def close(self) -> None:
        """Close the list."""
        self._stream.close()

    def _member(self, number: int, row: Row) -> Member:
        name, problem = row.where, row.problem
        if problem is None and not row.place.strip():
            problem = "the row names no photo"
        elif problem is None and _URL.match(row.place.strip()):
            name, problem = _shown(row.place.strip()), self._url_problem(row.place.strip())
        elif problem is None:
            name, problem = self._resolved(row.place)
        label = _shown(row.label) if row.label else None
        return Member(name=name, offset=number, label=label, problem=problem)

    def _url_problem(self, url: str) -> str | None:
        try:
            check_url(url, self._urls)
        except UrlRefused as error:
            return str(error)
        return None

    def _resolved(self, place: str) -> tuple[str, str | None]:
        """Return the name of what is listed and why it cannot be read, if it cannot."""
        scheme = _SCHEME.match(place)
        if "\0" in place:
            return _shown(place), "the path holds a NUL"
        if self._base.startswith(OBJECT_SCHEMES):
            return self._in_bucket(place, scheme is None and not place.startswith("/"))
        if scheme is not None and not place.startswith("file:///"):
            return _shown(place), f"not read: {scheme[1].lower()[:32]}:// is no file and no https"
        path = os.path.join(self._base, path_of(place))  # noqa: PTH118 - Path drops what .. needs
        if ".." not in path.split("/"):  # after a linked folder, .. is not what is written before
            path = os.path.normpath(path)
        return uri_of(path), None

    def _in_bucket(self, place: str, relative: bool) -> tuple[str, str | None]:
        """Resolve a name in a list that lies in a bucket: in that bucket, and nowhere else.

        Who writes such a list must not choose what is read with the credentials of whoever
        runs it, nor name files of this machine.
        """
        bucket = "/".join(self._base.split("/")[:3]) + "/"
        name = f"{self._base.rstrip('/')}/{place.removeprefix('./')}" if relative else place
        if not name.startswith(bucket):
            return _shown(place), f"not read: the list lies in {bucket}, and this does not"
        if not _is_utf8(name):
            return _shown(place), "not read: the name is no UTF-8"
        return name, None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    """Return a text as a table can hold it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
