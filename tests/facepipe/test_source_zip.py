from __future__ import annotations

import io
import os
import random
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.containers import Member
from facepipe.source_zip import is_zip, open_zip

MAX_BYTES = 1 << 20
MEMORY_BYTES = 64 << 20
METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


GOOD = [("a/one.jpg", noise(700, 1)), ("a/two.jpg", b"2" * 5000), ("b/3.jpg", b"")]
END = bytes.fromhex("504b0506")


def local(name: bytes, packed: bytes, size: int, crc: int, **has: int | bytes) -> bytes:
    """Return a local header and its data, from APPNOTE 4.3.7."""
    extra = has.get("extra", b"")
    assert isinstance(extra, bytes)
    head = struct.pack(
        "<4s5H3L2H",
        b"PK\3\4",
        20,
        has.get("flags", 0),
        has.get("method", 0),
        0,
        0,
        crc,
        has.get("says", len(packed)),
        size,
        len(name),
        len(extra),
    )
    return head + name + extra + packed


def central(name: bytes, packed: int, size: int, crc: int, offset: int, **has: int) -> bytes:
    """Return a header of the directory, from APPNOTE 4.3.12."""
    extra = has.get("extra", b"")
    assert isinstance(extra, bytes)
    head = struct.pack(
        "<4s2B5H3L5H2L",
        b"PK\1\2",
        20,
        has.get("host", 3),
        20,
        has.get("flags", 0),
        has.get("method", 0),
        0,
        0,
        crc,
        packed,
        size,
        len(name),
        len(extra),
        0,
        0,
        0,
        has.get("attributes", 0),
        offset,
    )
    return head + name + extra


def end(count: int, size: int, offset: int, comment: bytes = b"", disk: int = 0) -> bytes:
    return (
        END + struct.pack("<4H2LH", disk, disk, count, count, size, offset, len(comment)) + comment
    )


class Made:
    """A zip made by hand, so that each field can lie."""

    def __init__(self) -> None:
        self.body, self.directory, self.count = b"", b"", 0

    def add(self, name: str | bytes, data: bytes = b"hello", deflate: bool = False, **lies) -> Made:
        raw = name.encode() if isinstance(name, str) else name
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = squeeze.compress(data) + squeeze.flush() if deflate else data
        packed = lies.pop("raw", packed)
        said = {"packed": len(packed), "size": len(data), "crc": zlib.crc32(data)}
        said |= {"offset": len(self.body), "method": 8 if deflate else 0} | lies
        inner = {k: said.pop(k) for k in ("local_name", "local_extra") if k in said}
        self.body += local(
            inner.get("local_name", raw),
            packed,
            min(said["size"], 0xFFFFFFFF),
            said["crc"],
            method=said["method"],
            extra=inner.get("local_extra", b""),
        )
        self.directory += central(raw, **said)
        self.count += 1
        return self

    def good(self, before: str = "") -> Made:
        for name, data in GOOD:
            self.add(before + name, data, deflate=True)
        return self

    def done(self, comment: bytes = b"", prefix: bytes = b"", **lies: int) -> bytes:
        said = {"count": self.count, "size": len(self.directory), "offset": len(self.body)} | lies
        return prefix + self.body + self.directory + end(**said, comment=comment)


Found = list[tuple[Member, bytes | str]]  # what was read, or why it was not


def opened(data: bytes, max_bytes: int = MAX_BYTES) -> Found:
    box = open_zip(io.BytesIO(data))
    found: Found = []
    for member in list(box.members()):
        try:
            read = box.read(member, max_bytes)
        except OSError as error:
            assert str(error)
            found.append((member, str(error)))
        else:
            assert member.problem is None
            assert len(read) <= max_bytes + 1
            found.append((member, read))
    return found


def good_of(found: Found) -> list[tuple[str, bytes]]:
    return [(member.name, data) for member, data in found if isinstance(data, bytes)]


@contextmanager
def contained(folder: Path) -> Iterator[None]:
    """Check that nothing is written in the working folder or beside it, and memory."""
    inner = folder / "outer" / "inner"
    inner.mkdir(parents=True)
    before, place = sorted(folder.rglob("*")), Path.cwd()
    os.chdir(inner)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()
        os.chdir(place)
    assert sorted(folder.rglob("*")) == before


