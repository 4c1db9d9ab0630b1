"""Lists of photos: each row one member, whatever the list is like."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import facepipe.source_list
from facepipe.containers import Container, Member
from facepipe.list_rows import LABEL_COLUMNS, MAX_RECORD_LINES, PHOTO_COLUMNS, lists_photos
from facepipe.source_list import is_list, open_list, read_listed
from facepipe.sources import path_of
from facepipe.url_guard import UrlSettings


class Trickle(io.BytesIO):
    """A list without end: only what is asked for is made."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        super().__init__()
        self._lines, self.given = itertools.cycle(lines), 0

    def readline(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        self.given += 1
        line = next(self._lines)
        assert size is None or len(line) <= size
        return line


def listed(data: bytes, name: str = "x.csv", base: str = "/photos", **more: object) -> list[Member]:
    container: Container = open_list(io.BytesIO(data), name, base, **more)  # type: ignore[arg-type]
    return list(container.members())


def rows(data: bytes, name: str = "x.csv", base: str = "/photos") -> list[tuple[str, str | None]]:
    found = listed(data, name, base)
    assert [m.problem for m in found] == [None] * len(found)
    assert [m.offset for m in found] == list(range(len(found)))
    return [(m.name, m.label) for m in found]


def parquet(**columns: object) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


WANTED = [("/photos/a.jpg", "ann"), ("/photos/sub/b.jpg", None), ("/else/c.jpg", "cé")]
PLACES, LABELS = ["a.jpg", "./sub/b.jpg", "/else/c.jpg"], ["ann", "", "cé"]
LISTS = {
    "csv": b"path,label\na.jpg,ann\n./sub/b.jpg,\n/else/c.jpg,c\xc3\xa9\n",
    "csv of Windows": b"\xef\xbb\xbfpath,label\r\na.jpg,ann\r\n./sub/b.jpg\r\n\r\n"
    b"/else/c.jpg,c\xc3\xa9",
    "csv with quotes": b'"label", "PATH"\nann,"a.jpg"\n"",./sub/b.jpg\n"c\xc3\xa9",/else/c.jpg\n',
    "csv with semicolons": b"label;image;x,y\nann;a.jpg;1,5\n;./sub/b.jpg\nc\xc3\xa9;/else/c.jpg\n",
    "csv with tabs": b"identity\tfile\nann\ta.jpg\n\t./sub/b.jpg\nc\xc3\xa9\t/else/c.jpg",
    "csv with captions": b'caption,path,label\n"one\nor ""two""",a.jpg,ann\n,./sub/b.jpg,\n'
    b"x,/else/c.jpg,c\xc3\xa9\n",
    "tsv": b'uri\tcaption\tperson\na.jpg\t"Hi" he said\tann\n"./sub/b.jpg"\t"\t\n'
    b"/else/c.jpg\t\tc\xc3\xa9\n",
    "parquet": parquet(path=PLACES, label=["ann", None, "cé"]),
    "parquet, categories": parquet(
        filename=pa.array(PLACES).dictionary_encode(), label=pa.array(LABELS).dictionary_encode()
    ),
    "parquet, large and bytes": parquet(
        thumb=[b"x"] * 3, Image=pa.array(PLACES, pa.large_string()), **{"Class ": LABELS}
    ),
}


@pytest.mark.parametrize("kind", LISTS)
def test_each_kind_of_list_gives_the_same_photos(kind: str) -> None:
    name = f"faces.{kind[:7].strip(' ,').split(' ')[0]}"
    assert rows(LISTS[kind], name) == WANTED
    assert is_list(LISTS[kind][:256], name.upper())


@pytest.mark.parametrize("column", PHOTO_COLUMNS)
def test_the_first_known_column_is_the_photos(column: str) -> None:
    later = PHOTO_COLUMNS[PHOTO_COLUMNS.index(column) + 1 :]
    header = ",".join((*reversed(later), column))
    assert rows(f"{header}\n{'z,' * len(later)}a.jpg\n".encode()) == [("/photos/a.jpg", None)]
    data = parquet(**{name: ["z"] for name in later}, **{column: ["a.jpg"]})
    assert rows(data, "x.parquet") == [("/photos/a.jpg", None)]


@pytest.mark.parametrize("column", LABEL_COLUMNS)
def test_labels_may_be_numbers(column: str) -> None:
    assert rows(f"{column},path\n7,a\n".encode()) == [("/photos/a", "7")]
    assert rows(parquet(path=["a"], **{column: [7]}), "x.parquet") == [("/photos/a", "7")]


def test_a_label_of_another_type_is_no_label() -> None:
    data = parquet(path=["a"], label=[0.5], identity=["ann"])
    assert rows(data, "x.parquet") == [("/photos/a", "ann")]


@pytest.mark.parametrize(
    ("place", "base", "name"),
    [
        ("a/../b.jpg", "/x", "/x/a/../b.jpg"),  # a may be a link: .. is left to the system
        ("a//./b.jpg", "/x/", "/x/a/b.jpg"),
        ("file:///y/a%20b.jpg", "/x", "/y/a b.jpg"),
        ("a b.jpg ", "/x", "/x/a b.jpg "),
        ("~/a.jpg", "/x", "/x/~/a.jpg"),
        ("a.jpg", "file:///x%20y", "/x y/a.jpg"),
        ("C:\\a.jpg", "/x", "/x/C:\\a.jpg"),
    ],
)
def test_paths_start_from_the_folder_of_the_list(place: str, base: str, name: str) -> None:
    assert rows(f"path\n{place}\n".encode(), base=base) == [(name, None)]


def test_a_relative_folder_is_made_absolute() -> None:
    """Else ./https:/x would be a URL by the time it is read."""
    assert rows(b"path\n./https:/x\n", base="") == [(str(Path.cwd() / "https:/x"), None)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_name_that_is_no_utf8_is_found_again(tmp_path: Path, kind: str) -> None:
    path = os.fsencode(tmp_path) + b"/\xe9.jpg"
    Path(os.fsdecode(path)).write_bytes(b"photo")
    data = b"path\n\xe9.jpg\n"
    if kind == "parquet":
        texts = pa.array([b"\xe9.jpg"]).view(pa.string())
        data = parquet(path=texts)
    (member,) = listed(data, f"x.{kind}", str(tmp_path))
    member.name.encode()
    assert os.fsencode(path_of(member.name)) == path
    assert open_list(io.BytesIO(), "x.csv", "").read(member, 10) == b"photo"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "x.csv"),
        (b"\n\npath\na.jpg\n", "x.csv"),
        (b"a.jpg\nb.jpg\n", "x.csv"),
        (b"name,photo\n1,2\n", "x.tsv"),
        ("path\na.jpg\n".encode("utf-16"), "x.csv"),
        (b"path" * 1_000_000, "x.csv"),
        (b'"path\na.jpg\n', "x.csv"),
        (bytes(1000), "x.csv"),
        (parquet(photo=["a"]), "x.parquet"),
        (parquet(path=[1]), "x.parquet"),
        (parquet(image=[b"a"]), "x.parquet"),
    ],
)
def test_what_names_no_column_of_photos_is_refused_with_the_remedy(data: bytes, name: str) -> None:
    (member,) = listed(data, name)
    assert member.problem is not None
    assert all(column in member.problem for column in PHOTO_COLUMNS)
    with pytest.raises(OSError, match="no list of photos"):
        open_list(io.BytesIO(data), name, "/").read(member, 10)


