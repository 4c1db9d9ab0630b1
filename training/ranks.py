"""The processes of a run: which one this is, and what they agree on.

torchrun and Ray Train start them; alone, a run is one rank. What is said here goes over the CPU
(gloo), so that no GPU waits for it, and as JSON or numbers: nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from facepipe import errors
from facepipe.errors import FacepipeError, UsageError
from training.shard_group import ShardGroup

T = TypeVar("T")


@contextmanager
def launched() -> Iterator[None]:
    """Join the other ranks where torchrun started this process; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Return whether this process is the one that prints, before ranks are joined or after."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


def device_of(asked: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return where a rank computes. Raises UsageError where cuda is asked for and not there."""
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UsageError("device = cuda, but torch finds no GPU here: set device to auto or cpu")
    if asked == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of a run."""

    group: ShardGroup
    device: torch.device
    _quiet: Any = field(default=None, repr=False)  # a group on the CPU; None: the default one

    @classmethod
    def current(cls, device: torch.device) -> Ranks:
        """Return the place in torch.distributed's default group; all ranks ask at once."""
        group = ShardGroup.current()
        spoken = group.size > 1 and dist.get_backend() != "gloo"
        return cls(group, device, dist.new_group(backend="gloo") if spoken else None)

    @property
    def rank(self) -> int:
        """Return this rank's number."""
        return self.group.rank

    @property
    def size(self) -> int:
        """Return how many there are."""
        return self.group.size

    @property
    def first(self) -> bool:
        """Return whether this rank writes and speaks for all."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self._quiet)

    def any(self, flag: bool) -> bool:
        """Return whether any rank says yes."""
        return self.sums([int(flag)])[0] > 0

    def sums(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of counts over ranks."""
        if self.size == 1:
            return list(counts)
        total = torch.tensor(list(counts), dtype=torch.int64)
        dist.all_reduce(total, group=self._quiet)
        return [int(count) for count in total.tolist()]

    def row_sums(self, values: Sequence[float]) -> list[float]:
        """Return sums over ranks, added in the order of ranks: the same bits everywhere."""
        if self.size == 1:
            return list(values)
        own = torch.tensor(list(values), dtype=torch.float64)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own, group=self._quiet)
        return [sum(row) for row in zip(*(part.tolist() for part in parts), strict=True)]

    def told(self, value: T) -> T:
        """Return rank 0's value, of JSON's kinds."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.first else b""
        length = torch.tensor([len(text)])
        dist.broadcast(length, 0, group=self._quiet)
        data = torch.zeros(int(length), dtype=torch.uint8)
        if self.first:
            data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        dist.broadcast(data, 0, group=self._quiet)
        said: T = json.loads(bytes(data.tolist()))
        return said

    def agreed(self, decide: Callable[[], T]) -> T:
        """Return what rank 0 decides, of JSON's kinds; where it raises, every rank does."""
        answer: dict[str, Any] = {}
        if self.first:
            try:
                answer = {"value": decide()}
            except FacepipeError as error:
                if self.size == 1:
                    raise
                answer = {"error": type(error).__name__, "message": str(error)}
        answer = self.told(answer)
        if "error" in answer:
            kind = getattr(errors, answer["error"], FacepipeError)
            raise kind(answer["message"])
        value: T = answer["value"]
        return value

    def check_alike(self, what: str, digest: str) -> None:
        """Raise UsageError, on every rank, where ranks were given different things."""
        if self.any(self.told(digest) != digest):
            raise UsageError(
                f"the ranks of this run were not given the same {what}: start all of them with "
                "one command, on files that all of them see"
            )
