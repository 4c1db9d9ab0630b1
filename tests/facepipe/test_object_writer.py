"""Objects written bit by bit: what the server is asked, and what people are told."""

from __future__ import annotations

import pytest

from facepipe.errors import StoreError
from facepipe.object_client import Patience
from facepipe.object_store import ObjectStore
from facepipe.object_writer import PART_BYTES
from tests.object_server import S3Server


def test_a_small_object_is_one_put(s3: S3Server, bucket: str) -> None:
    with ObjectStore(f"{bucket}/p").create("a/b") as stream:
        for _ in range(100):
            stream.write(b"0123456789")
        assert (stream.tell(), stream.writable(), stream.readable()) == (1000, True, False)
        assert s3.counts() == {}
    assert s3.counts() == {"PUT": 1}


def test_a_large_one_goes_in_parts_and_is_there_at_the_end(s3: S3Server, bucket: str) -> None:
    store = ObjectStore(f"{bucket}/p")
    part = bytes(range(256)) * (PART_BYTES // 256)
    with store.create("big") as stream:
        for _ in range(3):
            stream.write(part)
        stream.write(b"end")
        assert not store.exists("big")
    assert store.get("big") == 3 * part + b"end"
    assert s3.counts()["PUT"] == 4  # parts
    assert s3.counts()["POST"] == 2  # begun, put together


def test_an_abandoned_one_is_never_put_together(s3: S3Server, bucket: str) -> None:
    store = ObjectStore(f"{bucket}/p")
    with pytest.raises(KeyError), store.create("big") as stream:
        stream.write(bytes(2 * PART_BYTES + 1))
        raise KeyError("given up")
    assert not store.exists("big")
    assert store.list_all() == {}


def test_a_server_that_is_away_is_named(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = ObjectStore(f"{bucket}/p", Patience(connect_s=1, request_s=1, retries=0, retry_s=1))
    with pytest.raises(StoreError, match=r"/p/x: .*does not answer"), store.create("x") as stream:
        stream.write(b"1")


def test_a_bucket_that_is_not_there_is_named(s3: S3Server, bucket: str) -> None:
    for size in (1, PART_BYTES + 1):
        store = ObjectStore("s3://b-nobody-has-made-this/p")
        with pytest.raises(StoreError, match="does not exist: create it"), store.create("x") as to:
            to.write(bytes(size))


def test_a_part_that_is_refused_is_named(s3: S3Server, bucket: str) -> None:
    s3.fail = lambda method, path: 403 if method in ("PUT", "POST") else None
    store = ObjectStore(f"{bucket}/p")
    for size in (1, 3 * PART_BYTES):
        with pytest.raises(StoreError, match="access denied"), store.create("x") as stream:
            stream.write(bytes(size))
    s3.fail = lambda method, path: None
    assert not store.exists("x")
