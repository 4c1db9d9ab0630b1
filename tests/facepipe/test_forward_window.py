"""Reading by offset in large forward reads: the same bytes, few requests."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe import forward_window
from facepipe.forward_window import FIRST_READ_BYTES, LARGEST_READ_BYTES, ForwardWindow


class Short(io.RawIOBase):
    """A stream that gives less than is asked for, as raw files may, and counts its reads."""

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.most, self.place, self.reads = data, most, 0, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + (len(self.data) if whence == io.SEEK_END else 0)
        return self.place

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        found = self.data[self.place : self.place + min(size, self.most)]
        self.place += len(found)
        return found


def window(data: bytes, most: int = 1 << 30) -> tuple[ForwardWindow, Short]:
    stream = Short(data, most)
    return ForwardWindow(cast(BinaryIO, stream)), stream


@given(st.data(), st.integers(1, 50))
def test_every_reading_is_that_of_the_file(drawn: st.DataObject, most: int) -> None:
    data = drawn.draw(st.binary(max_size=100))
    view, _ = window(data, most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward_window, "FIRST_READ_BYTES", 4)
        patch.setattr(forward_window, "LARGEST_READ_BYTES", 16)
        for _ in range(10):
            offset, size = drawn.draw(st.integers(0, 110)), drawn.draw(st.integers(0, 60))
            assert view.at(offset, size) == data[offset : offset + size]
            needle = drawn.draw(st.binary(min_size=1, max_size=3))
            stop = min(offset + size, len(data))
            assert view.find(needle, offset, stop) == data.find(needle, offset, stop)


@given(st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"d" * 40])), st.integers(1, 60))
def test_lines_are_those_of_the_file(pieces: list[bytes], limit: int) -> None:
    data = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward_window, "FIRST_READ_BYTES", 4)
        found = list(window(data)[0].lines(limit))
    lines = data.splitlines(keepends=True)
    offsets = [sum(map(len, lines[:n])) for n in range(len(lines))]
    assert found == [
        (offset, line if len(line) <= limit else None)
        for offset, line in zip(offsets, lines, strict=True)
    ]


def test_reads_grow_while_they_follow_each_other_and_start_anew_after_a_jump() -> None:
    size = 64 << 20
    view, stream = window(bytes(size))
    for offset in range(0, size, 1000):
        assert len(view.at(offset, 1000)) == min(1000, size - offset)
    assert stream.reads <= size // LARGEST_READ_BYTES + 8
    stream.reads, before = 0, stream.place
    assert view.at(5, 10) == bytes(10)
    assert (stream.reads, stream.place, before) == (1, 5 + FIRST_READ_BYTES, size)


def test_a_file_that_shrinks_ends() -> None:
    view, stream = window(b"line\n" * 100)
    stream.data = b"line\nli"
    assert list(view.lines(10)) == [(0, b"line\n"), (5, b"li")]
    assert view.at(0, 50) == b"line\nli"
    assert view.find(b"x", 0, view.size) == -1


def test_what_is_outside_is_empty() -> None:
    view, _ = window(b"abc")
    assert [view.at(*place) for place in [(-1, 2), (3, 1), (2**70, 1), (0, 0), (0, -5)]] == [
        b""
    ] * 5


def test_closing_closes_the_stream() -> None:
    stream = io.BytesIO(b"abc")
    ForwardWindow(stream).close()
    assert stream.closed
