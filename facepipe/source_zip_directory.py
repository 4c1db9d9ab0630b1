"""What the headers of a zip say: its central directory, or its local headers where that is gone.

Section numbers are those of PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from facepipe.archive_bytes import Damaged, Window

LOCAL, END = b"PK\3\4", b"PK\5\6"
LOCAL_BYTES = 30  # of a local header, before the name
STREAMED, UTF8 = 1 << 3, 1 << 11  # flags: sizes follow the data; the name is UTF-8 (4.4.4)

_CENTRAL, _END64, _LOCATOR64 = b"PK\1\2", b"PK\6\6", b"PK\6\7"
_CENTRAL_BYTES, _END_BYTES, _END64_BYTES, _LOCATOR64_BYTES = 46, 22, 56, 20
_MAX_COMMENT_BYTES = 0xFFFF
_MAX_ENDS = 16  # tried: the comment behind the end may hold others
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # the number is in the zip64 field (4.3.9.2)
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075  # extra fields (4.5.3, 4.6.9)
_UNIX = {3, 19}  # made by Unix or macOS: the mode is in the upper half of the attributes
_DOS_FOLDER = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a header says of a file."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int  # bytes in the zip
    size: int
    offset: int  # of the local header; of its own header where that cannot be known
    mode: int = 0  # of Unix; 0 where not known
    dos_folder: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the central directory is; ``shift`` is the bytes that stand before the zip."""

    start: int
    end: int
    shift: int
    count: int


def find_directory(source: Window) -> Directory | None:
    """Return where the central directory is, None where it is missing or not whole."""
    size = min(source.size, _END_BYTES + _MAX_COMMENT_BYTES)
    tail = source.read_at(source.size - size, size)
    at = len(tail)
    for _ in range(_MAX_ENDS):
        at = tail.rfind(END, 0, at)
        if at < 0:
            return None
        if len(tail) - at < _END_BYTES:
            continue
        *_, comment = struct.unpack_from("<4s4H2LH", tail, at)
        found = _directory(source, source.size - size + at, tail[at : at + _END_BYTES])
        if found is not None and at + _END_BYTES + comment <= len(tail):
            return found
    return None


def _directory(source: Window, position: int, end: bytes) -> Directory | None:
    """Return the directory that ends at ``position`` according to its end record."""
    disk, first_disk, _, count, size, offset = struct.unpack_from("<4H2L", end, 4)
    if count == _FULL16 or size == _FULL32 or offset == _FULL32:
        at = position - _LOCATOR64_BYTES
        locator = source.read_at(at, _LOCATOR64_BYTES)
        if locator.startswith(_LOCATOR64):
            # Directly before the locator also where bytes before the zip shift what it says.
            for place in (at - _END64_BYTES, struct.unpack_from("<Q", locator, 8)[0]):
                record = source.read_at(place, _END64_BYTES)
                if record.startswith(_END64) and len(record) == _END64_BYTES:
                    disk, first_disk, _, count, size, offset = struct.unpack_from(
                        "<2L4Q", record, 16
                    )
                    position = place
                    break
    if disk or first_disk:
        return None  # a part of a zip that was split
    for start, shift in ((position - size, position - size - offset), (offset, 0)):
        if shift >= 0 and 0 <= start <= start + size <= position:
            if size == 0 or source.read_at(start, 4) == _CENTRAL:
                return Directory(start, start + size, shift, count)
    return None


def entries(source: Window, directory: Directory | None) -> Iterator[Entry]:
    """Yield every entry, of the directory or, where there is none, of the local headers.

    Raises Damaged, after those that were found, where there are or may have been more.
    """
    if directory is None:
        yield from _local_entries(source)
        raise Damaged("its directory is missing or damaged: there may have been more members")
    at, number = directory.start, 0
    while at < directory.end:
        header = source.read_at(at, _CENTRAL_BYTES)
        if len(header) < _CENTRAL_BYTES or not header.startswith(_CENTRAL):
            raise Damaged("its directory is damaged: what follows cannot be found")
        lengths = struct.unpack_from("<3H", header, 28)
        if at + _CENTRAL_BYTES + sum(lengths) > directory.end:
            raise Damaged("its directory ends within a member's header")
        rest = source.read_at(at + _CENTRAL_BYTES, lengths[0] + lengths[1])
        yield _central(header, rest[: lengths[0]], rest[lengths[0] :], at, directory)
        at += _CENTRAL_BYTES + sum(lengths)
        number += 1
    if (directory.count - number) & _FULL16:  # some writers keep only 16 bits of it
        raise Damaged(f"its directory has {number} of {directory.count} members")