class OneWay(io.RawIOBase):
    """A pipe: zipfile then writes sizes behind the data."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


NAMES = ["plain.jpg", "people/Zoë/ß.jpg", "日本/一.jpg", "deep/" * 40 + "x.jpg", "empty.jpg"]


def peer_zip(method: int, streamed: bool = False) -> bytes:
    buffer: OneWay | io.BytesIO = OneWay() if streamed else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:  # type: ignore[arg-type]
        archive.writestr("people/", b"")
        for number, name in enumerate(NAMES[:-1]):
            half = noise(number * 4000, number)
            archive.writestr(name, half + bytes(len(half)))
        archive.writestr(NAMES[-1], b"")
    return buffer.data if isinstance(buffer, OneWay) else buffer.getvalue()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_members_and_bytes_are_those_of_zipfile(method: str, streamed: bool) -> None:
    data = peer_zip(METHODS[method], streamed)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        expected = [(info.filename, archive.read(info)) for info in infos]
        places = [(info.header_offset, info.file_size) for info in infos]
    found = opened(data)
    assert good_of(found) == expected
    assert [(member.offset, member.bytes) for member, _ in found] == places


@pytest.mark.parametrize("method", METHODS)
def test_any_worker_reads_any_member(method: str) -> None:
    data = peer_zip(METHODS[method])
    members = list(open_zip(io.BytesIO(data)).members())
    expected = dict(good_of(opened(data)))
    for member in reversed(members):
        assert open_zip(io.BytesIO(data)).read(member, MAX_BYTES) == expected[member.name]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("max_bytes", [0, 1, 100, 9999, 10_000, 10_001])
def test_read_gives_at_most_one_byte_too_many(method: str, max_bytes: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", METHODS[method]) as archive:
        archive.writestr("x.jpg", noise(10_000))
    assert good_of(opened(buffer.getvalue(), max_bytes)) == [
        ("x.jpg", noise(10_000)[: max_bytes + 1])
    ]


def test_zip64() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in GOOD:
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(data)
    assert good_of(opened(buffer.getvalue())) == GOOD
    # The same, with every number of the directory in its zip64 field and a zip64 end.
    made, full = Made(), 0xFFFFFFFF
    for name, data in GOOD:
        extra = struct.pack("<2H3Q", 1, 24, len(data), len(data), len(made.body))
        body = made.body + local(name.encode(), data, len(data), zlib.crc32(data))
        made.add(name, data, packed=full, size=full, offset=full, extra=extra)
        made.body = body
    for prefix in (b"", b"#!/bin/sh\n"):
        size, start = len(made.directory), len(made.body)
        end64 = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 3, 3, size, start)
        where = b"PK\6\7" + struct.pack("<LQL", 0, start + size, 1)
        tail = end64 + where + end(0xFFFF, full, full)
        assert good_of(opened(prefix + made.body + made.directory + tail)) == GOOD


def test_more_members_than_16_bits_count() -> None:
    made = Made()
    made.body, parts = b"", []
    for number in range(70_000):
        parts.append(local(b"%d" % number, b"", 0, 0))
    sizes = [len(part) for part in parts]
    offsets = [sum(sizes[:0])]
    for size in sizes:
        offsets.append(offsets[-1] + size)
    rows = [central(b"%d" % i, 0, 0, 0, offsets[i]) for i in range(70_000)]
    made.body, made.directory = b"".join(parts), b"".join(rows)
    box = open_zip(io.BytesIO(made.done(count=70_000 & 0xFFFF)))
    members = list(box.members())
    assert [member.name for member in members] == [str(i) for i in range(70_000)]
    assert box.read(members[-1], 10) == b""


class Counted(io.BytesIO):
    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)


def test_one_pass_takes_few_large_reads() -> None:
    made = Made()
    for number in range(500):
        made.add(f"{number}.jpg", noise(3000, number))
    stream = Counted(made.done())
    box = open_zip(stream)
    members = list(box.members())
    assert stream.reads < 10
    stream.reads = 0
    assert [box.read(m, MAX_BYTES) for m in members] == [noise(3000, i) for i in range(500)]
    assert stream.reads < 3 + len(stream.getvalue()) / 200_000


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (b"PK\3\4" + bytes(60), "x.zip", True),
        (b"PK\3\4" + bytes(60), "s3/photos/X.ZIP", True),
        (b"PK\5\6" + bytes(18), "empty.zip", True),
        (b"PK\3\4" + bytes(60), "no.suffix/here", True),
        (b"PK\3\4" + bytes(60), "x.docx", False),
        (b"PK\3\4" + bytes(60), "x.npz", False),
        (b"PK\3\4" + bytes(60), "x.zip.part", False),
        (b"\xff\xd8\xff\xe0", "x.zip", False),
        (b"PK", "x.zip", False),
        (b"", "x.zip", False),
    ],
)
def test_is_zip(head: bytes, name: str, expected: bool) -> None:
    assert is_zip(head, name) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(Made().good().done(comment=b"a comment"), GOOD, id="comment"),
        pytest.param(Made().good().done(comment=end(9, 9, 9) * 9), GOOD, id="ends in the comment"),
        pytest.param(Made().good().done() + b"rubbish", GOOD, id="rubbish behind"),
        pytest.param(Made().good().done(prefix=b"MZ" * 999), GOOD, id="shifted"),
        pytest.param(Made().done(), [], id="empty"),
        pytest.param(
            Made().add("a.jpg", b"1").add("a.jpg", b"2").done(),
            [("a.jpg", b"1"), ("a.jpg", b"2")],
            id="one name twice",
        ),
        pytest.param(
            Made().add("d/", b"").add("e\\", b"").add("f", b"", attributes=16).add("g").done(),
            [("g", b"hello")],
            id="folders",
        ),
        pytest.param(Made().add("d/", b"data").done(), [("d/", b"data")], id="folder with data"),
        pytest.param(Made().add(b"\x81.jpg").done(), [("ü.jpg", b"hello")], id="DOS name"),
        pytest.param(
            Made().add(b"\x81.jpg", flags=1 << 11).done(), [("\ufffd.jpg", b"hello")], id="no UTF-8"
        ),
        pytest.param(Made().add("ü.jpg").done(), [("ü.jpg", b"hello")], id="UTF-8 unsaid"),
        pytest.param(
            Made().add(
                b"?.jpg",
                extra=struct.pack("<2HBL", 0x7075, 11, 1, zlib.crc32(b"?.jpg")) + "é.jpg".encode(),
            ).done(),
            [("é.jpg", b"hello")],
            id="Info-ZIP's field of the name",
        ),
        pytest.param(
            Made().add("x.jpg", attributes=(stat.S_IFREG | 0o644) << 16).done(),
            [("x.jpg", b"hello")],
            id="mode of Unix",
        ),
        pytest.param(
            Made().add("x.jpg", host=0, attributes=stat.S_IFLNK << 16).done(),
            [("x.jpg", b"hello")],
            id="no mode of DOS",
        ),
    ],
)  # fmt: skip
def test_honest_and_odd(data: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert [(member.name, read) for member, read in opened(data)] == expected


def quoted_overlap(files: int = 50) -> bytes:
    """Return Fifield's bomb: each file begins with the quoted header of the next, and goes on."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = bytes(2 << 20)
    packed = squeeze.compress(data) + squeeze.flush()
    names = [b"k"]
    body = local(b"k", packed, len(data), zlib.crc32(data), method=8)
    rows = [(len(packed), len(data), zlib.crc32(data), len(body))]
    for number in range(files):
        header = body[: 30 + len(names[-1])]
        quote = b"\0" + struct.pack("<2H", len(header), len(header) ^ 0xFFFF)  # a stored block
        data = header + data
        length, size, crc = len(quote) + len(header) + rows[-1][0], len(data), zlib.crc32(data)
        names.append(b"%03d" % number)
        body = local(names[-1], quote, size, crc, method=8, says=length) + body
        rows.append((length, size, crc, len(body)))
    assert zlib.decompress(body[33 : 33 + rows[-1][0]], -15) == data  # it is one
    directory = b"".join(
        central(name, *row[:3], len(body) - row[3], method=8)
        for name, row in zip(names, rows, strict=True)
    )
    return body + directory + end(len(rows), len(directory), len(body))


