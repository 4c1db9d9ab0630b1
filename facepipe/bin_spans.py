"""Bytes as pickles write them: where they are in the file, and in which coding.

Protocols 3 and up hold bytes. Of the earlier ones, Python 2 writes the bytes or their repr,
Python 3 their latin-1 text, in UTF-8 or with raw unicode escapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from facepipe.forward_window import ForwardWindow

LONGEST_ESCAPE = 10  # of one byte in any coding: \\U and 8 digits

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.?))", re.DOTALL)
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b"'": b"'", b'"': b'"'}


class Refused(OSError):
    """The pickle is damaged, or holds what a verification set does not need."""


class Coding(Enum):
    """How bytes are written in the file."""

    RAW = "raw"
    REPR = "repr"  # of a str of Python 2, less the quotes
    UTF8 = "utf-8"  # of their latin-1 text
    ESCAPED = "raw-unicode-escape"  # of their latin-1 text


@dataclass(frozen=True, slots=True)
class Span:
    """Where bytes are in the file; ``size`` is their size there."""

    offset: int
    size: int
    coding: Coding = Coding.RAW


def span_bytes(window: ForwardWindow, span: Span, max_bytes: int) -> bytes:
    """Return the bytes of a span, at most ``max_bytes`` + 1 of them. Raises Refused."""
    wanted = max_bytes + 1
    if span.coding is Coding.RAW:
        return window.at(span.offset, min(span.size, wanted))
    written = window.at(span.offset, min(span.size, LONGEST_ESCAPE * wanted))
    # The end of what is read may lie within an escape.
    for cut in range(LONGEST_ESCAPE if len(written) < span.size else 1):
        try:
            return _decoded(written[: len(written) - cut], span.coding)[:wanted]
        except ValueError:
            continue
    raise Refused(f"the text at byte {span.offset} does not stand for bytes")


def _decoded(data: bytes, coding: Coding) -> bytes:
    """Return the bytes that a text stands for. Raises ValueError."""
    if coding is not Coding.REPR:
        return data.decode(coding.value).encode("latin-1")

    def plain(match: re.Match[bytes]) -> bytes:
        if match[1] is not None:
            return bytes.fromhex(match[1].decode())
        if match[2] not in _PLAIN:
            raise ValueError(f"unknown escape {match[0]!r}")
        return _PLAIN[match[2]]

    return _ESCAPE.sub(plain, data)
