"""Tar files of samples: read by the standard library and by facepipe's own reader."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from facepipe.sample_tar import Sample, write_samples
from facepipe.source_tar import open_tar

SAMPLES = [
    Sample(key="aa-0000", image=b"\x89PNGone", suffix="png", label=3, identity="../x", weight=0.5),
    Sample(key="bb-0001", image=b"\xff\xd8two", suffix="jpg", label=0, identity="Ann", weight=1.0),
]


def written(samples: list[Sample]) -> bytes:
    stream = io.BytesIO()
    assert write_samples(samples, stream) == len(samples)
    return stream.getvalue()


def test_standard_library_reads_what_was_written() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(SAMPLES))) as tar:
        entries = tar.getmembers()
        assert [e.name for e in entries] == [
            "aa-0000.cls",
            "aa-0000.json",
            "aa-0000.png",
            "bb-0001.cls",
            "bb-0001.jpg",
            "bb-0001.json",
        ]
        facts = {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries}
        assert facts == {(0, 0, 0, "", "", 0o644)}
        data = {e.name: tar.extractfile(e).read() for e in entries}  # type: ignore[union-attr]
    assert data["aa-0000.png"] == b"\x89PNGone" and data["aa-0000.cls"] == b"3"
    assert json.loads(data["aa-0000.json"]) == {
        "face_id": "aa-0000",
        "identity": "../x",
        "label": 3,
        "weight": 0.5,
    }


def test_own_reader_finds_pictures_and_labels() -> None:
    container = open_tar(io.BytesIO(written(SAMPLES)), label_key=None)
    found = list(container.members())
    assert [(m.name, m.label, m.problem) for m in found] == [
        ("aa-0000.png", "3", None),
        ("bb-0001.jpg", "0", None),
    ]
    assert [container.read(m, 100) for m in found] == [b"\x89PNGone", b"\xff\xd8two"]
    by_name = open_tar(io.BytesIO(written(SAMPLES)), label_key="identity")
    assert [m.label for m in by_name.members()] == ["../x", "Ann"]


def test_same_samples_are_the_same_bytes() -> None:
    assert written(SAMPLES) == written(SAMPLES)


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a\0b"])
def test_a_key_that_is_no_sample_of_its_own_is_refused(key: str) -> None:
    bad = Sample(key=key, image=b"x", suffix="jpg", label=0, identity="", weight=0.0)
    with pytest.raises(ValueError, match="key"):
        written([bad])
