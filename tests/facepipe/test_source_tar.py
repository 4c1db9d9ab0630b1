from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.containers import Container, Member
from facepipe.source_tar import BLOCK_BYTES, EXTENDED_BYTES, is_tar, open_tar

MAX_BYTES = 1 << 20
MEMORY_BYTES = 64 << 20
SQUEEZE = {"": bytes, "gz": lambda d: gzip.compress(d, mtime=0), "bz2": bz2.compress}
SQUEEZE["xz"] = lzma.compress


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


GOOD = [("a/one.jpg", noise(700, 1)), ("a/two.jpg", noise(BLOCK_BYTES, 2)), ("b/3.jpg", b"")]


def header(
    name: bytes = b"bad.jpg",
    size: int | bytes = 0,
    kind: bytes = b"0",
    magic: bytes = b"ustar\x0000",
    **fields: tuple[int, bytes],
) -> bytes:
    """Return a header written by hand, from POSIX's table of ustar fields."""
    block = bytearray(BLOCK_BYTES)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    for at, value in fields.values():
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def file(name: bytes, data: bytes, kind: bytes = b"0", **fields: tuple[int, bytes]) -> bytes:
    return header(name, len(data), kind, **fields) + data + bytes(-len(data) % BLOCK_BYTES)


def record(key: bytes, value: bytes) -> bytes:
    """Return a pax record, whose length counts itself."""
    length = len(key) + len(value) + 3
    length += len(str(length))
    length += len(str(length)) - len(str(length - 1))
    line = b"%d %s=%s\n" % (length, key, value)
    return line if len(line) == length else b"%d %s=%s\n" % (len(line), key, value)


START = b"".join(file(name.encode(), data) for name, data in GOOD)
END = bytes(2 * BLOCK_BYTES)


def read_all(box: Container, max_bytes: int = MAX_BYTES) -> list[tuple[Member, bytes | None]]:
    """List and read everything; only OSError may come out of a read."""
    found: list[tuple[Member, bytes | None]] = []
    for member in list(box.members()):
        try:
            data = box.read(member, max_bytes)
        except OSError as error:
            assert str(error)
            found.append((member, None))
        else:
            assert member.problem is None
            assert len(data) <= max_bytes + 1
            found.append((member, data))
    return found


def opened(data: bytes, **options: int) -> list[tuple[Member, bytes | None]]:
    return read_all(open_tar(io.BytesIO(data), **options))


def good_of(found: list[tuple[Member, bytes | None]]) -> list[tuple[str, bytes]]:
    return [(member.name, data) for member, data in found if data is not None]


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


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = ["plain.jpg", "people/Zoë Ångström/ß.jpg", "d" * 90 + "/" + "n" * 90 + ".jpg", "e.jpg"]


def peer_tar(format: int, names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        folder = tarfile.TarInfo("people")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = number * 777
            info.mtime = 1.5 if format == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(noise(info.size, number)))
    return buffer.getvalue()


@pytest.mark.parametrize("squeeze", SQUEEZE)
@pytest.mark.parametrize("format", FORMATS)
def test_members_and_bytes_are_those_of_tarfile(format: str, squeeze: str) -> None:
    names = NAMES if format == "ustar" else [*NAMES, "x" * 300 + "/" + "ü" * 120 + ".jpg"]
    plain = peer_tar(FORMATS[format], names)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        files = [info for info in tar if info.isreg()]
        expected = [(i.name, tar.extractfile(i).read()) for i in files]  # type: ignore[union-attr]
        offsets = [info.offset_data for info in files]
    box = open_tar(io.BytesIO(SQUEEZE[squeeze](plain)))
    assert box.sequential is bool(squeeze)
    found = read_all(box)
    assert good_of(found) == expected
    assert [member.offset for member, _ in found] == offsets
    assert [member.bytes for member, _ in found] == [len(data) for _, data in expected]


@pytest.mark.parametrize("squeeze", SQUEEZE)
def test_reading_backwards_and_twice(squeeze: str) -> None:
    files = [(f"{i}.jpg", noise(90_000, i)) for i in range(5)]
    plain = b"".join(file(name.encode(), data) for name, data in files) + END
    box = open_tar(io.BytesIO(SQUEEZE[squeeze](plain)))
    members = list(box.members())
    for number in (4, 0, 2, 2, 1, 3):
        assert box.read(members[number], MAX_BYTES) == files[number][1]


