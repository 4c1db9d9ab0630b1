"""Object stores: what the server is asked, what it refuses, and what people are told."""

from __future__ import annotations

import http.server
import io
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facepipe.commits import write_shard
from facepipe.errors import StoreError, UsageError
from facepipe.lease import LEASE
from facepipe.object_client import Patience, client, parse_uri
from facepipe.object_store import ObjectStore
from facepipe.store import open_store
from tests.object_server import Generations, S3Server, raw_put

IMPATIENT = Patience(connect_s=2, request_s=5, retries=1, retry_s=1)


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/some/prefix")


# -- the server of these tests does what S3 does -----------------------------------------


def test_the_server_enforces_conditions(s3: S3Server, bucket: str) -> None:
    """Past facepipe's own code: If-None-Match and If-Match on PutObject are refused with 412."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    raw = client(parse_uri(bucket))
    first = raw.put("k", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        raw.put("k", b"2", mode="create")
    raw.put("k", b"3", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        raw.put("k", b"4", mode={"e_tag": first["e_tag"]})
    assert raw.get("k").bytes() == b"3"
    assert [r.status for r in s3.requests if r.method == "PUT"] == [200, 412, 200, 412]


# -- requests ----------------------------------------------------------------------------


def test_a_put_a_get_and_a_look_are_one_request_each(s3: S3Server, store: ObjectStore) -> None:
    data = os.urandom(20 * 2**20)  # beyond the size from which obstore makes parts of its own
    store.put("big", data)
    assert s3.counts() == {"PUT": 1}
    s3.forget()
    assert store.get("big") == data
    assert s3.counts() == {"GET": 1}
    s3.forget()
    assert (store.exists("big"), store.exists("none")) == (True, False)
    assert store.size("big") == len(data)
    assert s3.counts() == {"HEAD": 3}


def test_a_shard_of_two_tables_and_its_record_are_three_requests(
    s3: S3Server, store: ObjectStore
) -> None:
    table = pa.table({"x": [1, 2]})
    tables = [("photos", "photos", table, table.schema), ("faces", "faces", table, table.schema)]
    write_shard(store, step="detect", shard="000000", key="k" * 64, tables=tables, counts={})
    assert s3.counts() == {"PUT": 3}
    s3.forget()
    write_shard(store, step="detect", shard="000000", key="k" * 64, tables=tables, counts={})
    assert s3.counts() == {"PUT": 3, "GET": 1}  # the record is there: it decides


def test_listing_everything_pages(s3: S3Server, store: ObjectStore) -> None:
    names = [f"t/{i:05d}" for i in range(1050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(n, b"x" * (int(n[2:]) % 7)), names))
    s3.forget()
    assert store.list_all() == {n: int(n[2:]) % 7 for n in names}
    assert s3.counts() == {"GET": 2}
    assert len(store.list("t")) == 1050


def test_the_footer_of_a_parquet_file_is_one_request(s3: S3Server, store: ObjectStore) -> None:
    """And of one column no more is read than lies around it."""
    rng = np.random.default_rng(0)
    table = pa.table({name: rng.normal(size=400_000) for name in "abcdef"})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="NONE", use_dictionary=False)
    store.put("t.parquet", sink.getvalue())
    s3.forget()
    with store.open("t.parquet") as stream, pq.ParquetFile(stream) as parquet:
        assert parquet.metadata.num_rows == 400_000
        assert s3.counts() == {"GET": 1}
        assert parquet.read(columns=["c"]).equals(table.select(["c"]))
    assert s3.counts()["GET"] <= 4
    spans = [r.range.removeprefix("bytes=").split("-") for r in s3.requests[1:]]
    assert sum(int(b) - int(a) + 1 for a, b in spans) < 2 * 400_000 * 8


def test_reading_in_order_asks_for_more_and_more(s3: S3Server, store: ObjectStore) -> None:
    data = os.urandom(40 * 2**20)
    store.put("tar", data)
    s3.forget()
    with store.open("tar") as stream:
        found = b"".join(iter(lambda: stream.read(10_000), b""))
    assert found == data
    assert s3.counts()["GET"] <= 11


def test_pyarrow_only_reads(store: ObjectStore) -> None:
    with pytest.raises(NotImplementedError):
        store.filesystem().delete_file("t/0.parquet")


def test_a_stream_is_one_version(store: ObjectStore) -> None:
    store.put("x", os.urandom(2**20))
    with store.open("x") as stream:
        assert len(stream.read(10)) == 10
        store.put("x", os.urandom(2**20))
        stream.seek(2**19)
        with pytest.raises(OSError, match="was replaced while it was read"):
            stream.read(10)


def test_a_store_can_be_sent_to_another_process(store: ObjectStore) -> None:
    store.put("x", b"1")
    assert pickle.loads(pickle.dumps(store)).get("x") == b"1"


# -- names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("ftp://host/x", "give a local path"),
        ("http://host/x", "give a local path"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://user:secret@bucket/x", "no uri of a prefix"),
        ("s3://b/../other", "no uri of a prefix"),
        ("s3://b/x//y", "no uri of a prefix"),
    ],
)
def test_uris_that_are_none(uri: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        open_store(uri)


def test_a_path_object_cannot_be_a_uri() -> None:
    with pytest.raises(UsageError, match="give it as text"):
        open_store(Path("s3://bucket/x"))


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "a//b", "./x", "a\nb"])
def test_a_key_cannot_leave_the_prefix(s3: S3Server, store: ObjectStore, key: str) -> None:
    for call in (store.get, store.exists, store.size, store.open, store.delete, store.list_all):
        with pytest.raises(StoreError, match="leaves"):
            call(key)
    with pytest.raises(StoreError, match="leaves"):
        store.put(key, b"")
    assert not s3.requests


def test_prefixes_that_begin_alike_are_apart(bucket: str) -> None:
    one, two = ObjectStore(f"{bucket}/ds"), ObjectStore(f"{bucket}/ds2/")
    one.put("faces/a", b"1")
    two.put("faces/b", b"12")
    assert (one.list_all(), two.list_all()) == ({"faces/a": 1}, {"faces/b": 2})
    assert (one.names(), one.list("fac"), one.list_all("fac")) == (["faces"], [], {})
    assert ObjectStore(bucket).list_all() == {"ds/faces/a": 1, "ds2/faces/b": 2}


def test_the_empty_object_a_console_makes_is_no_entry(s3: S3Server, bucket: str) -> None:
    store = ObjectStore(f"{bucket}/ds")
    raw_put(s3, f"/{bucket.removeprefix('s3://')}/ds/")
    assert store.empty()
    assert (store.names(), store.list_all()) == ([], {})


# -- what people are told ----------------------------------------------------------------


def test_a_missing_bucket_is_named(s3: S3Server) -> None:
    store = ObjectStore("s3://no-such-bucket/x")
    for call in (store.names, store.empty, store.list_all, lambda: store.get("k")):
        with pytest.raises(StoreError, match="bucket no-such-bucket does not exist: create it"):
            call()
    with pytest.raises(StoreError, match="does not exist"):
        store.put("k", b"")
    with pytest.raises(StoreError, match="does not exist"), store.hold():
        pass


def test_no_credentials(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="no credentials were found: set AWS_ACCESS_KEY_ID"):
        ObjectStore(f"{bucket}/x").names()


@pytest.mark.parametrize("status", [401, 403])
def test_access_denied(s3: S3Server, store: ObjectStore, status: int) -> None:
    s3.fail = lambda method, path: status
    for call in (lambda: store.get("k"), lambda: store.put("k", b""), store.names):
        with pytest.raises(StoreError, match=r"access denied|credentials are wrong") as caught:
            call()
        assert "AWS_ACCESS_KEY_ID" in str(caught.value)


def test_a_server_that_does_not_answer(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"does not answer .*AWS_ENDPOINT_URL") as caught:
        ObjectStore(store.uri, IMPATIENT).get("k")
    assert "\n" not in str(caught.value)


def test_plain_http_only_where_it_is_asked_for(
    s3: S3Server, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreError, match=r"plain http.*AWS_ALLOW_HTTP=true"):
        store.put("k", b"1")
    assert not s3.requests


def test_errors_that_pass_are_tried_again(s3: S3Server, store: ObjectStore) -> None:
    left = iter([503, 500, 503])
    s3.fail = lambda method, path: next(left, None)
    assert store.put_if_absent("k", b"1")
    assert store.get("k") == b"1"
    assert [r.status for r in s3.requests] == [503, 500, 503, 200, 200]


def test_retries_end(s3: S3Server, store: ObjectStore) -> None:
    s3.fail = lambda method, path: 503
    with pytest.raises(StoreError, match="does not answer"):
        ObjectStore(store.uri, IMPATIENT).get("k")
    assert len(s3.requests) == 1 + IMPATIENT.retries


def test_two_conditional_puts_at_once_are_tried_again(s3: S3Server, store: ObjectStore) -> None:
    """S3 answers 409 to one of two conditional puts that overlap: neither has been decided."""
    left = iter([409, None, 409])
    s3.fail = lambda method, path: next(left, None)
    assert store.put_if_absent("k", b"1")
    assert not store.put_if_absent("k", b"2")
    data, etag = store.get_with_etag("k")
    assert data == b"1"
    left = iter([409, 409])
    assert store.put_if_match("k", b"3", etag) is not None
    assert store.get("k") == b"3"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_no_message_holds_a_secret(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "hunter2hunter2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter2hunter2@127.0.0.1:1/hunter2hunter2")
    with pytest.raises(StoreError) as caught:
        ObjectStore(store.uri, IMPATIENT).get("k")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_name_that_cannot_be_read_is_named(s3: S3Server, store: ObjectStore) -> None:
    raw_put(s3, f"/{store.uri.removeprefix('s3://')}/a//b", b"1")
    with pytest.raises(StoreError, match=r"a//b.*rename it"):
        store.list_all()


# -- holding it --------------------------------------------------------------------------


def test_a_server_that_ignores_conditions_is_refused(
    s3: S3Server, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As old S3-compatible servers do: nothing tells two writers apart."""
    real = store._put
    for ignored in ("If-None-Match", "If-Match"):
        store.delete(LEASE)
        monkeypatch.setattr(
            store,
            "_put",
            lambda key, data, mode, ignored=ignored: real(
                key,
                data,
                "overwrite" if (mode == "create") == (ignored == "If-None-Match") else mode,
            ),
        )
        with pytest.raises(StoreError, match=f"ignores {ignored}, "), store.hold():
            pytest.fail("it was held")


