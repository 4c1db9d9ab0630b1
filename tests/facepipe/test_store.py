"""One contract, kept by folders and by object stores; and what folders promise besides.

FACEPIPE_TEST_STORES names further prefixes to test, separated by spaces, such as those of
an emulator of Azure or Google, with what they need in the environment.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from facepipe.commits import write_parquet
from facepipe.errors import StoreError, StoreFull, UsageError
from facepipe.lease import LEASE
from facepipe.store import TEMPORARY, LocalStore, Store, locked, open_store

STORES = ["local", "s3", *os.environ.get("FACEPIPE_TEST_STORES", "").split()]
HELD = {"_lock", LEASE}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(tmp_path / "a" / "store")
    if request.param == "s3":
        return open_store(f"{request.getfixturevalue('bucket')}/a/store")
    return open_store(f"{request.param}/{uuid.uuid4().hex}")


def test_a_new_store_is_empty_and_stays_so_when_looked_at(store: Store) -> None:
    assert store.empty()
    assert (store.names(), store.list("x"), store.list_all(), store.list_all("x")) == (
        [],
        [],
        {},
        {},
    )
    assert not store.exists("x")
    store.delete("x")
    assert store.sweep() == 0
    assert store.empty()


@pytest.mark.parametrize("call", ["get", "get_with_etag", "open", "size"])
@pytest.mark.parametrize("key", ["x", "a/x", "none/x"])
def test_what_is_not_there(store: Store, call: str, key: str) -> None:
    store.put("a/b", b"1")
    with pytest.raises(FileNotFoundError):
        getattr(store, call)(key)
    assert not store.exists(key)


def test_put_replaces_and_leaves_nothing_else(store: Store) -> None:
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"three")
    store.put("a/empty", b"")
    store.put("a/deep/er", b"22")
    store.put("top", b"1")
    assert store.get("a/b.json") == b"three"
    assert store.get("a/empty") == b""
    assert (store.size("a/b.json"), store.size("a/empty")) == (5, 0)
    assert store.list("a") == ["a/b.json", "a/empty"]
    assert store.list(TEMPORARY) == []
    assert store.list_all() == {"a/b.json": 5, "a/deep/er": 2, "a/empty": 0, "top": 1}
    assert list(store.list_all("a")) == ["a/b.json", "a/deep/er", "a/empty"]
    assert store.list("") == ["top"]
    assert set(store.names()) - {TEMPORARY} == {"a", "top"}
    assert not store.empty()
    store.delete("a/b.json")
    assert not store.exists("a/b.json")


@pytest.mark.parametrize("parts", [[], [b"one", b"", b"two"], [b"x" * 2**20] * 17 + [b"end"]])
def test_a_created_key_is_there_when_the_block_has_ended(store: Store, parts: list[bytes]) -> None:
    store.put("a/b", b"before")
    with store.create("a/b") as stream:
        for part in parts:
            assert stream.write(memoryview(part)) == len(part)
        assert stream.tell() == sum(map(len, parts))
        assert store.get("a/b") == b"before"
        assert not stream.readable()
    assert store.get("a/b") == b"".join(parts)
    assert store.list_all() == {"a/b": sum(map(len, parts))}
    assert store.list(TEMPORARY) == []


@pytest.mark.parametrize("size", [0, 10, 40 * 2**20], ids=["nothing", "a put", "parts"])
@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), OSError("x")])
def test_a_block_that_fails_changes_nothing(
    store: Store, size: int, failure: BaseException
) -> None:
    store.put("a/b", b"before")
    for key in ("a/b", "a/new"):
        with pytest.raises(type(failure)), store.create(key) as stream:
            stream.write(bytes(size))
            raise failure
    assert store.list_all() == {"a/b": 6}
    assert store.get("a/b") == b"before"
    assert store.list(TEMPORARY) == []


def test_what_a_block_cannot_read_is_not_called_a_full_disk(tmp_path: Path, store: Store) -> None:
    with pytest.raises(FileNotFoundError), store.create("x"):
        (tmp_path / "nowhere").read_bytes()
    error = PermissionError(errno.EACCES, "Permission denied", "a/source")
    with pytest.raises(PermissionError), store.create("x"):
        raise error
    assert not store.exists("x")


@pytest.mark.parametrize("tmpfile", [True, False], ids=["nameless", "copied"])
@pytest.mark.parametrize("size", [0, 12, 17 * 2**20])
def test_a_scratch_file_becomes_a_key(
    store: Store, size: int, tmpfile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was written through a map, and what only waits to be written."""
    if not tmpfile:  # such as on NFS
        monkeypatch.setattr(os, "O_TMPFILE", 0)
        monkeypatch.setattr(tempfile, "_O_TMPFILE_WORKS", False)
    store.put("a/b", b"before")
    with store.scratch(size) as file:
        assert store.list_all() == {"a/b": 6}
        if size:
            np.memmap(file, np.uint8, "r+", shape=(size,))[:] = 7
        file.seek(size)
        file.write(b"end")
        store.adopt("a/b", file)
    assert store.get("a/b") == b"\7" * size + b"end"
    assert store.list_all() == {"a/b": size + 3}
    assert store.list(TEMPORARY) == []