def test_which_files_are_lists() -> None:
    assert is_list(b"anything", "a/b.CSV")
    assert is_list(b"label\tfile\n", "x.tsv")
    assert not is_list(b"m.0abc\t1\t2\tface\t/9j/4AAQ", "x.tsv")  # MS-Celeb's
    assert not is_list(b"path\n", "x.txt")
    assert not is_list(b"path\n", "csv")
    assert not is_list(b"path\n", "x.parquet")
    assert is_list(LISTS["parquet"][:256], "x.parquet")


def test_a_parquet_of_photos_is_no_list() -> None:
    text, photo = pa.string(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert lists_photos(pa.schema([("url", text), ("caption", text)]))
    assert not lists_photos(pa.schema([("url", text), ("jpg", pa.binary())]))  # img2dataset
    assert not lists_photos(pa.schema([("path", text), ("image", photo)]))  # Hugging Face
    assert not lists_photos(pa.schema([("caption", text)]))


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        (b",ann", "line 3", "names no photo"),
        (b" ,ann", "line 3", "names no photo"),
        (b'"a"b,ann', "line 3", "cannot be read: ',' expected after '\"'"),
        (b'"a.jpg,ann', "line 3", "cannot be read: unexpected end of data"),
        (b"x" * 3000, "line 3", "longer than 2000 bytes"),
        (b"x\0y,ann", "x\0y", "NUL"),
        (b"s3://bucket/a.jpg,ann", "s3://bucket/a.jpg", "s3:// is no file"),
        (b"file://host/a.jpg,ann", "file://host/a.jpg", "file:// is no file"),
        (b"https://example.org/a.jpg,ann", "https://example.org/a.jpg", "not in urls.allow"),
        (b"http://example.org/a.jpg,ann", "http://example.org/a.jpg", "allow_http"),
        (b"https:\xff,ann", "https:�", "not fetched"),
        (b"a\rb,ann", "line 3", "cannot be read"),
    ],
)
def test_a_row_with_a_problem_costs_itself_alone(line: bytes, name: str, words: str) -> None:
    data = b"path,label\n1.jpg,a\n" + line + b"\n2.jpg,b\n3.jpg,\xff\n"
    found = listed(data, max_line_bytes=2000)
    assert [m.offset for m in found] == [0, 1, 2, 3]
    assert [(m.name, m.label) for m in found if m.problem is None] == [
        ("/photos/1.jpg", "a"),
        ("/photos/2.jpg", "b"),
        ("/photos/3.jpg", "�"),
    ]
    bad = found[1]
    assert bad.name == name
    assert bad.problem is not None
    assert words in bad.problem
    with pytest.raises(OSError, match=words[:10]):
        open_list(io.BytesIO(data), "x.csv", "/").read(bad, 10)


