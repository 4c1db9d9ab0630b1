"""Reading Parquet files of photos: the common layouts, large row groups, damage."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.containers import Member
from facepipe.source_parquet import ParquetContainer, is_parquet, open_parquet

LIMIT = 1 << 22
JPEGS = [b"\xff\xd8\xff" + bytes([n]) * (20 + n) for n in range(10)]


def written(table: pa.Table | dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    table = pa.table(table) if isinstance(table, dict) else table
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def opened(data: bytes) -> ParquetContainer:
    return open_parquet(io.BytesIO(data), batch_rows=3)


def listed(data: bytes) -> list[Member]:
    return list(opened(data).members())


def photos(data: bytes) -> list[tuple[str, str | None, bytes]]:
    container = opened(data)
    found = [m for m in container.members() if m.problem is None]
    return [(m.name, m.label, container.read(m, LIMIT)) for m in found]


def hugging_face(features: dict[str, Any], columns: dict[str, Any]) -> bytes:
    table = pa.table(columns)
    metadata = json.dumps({"info": {"features": features}})
    return written(table.replace_schema_metadata({"huggingface": metadata}))


IMAGE = {"_type": "Image"}
STRUCT = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(JPEGS)]


def test_img2dataset_layout() -> None:
    data = written(
        {
            "url": [f"http://a/{n}" for n in range(4)],
            "key": ["000000", "000001", "000002", "000003"],
            "status": ["success", "failed_to_download", "failed_to_resize", "success"],
            "error_message": [None, "HTTP Error 404: Not Found", None, None],
            "width": pa.array([112, None, None, 112], pa.int32()),
            "jpg": [JPEGS[0], None, None, None],
        }
    )
    assert listed(data) == [
        Member(name="000000", offset=0, bytes=20 + 3),
        Member(name="000001", offset=1, problem="not downloaded: HTTP Error 404: Not Found"),
        Member(name="000002", offset=2, problem="not downloaded: failed_to_resize"),
        Member(name="000003", offset=3, problem="the row has no image"),
    ]
    assert photos(data) == [("000000", None, JPEGS[0])]


def test_hugging_face_layout() -> None:
    label = {"_type": "ClassLabel", "names": ["Ann", "Bob\u202e", "Eve"]}
    features = {"image": IMAGE, "label": label}
    data = hugging_face(features, {"image": STRUCT[:5], "label": [0, 2, 1, -1, 7]})
    assert photos(data) == [
        ("0.jpg", "Ann", JPEGS[0]),
        ("1.jpg", "Eve", JPEGS[1]),
        ("2.jpg", "Bob\ufffd", JPEGS[2]),
        ("3.jpg", None, JPEGS[3]),
        ("4.jpg", "7", JPEGS[4]),
    ]


def test_the_declared_image_comes_first() -> None:
    columns = {"image": [b"other"] * 3, "photo": STRUCT[:3], "identity": ["x", "", None]}
    data = hugging_face({"photo": IMAGE}, columns)
    assert photos(data) == [
        ("0.jpg", "x", JPEGS[0]),
        ("1.jpg", None, JPEGS[1]),
        ("2.jpg", None, JPEGS[2]),
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"info": 5}',
        b'{"info": {"features": [1]}}',
        b"\xff",
        b"[" * 99_999,
    ],
)
def test_metadata_that_cannot_be_read_is_passed_over(metadata: bytes) -> None:
    table = pa.table({"image": STRUCT[:1], "label": [3]})
    data = written(table.replace_schema_metadata({"huggingface": metadata}))
    assert photos(data) == [("0.jpg", "3", JPEGS[0])]


def test_a_path_without_bytes_is_not_followed() -> None:
    rows = [{"bytes": None, "path": "/etc/passwd"}, None, STRUCT[2], {"bytes": b"", "path": None}]
    members = listed(written({"image": rows}))
    assert [m.problem for m in members] == [
        "the row has the path of an image, not its bytes",
        "the row has no image",
        None,
        "the row has no image",
    ]
    with pytest.raises(OSError, match="no image"):
        opened(written({"image": rows})).read(members[0], LIMIT)


@pytest.mark.parametrize(
    "column", ["image", "JPG", "jpeg", "png", "webp", "bytes", "data", "content"]
)
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_plain_columns(column: str, kind: pa.DataType) -> None:
    data = written(pa.table({"x": range(10), column: pa.array(JPEGS, kind)}))
    assert photos(data) == [(str(n), None, image) for n, image in enumerate(JPEGS)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([5, 2**40]), ["5", str(2**40)]),
        (pa.array(["ann", "Zoë\n"]), ["ann", "Zoë\ufffd"]),
        (pa.array(["ann", "bob"]).dictionary_encode(), ["ann", "bob"]),
        (pa.array([1.0, float("nan")]), ["1", None]),
        (pa.array([0.5, float("inf")], pa.float32()), ["0.5", None]),
        (pa.array([b"7", b"\xff"]), ["7", "\ufffd"]),
        (pa.array([None, ""]), [None, None]),
        (pa.array([[1], [2]]), [None, None]),
    ],
)
@pytest.mark.parametrize("column", ["label", "Identity", "class", "person", "target", "cls"])
def test_labels(column: str, values: pa.Array, expected: list[str | None]) -> None:
    data = written(pa.table({"jpg": JPEGS[:2], column: values}))
    assert [p[1] for p in photos(data)] == expected


def test_columns_that_share_a_name_are_not_used() -> None:
    table = pa.table(
        [pa.array(JPEGS[:2])] * 2 + [pa.array(JPEGS[:2])], names=["image", "image", "png"]
    )
    assert [p[2] for p in photos(written(table))] == JPEGS[:2]


@pytest.mark.parametrize(
    "columns",
    [
        {"a": [1]},
        {"image": ["path.jpg"]},
        {"image": [5]},
        {"image": [{"path": "a.jpg"}]},
        {"thumbnail": [b"\xff\xd8\xff"]},
    ],
)
def test_a_file_without_photos_is_one_problem(columns: dict[str, Any]) -> None:
    (member,) = listed(written(columns))
    assert "no column of photos" in (member.problem or "")
    with pytest.raises(OSError, match="no photo"):
        opened(written(columns)).read(Member(name="0", offset=0), 1)


def test_no_rows_is_no_member() -> None:
    assert listed(written({"jpg": pa.array([], pa.binary())})) == []


def test_rows_are_read_in_any_order() -> None:
    data = written({"jpg": JPEGS}, row_group_size=4)
    container, members = opened(data), listed(data)
    assert [m.offset for m in members] == list(range(10))
    assert [m.bytes for m in members] == list(map(len, JPEGS))
    for row in [0, 1, 2, 5, 9, 9, 3, 4, 0, 8, 7]:
        assert container.read(Member(name="", offset=row), LIMIT) == JPEGS[row]
    assert container.sequential is False
    for row in (-1, 10, 2**60):
        with pytest.raises(OSError, match="no photo in row"):
            container.read(Member(name="", offset=row), LIMIT)


def test_reading_stops_after_the_limit() -> None:
    container = opened(written({"jpg": JPEGS}))
    for limit in (0, 5, 22, 23, LIMIT):
        assert container.read(Member(name="", offset=0), limit) == JPEGS[0][: limit + 1]


class Counting(io.BytesIO):
    """A stream that counts what is read, and fails when told to."""

    taken = 0
    fails = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.fails:
            raise TimeoutError("the store does not answer")
        data = super().read(size)
        self.taken += len(data)
        return data


def test_a_large_row_group_is_read_once_and_never_held() -> None:
    noise = random.Random(0)
    images = [noise.randbytes(20_000) for _ in range(3000)]
    stream = Counting(written({"jpg": images}, row_group_size=3000, write_batch_size=16))
    pool, before = pa.default_memory_pool(), pa.total_allocated_bytes()
    container = open_parquet(stream)
    peak, members = 0, []
    for member in container.members():
        peak = max(peak, pool.bytes_allocated() - before)
        members.append(member)
    assert len(members) == 3000
    assert stream.taken < 62_000_000
    for member, image in zip(members, images, strict=True):
        assert container.read(member, LIMIT) == image
        peak = max(peak, pool.bytes_allocated() - before)
    assert stream.taken < 2 * 62_000_000
    assert peak < 12 << 20


def test_a_stream_that_fails_is_not_damage() -> None:
    stream = Counting(written({"jpg": JPEGS}, row_group_size=2))
    container = open_parquet(stream)
    stream.fails = True
    with pytest.raises(TimeoutError, match="does not answer"):
        list(container.members())
    with pytest.raises(TimeoutError, match="does not answer"):
        container.read(Member(name="", offset=0), LIMIT)
    stream.fails = False
    assert container.read(Member(name="", offset=0), LIMIT) == JPEGS[0]


def test_a_damaged_row_group_costs_itself() -> None:
    data = bytearray(written({"jpg": JPEGS}, row_group_size=4))
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1)
    place = group.column(0).dictionary_page_offset
    data[place : place + 10] = b"\xff" * 10  # the header of its first page
    members = listed(bytes(data))
    assert [m.offset for m in members] == [0, 1, 2, 3, 4, 8, 9]
    assert (members[4].problem or "").startswith("rows 4 to 7 are lost")
    container = opened(bytes(data))
    with pytest.raises(OSError, match="damaged"):
        container.read(Member(name="", offset=5), LIMIT)
    assert container.read(members[-1], LIMIT) == JPEGS[9]


def test_more_rows_than_bytes_are_refused() -> None:
    data = written({"jpg": pa.nulls(3_000_000, pa.binary())})
    assert len(data) < 100_000
    with pytest.raises(OSError, match="more than the file has bytes"):
        opened(data)


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1" * 3, b"PAR1" + b"\xff" * 8 + b"PAR1", b"x" * 1000]
)
def test_a_file_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(OSError, match="damaged"):
        opened(data)


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (b"PAR1\x15\x04", "a.parquet", True),
        (b"PAR1\x15\x04", "A.PARQUET", True),
        (b"PAR1\x15\x04", "a.jpg", False),
        (b"\xff\xd8\xff", "a.parquet", False),
        (b"", "a.parquet", False),
    ],
)
def test_is_parquet(head: bytes, name: str, expected: bool) -> None:
    assert is_parquet(head, name) is expected


FILES = [
    written({"jpg": JPEGS, "key": list(map(str, range(10)))}, row_group_size=4, compression=codec)
    for codec in ("none", "snappy", "zstd")
]
FILES.append(hugging_face({"image": IMAGE}, {"image": STRUCT, "label": list(range(10))}))


@given(st.data(), st.sampled_from(FILES))
def test_flips_and_cuts_end(drawn: st.DataObject, file: bytes) -> None:
    data = bytearray(file)
    for place in drawn.draw(st.lists(st.integers(4, len(data) - 9), max_size=4)):
        data[place] = drawn.draw(st.integers(0, 255))
    cut = drawn.draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    try:
        container = opened(bytes(data[:cut]))
    except OSError:
        return
    for member in container.members():
        assert 0 <= member.offset < len(data)
        if member.problem is None:
            try:
                assert len(container.read(member, LIMIT)) > 0
            except OSError:
                continue


STARTS = [
    pq.ParquetFile(io.BytesIO(FILES[0])).metadata.row_group(n).column(0).dictionary_page_offset
    for n in range(3)
]
FOOTER = len(FILES[0]) - 8 - int.from_bytes(FILES[0][-8:-4], "little")


@given(st.integers(STARTS[0], FOOTER - 1), st.binary(min_size=1, max_size=9))
def test_damage_costs_nothing_in_other_row_groups(place: int, noise: bytes) -> None:
    data = bytearray(FILES[0])
    noise = noise[: FOOTER - place]
    data[place : place + len(noise)] = noise
    hit = {sum(start <= p for start in STARTS) - 1 for p in (place, place + len(noise) - 1)}
    found = survivors(bytes(data))
    for number, images in enumerate([JPEGS[0:4], JPEGS[4:8], JPEGS[8:10]]):
        assert number in hit or set(images) <= set(found)


def survivors(data: bytes) -> list[bytes]:
    container, found = opened(data), []
    for member in container.members():
        try:
            found.append(container.read(member, LIMIT))
        except OSError:
            continue
    return found