def same_place(files: int = 1000) -> bytes:
    made = Made().good().add("k", bytes(1 << 20), deflate=True)
    row, size = made.directory[made.directory.rindex(b"PK\1\2") :], len(made.directory)
    made.directory += row * files
    assert len(made.directory) == size + files * len(row)
    made.count += files
    return made.done()


def cut_directory() -> bytes:
    made = Made().good().add("x").add("y")
    made.directory = made.directory[:-60]
    return made.done(count=made.count)


def patched_local(at: int, value: bytes) -> bytes:
    made = Made().good()
    at += len(made.body)
    made.add("x").add(A)
    made.body = made.body[:at] + value + made.body[at + len(value) :]
    return made.done()


def patched_directory() -> bytes:
    made = Made().good()
    at = len(made.directory)
    made.add("x").add("y")
    made.directory = made.directory[:at] + b"NO" + made.directory[at + 2 :]
    return made.done()


LINK = stat.S_IFLNK << 16
FULL = 0xFFFFFFFF
WHOLE = Made().good().add("x.jpg", noise(3000)).done()
LZMA_HEAD = b"\x09\x04\5\0\x5d" + b"\xff\xff\xff\xff"  # a dictionary of 4 GiB
BLANK = bytes(50 << 20)
DEFLATED_BLANK = zlib.compress(BLANK, 9)[2:-4]
A = "after.jpg"
# name: (bytes, what is said of the bad member, how many are bad)
HOSTILE: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "encrypted": (lambda: Made().good().add("x", flags=1).add(A).done(), "encrypted", 1),
    "strongly": (lambda: Made().good().add("x", flags=0x2001).add(A).done(), "encrypted", 1),
    "patch": (lambda: Made().good().add("x", flags=32).add(A).done(), "not one that is read", 1),
    "deflate64": (lambda: Made().good().add("x", method=9).add(A).done(), "method 9", 1),
    "unknown": (lambda: Made().good().add("x", method=999).add(A).done(), "method 999", 1),
    "link": (lambda: Made().good().add("x", b"/etc", attributes=LINK).add(A).done(), "link", 1),
    "pipe": (
        lambda: Made().good().add("x", attributes=stat.S_IFIFO << 16).add(A).done(),
        "not a regular file",
        1,
    ),
    "says less": (
        lambda: Made().good().add("x", b"x" * 9999, True, size=10).add(A).done(),
        "expands to more",
        1,
    ),
    "says less, 50 MB": (
        lambda: Made().good().add("x", b"", method=8, raw=DEFLATED_BLANK, size=9).add(A).done(),
        "expands to more",
        1,
    ),
    "says more": (
        lambda: Made().good().add("x", b"x" * 99, True, size=100_000).add(A).done(),
        "99 instead of 100000",
        1,
    ),
    "says 4 GB": (
        lambda: Made().good().add("x", b"x" * 99, True, size=FULL - 1).add(A).done(),
        "99 instead of",
        1,
    ),
    "stored says more": (
        lambda: Made().good().add("x", size=1000).add(A).done(),
        "stored as it is",
        1,
    ),
    "checksum": (lambda: Made().good().add("x", crc=1).add(A).done(), "CRC-32", 1),
    "deflate damaged": (
        lambda: Made().good().add("x", b"", method=8, raw=b"\xff" * 99, size=9).add(A).done(),
        "damaged",
        1,
    ),
    "bzip2 damaged": (
        lambda: Made().good().add("x", b"", method=12, raw=b"BZh9" * 9, size=9).add(A).done(),
        "damaged",
        1,
    ),
    "lzma of 4 GiB": (
        lambda: Made().good().add("x", b"", method=14, raw=LZMA_HEAD + b"\0" * 30, size=FULL - 1)
        .add(A).done(),
        "instead of",
        1,
    ),
    "lzma of nothing": (
        lambda: Made().good().add("x", b"", method=14, raw=b"x", size=9).add(A).done(),
        "LZMA",
        1,
    ),
    "lzma impossible": (
        lambda: Made().good().add("x", b"", method=14, raw=b"\0\0\5\0\xe0" + bytes(9), size=9)
        .add(A).done(),
        "LZMA",
        1,
    ),
    "local header gone": (lambda: patched_local(0, b"NO"), "local header", 1),
    "local lengths lie": (lambda: patched_local(28, b"\xff\xff"), "instead of 5 bytes", 1),
    "points beyond": (lambda: Made().good().add("x", offset=FULL - 1).add(A).done(), "not in", 1),
    "reaches beyond": (lambda: Made().good().add(A).add("x", packed=9999).done(), "not in", 1),
    "points to the directory": (
        lambda: Made().good().add(A).add("x", offset=10_000).done(),
        "not in",
        1,
    ),
    "zip64 cut": (
        lambda: Made().good().add("x", size=FULL, extra=b"\1\0\4\0abcd").add(A).done(),
        "zip64",
        1,
    ),
    "zip64 of 2**64": (
        lambda: Made().good().add("x", size=FULL, extra=b"\1\0\x08\0" + b"\xff" * 8).add(A).done(),
        "impossible",
        1,
    ),
    "zip64 far away": (
        lambda: Made().good().add("x", offset=FULL, extra=b"\1\0\x08\0" + b"\xfe" * 8)
        .add(A).done(),
        "not in",
        1,
    ),
    "contains others": (
        lambda: Made().add("x", offset=0, packed=200, size=200).good().add(A).done(),
        "shares its bytes",
        1,
    ),
    "one place 1000 times": (lambda: same_place(), "shares its bytes", 1000),
    "quoted overlap": (lambda: quoted_overlap(), "shares its bytes", 50),
    "directory cut": (lambda: cut_directory(), "directory", 1),
    "directory damaged": (lambda: patched_directory(), "directory is damaged", 1),
    "counts more": (lambda: Made().good().done(count=60_000), "3 of 60000", 1),
    "counts 65535": (lambda: Made().good().done(count=0xFFFF), "3 of 65535", 1),
    "counts less": (lambda: Made().good().done(count=1), "3 of 1", 1),
    "directory beyond": (lambda: Made().good().done(offset=FULL - 9), "directory", 1),
    "directory of 4 GB": (lambda: Made().good().done(size=FULL - 9), "directory", 1),
    "zip64 without its end": (lambda: Made().good().done(count=0xFFFF, size=FULL), "directory", 1),
    "split": (lambda: Made().good().done(disk=3), "directory", 1),
    "no end": (lambda: Made().good().done()[:-22], "directory", 1),
    "cut in a member": (lambda: WHOLE[:2000], "the archive ends within it", 2),
    "only a magic": (lambda: b"PK\3\4", "directory", 1),
    "only an end of lies": (lambda: END + b"\xff" * 18, "directory", 1),
    "16,000 ends": (lambda: Made().good().body + END * 16_000, "directory", 1),
    "entries of nothing": (
        lambda: central(b"", 0, 0, 0, 0) * 20_000 + end(20_000, 46 * 20_000, 0),
        "not in the archive",
        20_000,
    ),
}  # fmt: skip

