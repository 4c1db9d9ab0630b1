"""Reading MS-Celeb-1M and its like: every documented layout, long lines, damage."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.containers import Member
from facepipe.source_tsv import is_tsv, open_tsv

LIMIT = 1 << 22
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 3
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
RECTANGLE = base64.b64encode(struct.pack("<4f", 0.1, 0.2, 0.9, 0.8)).decode()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def line(*columns: str, end: str = "\n") -> bytes:
    return ("\t".join(columns) + end).encode()


def face(mid: str, rank: int, face_id: str, data: bytes, end: str = "\n") -> bytes:
    return line(
        mid, str(rank), "http://a/b.jpg", "http://a/", face_id, RECTANGLE, encoded(data), end=end
    )


def listed(data: bytes) -> list[Member]:
    return list(open_tsv(io.BytesIO(data)).members())


def photos(data: bytes) -> list[tuple[str, str | None, bytes]]:
    container = open_tsv(io.BytesIO(data))
    found = [m for m in container.members() if m.problem is None]
    return [(m.name, m.label, container.read(m, LIMIT)) for m in found]


@pytest.mark.parametrize(
    ("data", "name", "label"),
    [
        (face("m.0107_f", 3, "FaceId-0", JPEG), "m.0107_f/3-FaceId-0", "m.0107_f"),
        (line("m.01", "A B", "7", "http://a", "http://b", encoded(JPEG)), "m.01/7", "m.01"),
        (
            line("m.01", "A", "http://a", "FaceId-2", RECTANGLE, encoded(JPEG)),
            "m.01/line-1",
            "m.01",
        ),
        (line("im1", encoded(JPEG), "m.01", "3", "http://a"), "m.01/line-1", "m.01"),
        (line("Base", "im1", encoded(JPEG), "m.01", "http://a"), "m.01/line-1", "m.01"),
        (line("ann", encoded(JPEG)), "ann/line-1", "ann"),
        (line("Zoë\u202e", encoded(JPEG)), "Zoë\ufffd/line-1", "Zoë\ufffd"),
        (line(encoded(JPEG)), "line-1", None),
        (line("", encoded(JPEG)), "line-1", None),
    ],
)
def test_layouts(data: bytes, name: str, label: str | None) -> None:
    assert is_tsv(data[: 64 << 10], "x.tsv")
    assert photos(data) == [(name, label, JPEG)]
    (member,) = listed(data)
    assert (member.offset, member.bytes) == (0, len(JPEG))


def test_offsets_are_those_of_the_lines() -> None:
    lines = [face("m.01", n, "FaceId-0", JPEG[: 300 + n]) for n in range(4)]
    data = b"".join(lines)
    members = listed(data)
    assert [m.offset for m in members] == [sum(map(len, lines[:n])) for n in range(4)]
    assert [m.bytes for m in members] == [300, 301, 302, 303]
    container = open_tsv(io.BytesIO(data))  # by another worker, and in any order
    assert container.sequential is False
    for member in reversed(members):
        again = Member(name=member.name, offset=member.offset)
        assert container.read(again, LIMIT) == JPEG[: member.bytes]


@pytest.mark.parametrize(
    "data",
    [
        face("m.01", 1, "FaceId-0", JPEG, end="\r\n"),
        face("m.01", 1, "FaceId-0", JPEG, end=""),
        face("m.01", 1, "FaceId-0", JPEG, end="\0\0"),
        face("m.01", 1, "FaceId-0", JPEG, end="  \r\n\r\n \n\t\n\0\n"),
        b"\xef\xbb\xbf" + face("m.01", 1, "FaceId-0", JPEG),
        face("m.01", 1, "FaceId-0", JPEG).replace(b"=", b""),
    ],
)
def test_ends_and_marks_of_every_kind(data: bytes) -> None:
    assert photos(data) == [("m.01/1-FaceId-0", "m.01", JPEG)]
    assert len(listed(data)) == 1


@pytest.mark.parametrize("size", [300, 301, 302, 303])
def test_the_size_is_known_before_reading(size: int) -> None:
    for data in (face("m.01", 1, "0", JPEG[:size]), face("m.01", 1, "0", JPEG[:size])[:-1]):
        (member,) = listed(data.replace(b"=", b"") if size == 302 else data)
        assert member.bytes == size


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"m.01\n", "no column"),
        (line("m.01", "1", "a", "b", "FaceId-0", RECTANGLE), "no column"),
        (line("m.01", encoded(b"no image at all, but long enough")), "no column"),
        (line("m.01", "%%%" + encoded(JPEG)), "no column"),
        (line("m.01", encoded(JPEG)[:600] + "\u00e9" + encoded(JPEG)[600:]), "base64"),
        (line("m.01", encoded(JPEG)[:600] + "=" + encoded(JPEG)[600:]), "base64"),
        (line("m.01", encoded(JPEG)[:601]), "base64"),
        (b"\xff\xfe\x00\x01\t\x80\n", "no column"),
        (b"\t\t\t\tx\n", "no column"),
    ],
)
def test_damage_is_a_problem_in_its_place(damaged: bytes, message: str) -> None:
    before, after = face("m.01", 1, "FaceId-0", JPEG), face("m.02", 2, "FaceId-1", PNG)
    data = before + damaged + after
    members = listed(data)
    assert len(members) == 3
    assert message in (members[1].problem or "")
    assert members[1].offset == len(before)
    assert [p[0] for p in photos(data)] == ["m.01/1-FaceId-0", "m.02/2-FaceId-1"]
    with pytest.raises(OSError, match=message):
        open_tsv(io.BytesIO(data)).read(members[1], LIMIT)


def test_reading_stops_after_the_limit() -> None:
    (member,) = listed(face("m.01", 1, "FaceId-0", JPEG))
    container = open_tsv(io.BytesIO(face("m.01", 1, "FaceId-0", JPEG)))
    for limit in (0, 1, 2, 3, 4, len(JPEG) - 1, len(JPEG), LIMIT):
        assert container.read(member, limit) == JPEG[: limit + 1]


def test_a_line_that_is_too_long_is_passed() -> None:
    first, last = face("m.01", 1, "FaceId-0", JPEG), face("m.03", 3, "FaceId-0", PNG)
    long = face("m.02", 2, "FaceId-0", JPEG + bytes(3 << 20))
    container = open_tsv(io.BytesIO(first + long + last), max_line_bytes=1 << 20)
    members = list(container.members())
    assert [m.name for m in members] == ["m.01/1-FaceId-0", "line-2", "m.03/3-FaceId-0"]
    assert "longer than 1048576 bytes" in (members[1].problem or "")
    assert container.read(members[2], LIMIT) == PNG
    with pytest.raises(OSError, match="longer than"):
        container.read(members[1], LIMIT)
    whole = list(open_tsv(io.BytesIO(first + long + last)).members())
    assert [m.problem for m in whole] == [None] * 3


def test_a_file_without_newlines_takes_no_memory() -> None:
    stream = io.BytesIO(b"m.01\t" + b"A" * (30 << 20))
    tracemalloc.start()
    (member,) = open_tsv(stream, max_line_bytes=1 << 20).members()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert member.problem is not None
    assert peak < 16 << 20


class Counting(io.BytesIO):
    """A stream that counts what is read."""

    taken = 0
    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        self.reads += 1
        return data


def test_a_large_file_is_read_once_in_few_reads() -> None:
    data = b"".join(face("m.01", n, "FaceId-0", JPEG + bytes(9000)) for n in range(2000))
    stream = Counting(data)
    container = open_tsv(stream)
    members = list(container.members())
    assert len(members) == 2000
    assert stream.taken <= 1.01 * len(data)
    assert stream.reads <= 20
    stream.taken = 0
    assert all(container.read(m, LIMIT) == JPEG + bytes(9000) for m in members)
    assert stream.taken <= 1.01 * len(data)


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (face("m.01", 1, "FaceId-0", JPEG), "faces.TSV", True),
        (face("m.01", 1, "FaceId-0", JPEG + bytes(1 << 17))[: 64 << 10], "faces.tsv", True),
        (b"\xef\xbb\xbf\r\n" + face("m.01", 1, "FaceId-0", JPEG), "faces.tsv", True),
        (face("m.01", 1, "FaceId-0", JPEG), "faces.txt", False),
        (b"path\tlabel\na.jpg\tann\n", "list.tsv", False),
        (b"a\tb\n" + face("m.01", 1, "FaceId-0", JPEG), "list.tsv", False),
        (b"", "empty.tsv", False),
        (JPEG, "photo.tsv", False),
    ],
)
def test_is_tsv(head: bytes, name: str, expected: bool) -> None:
    assert is_tsv(head, name) is expected


labels = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=9)


@given(st.lists(st.tuples(labels, st.binary(max_size=500)), max_size=6), st.sampled_from("\n "))
def test_round_trip(rows: list[tuple[str, bytes]], last: str) -> None:
    images = [(label, b"\xff\xd8\xff" + data + bytes(9)) for label, data in rows]
    data = b"".join(line(label, encoded(image)) for label, image in images)
    data = data.removesuffix(b"\n") + last.encode()
    assert [p[1:] for p in photos(data)] == [(label or None, image) for label, image in images]


@given(st.data())
def test_flips_and_cuts_cost_nothing_before_them(drawn: st.DataObject) -> None:
    lines = [face("m.01", n, "FaceId-0", JPEG[: 20 + n]) for n in range(4)]
    data = bytearray(b"".join(lines))
    first = drawn.draw(st.integers(0, len(data) - 1))
    for place in [first, *drawn.draw(st.lists(st.integers(first, len(data) - 1), max_size=4))]:
        data[place] = drawn.draw(st.integers(0, 255))
    data = data[: drawn.draw(st.integers(first, len(data)))]
    container = open_tsv(io.BytesIO(data))
    members = list(container.members())
    for member in members:
        if member.problem is None:
            assert len(container.read(member, LIMIT)) == member.bytes
    ends = [sum(map(len, lines[: n + 1])) for n in range(4)]
    before = sum(end <= first for end in ends)
    assert [m.name for m in members[:before]] == [f"m.01/{n}-FaceId-0" for n in range(before)]
    assert [m.problem for m in members[:before]] == [None] * before


@given(st.binary(max_size=300))
def test_any_bytes_end(data: bytes) -> None:
    for member in open_tsv(io.BytesIO(data), max_line_bytes=50).members():
        assert 0 <= member.offset < len(data)