def test_a_long_row_of_parquet_costs_itself_alone() -> None:
    found = listed(parquet(path=["a", "x" * 3000, None, "b"]), "x.parquet", max_line_bytes=2000)
    assert [m.problem and m.problem[:11] for m in found] == [
        None, "longer than", "the row nam", None,
    ]  # fmt: skip
    assert found[1].name == "row 1"


def test_a_quote_that_is_never_closed_swallows_nothing() -> None:
    lines = [b"%d.jpg,x" % n for n in range(3 * MAX_RECORD_LINES)]
    lines[5] = b'5.jpg,"x'
    lines[250] = b'"250.jpg,x'
    found = listed(b"path,caption\n" + b"\n".join(lines))
    assert [m.offset for m in found if m.problem is not None] == [5, 250]
    assert [m.name for m in found if m.problem is not None] == ["line 7", "line 252"]
    assert len(found) == len(lines)
    assert found[-1].name == f"/photos/{len(lines) - 1}.jpg"


def test_a_line_over_the_limit_within_quotes() -> None:
    data = b'path,caption\n1.jpg,"open\n' + b"x" * 5000 + b"\n2.jpg,b\n"
    found = listed(data, max_line_bytes=100)
    assert [(m.name, m.problem is None) for m in found] == [
        ("line 2", False),
        ("line 3", False),
        ("/photos/2.jpg", True),
    ]


@pytest.mark.parametrize(
    "lines",
    [
        [b'a","\n'],  # from within quotes it ends within quotes again
        [b'x,"\n', b"y\n"],
        [b'"""\n'],
        [b"a" * 1000 + b"\n"],
        [b",\n"],
    ],
)
def test_a_list_without_end_is_read_row_by_row(lines: list[bytes]) -> None:
    """What is read ahead for a row is bounded, whatever its quotes say."""
    stream = Trickle([b"path,caption\n", *lines * 300])
    stream.seek = lambda *_: 0  # type: ignore[method-assign]
    members = open_list(stream, "x.csv", "/", max_line_bytes=10_000).members()
    for n, _ in enumerate(itertools.islice(members, 200), 1):
        assert stream.given <= 1 + (2 + n) * MAX_RECORD_LINES


def test_rows_that_are_never_ending_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facepipe.source_list, "MAX_ROWS", 1000)
    found = listed(parquet(path=["a"] * 100_000), "x.parquet")
    assert len(found) == 1001
    assert found[-1].problem == "more than 1000 rows: not read from here on"


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_parquet_is_one_problem(keep: float) -> None:
    data = parquet(path=[f"{n}.jpg" for n in range(10_000)])
    (member,) = listed(data[: int(len(data) * keep)], "x.parquet")
    assert member.problem is not None
    assert member.problem.startswith("damaged: ")


