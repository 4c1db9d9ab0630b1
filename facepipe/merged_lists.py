"""The list files of several shards as one, list by list: so that they are searched as one.

The fast scan prepares a query's table anew for every list it looks at, in every shard. With 20
codes to a list and shard, 8 shards take 3.4 to 4.9 times the time of one that has them all;
merged, no more than that one. It is done in a temporary file when a gallery is opened, since a
file for all shards would have to be written anew for every added night.

Legend: L lists, S shards, N rows, C bytes of a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from facepipe.index_codes import list_layout
from facepipe.index_template import TrainedTemplate
from facepipe.list_file import (
    ID_BYTES,
    SCAN_BLOCK,
    SCAN_ORDER,
    ListLayout,
    lay_out,
    list_runs,
    read_sizes,
)

Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]

MERGED_ROWS = 65536  # at a time, more where one list is longer


@dataclass(frozen=True, slots=True)
class Lists:
    """The list file of one shard: its id i is row ``first + i`` of the gallery."""

    first: int
    layout: ListLayout
    sizes_L: Int64
    bytes: UInt8  # mapped

    @classmethod
    def of(cls, path: Path, template: TrainedTemplate, rows: int, first: int) -> Lists:
        """Map a file. Raises CorruptData where it is not of this template and shard."""
        layout = list_layout(template, rows)
        sizes_L = read_sizes(path, layout, check_ids=False)
        return cls(first, layout, sizes_L, np.memmap(path, np.uint8, "r"))

    def take(self, begin: int, end: int) -> tuple[UInt8, Int64]:
        """Return the codes (N x C) and the gallery's rows (N) of some lists, list by list."""
        sizes = self.sizes_L[begin:end]
        capacities = self.layout.capacities(sizes)
        starts = self.layout.offsets(self.sizes_L)[begin:end]
        middles = starts + capacities * self.layout.code_bytes
        ends = middles + sizes * ID_BYTES
        padded = np.concatenate(_slices(self.bytes, starts, middles))
        rows = np.concatenate(_slices(self.bytes, middles, ends)).view("<i8") + self.first
        return _unpacked(padded, self.layout)[self.layout.places(sizes)], rows


def merge_lists(shards: Sequence[Lists], template: TrainedTemplate, stream: BinaryIO) -> int:
    """Write one list file for shards with one template; return its rows. Each id is a row."""
    sizes_L = np.sum([shard.sizes_L for shard in shards], axis=0)
    layout = list_layout(template, int(sizes_L.sum()))
    stream.write(layout.start(sizes_L))
    for begin, end in list_runs(sizes_L, MERGED_ROWS):
        parts = [shard.take(begin, end) for shard in shards]
        list_of = [np.repeat(np.arange(begin, end), s.sizes_L[begin:end]) for s in shards]
        order = np.argsort(np.concatenate(list_of), kind="stable")
        codes, rows = (np.concatenate(column)[order] for column in zip(*parts, strict=True))
        stream.write(lay_out(layout, sizes_L[begin:end], codes, rows).data)
    return layout.rows


def _slices(data: UInt8, starts: Int64, ends: Int64) -> list[UInt8]:
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return [data[start:end] for start, end in pairs]


def _unpacked(padded: UInt8, layout: ListLayout) -> UInt8:
    """Return the codes of whole blocks, one a row: what `scan_blocks` was given."""
    if not layout.scanned:
        return padded.reshape(-1, layout.code_bytes)
    blocks = padded.reshape(-1, layout.code_bytes, SCAN_BLOCK)
    codes = np.empty(blocks.shape, np.uint8)
    low, high = blocks[:, :, :16], blocks[:, :, 16:]
    codes[:, :, SCAN_ORDER] = (low & 15) | (high << 4)
    codes[:, :, SCAN_ORDER + 16] = (low >> 4) | (high & 0xF0)
    return codes.transpose(0, 2, 1).reshape(-1, layout.code_bytes)
