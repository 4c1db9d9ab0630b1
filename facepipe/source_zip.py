"""Photos in a zip: stored, deflate, bzip2 and LZMA, with zip64.

A small parser of our own rather than zipfile: that one makes an object of half a kilobyte of
each entry of the directory, refuses the whole file for one damaged entry or where the
directory at its end is missing, and has no bound on what LZMA allocates. Format: PKWARE's
APPNOTE.TXT 6.3.10, whose section numbers are given. Entries that share bytes are refused:
they are how a zip of some kilobytes expands to petabytes (Fifield, "A better zip bomb", 2019).
"""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from facepipe.archive_bytes import (
    BROKEN,
    PIECE_BYTES,
    Codec,
    Damaged,
    Inflater,
    Window,
    shown_name,
)
from facepipe.containers import Member
from facepipe.source_zip_directory import (
    END,
    LOCAL,
    LOCAL_BYTES,
    UTF8,
    Directory,
    Entry,
    entries,
    find_directory,
)

READ_BYTES = 1 << 22  # of the compressed bytes of a large member, at a time
LZMA_HEAD_BYTES = 9

_STORED, _DEFLATED, _BZIP2, _LZMA = 0, 8, 12, 14
_ENCRYPTED, _PATCH, _HIDDEN = 1, 1 << 5, 1 << 13  # flags (4.4.4)
# ClamAV found honest files (of Java) whose entries overlap by 2 bytes.
_OVERLAP_BYTES = 2
_SHARED = "it shares its bytes with another member, as in a zip bomb"


def is_zip(head: bytes, name: str) -> bool:
    """Say by its first bytes and its name whether a file is a zip of files.

    Many formats are zips (docx, jar, apk, npz, pt): one is opened only where its name ends in
    .zip, or where its last part has no suffix that says what it is.
    """
    base = name.replace("\\", "/").rpartition("/")[2].lower()
    return head[:4] in (LOCAL, END) and (base.endswith(".zip") or "." not in base)


def open_zip(stream: BinaryIO) -> Zip:
    """Open a zip in a seekable file, which the container then owns and closes.

    Raises OSError where the file cannot be read.
    """
    return Zip(stream)


