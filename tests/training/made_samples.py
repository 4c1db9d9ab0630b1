"""Samples without pictures: groups of crops that say which group and row they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tests.training.made_crops import encoded
from training.samples import Int64, Samples


class CountedCrops:
    """Crops that are their number in bytes, or pictures; counts what is read."""

    def __init__(self, start_G1: Int64, *, pictures: bool = False) -> None:
        """Begin with nothing read."""
        self.start_G1, self.pictures = start_G1, pictures
        self.reads: Counter[int] = Counter()
        self.closed = 0

    def read(self, group: int, rows: Int64) -> list[bytes | None]:
        """Return the numbers of samples, or pictures with these numbers."""
        assert (np.diff(rows) > 0).all() and len(rows)
        self.reads[group] += 1
        numbers = (int(self.start_G1[group]) + rows).tolist()
        return [encoded(n) if self.pictures else b"%d" % n for n in numbers]

    def name(self, group: int, row: int) -> str:
        """Return group and row."""
        return f"{group}/{row}"

    def close(self) -> None:
        """Count it."""
        self.closed += 1


def samples_of(labels: Sequence[int], groups: Sequence[int], *, pictures: bool = False) -> Samples:
    """Return samples with these labels in groups of these sizes."""
    start_G1 = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)]).astype(np.int64)
    assert start_G1[-1] == len(labels)
    label_N = np.array(labels, np.int32)
    return Samples(
        groups=CountedCrops(start_G1, pictures=pictures),
        start_G1=start_G1,
        row_N=None,
        label_N=label_N,
        weight_N=(np.arange(len(labels)) % 8 / 8 + 0.125).astype(np.float32),
        people=[f"p{n}" for n in range(max(labels) + 1)],
        counts={"used": len(labels)},
        digest="",
    )
