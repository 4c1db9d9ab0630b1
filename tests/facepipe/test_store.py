"""Durable, atomic, first-one-wins writes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from facepipe.errors import StoreError, StoreFull
from facepipe.store import TEMPORARY, LocalStore, locked


def test_put_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"two")
    assert store.get("a/b.json") == b"two"
    assert store.list("a") == ["a/b.json"]
    assert store.list(TEMPORARY) == []


def test_only_the_first_put_if_absent_wins(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for turn in range(100):
        with ThreadPoolExecutor(4) as pool:
            won = list(
                pool.map(lambda n, t=turn: store.put_if_absent(f"c/{t}", b"%d" % n), range(4))
            )
        assert sum(won) == 1
        assert store.get(f"c/{turn}") == b"%d" % won.index(True)
    assert store.list(TEMPORARY) == []


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x"])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(StoreError, match="leaves the folder"):
        LocalStore(tmp_path).path(key)


def test_listing_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert LocalStore(tmp_path / "none").list("x") == []


def test_sweep_removes_unfinished_writes_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("kept", b"1")
    (tmp_path / TEMPORARY / "123-abc").write_bytes(b"half")
    assert store.sweep() == 1
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


def test_one_run_at_a_time(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    code = (
        "import sys; from facepipe.store import *\n"
        "try:\n with locked(LocalStore(sys.argv[1])): print('held')\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with locked(store):
        inside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    outside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert inside.startswith("StoreError another run is working on")
    assert outside == "held\n"
