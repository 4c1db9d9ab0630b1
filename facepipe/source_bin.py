"""insightface's verification sets: lfw.bin, cfp_fp.bin and others, read without unpickling.

A set is a pickle of (images, issame): images 2i and 2i + 1 are pair i, and issame[i] says
whether they show one person. An image is encoded, as bytes or as a numpy array of uint8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from facepipe.bin_pickle import Array, PickleReader
from facepipe.bin_spans import Coding, Refused, Span, span_bytes
from facepipe.containers import Member
from facepipe.forward_window import ForwardWindow

_BYTE_TYPES = ("u1", "|u1", "uint8", "B")
_BOOL_TYPES = ("b1", "|b1", "?", "bool")
# A tuple that begins with a list: protocol 0, protocol 1, protocols 2 to 5 (4 and 5 in frames).
_START = re.compile(rb"\(\(l|\(\]|\x80[\x02-\x05](\x95.{8})?(\]|\(\]|\(\(l)", re.DOTALL)


def is_bin(head: bytes, name: str) -> bool:
    """Return whether a .bin begins as the pickle of a verification set does."""
    return name.lower().endswith(".bin") and _START.match(head) is not None


def open_bin(stream: BinaryIO) -> BinContainer:
    """Open a verification set: Member.name is the image's number, "00000" and up; no label.

    Raises OSError where it holds no image, or something else than such a set needs before the
    first one.
    """
    return BinContainer(stream)


def pairs(stream: BinaryIO) -> list[bool]:
    """Return, for each pair of images, whether it shows one person. Raises OSError."""
    window = ForwardWindow(stream)
    images, flags = _parts(PickleReader(window).value())
    values = _flags(window, flags)
    if 2 * len(values) != len(images):
        raise Refused(f"{len(images)} images are not two for each of {len(values)} pairs")
    return values


class BinContainer:
    """The images of a verification set; ``offset`` is their number."""

    sequential = False

    def __init__(self, stream: BinaryIO) -> None:
        """Find every image of the set."""
        self._window = ForwardWindow(stream)
        reader = PickleReader(self._window)
        self._damage: str | None = None
        try:
            self._images = _parts(reader.value())[0]
        except Refused as error:
            self._images = reader.found()
            self._damage = str(error)
            if not any(isinstance(item, Span | Array) for item in self._images):
                raise

    def members(self) -> Iterator[Member]:
        """Yield every image, then what is wrong with the rest of the set, if anything is."""
        number = 0
        for number, item in enumerate(self._images, 1):
            try:
                span = _image(item)
            except Refused as error:
                yield _member(number - 1, problem=str(error))
                continue
            yield _member(number - 1, size=span.size if span.coding is Coding.RAW else 0)
        if self._damage is not None:
            yield _member(number, problem=f"the set is damaged or cut off here: {self._damage}")

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return an image, at most ``max_bytes`` + 1 bytes of it."""
        if not 0 <= member.offset < len(self._images):
            raise Refused(f"the set has {len(self._images)} images, none with this number")
        return span_bytes(self._window, _image(self._images[member.offset]), max_bytes)

    def close(self) -> None:
        """Close the stream."""
        self._window.close()


def _parts(value: Any) -> tuple[list[Any], Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise Refused("it is no pair of a list of images and a list of bools")
    images, flags = value
    if not isinstance(images, tuple | list):
        raise Refused("its images are no list")
    return list(images), flags


def _image(item: Any) -> Span:
    """Return where an image's bytes are. Raises Refused where it is none."""
    if isinstance(item, Array):
        if item.dtype not in _BYTE_TYPES or item.data is None:
            raise Refused(f"a numpy array of {item.dtype}, not of the uint8 of an encoded image")
        # cv2.imencode gives a column of one byte in a row.
        if not isinstance(item.shape, tuple) or sum(size != 1 for size in item.shape) > 1:
            raise Refused("a numpy array of pixels, not an encoded image")
        item = item.data
    if not isinstance(item, Span):
        raise Refused("neither bytes nor a numpy array")
    if item.size == 0:
        raise Refused("an image of no bytes")
    return item


def _flags(window: ForwardWindow, flags: Any) -> list[bool]:
    if isinstance(flags, Array) and flags.dtype in _BOOL_TYPES and flags.data is not None:
        return [value != 0 for value in span_bytes(window, flags.data, flags.data.size)]
    if not isinstance(flags, tuple | list) or not all(isinstance(flag, int) for flag in flags):
        raise Refused("what should say which pairs show one person is no list of bools")
    return [bool(flag) for flag in flags]


def _member(number: int, *, size: int = 0, problem: str | None = None) -> Member:
    return Member(name=f"{number:05d}", offset=number, bytes=size, problem=problem)