def test_read_gives_at_most_one_byte_too_many() -> None:
    box = open_tar(io.BytesIO(file(b"a.jpg", noise(5000)) + END))
    (member,) = box.members()
    assert box.read(member, 100) == noise(5000)[:101]
    assert box.read(member, 5000) == box.read(member, 4999) == noise(5000)


class Counted(io.BytesIO):
    """A file that counts what a store would count as requests and bytes."""

    reads, got, back, place = 0, 0, 0, 0

    def read(self, size: int | None = -1, /) -> bytes:
        at = self.tell()
        data = super().read(size)
        self.back += at < self.place
        self.reads, self.got, self.place = self.reads + 1, self.got + len(data), self.tell()
        return data


@pytest.mark.parametrize("squeeze", SQUEEZE)
def test_one_pass_takes_few_large_reads(squeeze: str) -> None:
    plain = b"".join(file(b"%d.jpg" % i, noise(3000, i)) for i in range(1000)) + END
    stream = Counted(SQUEEZE[squeeze](plain))
    box = open_tar(stream)
    members = list(box.members())
    size = len(stream.getvalue())
    assert stream.reads < 3 + size / 200_000
    stream.reads = stream.got = stream.back = 0
    for member in members:
        box.read(member, MAX_BYTES)
    assert stream.reads < 3 + size / 200_000
    assert stream.got <= size
    assert stream.back <= 1  # to the beginning


def test_listing_and_reading_do_not_set_each_other_back() -> None:
    plain = b"".join(file(b"%d.jpg" % i, noise(30_000, i)) for i in range(100)) + END
    stream = Counted(gzip.compress(plain))
    box = open_tar(stream)
    read = [box.read(member, MAX_BYTES) for member in box.members()]
    assert read == [noise(30_000, i) for i in range(100)]
    assert stream.got < 2.5 * len(stream.getvalue())


def test_large_gaps_are_not_read() -> None:
    plain = b"".join(file(b"%d.jpg" % i, noise(4 << 20, i)) for i in range(3)) + END
    stream = Counted(plain)
    assert len(list(open_tar(stream).members())) == 3
    assert stream.got < 2 << 20