def test_holding_costs_few_requests(s3: S3Server, store: ObjectStore) -> None:
    with store.hold():
        assert s3.counts() == {"GET": 1, "PUT": 3}
    assert s3.counts() == {"GET": 1, "PUT": 4}
    s3.forget()
    with store.hold():
        pass
    assert s3.counts() == {"GET": 1, "PUT": 4}
    assert store.names() == [LEASE]


# -- Google and Azure --------------------------------------------------------------------


def test_other_clouds_are_constructed_and_say_what_they_lack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)
    with pytest.raises(StoreError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        ObjectStore("az://container/x").names()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2024&sig=hunter2hunter2")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "https://127.0.0.1:1")
    with pytest.raises(StoreError, match="does not answer") as caught:
        ObjectStore("az://container/x", IMPATIENT).get("k")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("GOOGLE_BASE_URL", "https://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"does not answer .*GOOGLE_BASE_URL"):
        ObjectStore("gs://bucket/x", IMPATIENT).get("k")


def test_google_is_asked_for_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Generations) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("GOOGLE_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "any")
        store = ObjectStore("gs://bucket/prefix")
        try:
            assert store.put_if_absent("x", b"1")
            assert not store.put_if_absent("x", b"2")
            data, generation = store.get_with_etag("x")
            assert (data, int(generation) > 10**15) == (b"1", True)
            assert store.put_if_match("x", b"3", generation) == str(int(generation) + 1)
            assert store.put_if_match("x", b"4", generation) is None
            with store.hold() as held:
                held.check()
            assert store.get("x") == b"3"
        finally:
            server.shutdown()
            thread.join()
