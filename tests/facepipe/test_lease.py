"""Leases: one holder at a time, whoever dies, sleeps or loses its answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from facepipe import lease as lease_module
from facepipe.errors import StoreError
from facepipe.lease import HOLDER_SHARE, LEASE, Lease, leased
from facepipe.object_store import ObjectStore
from tests.object_server import Request, S3Server

ROOT = Path(__file__).resolve().parents[2]
LONG_S = 600.0  # a lease that no test outlives


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/ds")


def record(store: ObjectStore) -> dict[str, object]:
    value: dict[str, object] = json.loads(store.get(LEASE))
    return value


def beats(requests: list[Request]) -> int:
    """Return how many puts of the lease came through."""
    return sum(r.method == "PUT" and r.path.endswith(LEASE) and r.status == 200 for r in requests)


# -- another process ---------------------------------------------------------------------

HOLDER = """
import sys
from facepipe.lease import leased
from facepipe.object_store import ObjectStore
with leased(ObjectStore(sys.argv[1]), ttl_s=float(sys.argv[2]), every_s=float(sys.argv[3])) as it:
    print("held", it.epoch, flush=True)
    for line in sys.stdin:
        try:
            it.check()
            print("ok", flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
"""


class Holder:
    """A process that holds the lease and tells what `check` says when it is asked."""

    def __init__(self, store: ObjectStore, ttl_s: float, every_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, store.uri, str(ttl_s), str(every_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None and self.process.stdin is not None
        self.says, self.asked = self.process.stdout, self.process.stdin
        self.first = self.says.readline()

    def check(self) -> str:
        self.asked.write("?\n")
        self.asked.flush()
        return self.says.readline()


@contextmanager
def holder(store: ObjectStore, *, ttl_s: float, every_s: float) -> Iterator[Holder]:
    held = Holder(store, ttl_s, every_s)
    try:
        yield held
    finally:
        held.process.kill()
        held.process.wait()
        held.says.close()
        held.asked.close()


def test_a_live_holder_is_left_alone_and_a_killed_one_is_replaced(store: ObjectStore) -> None:
    with holder(store, ttl_s=3, every_s=0.3) as other:
        assert other.first == "held 1\n"
        with pytest.raises(StoreError) as caught, leased(store):
            pytest.fail("two hold it")
        assert f"/{other.process.pid}, since 20" in str(caught.value)
        assert "another run is working on s3://" in str(caught.value)
        assert other.check() == "ok\n"
        other.process.send_signal(signal.SIGKILL)
        other.process.wait()
        with leased(store) as mine:
            assert mine.epoch == 2
            mine.check()
            assert record(store)["epoch"] == 2


def test_a_holder_that_slept_knows_that_it_lost(store: ObjectStore) -> None:
    """Stopped like a paused machine, it wakes up to write, and must not."""
    with holder(store, ttl_s=2, every_s=0.2) as other:
        assert other.check() == "ok\n"
        other.process.send_signal(signal.SIGSTOP)
        with leased(store, ttl_s=LONG_S, every_s=1) as mine:
            other.process.send_signal(signal.SIGCONT)
            answer = other.check()
            assert answer.startswith(f"StoreError this run no longer holds {store.uri} (")
            assert other.check().startswith("StoreError")
            mine.check()
        assert record(store)["free"] is True  # the one who lost does not touch it
        assert record(store)["epoch"] == 2


# -- in this process ---------------------------------------------------------------------


def test_of_many_that_come_at_once_one_gets_it(store: ObjectStore) -> None:
    done = threading.Barrier(6)

    def contend(_: int) -> str:
        one = Lease(store, ttl_s=LONG_S, every_s=0.2)
        try:
            one.take()
        except StoreError as error:
            done.wait(120)
            return str(error)
        done.wait(120)
        one.check()
        one.give_back()
        return "held"

    with ThreadPoolExecutor(6) as pool:
        said = sorted(pool.map(contend, range(6)))
    assert said.count("held") == 1
    assert sum("another run is working on" in text for text in said) == 5


def test_a_lease_is_renewed_under_new_etags_and_given_back(
    s3: S3Server, store: ObjectStore
) -> None:
    with leased(store, ttl_s=LONG_S, every_s=0.05) as held:
        etags = set()
        for count in (2, 4, 6):
            s3.wait_for(lambda requests, n=count: beats(requests) >= n)  # type: ignore[misc]
            etags.add(store.get_with_etag(LEASE)[1])
            held.check()
        assert len(etags) == 3
    assert record(store)["free"] is True
    s3.forget()
    with leased(store, ttl_s=LONG_S, every_s=60) as again:  # at once: it would wait 600 s
        assert again.epoch == 2
        assert s3.counts() == {"GET": 1, "PUT": 1}


def test_a_holder_whose_swap_is_refused_stops(s3: S3Server, store: ObjectStore) -> None:
    with leased(store, ttl_s=LONG_S, every_s=0.05) as held:
        held.check()
        while True:  # as a thief does, until no beat of the holder comes between
            _, etag = store.get_with_etag(LEASE)
            other = json.dumps({"owner": "thief/1\x1b[2J", "epoch": 7, "since": "now"}).encode()
            if store.put_if_match(LEASE, other, etag):
                break
        held._thread.join(60)
        with pytest.raises(StoreError, match=r"no longer holds .*now held by thief/1\[2J, since"):
            held.check()
    assert store.get(LEASE) == other


def test_a_lease_that_is_removed_is_lost(store: ObjectStore) -> None:
    with leased(store, ttl_s=LONG_S, every_s=0.05) as held:
        store.delete(LEASE)
        held._thread.join(60)
        with pytest.raises(StoreError, match="held by nobody: it was removed"):
            held.check()
    assert not store.exists(LEASE)


def test_a_server_that_fails_for_a_while_is_survived(s3: S3Server, store: ObjectStore) -> None:
    with leased(store, ttl_s=LONG_S, every_s=0.05) as held:
        s3.fail = lambda method, path: 403 if method == "PUT" else None  # is not tried again
        s3.forget()
        s3.wait_for(lambda requests: sum(r.status == 403 for r in requests) >= 3)
        s3.fail = lambda method, path: None
        s3.wait_for(lambda requests: beats(requests) >= 2)
        held.check()


def test_a_server_that_fails_for_longer_ends_it(
    s3: S3Server, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = lease_module._now_s
    with leased(store, ttl_s=30, every_s=0.05) as held:
        s3.fail = lambda method, path: 403 if method == "PUT" else None
        s3.forget()
        s3.wait_for(lambda requests: sum(r.status == 403 for r in requests) >= 2)
        held.check()
        with (
            monkeypatch.context() as later,
            pytest.raises(StoreError, match=r"not renewed for 2[78] s: .*access denied"),
        ):
            later.setattr(lease_module, "_now_s", lambda: now_s() + 30 * HOLDER_SHARE)
            held.check()
        s3.fail = lambda method, path: None


def test_a_lost_answer_is_not_a_lost_lease(s3: S3Server, store: ObjectStore) -> None:
    """The put came through, its answer did not, the client tries again and is refused."""
    losing = iter([True])
    s3.lose_answer = lambda method, path: method == "PUT" and next(losing, False)
    with leased(store, ttl_s=LONG_S, every_s=0.05) as held:
        assert [r.status for r in s3.requests if r.method == "PUT"][:2] == [200, 412]
        held.check()
        losing = iter([True])
        s3.forget()
        s3.wait_for(lambda requests: 412 in [r.status for r in requests])
        s3.forget()
        s3.wait_for(lambda requests: beats(requests) >= 2)
        held.check()


# -- a contender's patience, by a clock that is set by hand ------------------------------


class Memory:
    """One key in memory, swapped as a store does."""

    uri = "memory"

    def __init__(self) -> None:
        self.data, self.version, self.looks = b"", 0, 0

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        self.looks += 1
        if not self.version:
            raise FileNotFoundError(key)
        return self.data, str(self.version)

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str | None:
        if etag != (str(self.version) if self.version else None):
            return None
        self.data, self.version = data, self.version + 1
        return str(self.version)


class Clock:
    """A clock that moves only while somebody waits."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self.waited_s = 0.0
        self.while_waiting: Callable[[], None] = lambda: None

    def wait(self, seconds: float) -> bool:
        self.now_s += seconds
        self.waited_s += seconds
        self.while_waiting()
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1e6)
    monkeypatch.setattr(lease_module, "_now_s", lambda: clock.now_s)
    return clock


