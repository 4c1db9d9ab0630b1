"""The codes of a shard on disk: inverted lists that are searched where they lie, mapped.

    64 bytes     magic, template, lists, bytes of a code, codes of a block, rows
    4 x L        rows of each list (uint32), then zeros up to a multiple of 32
    each list    its codes, filled up with zeros to whole blocks, then its ids (int64), then
                 zeros up to a multiple of 32

All numbers are little-endian. Where a list begins follows from the sizes, so that there is
nothing to point outside of the file, and faiss gets to see no byte of structure: its own
format has to be read into memory by a loader that hostile files have crashed (faiss 5400,
5485), has no checksum, repeats the centroids in every shard, and its fast-scan lists take up
to twice their bytes once loaded (AlignedTable grows by powers of two).

Legend: L lists, N codes, C bytes of a code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import CorruptData

Int64 = NDArray[np.int64]

UInt8 = NDArray[np.uint8]

MAGIC = b"FPLISTS1"
_HEADER = struct.Struct("<8s16s4Q8x")
ALIGN_BYTES = 32  # what the widest registers of the fast scan (AVX2) load
ID_BYTES = 8  # faiss takes no other
CHECK_ROWS = 2**20  # ids checked at a time: 32 MB of temporaries
SCAN_BLOCK = 32  # codes that the fast scan reads together
# The order in which the fast scan wants the halves of 16 codes (faiss, pq4_pack_codes).
SCAN_ORDER = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])


@dataclass(frozen=True, slots=True, kw_only=True)
class ListLayout:
    """What every list file of a template has in common, and the rows of this one."""

    template: str  # its name
    lists: int
    code_bytes: int
    block: int  # codes of a list are padded to a multiple
    rows: int

    @property
    def scanned(self) -> bool:
        """Tell whether the codes are in the blocks of the fast scan."""
        return self.block == SCAN_BLOCK

    def header(self) -> bytes:
        """Return the first bytes of the file."""
        name = self.template.encode()
        return _HEADER.pack(MAGIC, name, self.lists, self.code_bytes, self.block, self.rows)

    def first(self) -> int:
        """Return where the first list begins."""
        return int(_aligned(np.int64(_HEADER.size + 4 * self.lists)))

    def capacities(self, sizes_L: Int64) -> Int64:
        """Return the codes of each list with its padding."""
        padded: Int64 = -(-sizes_L // self.block) * self.block
        return padded

    def places(self, sizes_L: Int64) -> Int64:
        """Return where each code is among those of some lists with their padding (N)."""
        shift_L = np.cumsum(self.capacities(sizes_L) - sizes_L)
        shift_L = np.concatenate([[0], shift_L[:-1]])
        places: Int64 = np.arange(int(sizes_L.sum())) + np.repeat(shift_L, sizes_L)
        return places

    def lengths(self, sizes_L: Int64) -> Int64:
        """Return the bytes of each list: codes, ids, padding."""
        codes = self.capacities(sizes_L) * self.code_bytes
        return _aligned(codes + sizes_L * ID_BYTES)

    def offsets(self, sizes_L: Int64) -> Int64:
        """Return where each list begins, and at last where the file ends (L + 1)."""
        ends = np.cumsum(self.lengths(sizes_L), dtype=np.int64)
        return np.concatenate([[0], ends]) + self.first()

    def start(self, sizes_L: Int64) -> bytes:
        """Return all that comes before the first list."""
        data = self.header() + sizes_L.astype("<u4").tobytes()
        return data.ljust(self.first(), b"\0")


def _aligned(size: NDArray[np.int64] | np.int64) -> Int64:
    padded: Int64 = np.asarray(-(-size // ALIGN_BYTES) * ALIGN_BYTES)
    return padded


def lay_out(layout: ListLayout, sizes_L: Int64, codes_NC: UInt8, ids_N: Int64) -> UInt8:
    """Return some whole lists as they lie in the file: codes, ids, padding.

    sizes_L: of these lists; codes_NC and ids_N: list by list.
    """
    capacities = layout.capacities(sizes_L)
    padded_NC = np.zeros((int(capacities.sum()), layout.code_bytes), np.uint8)
    padded_NC[layout.places(sizes_L)] = codes_NC
    codes = scan_blocks(padded_NC) if layout.scanned else padded_NC.reshape(-1)
    stored_ids = ids_N.astype("<i8").view(np.uint8)
    out = np.zeros(int(layout.lengths(sizes_L).sum()), np.uint8)
    at = code_at = id_at = 0
    for capacity, size in zip(capacities.tolist(), sizes_L.tolist(), strict=True):
        codes_bytes, ids_bytes = capacity * layout.code_bytes, size * ID_BYTES
        out[at : at + codes_bytes] = codes[code_at : code_at + codes_bytes]
        at += codes_bytes
        out[at : at + ids_bytes] = stored_ids[id_at : id_at + ids_bytes]
        at += ids_bytes
        at += -at % ALIGN_BYTES
        code_at, id_at = code_at + codes_bytes, id_at + ids_bytes
    return out


def scan_blocks(codes_NC: UInt8) -> UInt8:
    """Return codes (N a multiple of 32) in the order in which the fast scan reads them.

    For each byte of the code 32 bytes: the low halves of 32 codes, two to a byte, then the
    high halves.
    """
    blocks = codes_NC.reshape(-1, SCAN_BLOCK, codes_NC.shape[1]).transpose(0, 2, 1)
    packed = np.empty(blocks.shape, np.uint8)
    for half, values in enumerate((blocks & 15, blocks >> 4)):
        low, high = values[:, :, SCAN_ORDER], values[:, :, SCAN_ORDER + 16]
        packed[:, :, 16 * half : 16 * half + 16] = low | (high << 4)
    return packed.reshape(-1)


def list_runs(sizes_L: Int64, rows: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of lists with about so many rows each, which cover all."""
    turns = np.cumsum(sizes_L) // rows
    yield from pairwise([0, *(np.flatnonzero(np.diff(turns)) + 1).tolist(), len(sizes_L)])


