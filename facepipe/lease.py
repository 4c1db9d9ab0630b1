"""One run at a time on an object store: a lease that is renewed, and stolen when it is not.

The lease is one object, which only compare-and-swap changes. Its holder swaps in a new beat
every few seconds. A contender believes no clock but its own: it watches the object, and only
when that has not changed for the whole time to live does it swap in itself, under the next
epoch. The holder in turn calls the lease lost once a beat has not come through for nearly as
long, counted from before it was sent, so that it stops before anybody may start (Gray and
Cheriton, Leases, SOSP 1989). What a request that is already on its way may still write is
decided by the commit records.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from facepipe.errors import StoreError

LEASE = "_lease.json"
TTL_S, EVERY_S = 30.0, 10.0
MAX_TTL_S = 3600.0  # what a record may ask of a contender's time
HOLDER_SHARE = 0.9  # of the time to live: clocks of two machines do not run equally fast
LOOKS, LOOK_S = 10, 1.0  # of a contender in a time to live, and how long it may go without one
MAX_CLAIMS = 10
MAX_OWNER_CHARS = 100


class Held(Protocol):
    """A store that is held for this run."""

    def check(self) -> None:
        """Raise StoreError where it is no longer held: nothing may be written any more."""
        ...


class Unlosable:
    """A hold that ends only with its process, such as the kernel's lock on a file."""

    def check(self) -> None:
        """Do nothing: it is held."""


class Swaps(Protocol):
    """What a lease needs of a store."""

    @property
    def uri(self) -> str:
        """Return what the lease is for."""
        ...

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return the bytes of a key and their etag. Raises FileNotFoundError."""
        ...

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replace a key if it has the etag, None: if it is absent; return the new etag."""
        ...


@contextmanager
def leased(store: Swaps, *, ttl_s: float = TTL_S, every_s: float = EVERY_S) -> Iterator[Lease]:
    """Hold a store by a lease. Raises StoreError where another run holds it."""
    lease = Lease(store, ttl_s=ttl_s, every_s=every_s)
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


@dataclass(frozen=True, slots=True)
class _Seen:
    """The lease object as it was read; ``etag`` is None where there is none."""

    etag: str | None
    record: dict[str, Any]

    @property
    def free(self) -> bool:
        return self.etag is None or self.record.get("free") is True

    @property
    def epoch(self) -> int:
        epoch = self.record.get("epoch")
        return epoch if isinstance(epoch, int) else 0

    def ttl_s(self, default: float) -> float:
        """Return how long its holder may be silent; a record that says nonsense says nothing."""
        ttl = self.record.get("ttl_s")
        good = isinstance(ttl, int | float) and math.isfinite(ttl) and 0 < ttl <= MAX_TTL_S
        return float(ttl) if good and ttl is not None else default

    def holder(self) -> str:
        """Return who holds it, since when by their own clock, for people to read."""
        shown = [str(self.record.get(k, "unknown"))[:MAX_OWNER_CHARS] for k in ("owner", "since")]
        owner, since = ("".join(c for c in text if c.isprintable()) for text in shown)
        return f"{owner}, since {since}"