# Nothing of GOOD is in these.
WITHOUT_GOOD = {"quoted overlap", "only a magic", "only an end of lies", "entries of nothing"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str, tmp_path: Path) -> None:
    make, problem, bad = HOSTILE[name]
    data = make()
    with contained(tmp_path):
        found = opened(data)
    expected = [] if name in WITHOUT_GOOD else list(GOOD)
    if A.encode() in data:
        expected.append((A, b"hello"))
    if name == "one place 1000 times":
        expected.append(("k", bytes(1 << 20)))
    if name == "quoted overlap":
        expected.append(("k", bytes(MAX_BYTES + 1)))
    assert good_of(found) == expected
    errors = [read for _, read in found if isinstance(read, str)]
    assert len(errors) == bad
    assert any(problem in error for error in errors), errors[:3]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/etc/passwd", "/etc/passwd"),
        ("../../../up.jpg", "../../../up.jpg"),
        ("C:\\x.jpg", "C:\\x.jpg"),
        ("..\\..\\x.jpg", "..\\..\\x.jpg"),
        ("\\\\host\\share\\x.jpg", "\\\\host\\share\\x.jpg"),
        ("a\0.jpg", "a\ufffd.jpg"),
        ("a\r\nb\x1b[2J.jpg", "a\ufffd\ufffdb\ufffd[2J.jpg"),
        ("\u202egpj.exe", "\ufffdgpj.exe"),
        ("", ""),
    ],
)
def test_names_lead_nowhere(name: str, shown: str, tmp_path: Path) -> None:
    data = Made().add(name).done()
    with contained(tmp_path):
        assert good_of(opened(data)) == [(shown, b"hello")]


