"""What a run is trained on: a list of labelled, weighted crops, and where each lies.

Crops lie in groups that are cheap to read at once: a shard of FACES, or neighbours in a source.
The list costs 16 bytes a sample or less; crops are read when their turn comes.

Legend: N samples, in the order of groups; G groups; L people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepipe import ids
from facepipe.errors import UsageError

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
UInt32 = npt.NDArray[np.uint32]
Float32 = npt.NDArray[np.float32]
Crops = npt.NDArray[np.object_]  # bytes, or None

USED = "used"  # the row of `counts` that became samples
_HASHED_SAMPLES = 1 << 16  # at a time

LABELS = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),  # class of the head, from 0
        pa.field("identity_id", pa.string(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
    ]
)


class CropGroups(Protocol):
    """Encoded crops, read a group at a time; safe to be asked by several threads."""

    def read(self, group: int, rows: Int64) -> list[bytes | None]:
        """Return the crops of some rows of a group, None for one that cannot be had.

        Rows rise. Raises CorruptData where what was committed is not there.
        """
        ...

    def name(self, group: int, row: int) -> str:
        """Return where a crop lies, for people."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The samples of a run. Sample n is crop ``row`` of the group that it falls in."""

    groups: CropGroups
    start_G1: Int64  # the first sample of each group, and N
    row_N: UInt32 | None  # within its group; None: 0, 1, 2 ..
    label_N: Int32
    weight_N: Float32
    people: Sequence[str]  # identity_id by label
    counts: Mapping[str, int]  # rows of the source by what became of them; they add up to all
    digest: str  # see `samples_digest`

    def __len__(self) -> int:
        """Return N."""
        return len(self.label_N)

    def group_of(self, sample_K: Int64) -> Int64:
        """Return the group of some samples."""
        return np.searchsorted(self.start_G1, sample_K, side="right").astype(np.int64) - 1

    def row_of(self, sample_K: Int64) -> Int64:
        """Return the row of some samples within their groups."""
        if self.row_N is not None:
            return self.row_N[sample_K].astype(np.int64)
        return sample_K - self.start_G1[self.group_of(sample_K)]

    def name(self, sample: int) -> str:
        """Return where a sample lies, for people."""
        one = np.array([sample], np.int64)
        return self.groups.name(int(self.group_of(one)[0]), int(self.row_of(one)[0]))

    def sizes_L(self) -> Int64:
        """Return how many samples each person has, (L,) int64."""
        return np.bincount(self.label_N, minlength=len(self.people))

    def labels_table(self) -> pa.Table:
        """Return who each label is: LABELS, by rising label."""
        labels = np.arange(len(self.people), dtype=np.int32)
        columns = [pa.array(labels), pa.array(self.people, pa.string()), pa.array(self.sizes_L())]
        return pa.Table.from_arrays(columns, schema=LABELS)

    def text(self) -> str:
        """Return the counts as a line."""
        others = [f"{n:,} {what}" for what, n in self.counts.items() if n and what != USED]
        line = f"{len(self):,} samples of {len(self.people):,} people"
        return f"{line}; left out: {', '.join(others) or 'none'}"


def read_crops(samples: Samples, sample_K: Int64) -> Crops:
    """Return the encoded crops of some samples, (K,) bytes; each group is read once.

    None for one that cannot be had. Raises CorruptData where a committed file is damaged.
    """
    crop_K = np.full(len(sample_K), None, object)
    order = np.argsort(sample_K, kind="stable")
    group_K = samples.group_of(sample_K[order])
    bounds = np.flatnonzero(np.diff(group_K, prepend=-1)).tolist()
    for start, stop in pairwise([*bounds, len(order)]):
        places = order[start:stop]
        rows, row_of_place = np.unique(samples.row_of(sample_K[places]), return_inverse=True)
        found = samples.groups.read(int(group_K[start]), rows)
        # By arrays: a loop would keep the lock from the decoders.
        crop_K[places] = np.array([*found, None], object)[row_of_place]
    return crop_K


def samples_digest(
    content: Sequence[object],
    start_G1: Int64,
    row_N: UInt32 | None,
    label_N: Int32,
    weight_N: Float32,
    people: Sequence[str],
) -> str:
    """Return the SHA-256 (hex) of what a run is trained on, wherever that lies.

    ``content`` says what the groups hold, as JSON values: the hashes of files, say. The same
    crops with the same labels and weights in the same order have the same digest.
    """
    rows = ids.digest(["rows", None if row_N is None else _array_digest(row_N, "<u4")])
    arrays = [
        _array_digest(start_G1, "<i8"),
        rows,
        _array_digest(label_N, "<i4"),
        _array_digest(weight_N, "<f4"),
    ]
    return ids.digest(["samples", 1, list(content), arrays, list(people)])


def _array_digest(values: npt.NDArray[np.generic], dtype: str) -> str:
    import hashlib

    digest = hashlib.sha256()
    for start in range(0, len(values), _HASHED_SAMPLES):  # a broadcast weight is never unfolded
        digest.update(np.ascontiguousarray(values[start : start + _HASHED_SAMPLES], dtype).data)
    return digest.hexdigest()


def check_trainable(samples: Samples, where: str, remedy: str) -> Samples:
    """Return the samples. Raises UsageError where they are too few to tell people apart."""
    if len(samples.people) < 2:
        raise UsageError(
            f"{where} has {samples.text()}: training needs two people or more; {remedy}"
        )
    return samples
