"""The bytes of an archive, read forward in few large steps, also through a decompressor.

What is read may be a file of an object store, where each read is a request: small reads that
follow each other are served from one window. Memory is a window and what was asked for,
whatever a file claims; a decompressor is stopped before it gives more.
"""

from __future__ import annotations

import bz2
import io
import lzma
import unicodedata
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

WINDOW_BYTES = 1 << 18  # some small photos, or headers and gaps; 5 ms at 50 MB/s
PIECE_BYTES = 1 << 16  # in and out of a decompressor at a time
NAME_CHARACTERS = 4096  # PATH_MAX of Linux: no file was ever stored with a longer path
XZ_MEMORY_BYTES = 1 << 27  # xz -9 needs 65 MiB to decompress; a header may ask for 4 GiB
MAX_RATIO = 100  # photos hardly compress; blank BMP and the padding of a tar do
FREE_BYTES = 1 << 30  # expanded whatever the ratio: some seconds of work

BROKEN = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)  # what decompressors raise
# Bidirectional and line controls: one in a name would reorder or break the line it is shown in.
_MISLEADING = set("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068")
_MISLEADING.add("\u2069")


class Damaged(OSError):
    """Bytes that are not what they claim to be; the message is for the table."""


def shown_name(raw: bytes, fallback: str | None = None) -> str:
    """Return a member's name for people and tables; it is never a path to open or write.

    UTF-8 stays as it is; other bytes are read as ``fallback`` or become U+FFFD, as do control
    characters and those that change the direction of the text around them.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(fallback or "utf-8", "replace")
    if not text.isprintable():
        text = "".join(
            "\ufffd" if c in _MISLEADING or unicodedata.category(c) == "Cc" else c for c in text
        )
    return text[:NAME_CHARACTERS]


class Source(Protocol):
    """Bytes by their place; reading forward is cheap, going back may mean starting again."""

    def read_at(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes, fewer only at the end. Raises Damaged where they are not."""
        ...

    def reaches(self, end: int) -> bool:
        """Say whether there are ``end`` bytes. Raises Damaged where that cannot be known."""
        ...


