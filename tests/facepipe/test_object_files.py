"""Objects as inputs: listed once, read in as few requests as they need."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from facepipe.errors import SourceNotFound, StoreError, UsageError
from facepipe.object_client import client, parse_uri
from facepipe.object_files import list_objects, open_object, read_object
from facepipe.object_store import ObjectStore
from tests.object_server import S3Server, raw_put


@pytest.fixture
def photos(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/photos")


def test_everything_below_a_prefix_is_listed_in_order(photos: ObjectStore) -> None:
    names = ["b/2.jpg", "b/ü 1.jpg", "a.jpg", "b.jpg", "empty.jpg", "c/100%25.jpg", "c/q?x#.jpg"]
    for name in names:
        photos.put(name, b"" if name == "empty.jpg" else name.encode())
    ObjectStore(photos.uri + "2").put("x.jpg", b"1")
    for uri in (photos.uri, photos.uri + "/"):
        found = list(list_objects(uri))
        assert [o.uri for o in found] == sorted(f"{photos.uri}/{name}" for name in names)
        for info in found:
            if info.bytes:
                assert info.uri.endswith(read_object(info.uri, 100).decode())
                assert len(read_object(info.uri, 100)) == info.bytes
    assert [o.uri for o in list_objects(f"{photos.uri}/b")] == [
        f"{photos.uri}/b/2.jpg",
        f"{photos.uri}/b/ü 1.jpg",
    ]


def test_an_object_is_a_source_by_itself(photos: ObjectStore) -> None:
    photos.put("a.jpg", b"123")
    (info,) = list_objects(f"{photos.uri}/a.jpg")
    assert (info.uri, info.bytes) == (f"{photos.uri}/a.jpg", 3)
    (again,) = list_objects(photos.uri)
    assert again == info


def test_a_version_changes_with_the_bytes_only(photos: ObjectStore) -> None:
    photos.put("a.jpg", b"123")
    (first,) = list_objects(photos.uri)
    photos.put("a.jpg", b"124")
    (second,) = list_objects(photos.uri)
    assert first.version != second.version
    photos.put("a.jpg", b"123")
    assert list(list_objects(photos.uri)) == [first]


def test_what_a_console_shows_as_a_folder_is_no_input(s3: S3Server, photos: ObjectStore) -> None:
    path = f"/{photos.uri.removeprefix('s3://')}"
    for folder in ("/", "/b/", "/b/c/"):
        raw_put(s3, path + folder)
    photos.put("b/c/x.jpg", b"1")
    photos.put("a.jpg", b"")  # what is empty and no folder is an input, which will say so
    assert [o.uri.removeprefix(photos.uri) for o in list_objects(photos.uri)] == [
        "/a.jpg",
        "/b/c/x.jpg",
    ]


def test_what_is_not_there_is_said(bucket: str, s3: S3Server) -> None:
    with pytest.raises(SourceNotFound, match="does not exist"):
        list(list_objects(f"{bucket}/none"))
    with pytest.raises(SourceNotFound):
        list(list_objects(bucket))
    with pytest.raises(StoreError, match="bucket no-such-bucket does not exist"):
        list(list_objects("s3://no-such-bucket"))
    for call in (lambda uri: read_object(uri, 9), open_object):
        with pytest.raises(FileNotFoundError):
            call(f"{bucket}/none")
        with pytest.raises(UsageError):
            call(bucket)


@pytest.mark.parametrize("size", [0, 1, 10, 11, 5000])
def test_no_more_is_read_than_allowed(s3: S3Server, photos: ObjectStore, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    photos.put("x", data)
    s3.forget()
    assert read_object(f"{photos.uri}/x", 10) == data[:11]
    assert len(s3.requests) == (1 if size else 2)
    with open_object(f"{photos.uri}/x") as stream:
        assert stream.read() == data


def test_members_of_an_archive_are_read_in_place(s3: S3Server, photos: ObjectStore) -> None:
    rng = np.random.default_rng(3)
    members = {f"{i:03d}.jpg": rng.bytes(int(rng.integers(1, 200_000))) for i in range(60)}
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    photos.put("set.tar", sink.getvalue())
    s3.forget()
    with open_object(f"{photos.uri}/set.tar") as stream, tarfile.open(fileobj=stream) as archive:
        for member in archive:
            extracted = archive.extractfile(member)
            assert extracted is not None
            assert extracted.read() == members.pop(member.name)
    assert not members
    assert len(s3.requests) <= 8  # for 6 MB


def test_one_client_per_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = client(parse_uri(f"{bucket}/a"))
    assert client(parse_uri(f"{bucket}/b/c")) is one
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    assert client(parse_uri(f"{bucket}/a")) is not one