def test_damage_within_a_parquet_costs_its_row_group() -> None:
    stream = io.BytesIO()
    table = pa.table({"path": [f"{n}.jpg" for n in range(10_000)]})
    pq.write_table(table, stream, row_group_size=4000, use_dictionary=False)
    data = bytearray(stream.getvalue())
    second = pq.ParquetFile(stream).metadata.row_group(1).column(0).data_page_offset
    data[second : second + 40] = b"\xff" * 40
    found = listed(bytes(data), "x.parquet")
    kept = [*range(4000), *range(8000, 10_000)]
    assert [m.name for m in found if m.problem is None] == [f"/photos/{n}.jpg" for n in kept]
    (bad,) = (m for m in found if m.problem is not None)
    assert (bad.name, bad.offset) == ("row 4000", 4000)
    assert bad.problem is not None
    assert bad.problem.startswith("damaged: 4000 rows from here")


@given(st.binary(max_size=300))
def test_any_bytes_are_listed_without_an_error(data: bytes) -> None:
    for text in (data, b"path,label\n" + data):
        for name in ("x.csv", "x.tsv", "x.parquet"):
            found = listed(text, name, max_line_bytes=50)
            assert [m.offset for m in found] == list(range(len(found)))
            for member in found:
                assert member.name
                (member.name + (member.label or "") + (member.problem or "")).encode()


def test_a_photo_is_read_from_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    (tmp_path / "l.jpg").symlink_to("a.jpg")
    members = listed(b"path\na.jpg\nl.jpg\n", base=str(tmp_path))
    stream = io.BytesIO(b"no list at all")
    container: Container = open_list(stream, "x.csv", "/nowhere")
    for member in reversed(members):
        assert container.read(member, 20) == b"0123456789"
        assert container.read(member, 9) == b"0123456789"  # one more than the limit
        assert container.read(member, 4) == b"01234"
    assert stream.tell() == 0
    assert not container.sequential
    container.close()
    assert stream.closed


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, words in {
        "pipe": "not a regular file",
        "folder": "not a regular file",
        "zero": "not a regular file",
        "loop": "symbolic link",
        "gone": "No such file",
        "x" * 5000: "name too long",
    }.items():
        with pytest.raises(OSError, match=f"^cannot be read: .*{words}"):
            read_listed(str(tmp_path / name), UrlSettings(), 10)


def test_urls_are_fetched_where_they_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def fetch(url: str, urls: UrlSettings, max_bytes: int) -> bytes:
        asked.append((url, max_bytes))
        return b"photo"

    monkeypatch.setattr(facepipe.source_list, "fetch", fetch)
    allow = UrlSettings(allow=("example.org",))
    data = b"url\nhttps://example.org/a%20b.jpg?x=1#y\n HTTPS://Example.ORG/2 \nhttps://evil.org/\n"
    container = open_list(io.BytesIO(data), "x.csv", "/", allow)
    first, second, third = container.members()
    assert (first.name, second.name) == (
        "https://example.org/a%20b.jpg?x=1#y",
        "HTTPS://Example.ORG/2",
    )
    assert (first.problem, second.problem) == (None, None)
    assert container.read(first, 7) == container.read(second, 8) == b"photo"
    assert third.problem == "not fetched: host evil.org is not in urls.allow"
    with pytest.raises(OSError, match=r"evil\.org is not in"):
        container.read(third, 7)
    assert asked == [(first.name, 7), (second.name, 8)]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("a.jpg", "s3://bucket/lists/a.jpg"),
        ("./sub/a.jpg", "s3://bucket/lists/sub/a.jpg"),
        ("../a.jpg", "s3://bucket/lists/../a.jpg"),  # keys are not paths: this is one
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg"),
    ],
)
def test_a_list_in_a_bucket_names_what_is_in_it(place: str, name: str) -> None:
    assert rows(f"path\n{place}\n".encode(), base="s3://bucket/lists") == [(name, None)]
    assert rows(b"path\na.jpg\n", base="s3://bucket") == [("s3://bucket/a.jpg", None)]


@pytest.mark.parametrize(
    "place",
    ["/etc/passwd", "file:///etc/passwd", "s3://bucket2/a.jpg", "s3://other/a.jpg",
     "gs://bucket/a.jpg", "s3://bucket"],
)  # fmt: skip
def test_a_list_in_a_bucket_names_nothing_else(place: str) -> None:
    (member,) = listed(f"path\n{place}\n".encode(), base="s3://bucket/lists")
    assert member.problem == "not read: the list lies in s3://bucket/, and this does not"
    (member,) = listed(b"path\n\xff.jpg\n", base="s3://bucket/lists")
    assert member.problem == "not read: the name is no UTF-8"
