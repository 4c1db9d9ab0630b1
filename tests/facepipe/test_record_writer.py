"""Writing .rec sets: read back by a reader that knows the format's description alone.

The reader below follows the text of MXNet's and insightface's own sources (dmlc-core's
recordio, mxnet.recordio.unpack, insightface's FaceDataset) and uses nothing of facepipe.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.errors import UsageError
from facepipe.record_writer import RecordCounts, RecordStreams, write_records

MAGIC_BYTES = bytes([0x0A, 0x23, 0xD7, 0xCE])
Photo = tuple[int, str, bytes]
Record = tuple[int, list[float], int, int, bytes]


def written(photos: list[Photo]) -> tuple[dict[str, bytes], RecordCounts]:
    files = {name: io.BytesIO() for name in ("rec", "idx", "lst", "property")}
    counts = write_records(iter(photos), RecordStreams(**files))
    return {name: stream.getvalue() for name, stream in files.items()}, counts


def read_record(data: bytes, offset: int) -> tuple[bytes, int]:
    """Return the payload of the record at an offset, and where the next one is."""
    payload = b""
    while True:
        magic, word = struct.unpack("<II", data[offset : offset + 8])
        assert magic == 0xCED7230A
        assert offset % 4 == 0
        continued, length = word // 2**29, word % 2**29
        payload += data[offset + 8 : offset + 8 + length]
        rounded = (length + 3) // 4 * 4
        assert data[offset + 8 + length : offset + 8 + rounded] == bytes(rounded - length)
        offset += 8 + rounded
        if continued in (0, 3):
            return payload, offset
        payload += MAGIC_BYTES


def unpacked(payload: bytes) -> Record:
    flag, label, id1, id2 = struct.unpack("<IfQQ", payload[:24])
    labels = [label]
    if flag > 0:
        labels = list(struct.unpack(f"<{flag}f", payload[24 : 24 + 4 * flag]))
    return flag, labels, id1, id2, payload[24 + 4 * flag :]


def by_key(files: dict[str, bytes]) -> dict[int, Record]:
    records = {}
    for line in files["idx"].decode().splitlines():
        key, offset = line.split("\t")
        records[int(key)] = unpacked(read_record(files["rec"], int(offset))[0])
    return records


def in_order(data: bytes) -> Iterator[tuple[int, Record]]:
    offset = 0
    while offset < len(data):
        payload, after = read_record(data, offset)
        yield offset, unpacked(payload)
        offset = after


PHOTOS: list[Photo] = [
    (0, "ann/1.jpg", b"\xff\xd8one"),
    (0, "ann/2.jpg", b"\xff\xd8twotwo"),
    (3, "bob/ü 1.jpg", b"\xff\xd8three" + MAGIC_BYTES * 3),
    (7, "eve/1.jpg", b"x"),
]


def test_bytes_are_those_of_the_description() -> None:
    files, counts = written([(5, "a/b.jpg", b"\xff\xd8\xff")])
    photo = struct.pack("<IfQQ2f", 2, 0.0, 1, 0, 5.0, 1.0) + b"\xff\xd8\xff"
    header = struct.pack("<IfQQ2f", 2, 0.0, 0, 0, 2.0, 3.0)
    identity = struct.pack("<IfQQ2f", 2, 0.0, 2, 0, 1.0, 2.0)
    expected = b"".join(
        MAGIC_BYTES + struct.pack("<I", len(p)) + p + bytes(-len(p) % 4)
        for p in (photo, header, identity)
    )
    assert files["rec"] == expected
    assert files["idx"] == b"1\t0\n0\t44\n2\t84\n"
    assert files["lst"] == b"1\ta/b.jpg\t5\n"
    assert files["property"] == b"6,112,112\n"
    assert counts == RecordCounts(photos=1, identities=1, classes=6, rec_bytes=len(expected))


def test_insightface_dataset_logic_finds_every_photo() -> None:
    files, counts = written(PHOTOS)
    records = by_key(files)
    assert (counts.photos, counts.identities, counts.classes) == (4, 3, 8)
    flag, header0, *_ = records[0]
    assert flag > 0
    photos = [records[key] for key in range(1, int(header0[0]))]
    assert [(int(r[1][0]), r[4]) for r in photos] == [(label, data) for label, _, data in PHOTOS]
    assert all(r[0] == 2 and r[1][1] == 1.0 for r in photos)
    ranges = [tuple(map(int, records[key][1])) for key in range(int(header0[0]), int(header0[1]))]
    assert ranges == [(1, 3), (3, 4), (4, 5)]
    assert set(records) == set(range(int(header0[1])))
    assert all(key == record[2] for key, record in records.items())


def test_index_and_file_agree() -> None:
    files, counts = written(PHOTOS)
    in_file = [(f"{record[2]}\t{offset}") for offset, record in in_order(files["rec"])]
    assert in_file == files["idx"].decode().splitlines()
    assert len(files["rec"]) == counts.rec_bytes


def test_lst_and_property_are_read_as_insightface_reads_them() -> None:
    files, _ = written(PHOTOS)
    lines = [line.split("\t") for line in files["lst"].decode().splitlines()]
    assert [(int(a), path, int(label)) for a, path, label in lines] == [
        (1, name, label) for label, name, _ in PHOTOS
    ]
    assert [len(line.strip().split(",")) for line in files["property"].decode().splitlines()] == [3]


def test_nothing_to_write_is_a_header_alone() -> None:
    files, counts = written([])
    assert counts == RecordCounts(photos=0, identities=0, classes=0, rec_bytes=40)
    assert by_key(files) == {0: (2, [1.0, 1.0], 0, 0, b"")}
    assert files["property"] == b"0,112,112\n"


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ([(1, "a", b"x"), (0, "b", b"x")], "sorted by label"),
        ([(-1, "a", b"x")], "sorted by label"),
        ([(2**24, "a", b"x")], "float32"),
        ([(0, "a", b"")], "no image"),
        ([(0, "a\tb", b"x")], "train.lst"),
        ([(0, "a\n", b"x")], "train.lst"),
    ],
)
def test_what_cannot_be_written_is_refused(photos: list[Photo], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        written(photos)


pieces = st.lists(st.sampled_from([MAGIC_BYTES, MAGIC_BYTES[:2], b"\0", b"ab", b"\xff\xd8\xff"]))
images = st.one_of(st.binary(min_size=1, max_size=60), pieces.map(b"".join).filter(bool))


@given(st.lists(st.tuples(st.integers(0, 9), images), max_size=12))
def test_any_payload_comes_back(pairs: list[tuple[int, bytes]]) -> None:
    photos = [(label, f"{n}.jpg", data) for n, (label, data) in enumerate(sorted(pairs))]
    files, _ = written(photos)
    assert written(photos)[0] == files
    records = by_key(files)
    assert [records[n][4] for n in range(1, len(photos) + 1)] == [p[2] for p in photos]
    # A magic at a multiple of 4 begins a part, and nothing else.
    assert len(list(in_order(files["rec"]))) == len(records)
