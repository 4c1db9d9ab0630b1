"""Looks for traces of deleted faces in bytes: ids as text, and vectors as they are stored.

A stream of bytes is searched at every offset in one pass, however many patterns there are: of
a pattern, one of eight words of 8 bytes lies on a multiple of 8, wherever the pattern lies, so
that only whole words are looked up. Texts that are too short for that are searched one by one;
texts that are shorter still occur in any file by chance, and are looked for in tables alone.

Legend: V vectors, D dimensions, W words of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.id_keys import mixed

WORD_BYTES = 8
LONG_BYTES = 2 * WORD_BYTES - 1  # a pattern of so many has a word on a multiple of 8 anywhere
SHORT_BYTES = 6  # a text of so many occurs in a random gigabyte once in 280,000 times
SIEVE_BITS = 20  # a table of 1 MB, which few words pass that are not looked for

UInt64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of all long patterns, rising, and whose they are."""

    words: UInt64
    pattern: NDArray[np.int64]
    offset: NDArray[np.int64]  # of the word in its pattern
    sieve: NDArray[np.bool_]  # by the top bits of a mixed word


class Traces:
    """What must not occur: counts where it does."""

    def __init__(self, texts: Iterable[str], vectors_VD: NDArray[np.float16] | None = None) -> None:
        """Look for texts, and for vectors (V x D) as little-endian float16."""
        self.texts = tuple(sorted({text for text in texts if text}))
        encoded = [text.encode() for text in self.texts]
        stored = [] if vectors_VD is None else list(vectors_VD.astype("<f2"))
        rows = {vector.tobytes() for vector in stored if vector.any()}  # zeros are everywhere
        self.vectors = len(rows)
        self._long = [t for t in encoded if len(t) >= LONG_BYTES] + sorted(rows)
        self._short = [t for t in encoded if SHORT_BYTES <= len(t) < LONG_BYTES]
        self._words = _words_of(self._long)
        self._longest = max(map(len, [b"", *self._long, *self._short]))

    def count(self, blocks: Iterable[bytes]) -> int:
        """Return how often any of them occurs in a stream, wherever that is cut into blocks."""
        found, tail = 0, b""
        for block in blocks:
            data = tail + block
            # What lies in the tail alone has been counted with the block before.
            found += self._count(data) - self._count(tail)
            keep = min(len(data), max(0, self._longest - 1))
            tail = data[len(data) - keep :]
        return found

    def count_rows(self, table: pa.Table) -> int:
        """Return how many values of a table are one of the texts or hold one of the vectors."""
        return sum(self._count_column(column) for column in table.columns)

    def _count_column(self, column: pa.ChunkedArray) -> int:
        found = 0
        for chunk in column.chunks:
            array = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
            is_text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
            if is_text and self.texts:
                found += pc.sum(pc.is_in(array, value_set=pa.array(self.texts))).as_py() or 0
            # Also as a part of a value; buffers hold it in one piece.
            found += sum(self._count(buffer.to_pybytes()) for buffer in array.buffers() if buffer)
        return found

    def _count(self, data: bytes) -> int:
        found = sum(_occurrences(data, text) for text in self._short)
        return found + self._count_long(data)

    def _count_long(self, data: bytes) -> int:
        words = self._words
        if words is None or len(data) < LONG_BYTES:
            return 0
        stream_W = np.frombuffer(data, "<u8", len(data) // WORD_BYTES)
        passed = np.flatnonzero(words.sieve[_sieve_place(stream_W)])
        first = np.searchsorted(words.words, stream_W[passed], side="left")
        last = np.searchsorted(words.words, stream_W[passed], side="right")
        at: set[tuple[int, int]] = set()
        hits = np.flatnonzero(first < last)
        for place, low, high in zip(
            passed[hits].tolist(), first[hits].tolist(), last[hits].tolist(), strict=True
        ):
            for entry in range(low, high):
                pattern = self._long[words.pattern[entry]]
                start = place * WORD_BYTES - int(words.offset[entry])
                if start >= 0 and data[start : start + len(pattern)] == pattern:
                    at.add((start, int(words.pattern[entry])))
        return len(at)


def _words_of(patterns: Sequence[bytes]) -> _Words | None:
    """Return the eight words at the end of each pattern: texts begin alike more often."""
    if not patterns:
        return None
    offsets = [range(len(p) - LONG_BYTES, len(p) - WORD_BYTES + 1) for p in patterns]
    words = np.array(
        [
            int.from_bytes(p[o : o + WORD_BYTES], "little")
            for p, own in zip(patterns, offsets, strict=True)
            for o in own
        ],
        np.uint64,
    )
    pattern = np.repeat(np.arange(len(patterns)), WORD_BYTES)
    offset = np.array([o for own in offsets for o in own], np.int64)
    order = np.argsort(words, kind="stable")
    sieve = np.zeros(1 << SIEVE_BITS, dtype=bool)
    sieve[_sieve_place(words)] = True
    return _Words(words[order], pattern[order], offset[order], sieve)


def _sieve_place(words: UInt64) -> UInt64:
    place: UInt64 = mixed(words) >> np.uint64(64 - SIEVE_BITS)
    return place


def _occurrences(data: bytes, text: bytes) -> int:
    """Return how often a text occurs, overlapping ones too."""
    found, at = 0, data.find(text)
    while at >= 0:
        found, at = found + 1, data.find(text, at + 1)
    return found