def contender(memory: Memory, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Lease:
    lease = Lease(memory, ttl_s=30, every_s=10)
    monkeypatch.setattr(lease._stop, "wait", clock.wait)
    monkeypatch.setattr(lease._thread, "start", lambda: None)
    return lease


@pytest.mark.parametrize("since", ["1970-01-01", "2999-12-31", 5, None])
@pytest.mark.parametrize(
    ("ttl", "waits_s"),
    [(30, 30), (4.5, 4.5), (-1, 30), (0, 30), ("x", 30), (1e12, 30), (float("nan"), 30)],
)
def test_a_silent_holder_is_watched_for_its_time_by_the_contenders_own_clock(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, since: object, ttl: object, waits_s: float
) -> None:
    memory = Memory()
    memory.put_if_match(
        LEASE, json.dumps({"epoch": 3, "ttl_s": ttl, "since": since}).encode(), None
    )
    lease = contender(memory, clock, monkeypatch)
    lease.take()
    assert clock.waited_s == pytest.approx(waits_s)
    assert memory.looks >= 10
    assert (lease.epoch, json.loads(memory.data)["epoch"]) == (4, 4)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"{", b'{"epoch": "x"}', b"null"])
def test_a_lease_that_cannot_be_read_is_taken_after_a_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    memory = Memory()
    memory.put_if_match(LEASE, data, None)
    lease = contender(memory, clock, monkeypatch)
    lease.take()
    assert clock.waited_s == pytest.approx(30)
    assert lease.epoch == 1


