"""Reading .rec sets: what insightface's and MXNet's tools make, whole and damaged."""

from __future__ import annotations

import io
import struct
from itertools import pairwise
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.containers import Member
from facepipe.record_writer import RecordStreams, write_records
from facepipe.source_rec import RecordContainer, is_rec, open_rec

MAGIC_BYTES = b"\x0a\x23\xd7\xce"
LIMIT = 1 << 20


def part(payload: bytes, flag: int = 0, length: int | None = None) -> bytes:
    word = flag << 29 | (len(payload) if length is None else length)
    return MAGIC_BYTES + struct.pack("<I", word) + payload + bytes(-len(payload) % 4)


def record(payload: bytes) -> bytes:
    """Write a record as dmlc-core describes it: cut at every aligned magic."""
    cuts = [i for i in range(0, len(payload) - 3, 4) if payload[i : i + 4] == MAGIC_BYTES]
    if not cuts:
        return part(payload)
    edges = [-4, *cuts, len(payload)]
    spans = [payload[a + 4 : b] for a, b in pairwise(edges)]
    flags = [1, *[2] * (len(spans) - 2), 3]
    return b"".join(part(data, flag) for data, flag in zip(spans, flags, strict=True))


def image(index: int, label: float | list[float], data: bytes) -> bytes:
    if isinstance(label, list):
        labels = struct.pack(f"<{len(label)}f", *label)
        return record(struct.pack("<IfQQ", len(label), 0.0, index, 0) + labels + data)
    return record(struct.pack("<IfQQ", 0, label, index, 0) + data)


def jpeg(n: int) -> bytes:
    return b"\xff\xd8\xff" + bytes([n]) * (10 + n)


def opened(data: bytes, **files: bytes) -> RecordContainer:
    def sibling(name: str) -> BinaryIO | None:
        stem, _, ending = name.partition(".")
        assert stem == "train"
        return io.BytesIO(files[ending]) if ending in files else None

    return open_rec(io.BytesIO(data), sibling)


def listed(data: bytes, **files: bytes) -> list[Member]:
    return list(opened(data, **files).members())


def photos(data: bytes, **files: bytes) -> list[tuple[str, str | None, bytes]]:
    container = opened(data, **files)
    found = [m for m in container.members() if m.problem is None]
    return [(m.name, m.label, container.read(m, LIMIT)) for m in found]


def problems(data: bytes, **files: bytes) -> list[str]:
    return [m.problem for m in listed(data, **files) if m.problem is not None]


def insightface_records(header_first: bool) -> list[bytes]:
    """Two photos of 5, one of 9; record 0 is behind the photos in face2rec2's own files."""
    pictures = [image(1, [5, 1], jpeg(1)), image(2, [5, 1], jpeg(2)), image(3, 9.0, jpeg(3))]
    header = [image(0, [4, 6], b"")]
    ranges = [image(4, [1, 3], b""), image(5, [3, 4], b"")]
    return [*header, *pictures, *ranges] if header_first else [*pictures, *header, *ranges]


def index_of(records: list[bytes], keys: list[int]) -> bytes:
    offsets = [sum(map(len, records[:n])) for n in range(len(records))]
    return b"".join(b"%d\t%d\n" % pair for pair in zip(keys, offsets, strict=True))


EXPECTED = [("1", "5", jpeg(1)), ("2", "5", jpeg(2)), ("3", "9", jpeg(3))]


@pytest.mark.parametrize("header_first", [True, False])
def test_insightface_layout(header_first: bool) -> None:
    data = b"".join(insightface_records(header_first))
    assert photos(data) == EXPECTED
    assert problems(data) == []
    assert opened(data).sequential is False


def test_members_say_where_and_how_much() -> None:
    records = insightface_records(True)
    members = listed(b"".join(records))
    assert [m.offset for m in members] == [sum(map(len, records[:n])) for n in (1, 2, 3)]
    assert [m.bytes for m in members] == [len(jpeg(n)) for n in (1, 2, 3)]


def test_keys_of_the_idx_are_the_names() -> None:
    records = [image(0, n, jpeg(n)) for n in range(4)]  # a tool that leaves every id at 0
    data = b"".join(records)
    assert [p[0] for p in photos(data)] == ["0", "1", "2", "3"]
    idx = index_of(records, [40, 10, 30, 20])
    assert [p[0] for p in photos(data, idx=idx)] == ["40", "10", "30", "20"]


@pytest.mark.parametrize(
    "idx",
    [
        b"",
        b"\0\xff\n\n1\n1\tx\n",
        b"7\t3\n8\t5\n9\t9999999\n",
        b"5\t0",
        b"1\t0\n" * 9,
        b"9" * 99_999,
    ],
)
def test_a_damaged_idx_loses_no_photo(idx: bytes) -> None:
    records = insightface_records(False)
    found = photos(b"".join(records), idx=idx)
    assert [p[1:] for p in found] == [p[1:] for p in EXPECTED]
    assert [p[0] for p in found][1:] == ["2", "3"]