def test_a_bomb_is_not_expanded_beyond_what_is_asked_for() -> None:
    data = Made().add("x", b"", method=8, raw=DEFLATED_BLANK, size=len(BLANK)).done()
    box = open_zip(io.BytesIO(data))
    (member,) = box.members()
    assert member.bytes == len(BLANK)
    tracemalloc.start()
    assert box.read(member, 1 << 16) == bytes((1 << 16) + 1)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("offset", [-1, 1, 10**6, 1 << 63, 1 << 64, 1 << 70])
def test_a_member_that_is_not_there(offset: int) -> None:
    for data in (Made().good().done(), b"PK\3\4", Made().done()):
        with pytest.raises(OSError, match="no member begins there"):
            open_zip(io.BytesIO(data)).read(Member(name="x", offset=offset), 10)


def test_refused_members_are_refused_without_their_problem_too() -> None:
    for data in (same_place(3), quoted_overlap(5), Made().add("x", flags=1).done()):
        box = open_zip(io.BytesIO(data))
        for member in list(box.members()):
            bare = Member(name=member.name, offset=member.offset)
            if member.problem is None or data == same_place(3):
                # There is one good member at that place.
                assert box.read(bare, 10) or member.name == GOOD[2][0]
            else:
                with pytest.raises(OSError, match=r"shares|encrypted"):
                    box.read(bare, 10)