def test_a_beat_in_the_last_moment_counts(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    live = json.dumps({"owner": "a/1", "since": "noon", "ttl_s": 30}).encode()
    memory.put_if_match(LEASE, live, None)

    def beat() -> None:
        if clock.waited_s >= 29 and memory.version == 1:
            memory.put_if_match(LEASE, live, "1")

    clock.while_waiting = beat
    with pytest.raises(StoreError, match=r"another run is working on memory \(a/1, since noon\)"):
        contender(memory, clock, monkeypatch).take()


def test_a_holder_stops_before_a_contender_may_start(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    first = contender(memory, clock, monkeypatch)
    first.take()
    ends: list[float] = []

    def ask() -> None:
        try:
            first.check()
        except StoreError:
            ends.append(clock.waited_s)

    clock.while_waiting = ask
    second = contender(memory, clock, monkeypatch)
    second.take()
    assert ends and ends[0] <= 30 == pytest.approx(clock.waited_s)
    with pytest.raises(StoreError):
        first.check()
    second.check()


def test_given_back_while_it_is_watched(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    memory.put_if_match(LEASE, b'{"epoch": 1}', None)

    def free() -> None:
        if memory.version == 1:
            memory.put_if_match(LEASE, b'{"epoch": 1, "free": true}', "1")

    clock.while_waiting = free
    lease = contender(memory, clock, monkeypatch)
    lease.take()
    assert lease.epoch == 2
    assert clock.waited_s < 30


@pytest.mark.parametrize(("ttl_s", "every_s"), [(30, 16), (30, 0), (0, 0), (1e9, 10)])
def test_a_lease_needs_room_for_a_second_try(ttl_s: float, every_s: float) -> None:
    with pytest.raises(ValueError, match="cannot be renewed"):
        Lease(Memory(), ttl_s=ttl_s, every_s=every_s)
