"""The contract of a container: one file that holds many photos, and where each of them is.

A container is listed once, by a worker, into rows that say where each photo begins; photos
are then read by any number of workers, each its own stretch of rows. Nothing is ever
unpacked to disk, so that a hostile name has nowhere to go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One photo of a container, or one thing in it that cannot be read as a photo."""

    name: str  # as the container has it, valid UTF-8; for people and tables, never a path to write
    offset: int  # where the reader finds it: a byte offset or a number; its own to define
    bytes: int = 0  # of the encoded photo; 0 where not known before it is read
    label: str | None = None  # the identity that the container states, if it states any
    problem: str | None = None  # why its bytes cannot be asked for, in words for the table


class Container(Protocol):
    """An opened container; not shared between threads."""

    sequential: bool  # True: to read a member all before it have to be read too

    def members(self) -> Iterator[Member]:
        """Yield every member in the file's order.

        What is damaged or refused is a Member with a ``problem``, in its place; damage that
        ends the listing is the last one, after every member that was found. Raises OSError
        only where the file itself cannot be read.
        """
        ...

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return a member's bytes, at most ``max_bytes`` + 1 of them.

        Members asked for in rising order of offset are read in one pass. Raises OSError,
        with words for the table, for one that is damaged.
        """
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...