@pytest.mark.parametrize(
    "lst",
    [
        b"1\tann/1.jpg\t5\n1\tann/2.jpg\t5\n1\tbob/ 1.jpg\t9\n",  # insightface, aligned
        b"1\tann/1.jpg\t5\r\n0\tnone.jpg\t5\r\n1\tann/2.jpg\t5\r\n1\tbob/ 1.jpg\t9",
        b"1\tann/1.jpg\t5\n2\tann/2.jpg\t5\n3\tbob/ 1.jpg\t9\n",  # index, path, label
        b"1\t5.0\tann/1.jpg\n2\t5.0\tann/2.jpg\n3\t9.0\t1\tbob/ 1.jpg\n",  # im2rec
        b"9\t5.0\tx.jpg\n2\t5.0\tann/2.jpg\n1\t5.0\tann/1.jpg\n\n\n3\t9.0\tbob/ 1.jpg\n",
    ],
)
def test_names_come_from_the_lst(lst: bytes) -> None:
    names = [p[0] for p in photos(b"".join(insightface_records(False)), lst=lst)]
    # In the last list record 2 comes before record 1, which no writer does.
    expected = ["ann/1.jpg", "ann/2.jpg", "bob/ 1.jpg"]
    assert names == expected or (lst.startswith(b"9") and names == ["ann/1.jpg", "2", "bob/ 1.jpg"])


def test_landmark_lines_count_and_unaligned_ones_do_not() -> None:
    full = b"\t".join([b"0", b"a.jpg", b"5", *[b"1"] * 14])
    lst = full + b"\n0\tpassed.jpg\t5\n" + full.replace(b"a.jpg", b"b.jpg") + b"\n"
    names = [p[0] for p in photos(b"".join(insightface_records(False)), lst=lst)]
    assert names == ["a.jpg", "b.jpg", "3"]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (12.0, "12"),
        (-1.0, "-1"),
        (0.5, "0.5"),
        ([7.0, 0.0, 3.0], "7"),
        ([7.0], "7"),
        (float("nan"), None),
        ([float("inf"), 1.0], None),
        (2.0**100, str(2**100)),
    ],
)
def test_labels(label: float | list[float], text: str | None) -> None:
    assert photos(image(3, label, b"x")) == [("3", text, b"x")]


def test_an_empty_image_is_a_problem_and_a_range_is_not() -> None:
    data = image(1, [5, 1], b"") + image(2, 3.0, b"") + image(3, [1, 2], b"")
    members = listed(data)
    assert [m.name for m in members] == ["1", "2"]
    assert all("no image" in (m.problem or "") for m in members)


def test_rounded_ranges_do_not_cost_a_photo() -> None:
    # 2**24 + 3 photos: record 0 says [16777220, ..], and the last photo has a higher id.
    start = 2**24 + 4
    assert struct.unpack("<f", struct.pack("<f", start - 1.0))[0] == start
    data = image(0, [start, start + 4], b"") + image(start + 1, [5, 1], jpeg(1))
    data += image(start + 2, [1, start], b"")
    assert photos(data) == [(str(start + 1), "5", jpeg(1))]


def test_a_magic_within_the_image_is_restored() -> None:
    data = MAGIC_BYTES * 2 + b"ab" + MAGIC_BYTES + b"cd" + MAGIC_BYTES
    id_is_magic = int.from_bytes(MAGIC_BYTES + MAGIC_BYTES, "little")
    for index in (1, id_is_magic):
        assert photos(image(index, 5.0, data) + image(2, 6.0, b"x")) == [
            (str(index), "5", data),
            ("2", "6", b"x"),
        ]