def _central(header: bytes, name: bytes, extra: bytes, at: int, directory: Directory) -> Entry:
    """Return what a header of the directory says (4.3.12)."""
    host, flags, method = struct.unpack_from("<5xB2x2H", header)
    crc, packed, size = struct.unpack_from("<3L", header, 16)
    attributes, offset = struct.unpack_from("<2L", header, 38)
    entry = Entry(
        name=_unicode_path(name, extra),
        flags=flags,
        method=method,
        crc=crc,
        packed=0,
        size=0,
        offset=at,
        mode=attributes >> 16 if host in _UNIX else 0,
        dos_folder=bool(attributes & _DOS_FOLDER),
    )
    try:
        size, packed, offset = _zip64(extra, size, packed, offset)
    except struct.error:
        return replace(entry, problem="its zip64 field is damaged")
    offset += directory.shift
    if offset + LOCAL_BYTES + len(name) + packed > directory.start:
        return replace(entry, problem="its bytes are not in the archive")
    if size >= 1 << 63:
        return replace(entry, problem="it states an impossible size")
    return replace(entry, packed=packed, size=size, offset=offset)


def _local_entries(source: Window) -> Iterator[Entry]:
    """Yield what the local headers say, one after the other, up to the first that is none."""
    at = 0
    while (header := source.read_at(at, LOCAL_BYTES)).startswith(LOCAL):
        if len(header) < LOCAL_BYTES:
            return
        flags, method = struct.unpack_from("<2H", header, 6)
        crc, packed, size, name_bytes, extra_bytes = struct.unpack_from("<3L2H", header, 14)
        rest = source.read_at(at + LOCAL_BYTES, name_bytes + extra_bytes)
        name, extra = rest[:name_bytes], rest[name_bytes:]
        entry = Entry(
            name=_unicode_path(name, extra),
            flags=flags,
            method=method,
            crc=crc,
            packed=0,
            size=0,
            offset=at,
        )
        try:
            size, packed = _zip64(extra, size, packed)
        except struct.error:
            yield replace(entry, problem="its zip64 field is damaged")
            return
        if flags & STREAMED and not packed:
            yield replace(entry, problem="its size is said in the directory, which is missing")
            return
        following = at + LOCAL_BYTES + name_bytes + extra_bytes + packed
        if following > source.size or size >= 1 << 63:
            yield replace(entry, problem="the archive ends within it")
            return
        yield replace(entry, packed=packed, size=size)
        at = following


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        yield kind, extra[at + 4 : at + 4 + length]
        at += 4 + length


def _zip64(extra: bytes, *values: int) -> list[int]:
    """Return the values, those that do not fit 32 bits from the zip64 field (4.5.3).

    Raises struct.error where the field is too short.
    """
    field = next((f for kind, f in _extra_fields(extra) if kind == _ZIP64), None)
    if field is None:
        return list(values)
    found = []
    for value in values:
        if value == _FULL32:
            value, field = struct.unpack_from("<Q", field)[0], field[8:]
        found.append(value)
    return found


def _unicode_path(name: bytes, extra: bytes) -> bytes:
    """Return the name in UTF-8 where Info-ZIP's field has it and belongs to this name."""
    for kind, field in _extra_fields(extra):
        if kind == _UNICODE_PATH and len(field) > 5:
            if struct.unpack_from("<L", field, 1)[0] == zlib.crc32(name):
                return field[5:]
    return name