def read_sizes(path: Path, layout: ListLayout, *, check_ids: bool = True) -> Int64:
    """Return the rows of each list of a file, after checking its structure.

    check_ids: read every id too; they are to be a permutation of the rows. Without it an id
    may be any number. Raises CorruptData where the file is not of this layout.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(layout.first())
    except OSError as error:
        raise CorruptData(f"{path} cannot be read ({error.strerror}): {_REMEDY}") from error
    header = layout.header()
    if start[: len(header)] != header:
        raise CorruptData(f"{path} is not a list file of this template and shard: {_REMEDY}")
    if len(start) != layout.first():
        raise CorruptData(f"{path} ends in its list of sizes: {_REMEDY}")
    stored = np.frombuffer(start, dtype="<u4", count=layout.lists, offset=len(header))
    sizes_L = stored.astype(np.int64)
    if int(sizes_L.sum()) != layout.rows:
        raise CorruptData(f"{path}: its lists do not add up to {layout.rows} rows: {_REMEDY}")
    expected = int(layout.offsets(sizes_L)[-1])
    if size != expected:
        raise CorruptData(f"{path} has {size} bytes and not {expected}: {_REMEDY}")
    if check_ids and not _ids_are_rows(path, layout, sizes_L):
        raise CorruptData(f"{path}: its ids are not the rows of the shard: {_REMEDY}")
    return sizes_L


def _ids_are_rows(path: Path, layout: ListLayout, sizes_L: Int64) -> bool:
    """Tell whether each row occurs once; there are as many ids as rows."""
    if layout.rows == 0:
        return True
    words = np.memmap(path, dtype="<i8", mode="r")
    codes_bytes = layout.capacities(sizes_L) * layout.code_bytes
    starts_L = (layout.offsets(sizes_L)[:-1] + codes_bytes) // ID_BYTES
    before_L = np.cumsum(sizes_L) - sizes_L
    seen = np.zeros(layout.rows, dtype=bool)
    for first in range(0, layout.rows, CHECK_ROWS):
        places = np.arange(first, min(first + CHECK_ROWS, layout.rows))
        lists = np.searchsorted(before_L + sizes_L, places, side="right")
        ids = np.asarray(words[starts_L[lists] + places - before_L[lists]])
        if not ((ids >= 0) & (ids < layout.rows)).all():
            return False
        seen[ids] = True
    return bool(seen.all())


_REMEDY = "the index is damaged; build it again with facepipe index build"