class Lease:
    """The right to write to a store, for as long as `check` does not raise."""

    def __init__(self, store: Swaps, *, ttl_s: float = TTL_S, every_s: float = EVERY_S) -> None:
        """Prepare one; `take` asks for it. ``every_s`` must leave room for a second try."""
        if not 0 < every_s <= ttl_s / 2 <= MAX_TTL_S / 2:
            raise ValueError(f"a lease of {ttl_s} s cannot be renewed every {every_s} s")
        self.epoch = 0
        self._store, self._ttl_s, self._every_s = store, ttl_s, every_s
        self._owner = f"{socket.gethostname()}/{os.getpid()}"
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._nonce, self._beat = uuid.uuid4().hex, 0
        self._etag: str | None = None
        self._renewed_s = 0.0  # on `_now_s`, before the last beat that came through was sent
        self._lost: str | None = None
        self._trouble = "no beat came through"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> None:
        """Become the holder. Raises StoreError where another run is seen to be alive.

        Where a dead run left a lease behind, this takes the time to live.
        """
        seen = self._look()
        for _ in range(MAX_CLAIMS):
            if not seen.free:
                later = self._watch(seen)
                if later.etag != seen.etag and not later.free:
                    raise StoreError(
                        f"another run is working on {self._store.uri} ({later.holder()}): wait "
                        "until it has finished, or end it, then run the same command again"
                    )
                seen = later
            if self._claim(seen):
                return
            seen = self._look()
        raise StoreError(
            f"too many runs want to work on {self._store.uri} at once: start one at a time"
        )

    def check(self) -> None:
        """Raise StoreError where the lease is lost: nothing may be written any more."""
        silent_s = _now_s() - self._renewed_s
        lost = self._lost
        if lost is None and silent_s > HOLDER_SHARE * self._ttl_s:
            lost = f"not renewed for {silent_s:.0f} s: {self._trouble}"
        if lost is not None:
            raise StoreError(
                f"this run no longer holds {self._store.uri} ({lost}), and another may have taken "
                "over: it stops here; run the same command again, what was finished is kept"
            )

    def give_back(self) -> None:
        """Stop renewing, and leave the lease free for the next run."""
        self._stop.set()
        self._thread.join(self._ttl_s)
        try:
            self.check()
            self._beat += 1
            self._swap(self._record(free=True), self._etag)
        except StoreError:
            return  # the next run waits until the lease has run out

    # -- what is in the store ------------------------------------------------------------

    def _look(self) -> _Seen:
        try:
            data, etag = self._store.get_with_etag(LEASE)
        except FileNotFoundError:
            return _Seen(None, {})
        try:
            record = json.loads(data)
        except ValueError:
            record = {}
        return _Seen(etag, record if isinstance(record, dict) else {})

    def _watch(self, seen: _Seen) -> _Seen:
        """Return the lease as soon as it has changed, or as it was after its time to live."""
        ttl_s = seen.ttl_s(self._ttl_s)
        until_s = _now_s() + ttl_s
        while (left_s := until_s - _now_s()) > 0:
            self._stop.wait(min(left_s, ttl_s / LOOKS, LOOK_S))
            later = self._look()
            if later.etag != seen.etag:
                return later
        return seen

    def _claim(self, seen: _Seen) -> bool:
        self.epoch = seen.epoch + 1
        sent_s = _now_s()
        etag = self._swap(self._record(), seen.etag)
        if etag is None:
            return False
        self._etag, self._renewed_s = etag, sent_s
        self._thread.start()
        return True

    def _record(self, *, free: bool = False) -> bytes:
        """Return the lease as it is stored: no two are alike, since an etag may be a digest."""
        record = {
            "owner": self._owner,
            "epoch": self.epoch,
            "ttl_s": self._ttl_s,
            "since": self._since,
            "nonce": self._nonce,
            "beat": self._beat,
            "free": free,
        }
        return (json.dumps(record, indent=1) + "\n").encode()

    def _swap(self, data: bytes, etag: str | None) -> str | None:
        """Swap the lease and return its etag, None where another run came first.

        A client whose first try came through, but not the answer, is refused its second one:
        the swap was made if the bytes are there.
        """
        swapped = self._store.put_if_match(LEASE, data, etag)
        if swapped is not None:
            return swapped
        try:
            found, there = self._store.get_with_etag(LEASE)
        except FileNotFoundError:
            return None
        return there if found == data else None

    # -- the beat ------------------------------------------------------------------------

    def _renew(self) -> None:
        record, wait_s = b"", self._every_s
        while not self._stop.wait(wait_s):
            if not record:
                self._beat += 1
                record = self._record()
            sent_s = _now_s()
            try:
                etag = self._swap(record, self._etag)
            except StoreError as error:
                self._trouble, wait_s = str(error), self._every_s / 4
                continue  # with the same bytes: they may be there already
            if etag is None:
                self._lost = f"now held by {self._look_again()}"
                return
            self._etag, self._renewed_s = etag, sent_s
            record, wait_s = b"", self._every_s

    def _look_again(self) -> str:
        try:
            seen = self._look()
        except StoreError:
            return "another run"
        return "nobody: it was removed" if seen.etag is None else seen.holder()


def _now_s() -> float:
    """Return a clock that only runs forward, also while the machine sleeps where it can."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