V7 = header(b"old.jpg", 3, b"\0", magic=b"") + b"abc".ljust(BLOCK_BYTES, b"\0")


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (START[:1024], "x.tar", True),
        (START[:1024], "without-a-suffix", True),
        (V7[:1024], "x.TAR", True),
        (V7[:1024], "x.jpg", False),
        (bytes(1024), "empty.tar", True),
        (bytes(1024), "empty.jpg", False),
        (noise(1024), "x.tar", False),
        (b"", "x.tar", False),
        (gzip.compress(START)[:1024], "x.tar.gz", True),
        (gzip.compress(START)[:1024], "x.TGZ", True),
        (gzip.compress(START)[:1024], "x.json.gz", False),
        (START[:1024], "x.tar.gz", True),  # a plain one by its bytes
        (noise(1024), "x.tgz", False),
        (bz2.compress(START)[:1024], "x.tar.bz2", True),
        (lzma.compress(START)[:1024], "x.txz", True),
        (lzma.compress(START)[:1024], "x.xz", False),
        (b"\xff\xd8\xff\xe0", "x.jpg", False),
    ],
)
def test_is_tar(head: bytes, name: str, expected: bool) -> None:
    assert is_tar(head, name) is expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(V7 + END, [("old.jpg", b"abc")], id="v7"),
        pytest.param(header(b"d/", kind=b"\0") + V7 + END, [("old.jpg", b"abc")], id="v7 folder"),
        pytest.param(START, GOOD, id="no end"),
        pytest.param(START + END + START + END, GOOD + GOOD, id="concatenated"),
        pytest.param(START + END + bytes(60 * 512) + START, GOOD + GOOD, id="far concatenated"),
        pytest.param(START + bytes(512) + START + END, GOOD + GOOD, id="lone zero block"),
        pytest.param(START + END + noise(3000), GOOD, id="rubbish behind the end"),
        pytest.param(bytes(10_240), [], id="empty"),
        pytest.param(b"", [], id="no bytes"),
        pytest.param(
            header(b"n.jpg", 2, magic=b"ustar\x0000", prefix=(345, b"some/where")) + b"hi" + END,
            [("some/where/n.jpg", b"hi")],
            id="prefix",
        ),
        pytest.param(
            header(b"n.jpg", 2, magic=b"ustar  \0", times=(345, b"14000000000")) + b"hi" + END,
            [("n.jpg", b"hi")],
            id="times of GNU are no prefix",
        ),
        pytest.param(
            header(b"n.jpg", b"\x80" + bytes(10) + b"\x02") + b"hi" + END,
            [("n.jpg", b"hi")],
            id="base 256",
        ),
        pytest.param(
            file(b"p", record(b"size", b"2") + record(b"path", b"long.jpg"), b"x")
            + header(b"short.jpg", 7)
            + b"hi".ljust(512, b"\0")
            + START,
            [("long.jpg", b"hi"), *GOOD],
            id="size and name of pax",
        ),
        pytest.param(
            file(b"p", record(b"comment", b"of all"), b"g") + START, GOOD, id="global header"
        ),
        pytest.param(header(b"volume", kind=b"V") + START, GOOD, id="volume label"),
        pytest.param(file(b"dump", b"Yone\0\0", b"D") + START, GOOD, id="folder with data"),
        pytest.param(
            file(b"\xff\xe9.jpg", b"hi") + END, [("\ufffd\ufffd.jpg", b"hi")], id="latin name"
        ),
        pytest.param(
            file("a\nb\u202egpj.exe\x1b[0m.jpg".encode(), b"hi") + END,
            [("a\ufffdb\ufffdgpj.exe\ufffd[0m.jpg", b"hi")],
            id="controls in a name",
        ),
    ],
)
def test_honest_and_odd(data: bytes, expected: list[tuple[str, bytes]]) -> None:
    found = opened(data)
    assert [(member.name, read) for member, read in found] == expected


SIGNED = bytearray(header(b"\xe9.jpg", 2))
SIGNED[148:156] = b" " * 8
SIGNED[148:156] = b"%06o\0 " % sum(c - 256 if c > 127 else c for c in SIGNED)


def test_checksum_of_signed_bytes() -> None:
    assert good_of(opened(bytes(SIGNED) + b"hi".ljust(512, b"\0"))) == [("\ufffd.jpg", b"hi")]


def hungry_xz(data: bytes) -> bytes:
    """Return an xz whose block header, with its checksum, claims a dictionary of 1.5 GiB."""
    packed = bytearray(lzma.compress(data))
    end = 12 + (packed[12] + 1) * 4 - 4  # of the block header, after the stream's of 12 bytes
    assert packed[14:16] == b"\x21\x01"  # LZMA2, one byte of properties
    packed[16] = 37  # 3 * 2**29 bytes
    packed[end : end + 4] = struct.pack("<L", zlib.crc32(packed[12:end]))
    return bytes(packed)