class Window:
    """A seekable file through a window; several may share one file."""

    def __init__(self, stream: BinaryIO) -> None:
        """Measure the file; it stays the caller's to close."""
        self._stream = stream
        self.size = stream.seek(0, io.SEEK_END)
        self._start = 0
        self._held = b""

    def reaches(self, end: int) -> bool:
        """Say whether the file has ``end`` bytes."""
        return end <= self.size

    def read_at(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset``, fewer at the end of the file."""
        count = min(count, self.size - offset)
        if offset < 0 or count <= 0:
            return b""
        inside = offset - self._start
        head = self._held[inside : inside + count] if 0 <= inside < len(self._held) else b""
        if len(head) == count:
            return head
        self._start = offset + len(head)
        fresh = self._fetch(self._start, max(count - len(head), WINDOW_BYTES))
        self._held = fresh if len(fresh) <= WINDOW_BYTES else b""  # a photo is not kept
        return head + fresh[: count - len(head)]

    def _fetch(self, offset: int, count: int) -> bytes:
        self._stream.seek(offset)
        pieces = []
        while count > 0 and (piece := self._stream.read(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


class Codec(Protocol):
    """A decompressor as bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...  # noqa: D102
    @property
    def needs_input(self) -> bool: ...  # noqa: D102
    @property
    def unused_data(self) -> bytes: ...  # noqa: D102
    def decompress(self, data: bytes, max_length: int) -> bytes: ...  # noqa: D102


class Inflater:
    """Deflate with the interface of bz2 and lzma, which gives all that stands before damage."""

    def __init__(self, wbits: int) -> None:
        """``wbits`` as zlib has it: -15 for bare deflate, 31 for gzip."""
        self._inflate = zlib.decompressobj(wbits)
        self._tail = b""
        self._damage: zlib.error | None = None
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end of the stream."""
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return at most ``max_length`` bytes. Raises zlib.error."""
        if self._damage is not None:
            raise self._damage
        data = self._tail + data
        before = self._inflate.copy()
        try:
            fresh = self._inflate.decompress(data, max_length)
        except zlib.error as error:  # zlib keeps what it had made of this call's data
            self._damage, self.needs_input = error, False
            return _until_damage(before, data, max_length)
        self._tail = self._inflate.unconsumed_tail
        self.needs_input = not self._tail and len(fresh) < max_length
        return fresh


def _until_damage(inflate: zlib._Decompress, data: bytes, max_length: int) -> bytes:
    made = bytearray()
    for i in range(len(data)):
        if len(made) >= max_length:
            break
        try:
            made += inflate.decompress(data[i : i + 1], max_length - len(made))
        except zlib.error:
            break
    return bytes(made)


# The first bytes of a compressed stream, and what decompresses it.
CODECS: dict[bytes, Callable[[], Codec]] = {
    b"\x1f\x8b": lambda: Inflater(31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES),
}


def compression(head: bytes) -> bytes | None:
    """Return the magic (a key of CODECS) that a file begins with, if it is compressed."""
    return next((magic for magic in CODECS if head.startswith(magic)), None)


class Expanded:
    """What a compressed file expands to, in one pass forward; going back starts again.

    Expanding ends, as damage, where more than ``free_bytes`` and ``max_ratio`` times what was
    read of the file came out of it.
    """

    def __init__(self, stream: BinaryIO, magic: bytes, max_ratio: int, free_bytes: int) -> None:
        """Open a file that begins with ``magic``, a key of CODECS."""
        self._packed = Window(stream)
        self._magic, self._max_ratio, self._free_bytes = magic, max_ratio, free_bytes
        self._restart()

    def _restart(self) -> None:
        self._codec = CODECS[self._magic]()
        self._taken = 0  # of the compressed bytes
        self._start, self._held = 0, bytearray()  # what is expanded and not yet passed by
        self._ended, self._damage = False, ""

    def reaches(self, end: int) -> bool:
        """Expand up to ``end`` and say whether it is there. Raises Damaged where it is not."""
        return end <= self._start or len(self.read_at(end - 1, 1)) == 1

    def read_at(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes, fewer at the end. Raises Damaged where they are damaged."""
        if offset < 0:
            return b""
        if offset < self._start:
            self._restart()
        while not self._ended and self._start + len(self._held) < offset + count:
            self._pass_by(offset)
            self._expand()
        self._pass_by(offset)
        with memoryview(self._held) as held:
            found = bytes(held[:count]) if self._start == offset else b""
        if len(found) < count and self._damage:
            raise Damaged(self._damage)
        return found

    def _pass_by(self, offset: int) -> None:
        passed = min(offset - self._start, len(self._held))
        del self._held[:passed]
        self._start += passed

    def _expand(self) -> None:
        """Expand one piece more, or end."""
        fed = b""
        if self._codec.eof:
            fed = self._next_stream()
        elif self._codec.needs_input:
            fed = self._take()
            if not fed:
                self._end("the compressed data ends early")
        if self._ended:
            return
        try:
            self._held += self._codec.decompress(fed, PIECE_BYTES)
        except BROKEN as error:
            self._end(f"the compressed data is damaged: {error}")
            return
        if self._start + len(self._held) > self._free_bytes + self._max_ratio * self._taken:
            self._end(f"it expands to more than {self._max_ratio} times its size: not read on")

    def _next_stream(self) -> bytes:
        """Begin the stream that follows the one that ended; what else follows is no data."""
        rest = self._codec.unused_data.lstrip(b"\0")
        while len(rest) < len(self._magic) and (more := self._take()):
            rest = (rest + more).lstrip(b"\0")
        if rest.startswith(self._magic):
            self._codec = CODECS[self._magic]()
        else:
            self._ended = True
        return rest

    def _take(self) -> bytes:
        piece = self._packed.read_at(self._taken, PIECE_BYTES)
        self._taken += len(piece)
        return piece

    def _end(self, damage: str) -> None:
        self._ended, self._damage = True, damage