def test_a_folder_adopts_the_file_itself(tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR))
    except (AttributeError, OSError):
        pytest.skip("this file system has no nameless files")
    store = LocalStore(tmp_path)
    with store.scratch(8) as file:
        inode = os.fstat(file.fileno())
        store.adopt("t/x", file)
    assert store.path("t/x").stat().st_ino == inode.st_ino
    umask = os.umask(0)
    os.umask(umask)
    assert store.path("t/x").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_scratch_file_that_is_not_adopted_is_gone(store: Store) -> None:
    with pytest.raises(ValueError, match="other"), store.scratch(4096) as file:
        file.write(b"x")
        raise ValueError("other")
    assert store.list_all() == {}
    assert store.list(TEMPORARY) == []


def test_a_scratch_file_too_large_for_the_disk_is_refused(store: Store) -> None:
    with pytest.raises(StoreFull, match=r"run the same command again"):
        store.scratch(2**50)
    assert store.list(TEMPORARY) == []


def test_names_are_taken_as_they_are(store: Store) -> None:
    names = ["a b", "ünï", "100%25", "q?x=1#y", "plus+", "star*", "-", "x.parquet", "[1]", "a'b"]
    for name in names:
        store.put(f"n/{name}", name.encode())
    assert store.list("n") == sorted(f"n/{name}" for name in names)
    assert {k: store.get(k).decode() for k in store.list_all("n")} == {f"n/{n}": n for n in names}


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x"])
def test_a_key_cannot_leave_the_store(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="leaves"):
        store.get(key)
    with pytest.raises(StoreError, match="leaves"):
        store.put(key, b"")
    with pytest.raises(StoreError, match="leaves"), store.create(key):
        pass


def test_a_stream_is_read_from_anywhere(store: Store) -> None:
    data = np.random.default_rng(1).bytes(3 * 2**20)
    store.put("x", data)
    rng = np.random.default_rng(2)
    with store.open("x") as stream:
        assert stream.seekable() and stream.readable()
        for _ in range(40):
            start, count = int(rng.integers(len(data))), int(rng.choice([1, 100, 70_000, 10**6]))
            assert stream.seek(start) == start
            assert stream.read(count) == data[start : start + count]
        assert stream.seek(-3, 2) == len(data) - 3
        assert (stream.read(), stream.read(), stream.tell()) == (data[-3:], b"", len(data))
        stream.seek(len(data) + 5)
        assert stream.read(3) == b""
        with pytest.raises((ValueError, OSError)):
            stream.seek(-len(data) - 1, 2)
    store.put("empty", b"")
    with store.open("empty") as stream:
        assert (stream.read(), stream.seek(0, 2)) == (b"", 0)


def test_pyarrow_reads_keys(store: Store) -> None:
    table = pa.table({"x": list(range(10)), "y": ["a", "b"] * 5})
    for shard in ("0", "1"):
        store.put(f"t/{shard}.parquet", write_parquet(table, table.schema))
    keys = store.list("t")
    with store.open(keys[0]) as stream, pq.ParquetFile(stream) as parquet:
        assert parquet.read().equals(table)
    dataset = pads.dataset(keys, format="parquet", filesystem=store.filesystem())
    found = dataset.to_table(columns=["x"], filter=pads.field("y") == "b")
    assert found["x"].to_pylist() == [1, 3, 5, 7, 9] * 2


# -- the first one wins ------------------------------------------------------------------


def test_only_the_first_put_if_absent_wins(store: Store) -> None:
    for turn in range(25):
        with ThreadPoolExecutor(8) as pool:
            won = list(
                pool.map(lambda n, t=turn: store.put_if_absent(f"c/{t}", b"%d" % n), range(8))
            )
        assert sum(won) == 1
        assert store.get(f"c/{turn}") == b"%d" % won.index(True)
    assert store.list(TEMPORARY) == []


