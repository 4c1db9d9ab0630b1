from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

import pytest

from facepipe.containers import Member
from facepipe.source_tar import open_tar
from facepipe.source_webdataset import (
    MAX_SAMPLE_MEMBERS,
    SIDECAR_BYTES,
    may_label,
    sample_of,
    with_labels,
)

Row = tuple[str, str | None]


def tar(files: list[tuple[str, str]], mode: str = "w") -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, text in files:
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    buffer.seek(0)
    return buffer


def rows(files: list[tuple[str, str]], label_key: str | None = None, mode: str = "w") -> list[Row]:
    members = list(open_tar(tar(files, mode), label_key=label_key).members())
    assert all(member.problem is None for member in members)
    return [(member.name, member.label) for member in members]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0001.jpg", ("0001", "jpg")),
        ("a.b/0001.left.JPG", ("a.b/0001", "left.jpg")),
        ("a/no-suffix", ("a/no-suffix", "")),
        ("a/.hidden.jpg", ("a/.hidden.jpg", "")),
        ("a/ends.", ("a/ends.", "")),
        ("", ("", "")),
    ],
)
def test_sample_of(name: str, expected: tuple[str, str]) -> None:
    assert sample_of(name) == expected
    assert may_label(name) is False


CLS, JSON, TXT = ("1.cls", "ann\n"), ("1.json", '{"label": "bob"}'), ("1.txt", "a caption")
PHOTO = ("1.jpg", "pixels")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([PHOTO, CLS], [("1.jpg", "ann")]),
        ([CLS, PHOTO], [("1.jpg", "ann")]),
        ([JSON, PHOTO], [("1.jpg", "bob")]),
        ([JSON, CLS, PHOTO, TXT], [("1.jpg", "ann")]),
        ([CLS, PHOTO, JSON], [("1.jpg", "ann")]),
        ([PHOTO, TXT], [("1.jpg", None)]),
        ([PHOTO], [("1.jpg", None)]),
        ([CLS, JSON, TXT], [("1.cls", None), ("1.json", None), ("1.txt", None)]),
        ([PHOTO, ("1.npy", ""), CLS], [("1.jpg", "ann"), ("1.npy", None)]),
        (
            [("1.left.png", ""), CLS, ("1.right.PNG", "")],
            [("1.left.png", "ann"), ("1.right.PNG", "ann")],
        ),
        (
            [PHOTO, ("2.jpg", ""), ("2.cls", "7"), ("3.jpg", "")],
            [("1.jpg", None), ("2.jpg", "7"), ("3.jpg", None)],
        ),
        ([PHOTO, ("a/1.cls", "other folder")], [("1.jpg", None), ("a/1.cls", None)]),
        ([CLS, ("2.jpg", ""), PHOTO], [("1.cls", None), ("2.jpg", None), ("1.jpg", None)]),
    ],
)  # fmt: skip
def test_sidecars_label_the_photos_of_their_sample(
    files: list[tuple[str, str]], expected: list[Row], mode: str
) -> None:
    assert rows(files, mode=mode) == expected


@pytest.mark.parametrize(
    ("value", "label_key", "expected"),
    [
        ({"label": "a", "identity": "b", "class": "c"}, None, "a"),
        ({"identity": "b", "class": "c"}, None, "b"),
        ({"class": 12}, None, "12"),
        ({"label": 0}, None, "0"),
        ({"label": "a", "person": "p"}, "person", "p"),
        ({"label": "a"}, "person", "a"),
        ({"label": None, "class": "c"}, None, "c"),
        ({"label": True}, None, None),
        ({"label": 1.5}, None, None),
        ({"label": ["a"]}, None, None),
        ({"label": "  "}, None, None),
        ({"label": " Zoë\n"}, None, "Zoë"),
        ({"label": "a\0b\ud800"}, None, "a\ufffdb?"),
        (["label", "a"], None, None),
        ("label", None, None),
    ],
)
def test_label_in_json(value: object, label_key: str | None, expected: str | None) -> None:
    assert rows([("1.json", json.dumps(value)), PHOTO], label_key) == [("1.jpg", expected)]


def test_label_key_goes_before_cls() -> None:
    files = [CLS, ("1.json", '{"person": "p", "label": "l"}'), PHOTO]
    assert rows(files, "person") == [("1.jpg", "p")]
    assert rows(files) == [("1.jpg", "ann")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "no JSON"),
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"label": ' + "9" * 5000 + "}", "no JSON"),
        (" " * (SIDECAR_BYTES + 1), "too large"),
    ],
    ids=["cut", "empty", "deep", "long number", "large"],
)
def test_a_sidecar_that_cannot_be_read_is_said(content: str, problem: str) -> None:
    found = list(open_tar(tar([PHOTO, ("1.json", content), ("2.jpg", "")])).members())
    assert [member.name for member in found] == ["1.jpg", "1.json", "2.jpg"]
    assert [member.label for member in found] == [None] * 3
    assert problem in (found[1].problem or "")
    alone = list(open_tar(tar([("1.json", content)])).members())
    assert [(member.name, member.problem) for member in alone] == [("1.json", None)]


def test_a_damaged_sidecar_is_not_hidden() -> None:
    data = tar([PHOTO, CLS]).getvalue()[: 1024 + 512 + 2]
    found = list(open_tar(io.BytesIO(data)).members())
    assert [(m.name, m.problem) for m in found] == [
        ("1.jpg", None),
        ("1.cls", "the archive ends within it"),
    ]


def test_a_long_run_of_one_name_is_not_held_back() -> None:
    asked = 0

    def long_run() -> Iterator[tuple[Member, None]]:
        nonlocal asked
        while asked < 5000:
            asked += 1
            yield Member(name=f"img.{asked}.jpg", offset=asked), None

    found = with_labels(long_run())
    assert [next(found).name for _ in range(1000)] == [f"img.{i}.jpg" for i in range(1, 1001)]
    assert asked <= 1000 + MAX_SAMPLE_MEMBERS
