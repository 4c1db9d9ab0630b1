"""Listing folders: everything once, loops survived, labels from folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facepipe.errors import SourceNotFound, UsageError
from facepipe.source_listing import list_sources
from facepipe.sources import SourceSettings, path_of, read_bytes, uri_of

FLAT, FOLDER = SourceSettings(), SourceSettings(labels="folder")


def touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_every_file_once_sorted_with_size_and_time(tmp_path: Path) -> None:
    files = [touch(tmp_path / n, b"12") for n in ("b.jpg", "a/x.png", "a/.hidden", "z/y/w.txt")]
    found = list_sources([str(tmp_path), str(tmp_path / "a")], FLAT)
    assert [e.uri for e in found] == sorted(map(str, files))
    assert {e.bytes for e in found} == {2}
    assert found[0].version == str(Path(found[0].uri).stat().st_mtime_ns)
    assert all(e.source_label is None and e.problem is None for e in found)


def test_labels_are_the_first_folder(tmp_path: Path) -> None:
    for name in ("ann/1.jpg", "ann/old/2.jpg", "bob/1.jpg", "loose.jpg"):
        touch(tmp_path / name)
    found = {
        Path(e.uri).relative_to(tmp_path).as_posix(): e
        for e in list_sources([str(tmp_path)], FOLDER)
    }
    labels = {name: e.source_label for name, e in found.items()}
    assert labels == {
        "ann/1.jpg": "ann",
        "ann/old/2.jpg": "ann",
        "bob/1.jpg": "bob",
        "loose.jpg": None,
    }


def test_two_roots_that_disagree_on_a_label_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "ann/old/1.jpg")
    with pytest.raises(UsageError, match="do not overlap"):
        list_sources([str(tmp_path), str(tmp_path / "ann")], FOLDER)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "in/a/1.jpg")
    elsewhere = touch(tmp_path / "else/2.jpg").parent
    (tmp_path / "in/a/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/linked").symlink_to(elsewhere)
    (tmp_path / "in/again").symlink_to(elsewhere)
    (tmp_path / "in/self").symlink_to(tmp_path / "in/self")
    (tmp_path / "in/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = list_sources([str(tmp_path / "in")], FLAT)
    names = {Path(e.uri).relative_to(tmp_path / "in").as_posix(): e.problem for e in found}
    assert {n for n, p in names.items() if p is None} == {"a/1.jpg", "again/2.jpg"}
    assert set(names) - {"a/1.jpg", "again/2.jpg"} == {"self", "gone.jpg"}
    assert all("cannot be" in (names[n] or "") for n in ("self", "gone.jpg"))


def test_a_pipe_is_named_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (entry,) = list_sources([str(tmp_path)], FLAT)
    assert entry.problem == "not a regular file"
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(entry, 10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_an_entry(tmp_path: Path) -> None:
    touch(tmp_path / "shut/1.jpg")
    (tmp_path / "shut").chmod(0)
    try:
        (entry,) = list_sources([str(tmp_path)], FLAT)
    finally:
        (tmp_path / "shut").chmod(0o700)
    assert entry.problem is not None and "cannot be listed" in entry.problem


def test_names_that_are_not_utf8_come_back(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/bad-\xff.jpg"
    with open(name, "wb") as stream:  # noqa: PTH123
        stream.write(b"data")
    (entry,) = list_sources([str(tmp_path)], FLAT)
    assert entry.uri.startswith("file:///") and entry.uri.endswith("bad-%FF.jpg")
    assert os.fsencode(path_of(entry.uri)) == name
    assert read_bytes(entry, 10) == b"data"
    assert uri_of("/plain/ü.jpg") == path_of("/plain/ü.jpg") == "/plain/ü.jpg"


def test_reading_stops_after_the_limit(tmp_path: Path) -> None:
    touch(tmp_path / "big", b"x" * 100)
    (entry,) = list_sources([str(tmp_path / "big")], FLAT)
    assert len(read_bytes(entry, 10)) == 11


def test_a_missing_root_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="does not exist"):
        list_sources([str(tmp_path / "none")], FLAT)


def test_a_url_that_is_not_read_says_what_is() -> None:
    with pytest.raises(SourceNotFound, match="s3://, gs:// and az:// are; photos at http"):
        list_sources(["http://example.org/a.jpg"], FLAT)
