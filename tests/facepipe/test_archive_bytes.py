from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepipe.archive_bytes import (
    WINDOW_BYTES,
    Damaged,
    Expanded,
    Inflater,
    Window,
    compression,
    shown_name,
)

DATA = random.Random(5).randbytes(700_000)
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


class Trickle(io.BytesIO):
    """A file that gives less than asked for, as a socket does."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 1000) if size and size > 0 else 1000)


def expanded(data: bytes, ratio: int = 100, free: int = 1 << 30) -> Expanded:
    magic = compression(data)
    assert magic is not None
    return Expanded(io.BytesIO(data), magic, ratio, free)


PACKED = {name: pack(DATA) for name, pack in PACKERS.items()}


def source_of(name: str) -> Window | Expanded:
    if name in PACKED:
        return expanded(PACKED[name])
    return Window(Trickle(DATA) if name == "trickle" else io.BytesIO(DATA))


PLACE = st.integers(0, len(DATA) + 10)


@pytest.mark.parametrize("name", [*PACKERS, "window", "trickle"])
@settings(max_examples=30)
@given(st.lists(st.tuples(PLACE, st.integers(0, 2 * WINDOW_BYTES)), max_size=4))
def test_any_order_of_reads_gives_the_bytes(name: str, reads: list[tuple[int, int]]) -> None:
    source = source_of(name)
    for offset, count in reads:
        assert source.read_at(offset, count) == DATA[offset : offset + count]
        assert source.reaches(offset) is (offset <= len(DATA))


@pytest.mark.parametrize("name", PACKERS)
def test_streams_that_follow_each_other_are_one(name: str) -> None:
    pack = PACKERS[name]
    packed = pack(DATA[:1000]) + pack(b"") + bytes(4096) + pack(DATA[1000:]) + bytes(100_000)
    source = expanded(packed)
    assert source.read_at(0, len(DATA) + 1) == DATA
    assert expanded(packed + b"rubbish" * 99).read_at(0, len(DATA) + 1) == DATA


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("cut", [1, 7, 300, 100_000])
def test_a_cut_stream_gives_what_is_there_and_then_says_so(name: str, cut: int) -> None:
    source = expanded(PACKERS[name](DATA)[:-cut])
    if name == "gz":  # no large blocks
        assert source.read_at(0, len(DATA) - cut - 1000) == DATA[: -cut - 1000]
    for _ in range(2):
        with pytest.raises(Damaged, match="ends early"):
            source.read_at(0, len(DATA) + 1)
    with pytest.raises(Damaged):
        source.reaches(len(DATA) + 1)


@pytest.mark.parametrize("name", PACKERS)
def test_expansion_is_bounded(name: str) -> None:
    blank = bytes(32 << 20)
    source = expanded(PACKERS[name](blank), ratio=10, free=1 << 20)
    assert source.read_at(0, 1 << 20) == blank[: 1 << 20]
    with pytest.raises(Damaged, match="10 times"):
        source.reaches(len(blank))
    assert expanded(PACKERS[name](blank), free=len(blank)).reaches(len(blank))


def test_inflater_gives_all_before_the_damage() -> None:
    packed = bytearray(zlib.compress(DATA[:50_000], 0))
    packed[-4:] = b"\0\0\0\0"  # the checksum
    inflater = Inflater(15)
    made = b""
    with pytest.raises(zlib.error):
        for at in range(0, len(packed), 60_000):
            made += inflater.decompress(bytes(packed[at:]), 100_000)
            made += inflater.decompress(b"", 100_000)
    assert made == DATA[:50_000]


@given(st.binary(max_size=200), st.sampled_from([None, "cp437"]))
def test_shown_names_are_clean(raw: bytes, fallback: str | None) -> None:
    name = shown_name(raw, fallback)
    name.encode()
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066\u2028" for c in name)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Zoë/日本.jpg".encode(), "Zoë/日本.jpg"),
        ("👩\u200d🚀.jpg".encode(), "👩\u200d🚀.jpg"),  # a joiner is part of the character
        ("a\u00a0b".encode(), "a\u00a0b"),
        (b"a\0b\x7f", "a\ufffdb\ufffd"),
        ("x\u2069\u200fy".encode(), "x\ufffd\ufffdy"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # a surrogate is no UTF-8
    ],
)
def test_shown_name(raw: bytes, expected: str) -> None:
    assert shown_name(raw) == expected
    assert shown_name(b"\x81.jpg", "cp437") == "ü.jpg"