BROKEN_SUM = header(b"x.jpg", 5)[:-1] + b"\1"
CHAIN = file(b"l", b"long.jpg\0", b"L") + file(b"p", record(b"path", b"x.jpg"), b"x")
BOMB = header(b"bomb.jpg", 200 << 20) + bytes(200 << 20)
# name: (bytes, how many problems, whether what follows the hostile member is found)
HOSTILE: dict[str, tuple[bytes, str, bool]] = {
    "cut in a header": (START + header()[:300], "ends within a header", False),
    "cut in data": (START + header(b"x.jpg", 4000) + noise(100), "ends within it", False),
    "checksum": (START + BROKEN_SUM + START, "damaged header", False),
    "noise": (START + noise(4096), "damaged header", False),
    "negative size": (START + header(size=b"\xff" * 12), "impossible size", False),
    "minus in octal": (START + header(size=b"-0000000512\0"), "impossible size", False),
    "words as size": (START + header(size=b"plenty\0     "), "impossible size", False),
    "size of 2**88": (START + header(size=b"\x80" + b"\xff" * 11), "ends within it", False),
    "size of 8 GiB": (START + header(size=b"77777777777\0"), "ends within it", False),
    "negative pax header": (START + header(kind=b"x", size=b"\xff" * 12), "extended", False),
    "long name cut": (START + header(kind=b"L", size=900) + b"x", "extended header", False),
    "long name of 8 GiB": (START + header(kind=b"L", size=b"77777777777\0"), "extended", False),
    "header of nothing": (START + file(b"l", b"n.jpg\0", b"L") + END, "describes", False),
    "pax length 0": (START + file(b"p", b"0 path=x\n", b"x") + file(b"x", b""), "damaged", True),
    "pax endless length": (
        START + file(b"p", b"9" * 400 + b" path=x\n", b"x") + file(b"x", b""),
        "extended header is damaged",
        True,
    ),
    "pax without =": (START + file(b"p", b"7 path\n", b"x") + file(b"x", b""), "damaged", True),
    "pax negative size": (
        START + file(b"p", record(b"size", b"-512"), b"x") + file(b"x", b""),
        "extended header is damaged",
        True,
    ),
    "pax absurd size": (
        START + file(b"p", record(b"size", b"9" * 20), b"x") + file(b"x", b""),
        "ends within it",
        False,
    ),
    "pax size of 5000 digits": (
        START + file(b"p", record(b"size", b"9" * 5000), b"x") + file(b"x", b""),
        "extended header is damaged",
        True,
    ),
    "pax header of 80 MB": (
        START + file(b"p", record(b"comment", bytes(80 << 20)), b"x") + file(b"x", b""),
        "more than is read",
        True,
    ),
    "long name of 80 MB": (
        START + file(b"l", b"n" * (80 << 20), b"L") + file(b"x", b""),
        "more than is read",
        True,
    ),
    "a chain of 40,000 headers": (START + CHAIN * 20_000, "describes", False),
    "hard link": (START + header(kind=b"1", link=(157, b"a/one.jpg")), "a hard link", True),
    "link outside": (START + header(kind=b"2", link=(157, b"/etc/passwd")), "symbolic link", True),
    "link with a size": (START + header(kind=b"2", size=1 << 30), "a symbolic link", True),
    "device": (START + header(b"null.jpg", kind=b"3"), "a character device", True),
    "block device": (START + header(b"sda.jpg", kind=b"4"), "a block device", True),
    "pipe": (START + header(b"pipe.jpg", kind=b"6"), "a named pipe", True),
    "sparse": (START + file(b"s", b"hi", b"S"), "a sparse file", True),
    "sparse map": (
        START
        + header(b"s.jpg", 2, b"S", magic=b"ustar  \0", more=(482, b"\1"))
        + bytes(504)
        + b"\1"
        + bytes(7 + BLOCK_BYTES)
        + b"hi".ljust(512, b"\0"),
        "a sparse file",
        True,
    ),
    "endless sparse map": (
        START + header(b"s.jpg", 2, b"S", more=(482, b"\1")) + noise(1 << 20).replace(b"\0", b"\1"),
        "ends within a header",
        False,
    ),
    "sparse of pax": (
        START + file(b"p", record(b"GNU.sparse.major", b"1"), b"x") + file(b"x", b"hi"),
        "a sparse file",
        True,
    ),
    "second volume": (START + file(b"x.jpg", b"hi", b"M"), "type M", True),
    "unknown type": (START + file(b"x.jpg", b"hi", b"\xff"), "not a file", True),
    "gzip cut": (gzip.compress(START + file(b"x", noise(90_000)))[:60_000], "ends early", False),
    "gzip checksum": (gzip.compress(START + END)[:-8] + bytes(8), "damaged", False),
    "gzip damaged": (
        gzip.compress(START + file(b"x", noise(9000)))[:5000] + b"\xff" * 5000,
        "damaged",
        False,
    ),
    "gzip bomb": (gzip.compress(START + BOMB, 1), "100 times", False),
    "bzip2 bomb": (bz2.compress(START + BOMB, 9), "100 times", False),
    "xz bomb": (lzma.compress(START + BOMB, preset=0), "100 times", False),
    "xz cut": (lzma.compress(START + file(b"x", noise(90_000)))[:-2000], "ends early", False),
    "xz that asks for 1.5 GiB": (hungry_xz(START), "Memory usage limit", False),
    "rubbish after a lone zero block": (
        START + bytes(BLOCK_BYTES) + noise(3000),
        "damaged header",
        False,
    ),
}
# These stop before the first member is out.
NOTHING_FOUND = {"xz that asks for 1.5 GiB"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str, tmp_path: Path) -> None:
    data, problem, goes_on = HOSTILE[name]
    after = file(b"after.jpg", b"still here") if goes_on else b""
    data += after
    with contained(tmp_path):
        found = opened(data, free_bytes=16 << 20)
    expected = [] if name in NOTHING_FOUND else list(GOOD)
    if goes_on:
        expected.append(("after.jpg", b"still here"))
    assert good_of(found) == expected
    (bad,) = [member for member, read in found if read is None]
    assert bad.problem is not None and problem in bad.problem
    assert bad.bytes == 0
    assert bad.problem == found[-2 if goes_on else -1][0].problem


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../../up.jpg", "a/../../b.jpg", "C:\\x.jpg", "\\\\host\\share\\x.jpg", "~"],
)
@pytest.mark.parametrize("squeeze", ["", "gz"])
def test_names_lead_nowhere(name: str, squeeze: str, tmp_path: Path) -> None:
    data = SQUEEZE[squeeze](file(name.encode(), b"hi") + END)
    with contained(tmp_path):
        assert good_of(opened(data)) == [(name, b"hi")]


