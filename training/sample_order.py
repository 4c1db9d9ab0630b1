"""In which order samples come: a function of (seed, epoch, place), so that a place is all to keep.

An epoch is cut into chunks, each a part of one group of crops; the chunks are permuted, laid one
after the other and cut into windows; the samples of a window are permuted, too. So a window needs
only the groups that its chunks are of, and crops are read a group at a time. A `position` counts
samples over all epochs, from 0: it is the whole state of a run's data, whatever the number of
workers and ranks, and whatever the batch.

Legend: N samples, W samples of a window, G groups, C chunks of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from training.balance import Balance, BalanceSettings
from training.keyed_random import hashes, key_of, permutation
from training.samples import Samples

Int64 = npt.NDArray[np.int64]
UInt16 = npt.NDArray[np.uint16]

_CHUNKS, _WITHIN_GROUP, _WITHIN_WINDOW, _RUNS = 1, 2, 3, 4  # what a permutation is of


class OrderSettings(BaseModel):
    """How well samples are mixed, and what that costs in memory and reading.

    Of 5.8 million samples in the order of people, 62 each, in groups of 256, a batch of 512 has 416
    different people with 1 part, 459 with 2, 483 with 4, 498 with 8; were all samples mixed, 510.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_samples: int = Field(
        65_536,
        ge=1,
        description="samples that are mixed with each other; the encoded crops of two windows "
        "are in memory, about 1 GB of JPEG or 3 GB of PNG, divided by the number of ranks",
    )
    group_parts: int = Field(
        2,
        ge=1,
        le=256,
        description="parts that a group of neighbours comes in, far from each other; each group "
        "is read as often in an epoch",
    )
    run_samples: int = Field(
        1,
        ge=1,
        description="samples of a person that follow each other, where a window has so many: "
        "for losses that compare the samples of a batch",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The samples of a window, in the order in which they come."""

    start: int  # position of the first
    epoch: int
    sample_W: Int64
    copy_W: UInt16  # how often the sample has come in this epoch before, where it is repeated


@dataclass(frozen=True, slots=True)
class _Chunks:
    """How an epoch's samples lie before they are mixed within windows."""

    order_C: Int64  # the chunks as they follow each other
    start_C1: Int64  # where each begins in the epoch
    repeats_N: UInt16 | None


class SampleOrder:
    """The order of the samples of a run, endlessly, epoch after epoch."""

    def __init__(
        self,
        samples: Samples,
        settings: OrderSettings | None = None,
        balance: BalanceSettings | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Compute nothing but the length of an epoch."""
        self.samples, self.seed = samples, seed
        self.settings = settings or OrderSettings()
        even = balance is not None and balance.power < 1
        self._balance = Balance(samples.label_N, balance, seed) if even and balance else None
        balanced = self._balance
        self.epoch_samples = len(samples) if balanced is None else balanced.epoch_samples
        self.epoch_windows = -(-self.epoch_samples // self.settings.window_samples)
        self._cached: tuple[int, _Chunks] | None = None  # of one epoch

    def epoch_of(self, position: int) -> int:
        """Return the epoch that a position is in, from 0."""
        return position // self.epoch_samples

    def window_at(self, position: int) -> int:
        """Return the number of the window that a position is in, over all epochs."""
        epoch, place = divmod(position, self.epoch_samples)
        # Windows of an epoch differ by one sample at most: none is left nearly empty.
        window = (place * self.epoch_windows) // self.epoch_samples
        window += place >= self._bound(window + 1)
        return epoch * self.epoch_windows + window

    def window(self, number: int) -> Window:
        """Return a window by its number over all epochs."""
        epoch, place = divmod(number, self.epoch_windows)
        start, stop = self._bound(place), self._bound(place + 1)
        sample_W, copy_W = self._laid_out(epoch, start, stop)
        mixed = self._mixed(sample_W, key_of(self.seed, _WITHIN_WINDOW, epoch, place))
        return Window(
            start=epoch * self.epoch_samples + start,
            epoch=epoch,
            sample_W=sample_W[mixed],
            copy_W=copy_W[mixed],
        )

    def samples_from(self, position: int) -> Iterator[int]:
        """Yield the samples from a position on, endlessly: for looking at the order alone."""
        number = self.window_at(position)
        while True:
            window = self.window(number)
            yield from window.sample_W[max(0, position - window.start) :].tolist()
            number += 1

    def _bound(self, window: int) -> int:
        return window * self.epoch_samples // self.epoch_windows

    def _mixed(self, sample_W: Int64, key: int) -> Int64:
        run = self.settings.run_samples
        if run == 1:
            return permutation(key, len(sample_W))
        label_W = self.samples.label_N[sample_W]
        by_person = np.lexsort((permutation(key, len(sample_W)), label_W))
        sorted_W = label_W[by_person]
        place_W = np.arange(len(by_person))
        first_W = np.searchsorted(sorted_W, sorted_W)  # of its person
        run_W = place_W - (place_W - first_W) % run  # where its run begins
        hash_W = hashes(key_of(key, _RUNS), run_W)
        return by_person[np.lexsort((place_W, hash_W))]

    def _laid_out(self, epoch: int, start: int, stop: int) -> tuple[Int64, UInt16]:
        """Return the samples from start to stop of an epoch as its chunks have them."""
        chunks = self._chunks(epoch)
        first = int(np.searchsorted(chunks.start_C1, start, side="right")) - 1
        last = int(np.searchsorted(chunks.start_C1, stop, side="left"))
        parts = [self._chunk(chunks, epoch, int(c)) for c in chunks.order_C[first:last]]
        skipped = start - int(chunks.start_C1[first])
        sample_W, copy_W = (np.concatenate(p)[skipped:] for p in zip(*parts, strict=True))
        return sample_W[: stop - start], copy_W[: stop - start]

    def _chunk(self, chunks: _Chunks, epoch: int, chunk: int) -> tuple[Int64, UInt16]:
        group, part = divmod(chunk, self.settings.group_parts)
        first, end = self.samples.start_G1[group : group + 2].tolist()
        if chunks.repeats_N is None:
            places = permutation(key_of(self.seed, _WITHIN_GROUP, epoch, group), end - first)
            chosen = places[part :: self.settings.group_parts]
            return first + chosen, np.zeros(len(chosen), np.uint16)
        repeats = chunks.repeats_N[first:end].astype(np.int64)
        slots = np.repeat(np.arange(end - first), repeats)
        copies = np.arange(len(slots)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        places = permutation(key_of(self.seed, _WITHIN_GROUP, epoch, group), len(slots))
        chosen = places[part :: self.settings.group_parts]
        return first + slots[chosen], copies[chosen].astype(np.uint16)

    def _chunks(self, epoch: int) -> _Chunks:
        cached = self._cached  # taken once: two loaders may share an order
        if cached is None or cached[0] != epoch:
            cached = self._cached = (epoch, self._new_chunks(epoch))
        return cached[1]

    def _new_chunks(self, epoch: int) -> _Chunks:
        parts, start_G1 = self.settings.group_parts, self.samples.start_G1
        repeats_N = None if self._balance is None else self._balance.repeats(epoch)
        size_G = np.diff(start_G1)
        if repeats_N is not None:
            total_N1 = np.concatenate([[0], np.cumsum(repeats_N, dtype=np.int64)])
            size_G = np.diff(total_N1[start_G1])
        size_GP = size_G[:, None] // parts + (np.arange(parts) < (size_G % parts)[:, None])
        size_C = size_GP.reshape(-1)
        order_C = permutation(key_of(self.seed, _CHUNKS, epoch), len(size_C))
        order_C = order_C[size_C[order_C] > 0]
        return _Chunks(order_C, np.concatenate([[0], np.cumsum(size_C[order_C])]), repeats_N)
