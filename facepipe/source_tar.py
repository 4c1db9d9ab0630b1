"""Photos in a tar, plain or compressed (gzip, bzip2, xz), webdataset's shards included.

A small parser of our own rather than tarfile: that one follows extended headers by recursion
(a chain of them ends in RecursionError), reads a header's payload whole whatever size it
claims, keeps every member it has seen, ends at the first zero block, and raises at damage
without saying what it had found. Formats: POSIX.1-2017 pax and ustar, GNU tar, v7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from facepipe.archive_bytes import (
    FREE_BYTES,
    MAX_RATIO,
    Damaged,
    Expanded,
    Source,
    Window,
    compression,
    shown_name,
)
from facepipe.containers import Member
from facepipe.source_webdataset import SIDECAR_BYTES, may_label, with_labels

BLOCK_BYTES = 512
EXTENDED_BYTES = 1 << 20  # of one pax header or long name; extended attributes take some 10 KB
MAX_ZERO_BLOCKS = 1 << 15  # 16 MiB between concatenated archives; tar pads to 10 KiB

_ZERO = bytes(BLOCK_BYTES)
_SUFFIXES = {
    b"\x1f\x8b": (".tar.gz", ".tgz", ".taz", ".tar"),
    b"BZh": (".tar.bz2", ".tbz2", ".tbz", ".tar"),
    b"\xfd7zXZ\0": (".tar.xz", ".txz", ".tar"),
}
_DATALESS = {  # their size field, if any, counts no bytes of the archive
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a named pipe",
}
_FILES = {b"0", b"\0", b"7"}  # 7: contiguous, a file to everyone
_FOLDERS = {b"5", b"D"}
# Say something of the next member, or nothing that matters here (g: of all; K: a link's aim).
_NAME, _PAX, _SKIPPED = b"L", {b"x", b"X"}, {b"g", b"K", b"V"}
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*(?:\0.*)?", re.DOTALL)


def is_tar(head: bytes, name: str) -> bool:
    """Say by its first 1024 bytes and its name whether a file is a tar that is read here.

    A compressed one needs its name too: any file may be compressed. A plain one is known by
    the magic of its first header, or (v7, which has none) by its checksum and its name; an
    empty one is zeros with the name of a tar.
    """
    magic = compression(head)
    if magic is not None:
        return name.lower().endswith(_SUFFIXES[magic])
    if head[257:262] == b"ustar":
        return True
    named = name.lower().endswith(".tar") and len(head) >= BLOCK_BYTES
    return named and (head[:BLOCK_BYTES] == _ZERO or _checks(head[:BLOCK_BYTES]))


def open_tar(
    stream: BinaryIO,
    *,
    label_key: str | None = None,
    max_ratio: int = MAX_RATIO,
    free_bytes: int = FREE_BYTES,
) -> Tar:
    """Open a tar in a seekable file, which the container then owns and closes.

    ``label_key``: the field of a webdataset's JSON that names the identity. A compressed tar
    is expanded up to ``free_bytes`` and ``max_ratio`` times its size. Raises OSError where
    the file cannot be read.
    """
    return Tar(stream, label_key, max_ratio, free_bytes)


class Tar:
    """A tar as a Container; an offset is where a member's bytes begin in the expanded tar."""

    def __init__(
        self, stream: BinaryIO, label_key: str | None, max_ratio: int, free_bytes: int
    ) -> None:
        """See `open_tar`."""
        self._stream, self._label_key = stream, label_key
        self._max_ratio, self._free_bytes = max_ratio, free_bytes
        head = Window(stream).read_at(0, BLOCK_BYTES)
        self._magic = None if _checks(head) else compression(head)
        self.sequential = self._magic is not None
        self._source: Source | None = None  # of read alone: listing must not set it back

    def members(self) -> Iterator[Member]:
        """Yield every file, less the sidecars of webdataset, which label their photos."""
        return with_labels(_found(self._open()), self._label_key)

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return the ``member.bytes`` bytes at ``member.offset``, at most ``max_bytes`` + 1."""
        if member.problem is not None:
            raise Damaged(member.problem)
        self._source = self._source or self._open()
        wanted = min(member.bytes, max_bytes + 1)
        data = self._source.read_at(member.offset, wanted)
        if len(data) < wanted:
            raise Damaged("the archive ends within it")
        return data

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _open(self) -> Source:
        if self._magic is None:
            return Window(self._stream)
        return Expanded(self._stream, self._magic, self._max_ratio, self._free_bytes)


@dataclass(slots=True)
class _Extra:
    """What extended headers say of the member that follows them."""

    name: bytes | None = None
    size: int | None = None
    problem: str | None = None
    any: bool = False


def _found(source: Source) -> Iterator[tuple[Member, bytes | None]]:
    """Yield each member with its content where it may be a label; damage is the last."""
    walk = _Walk(source)
    try:
        yield from walk.members()
    except Damaged as error:
        yield Member(name="", offset=walk.position, problem=str(error)), None


class _Walk:
    """A walk over the headers of a tar. Each step goes forward, so that it ends."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.position = 0

    def members(self) -> Iterator[tuple[Member, bytes | None]]:
        extra = _Extra()
        while (block := self._header()) is not None:
            kind, size = block[156:157], _number(block[124:136])
            if kind == _NAME or kind in _PAX or kind in _SKIPPED:
                self._extend(extra, kind, size)
                continue
            name = extra.name or _name(block)
            size = size if extra.size is None else extra.size
            problem = extra.problem or _problem(kind)
            extra = _Extra()
            if kind == b"S":
                self._pass_sparse_map(block)
            if kind in _DATALESS or (kind == b"\0" and name.endswith(b"/")):
                size, kind = 0, b"5" if kind == b"\0" else kind
            member, content = self._member(name, size, problem)
            if kind not in _FOLDERS or member.problem != problem:
                yield member, content
            if size is None or member.problem != problem:
                return  # what follows cannot be found
            self.position += _padded(size)
        if extra.any:
            raise Damaged("the archive ends before the member that a header describes")

    def _header(self) -> bytes | None:
        """Return the next header, over the zero blocks that end one archive of several."""
        zeros = 0
        while (block := self._source.read_at(self.position, BLOCK_BYTES)) == _ZERO:
            zeros += 1
            self.position += BLOCK_BYTES
            if zeros > MAX_ZERO_BLOCKS:
                return None
        if not any(block) or (not _checks(block) and zeros >= 2):
            return None  # the end of the file, or what a tape had behind the end of the archive
        if len(block) < BLOCK_BYTES:
            raise Damaged("the archive ends within a header")
        if not _checks(block):
            raise Damaged("a damaged header: what follows cannot be found")
        self.position += BLOCK_BYTES
        return block

    def _extend(self, extra: _Extra, kind: bytes, size: int | None) -> None:
        """Take what an extended header says of the next member."""
        if size is None or not self._source.reaches(self.position + size):
            raise Damaged("the archive ends within an extended header")
        start, extra.any = self.position, True
        self.position += _padded(size)
        if kind in _SKIPPED:
            return
        if size > EXTENDED_BYTES:
            extra.problem = f"its extended header has {size} bytes: more than is read"
            return
        payload = self._source.read_at(start, size)
        if kind == _NAME:
            extra.name = payload.partition(b"\0")[0]
            return
        try:
            _apply_pax(extra, payload)
        except ValueError:
            extra.problem = "its extended header is damaged"

    def _member(
        self, name: bytes, size: int | None, problem: str | None
    ) -> tuple[Member, bytes | None]:
        """Return the member whose data begins here; it has a new problem if that ends early."""
        shown, start, content = shown_name(name), self.position, None
        if size is None:
            return Member(name=shown, offset=start, problem="it states an impossible size"), None
        try:
            if problem is None and size <= SIDECAR_BYTES and may_label(shown):
                content = self._source.read_at(start, size)
            if not self._source.reaches(start + size):
                raise Damaged("the archive ends within it")
        except Damaged as error:
            return Member(name=shown, offset=start, problem=str(error)), None
        counted = size if problem is None else 0
        return Member(name=shown, offset=start, bytes=counted, problem=problem), content

    def _pass_sparse_map(self, block: bytes) -> None:
        """Go over the blocks that continue the map of GNU's old sparse format."""
        more = block[482]
        while more:
            block = self._source.read_at(self.position, BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                raise Damaged("the archive ends within a header")
            self.position += BLOCK_BYTES
            more = block[504]


def _problem(kind: bytes) -> str | None:
    if kind in _FILES:
        return None
    if kind == b"S":
        return "a sparse file"
    return _DATALESS.get(kind, f"not a file: type {shown_name(kind)}")


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _checks(block: bytes) -> bool:
    """Say whether the checksum of a header holds; old tars summed signed bytes."""
    stated = _number(block[148:156])
    if stated is None or len(block) < BLOCK_BYTES:
        return False
    plain = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if stated == plain:
        return True
    high = sum(c > 127 for c in block) - sum(c > 127 for c in block[148:156])
    return stated == plain - 256 * high


def _number(field: bytes) -> int | None:
    """Return a number in octal or GNU's base 256, None where it is neither or negative."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    octal = _OCTAL.fullmatch(field)
    return None if octal is None else int(octal[1] or b"0", 8)


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    # Other formats than POSIX's have times and maps where it has the folders of a long name.
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    if block[508:512] == b"tar\0":  # star's ustar: times follow a shorter prefix
        prefix = prefix[:131]
    return prefix + b"/" + name if prefix else name


def _apply_pax(extra: _Extra, payload: bytes) -> None:
    """Take path and size out of records ``"%d %s=%s\\n"``. Raises ValueError."""
    at = 0
    while at < len(payload) and payload[at]:  # some writers pad with NUL
        space = payload.index(b" ", at, at + 20)
        if not payload[at:space].isdigit():
            raise ValueError("no length")
        end = at + int(payload[at:space])
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        if end <= space or not equals or payload[end - 1 : end] != b"\n":
            raise ValueError("no record")
        at = end
        if key in (b"path", b"GNU.sparse.name") and value:
            extra.name = value
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:  # 2**64 has 20 digits
                raise ValueError("no size")
            extra.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            extra.problem = "a sparse file"