def test_name_of_a_megabyte_is_cut() -> None:
    size = EXTENDED_BYTES - 100
    (found,) = opened(file(b"l", b"n" * size, b"L") + file(b"x", b"hi"))
    assert found[0].name == "n" * 4096
    assert found[1] == b"hi"


def test_expansion_within_the_ratio_is_read() -> None:
    data = gzip.compress(START + header(b"blank.bmp", 4 << 20) + bytes(4 << 20) + END)
    assert len(opened(data, free_bytes=1 << 20, max_ratio=2000)) == 4
    found = opened(data, free_bytes=1 << 20)
    assert good_of(found) == GOOD
    assert len(found) == 4


@pytest.mark.parametrize(
    "offset", [-1, 1 << 20, 1 << 63, 1 << 70], ids=["negative", "beyond", "2**63", "2**70"]
)
@pytest.mark.parametrize("squeeze", SQUEEZE)
def test_a_member_that_is_not_there(offset: int, squeeze: str) -> None:
    box = open_tar(io.BytesIO(SQUEEZE[squeeze](START + END)))
    with pytest.raises(OSError, match="ends within it"):
        box.read(Member(name="x", offset=offset, bytes=10), MAX_BYTES)


def test_close_closes_the_file() -> None:
    stream = io.BytesIO(START)
    open_tar(stream).close()
    assert stream.closed


class Failing(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_a_file_that_cannot_be_read_is_no_damage() -> None:
    box = open_tar(Failing(file(b"a.jpg", noise(1 << 20)) * 3))
    with pytest.raises(OSError, match="Input/output"):
        list(box.members())


WHOLE = peer_tar(tarfile.PAX_FORMAT, [*NAMES, "0.jpg", "0.cls", "0.json"])


@given(st.sampled_from(sorted(SQUEEZE)), st.data())
def test_flips_and_cuts_end_in_a_listing(squeeze: str, draw: st.DataObject) -> None:
    data = bytearray(SQUEEZE[squeeze](WHOLE))
    for _ in range(draw.draw(st.integers(0, 8), "flips")):
        data[draw.draw(st.integers(0, len(data) - 1), "at")] = draw.draw(st.integers(0, 255), "to")
    found = opened(bytes(data[: draw.draw(st.integers(0, len(data)), "cut")]))
    assert len(found) <= len(data)


@given(st.binary(max_size=3000), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0"]))
def test_noise_ends_in_a_listing(data: bytes, magic: bytes) -> None:
    for member, read in opened(magic + data):
        assert member.problem or read is not None


@given(st.integers(0, len(WHOLE)))
def test_a_cut_leaves_what_stands_before_it(cut: int) -> None:
    whole = [(m, data) for m, data in opened(WHOLE) if m.offset + m.bytes <= cut]
    left = good_of(opened(WHOLE[:cut]))
    assert left == good_of(whole)[: len(left)]
    assert len(left) >= len(whole) - 1  # an empty file whose header is cut