class Zip:
    """A zip as a Container; an offset is where a member's local header begins."""

    sequential = False

    def __init__(self, stream: BinaryIO) -> None:
        """See `open_zip`."""
        self._stream = stream
        self._source = Window(stream)
        self._directory = find_directory(self._source)
        self._index: _Index | None = None

    def members(self) -> Iterator[Member]:
        """Yield every file in the order of the directory; local headers where it is missing."""
        overlaps = self._opened().overlaps
        source = Window(self._stream)
        try:
            for entry, shared in zip(entries(source, self._directory), overlaps, strict=False):
                if not _is_folder(entry):
                    yield _member(entry, bool(shared))
        except Damaged as error:
            yield Member(name="", offset=source.size, problem=str(error))

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return the bytes of the member whose header is at ``member.offset``."""
        if member.problem is not None:
            raise Damaged(member.problem)
        entry = self._opened().entry(member.offset)
        if problem := entry.problem or _problem(entry):
            raise Damaged(problem)
        header = self._source.read_at(entry.offset, LOCAL_BYTES)
        if len(header) < LOCAL_BYTES or not header.startswith(LOCAL):
            raise Damaged("its local header is damaged")
        start = entry.offset + LOCAL_BYTES + sum(struct.unpack_from("<2H", header, 26))
        data = _expand(self._source, entry, start, min(entry.size, max_bytes) + 1)
        if entry.size > max_bytes and len(data) > max_bytes:
            return data
        if len(data) != entry.size:
            more = "more" if len(data) > entry.size else f"{len(data)}"
            raise Damaged(f"it expands to {more} instead of {entry.size} bytes")
        if zlib.crc32(data) != entry.crc:
            raise Damaged("its checksum (CRC-32) does not hold")
        return data

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _opened(self) -> _Index:
        if self._index is None:
            self._index = _Index(Window(self._stream), self._directory)
        return self._index


class _Index:
    """The entries by the place of their local headers: 32 bytes each, for there are millions."""

    def __init__(self, source: Window, directory: Directory | None) -> None:
        rows, kinds = array("Q"), array("H")
        try:
            for e in entries(source, directory):
                end = e.offset + (LOCAL_BYTES + len(e.name) if e.problem is None else 0) + e.packed
                rows.extend((e.offset, e.packed, e.size, end))
                kinds.extend((e.flags, e.method, e.crc & 0xFFFF, e.crc >> 16))
        except Damaged:
            pass  # `Zip.members` says so, after those that were found
        self._rows: NDArray[np.uint64] = np.asarray(rows, np.uint64).reshape(-1, 4)
        self._kinds: NDArray[np.uint16] = np.asarray(kinds, np.uint16).reshape(-1, 4)
        offsets = self._rows[:, 0]
        self._order = np.argsort(offsets, kind="stable")
        self._sorted = offsets[self._order]
        self.overlaps = self._find_overlaps()

    def _find_overlaps(self) -> NDArray[np.bool_]:
        """Mark each that reaches into the next, and all but the first of those at one place."""
        overlaps = np.zeros(len(self._rows), bool)
        if len(self._rows):
            following = np.append(self._sorted[1:], np.uint64(1 << 63))
            again = np.append(False, self._sorted[1:] == self._sorted[:-1])
            last = np.append(~again[1:], True)
            ends = self._rows[self._order, 3]
            # Of several at one place the first counts, up to what follows the last of them.
            place = np.cumsum(~again) - 1
            beyond = ends > following[last][place] + np.uint64(_OVERLAP_BYTES)
            overlaps[self._order] = again | beyond
        return overlaps

    def entry(self, offset: int) -> Entry:
        """Return what is needed to read the member at ``offset``. Raises Damaged."""
        # Never past the last: numbers that numpy would compare as floats are refused first.
        known = len(self._sorted) and 0 <= offset <= int(self._sorted[-1])
        at = int(np.searchsorted(self._sorted, np.uint64(offset))) if known else -1
        if at < 0 or int(self._sorted[at]) != offset:
            raise Damaged("no member begins there")
        row = int(self._order[at])
        flags, method, low, high = (int(value) for value in self._kinds[row])
        _, packed, size, _ = (int(value) for value in self._rows[row])
        return Entry(
            name=b"",
            flags=flags,
            method=method,
            crc=high << 16 | low,
            packed=packed,
            size=size,
            offset=offset,
            problem=_SHARED if self.overlaps[row] else None,
        )


def _member(entry: Entry, overlaps: bool) -> Member:
    # Not every writer sets the flag of UTF-8; without it the code page is DOS's (4.4.4, D.1).
    name = shown_name(entry.name, None if entry.flags & UTF8 else "cp437")
    problem = entry.problem or _problem(entry) or (_SHARED if overlaps else None)
    size = entry.size if problem is None else 0
    return Member(name=name, offset=entry.offset, bytes=size, problem=problem)


def _is_folder(entry: Entry) -> bool:
    named = entry.name.endswith((b"/", b"\\")) or entry.dos_folder
    return named and entry.size == 0 and entry.problem is None


def _problem(entry: Entry) -> str | None:
    if entry.flags & (_ENCRYPTED | _HIDDEN):
        return "it is encrypted"
    if entry.flags & _PATCH or entry.method not in (_STORED, _DEFLATED, _BZIP2, _LZMA):
        return f"its compression (method {entry.method}) is not one that is read"
    if entry.method == _STORED and entry.packed != entry.size:
        return f"it is stored as it is, but has {entry.packed} instead of {entry.size} bytes"
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFLNK:
        return "a symbolic link"
    return None if kind in (0, stat.S_IFREG) else "not a regular file"


def _expand(source: Window, entry: Entry, start: int, limit: int) -> bytes:
    """Return a member's bytes, at most ``limit`` of them. Raises Damaged."""
    if entry.method == _STORED:
        return source.read_at(start, min(entry.packed, limit))
    head = source.read_at(start, min(LZMA_HEAD_BYTES, entry.packed))
    skipped = LZMA_HEAD_BYTES if entry.method == _LZMA else 0
    pieces = _pieces(source, start + skipped, start + entry.packed)
    codec = _codec(entry.method, head, limit)
    made: list[bytes] = []
    while limit > 0 and not codec.eof:
        fed = b""
        if codec.needs_input and not (fed := next(pieces, b"")):
            break
        try:
            made.append(codec.decompress(fed, limit))
        except (*BROKEN, MemoryError) as error:
            raise Damaged(f"its compressed data is damaged: {error}") from error
        limit -= len(made[-1])
    return b"".join(made)


def _pieces(source: Window, start: int, end: int) -> Iterator[bytes]:
    """Yield bytes of the zip in pieces, read in larger ones."""
    for at in range(start, end, READ_BYTES):
        data = source.read_at(at, min(READ_BYTES, end - at))
        yield from (data[i : i + PIECE_BYTES] for i in range(0, len(data), PIECE_BYTES))


def _codec(method: int, head: bytes, limit: int) -> Codec:
    """Return the decompressor of a member that begins with ``head``. Raises Damaged."""
    if method == _DEFLATED:
        return Inflater(-15)
    if method == _BZIP2:
        return bz2.BZ2Decompressor()
    # Version, length of the properties, properties (5.8.8).
    if len(head) < LZMA_HEAD_BYTES or head[2:4] != b"\5\0" or head[4] >= 9 * 5 * 5:
        raise Damaged("its compressed data does not begin as LZMA does")
    lp_pb, lc = divmod(head[4], 9)
    properties = {
        "id": lzma.FILTER_LZMA1,
        "lc": lc,
        "lp": lp_pb % 5,
        "pb": lp_pb // 5,
        # All that is needed of it: nothing is looked up farther back than the output reaches.
        "dict_size": max(4096, min(int.from_bytes(head[5:9], "little"), limit)),
    }
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[properties])
    except lzma.LZMAError as error:  # lc + lp above 4
        raise Damaged("its compressed data does not begin as LZMA does") from error