def test_reading_stops_after_the_limit() -> None:
    container = opened(image(1, [5, 1], b"0123" + MAGIC_BYTES + b"89"))
    (member,) = container.members()
    assert [len(container.read(member, n)) for n in (0, 3, 7, 9, 10, 99)] == [1, 4, 8, 10, 10, 10]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (part(bytes(23)), "too short"),
        (part(b""), "too short"),
        (part(struct.pack("<IfQQ", 2**32 - 1, 0, 1, 0)), "4294967295 labels"),
        (part(bytes(40), flag=5), "not in order"),
        (part(bytes(40), flag=2), "not in order"),
        (part(bytes(40), flag=1) + part(bytes(40)), "not in order"),
        (part(bytes(40), length=2**29 - 1), "claims 536870911 bytes"),
        (part(bytes(40), length=80), "another begins within"),
        (b"\0" * 12, "no record"),
        (b"garbage!", "no record"),
    ],
)
def test_damage_is_named_and_passed(data: bytes, message: str) -> None:
    before, after = image(1, 5.0, jpeg(1)), image(2, 6.0, jpeg(2))
    whole = before + data + after
    found = photos(whole)
    assert (found[0], found[-1]) == (("1", "5", jpeg(1)), ("2", "6", jpeg(2)))
    members = listed(whole)
    damaged = next(m for m in members if m.problem)
    assert damaged.offset == len(before)
    assert message in (damaged.problem or "")
    assert members == sorted(members, key=lambda m: m.offset)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_truncated_end_is_the_last_member(cut: int) -> None:
    data = b"".join(insightface_records(True)[:4])
    members = listed(data[:-cut])
    whole = [m for m in members if m.problem is None]
    assert [m.name for m in whole][:1] == ["1"]
    # Padding alone may be missing: the record is whole then.
    assert members[-1].problem is not None or (cut < 4 and len(whole) == 3)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (image(0, [4, 6], b""), True),
        (part(b"12", flag=1), True),
        (part(b"12", flag=2), False),
        (MAGIC_BYTES, False),
        (b"", False),
        (b"\xff\xd8\xff\xe0 a photo", False),
    ],
)
def test_is_rec(head: bytes, expected: bool) -> None:
    assert is_rec(head[:1024], "x.rec") is expected


def test_what_facepipe_writes_it_reads() -> None:
    files = {name: io.BytesIO() for name in ("rec", "idx", "lst", "property")}
    sources = [(0, "a/1.jpg", jpeg(1)), (0, "a/2.jpg", MAGIC_BYTES * 2), (4, "b/ü.jpg", jpeg(3))]
    write_records(sources, RecordStreams(**files))
    rec, idx, lst = (files[name].getvalue() for name in ("rec", "idx", "lst"))
    expected = [(name, str(label), data) for label, name, data in sources]
    assert photos(rec, idx=idx, lst=lst) == expected
    assert [(str(n), *p[1:]) for n, p in enumerate(expected, 1)] == photos(rec, idx=idx)


class Counting(io.BytesIO):
    """A stream that notes its reads, as an object store would bill them."""

    reads = 0
    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        self.largest = max(self.largest, size or 0)
        return super().read(size)


def test_a_large_file_is_read_once_in_few_reads() -> None:
    data = b"".join(image(n, 1.0, bytes(10_000)) for n in range(1, 2000))
    stream = Counting(data)
    container = open_rec(stream)
    members = list(container.members())
    assert len(members) == 1999
    listing, stream.reads = stream.reads, 0
    assert all(len(container.read(m, LIMIT)) == 10_000 for m in members)
    assert listing <= 15 and stream.reads <= 15
    assert stream.largest <= 4 << 20


pieces = st.lists(st.sampled_from([MAGIC_BYTES, MAGIC_BYTES[:2], b"\0", b"ab", b"\xff\xd8\xff"]))
images = st.one_of(st.binary(min_size=1, max_size=60), pieces.map(b"".join).filter(bool))


@given(st.lists(st.tuples(st.integers(0, 9), images), max_size=8), st.booleans())
def test_round_trip(pairs: list[tuple[int, bytes]], vector: bool) -> None:
    data = b"".join(
        image(n, [label, 1.0] if vector else float(label), x)
        for n, (label, x) in enumerate(pairs, 1)
    )
    expected = [(str(n), str(label), x) for n, (label, x) in enumerate(pairs, 1)]
    assert photos(data) == expected
    assert problems(data) == []


SET = [*insightface_records(True), image(6, 1.0, b"ab" + MAGIC_BYTES * 3 + b"cd")]


def survivors(data: bytes, idx: bytes) -> list[Member]:
    container = opened(data, idx=idx)
    members = list(container.members())
    for member in members:
        if member.problem is None:
            assert len(container.read(member, LIMIT)) == member.bytes
    return [m for m in members if m.problem is None]


@given(st.data())
def test_flips_and_cuts_cost_nothing_before_them(drawn: st.DataObject) -> None:
    data, idx = bytearray(b"".join(SET)), bytearray(index_of(SET, list(range(7))))
    good = survivors(bytes(data), b"")
    first = drawn.draw(st.integers(0, len(data) - 1))
    for place in [first, *drawn.draw(st.lists(st.integers(first, len(data) - 1), max_size=4))]:
        data[place] = drawn.draw(st.integers(0, 255))
    data = data[: drawn.draw(st.integers(first, len(data)))]
    idx = idx[: drawn.draw(st.integers(0, len(idx)))]
    found = survivors(bytes(data), bytes(idx))
    before = [m for m in good if m.offset + 8 + 32 + m.bytes <= first]
    assert found[: len(before)] == before


@given(st.binary(max_size=300), st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_end(data: bytes, idx: bytes, lst: bytes) -> None:
    container = opened(MAGIC_BYTES + data, idx=idx, lst=lst)
    for member in container.members():
        assert 0 <= member.offset <= len(data) + 4