def test_a_swap_needs_what_was_read(store: Store) -> None:
    store.put("x", b"1")
    data, etag = store.get_with_etag("x")
    assert data == b"1"
    assert store.put_if_match("x", b"2", None) is None  # it is there
    second = store.put_if_match("x", b"2", etag)
    assert second is not None
    assert store.get_with_etag("x") == (b"2", second)
    assert store.put_if_match("x", b"3", etag) is None
    assert store.get("x") == b"2"
    store.delete("x")
    assert store.put_if_match("x", b"3", second) is None
    assert not store.exists("x")
    third = store.put_if_match("x", b"4", None)
    assert store.get_with_etag("x") == (b"4", third)


def test_swaps_lose_no_update(store: Store) -> None:
    """Eight threads add one, ten times each, and try again where another came first."""
    store.put("count", b"0")

    def add(_: int) -> None:
        for _ in range(10):
            while True:
                data, etag = store.get_with_etag("count")
                if store.put_if_match("count", b"%d" % (int(data) + 1), etag) is not None:
                    break

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert store.get("count") == b"80"


# -- one run at a time -------------------------------------------------------------------


def test_one_run_at_a_time(store: Store) -> None:
    code = (
        "import sys; from facepipe.store import *\n"
        "store = open_store(sys.argv[1])\n"
        "hold = store.hold() if store.local else store.hold(ttl_s=20, every_s=1)\n"
        "try:\n with hold as held: held.check(); print('held')\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    command = [sys.executable, "-c", code, store.uri]
    with locked(store) if store.local else store.hold(ttl_s=20, every_s=1) as held:  # type: ignore[call-arg]
        held.check()
        inside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        held.check()
    outside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert inside.startswith(f"StoreError another run is working on {store.uri}")
    assert outside == "held\n"
    assert set(store.names()) <= HELD


def test_the_same_store_can_be_held_again_and_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.hold():
        raise ZeroDivisionError
    for _ in range(2):
        with store.hold() as held:
            held.check()
            store.put("x", b"1")


# -- folders -----------------------------------------------------------------------------


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        open_store(tmp_path / "x").names()


def test_a_local_store_tells_its_folder(tmp_path: Path) -> None:
    store = open_store(f"{tmp_path}/")
    assert (store.uri, store.local) == (str(tmp_path), tmp_path)
    store.put("x", b"12")
    with store.open("x") as stream:
        assert os.fstat(stream.fileno()).st_size == 2  # a file, which can be mapped


def test_linked_folders_are_listed_once_and_loops_end(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("a/x", b"1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "y").write_bytes(b"22")
    (tmp_path / "store" / "b").symlink_to(elsewhere)
    (tmp_path / "store" / "a" / "loop").symlink_to(tmp_path / "store")
    assert store.list_all() == {"a/x": 1, "b/y": 2}


def test_sweep_removes_unfinished_writes_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("kept", b"1")
    store.put_if_match("swapped", b"1", None)
    (tmp_path / TEMPORARY / "123-abc").write_bytes(b"half")
    assert set(store.list_all()) == {"kept", "swapped"}
    assert store.sweep() == 1
    assert store.sweep() == 0
    assert store.get("kept") == b"1"


def test_files_are_synced_before_they_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file"  # noqa: PTH112
        order.append(kind)
        real_sync(handle)

    def replace(self: Path, target: Path) -> Path:
        order.append("rename")
        return real_replace(self, target)

    store = LocalStore(tmp_path)
    store.put("t/first", b"")  # makes the folder
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    store.put("t/x", b"data")
    assert order == ["file", "rename", "folder"]
    with store.scratch() as file:
        store.adopt("t/y", file)
    assert order == ["file", "rename", "folder"] * 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real ENOSPC, from the kernel, on the handle that the store writes to."""
    store = LocalStore(tmp_path)
    real_open = Path.open

    def full(self: Path, mode: str = "r", *rest: object) -> object:
        return real_open(Path("/dev/full") if TEMPORARY in self.parts else self, mode, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreFull, match=r"no space left .* run the same command again") as caught:
        store.put("x", b"data")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert not store.exists("x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("size", [4, 2**20], ids=["at the end", "on the way"])
def test_a_disk_that_fills_up_while_a_key_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    store = LocalStore(tmp_path)
    real_open = Path.open

    def full(self: Path, mode: str = "r", *rest: object) -> object:
        return real_open(Path("/dev/full") if TEMPORARY in self.parts else self, mode, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreFull, match=r"no space left while writing x"):
        with store.create("x") as stream:
            stream.write(bytes(size))
    assert not store.exists("x")