def test_without_a_directory_members_come_from_their_own_headers() -> None:
    data = peer_zip(zipfile.ZIP_DEFLATED)
    found = opened(data[: data.index(b"PK\1\2") + 10])
    assert good_of(found) == good_of(opened(data))
    assert "there may have been more" in str(found[-1][1])
    streamed = peer_zip(zipfile.ZIP_DEFLATED, streamed=True)
    found = opened(streamed[:-30])
    assert "said in the directory" in str(found[-2][1])


def test_close_closes_the_file() -> None:
    stream = io.BytesIO(WHOLE)
    open_zip(stream).close()
    assert stream.closed


PEERS = [peer_zip(method) for method in METHODS.values()]


@given(st.sampled_from(PEERS), st.data())
def test_flips_and_cuts_end_in_a_listing(peer: bytes, draw: st.DataObject) -> None:
    data = bytearray(peer)
    tail = min(len(data), 900)  # the directory: flips in the data are only checksums
    for _ in range(draw.draw(st.integers(0, 8), "flips")):
        start = draw.draw(st.sampled_from([0, len(data) - tail]), "from")
        data[draw.draw(st.integers(start, len(data) - 1), "at")] = draw.draw(
            st.integers(0, 255), "to"
        )
    cut = draw.draw(st.one_of(st.just(len(data)), st.integers(0, len(data))), "cut")
    before = set(good_of(opened(peer)))
    for member, read in opened(bytes(data[:cut])):
        if isinstance(read, bytes) and read:  # a checksum holds: right, or another name
            assert read in {good for _, good in before}, member.name


@given(st.binary(max_size=2000), st.booleans())
def test_noise_ends_in_a_listing(data: bytes, with_end: bool) -> None:
    opened(b"PK\3\4" + data + (end(3, 46, 4) if with_end else b""))


@given(st.integers(0, len(PEERS[1])))
def test_a_cut_leaves_what_stands_before_it(cut: int) -> None:
    whole = opened(PEERS[1])
    places = [member.offset for member, _ in whole[1:]] + [PEERS[1].index(b"PK\1\2")]
    expected = [row for row, after in zip(good_of(whole), places, strict=True) if after <= cut]
    assert good_of(opened(PEERS[1][:cut])) == expected
