"""The codes of a shard: encoded with the gallery's template, searched where they lie on disk.

What a vector becomes depends on the template and on nothing else: a face must be in the same list
whichever shard it is in. So its list is found by products of integers (`facepipe.nearest_lists`);
on a GPU, where they are of floats, in blocks of one size. The ids are the rows of the shard.

Legend: N vectors, D dimensions, C bytes of a code, L lists.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import CorruptData
from facepipe.half_floats import is_finite, widened
from facepipe.hashed_stream import HashedStream
from facepipe.index_manifest import IndexFile
from facepipe.index_template import Device, TrainedTemplate, load_faiss, on_gpu
from facepipe.list_file import (
    ID_BYTES,
    SCAN_BLOCK,
    ListLayout,
    lay_out,
    list_runs,
    read_sizes,
)
from facepipe.nearest_lists import NearestLists

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]

# Of what a vector becomes with a template; what was made by another one is not taken over.
CODES_VERSION = 2  # 2: lists by products of integers
# BLAS rounds the rows at the end of a block otherwise: of whole tiles each row has the same kernel.
# A block takes 32 MB at 512 dimensions.
TILE_ROWS, BLOCK_ROWS = 4096, 16384
WRITE_ROWS = 65536  # packed and written at a time, more where one list is longer


def list_layout(template: TrainedTemplate, rows: int) -> ListLayout:
    """Return how the lists of a shard with so many rows lie in its file."""
    code_bytes = template.code_bytes
    scan = template.record.kind == "ivf_pqfs"
    return ListLayout(
        template=template.record.name,
        lists=template.record.nlist,
        code_bytes=code_bytes,
        block=SCAN_BLOCK if scan else ID_BYTES // math.gcd(code_bytes, ID_BYTES),
        rows=rows,
    )


class ShardCodes:
    """Encodes the vectors of one shard and writes their lists; row i gets the id i.

    Kept in memory: a code, 4 bytes for its list and 8 for its place, a row.
    """

    def __init__(self, template: TrainedTemplate, rows: int, *, device: Device = "cpu") -> None:
        """Take ``rows`` vectors. Raises UsageError where device is cuda and there is no GPU."""
        self._template = template
        self._layout = list_layout(template, rows)
        self._codes_NC = np.empty((rows, template.code_bytes), np.uint8)
        self._lists_N = np.empty(rows, np.uint32)
        self._rows = 0
        self._waiting: list[NDArray[np.float16]] = []
        self._assign = NearestLists(template).assign if device == "cpu" else _on_gpu(template)

    def add(self, vectors_ND: NDArray[np.float16]) -> None:
        """Append unit vectors (float16); how they are cut into calls does not change a byte.

        Raises ValueError for another shape, and for more rows than were announced.
        """
        dim = self._template.dim
        waiting = sum(len(part) for part in self._waiting)
        if vectors_ND.shape != (len(vectors_ND), dim) or vectors_ND.dtype != np.float16:
            raise ValueError(f"{vectors_ND.dtype} {vectors_ND.shape} is not float16 N x {dim}")
        if self._rows + waiting + len(vectors_ND) > self._layout.rows:
            raise ValueError(f"more than the {self._layout.rows} vectors of this shard were added")
        place = 0
        while waiting + len(vectors_ND) - place >= BLOCK_ROWS:
            wanted = BLOCK_ROWS - waiting
            self._encode([*self._waiting, vectors_ND[place : place + wanted]])
            self._waiting, waiting, place = [], 0, place + wanted
        if place < len(vectors_ND):
            self._waiting.append(vectors_ND[place:].copy())

    def write(self, stream: BinaryIO) -> IndexFile:
        """Write the file of lists, hashed as it is written; the stream stays open.

        Raises ValueError where fewer rows were added than announced.
        """
        if self._waiting:
            self._encode(self._waiting)
            self._waiting = []
        if self._rows != self._layout.rows:
            raise ValueError(f"{self._rows} of {self._layout.rows} vectors of a shard were added")
        hashed = HashedStream(stream)
        sizes_L = np.bincount(self._lists_N, minlength=self._layout.lists).astype(np.int64)
        hashed.write(self._layout.start(sizes_L))
        order = np.argsort(self._lists_N, kind="stable")
        for first, last in list_runs(sizes_L, WRITE_ROWS):
            begin = int(sizes_L[:first].sum())
            rows = order[begin : begin + int(sizes_L[first:last].sum())]
            lists = lay_out(self._layout, sizes_L[first:last], self._codes_NC[rows], rows)
            hashed.write(lists.data)
        return hashed.file()

    def _encode(self, parts: list[NDArray[np.float16]]) -> None:
        """Find the list and the code of a block of vectors."""
        faiss = load_faiss()
        count = sum(len(part) for part in parts)
        wide = np.empty((count, self._template.dim), np.float32)
        place = 0
        for part in parts:
            if not is_finite(part):
                raise ValueError("a vector without a nearest list: only unit vectors can be added")
            widened(part, wide[place : place + len(part)])
            place += len(part)
        lists = np.ascontiguousarray(self._assign(wide))
        here = slice(self._rows, self._rows + count)
        self._lists_N[here] = lists
        self._template.index.encode_vectors(
            count,
            faiss.swig_ptr(wide),
            faiss.swig_ptr(lists),
            faiss.swig_ptr(self._codes_NC[here]),
        )
        self._rows += count


def _on_gpu(template: TrainedTemplate) -> Callable[[Float32], Int64]:
    """Return what finds the nearest list on the GPU, also where the template has a graph."""
    faiss = load_faiss()
    flat = faiss.IndexFlatIP(template.dim)
    flat.add(template.quantizer.reconstruct_n(0, template.record.nlist))
    centres = on_gpu(flat)

    def assign(vectors_ND: Float32) -> Int64:
        count = len(vectors_ND)
        tiles_ND = np.pad(vectors_ND, ((0, -count % TILE_ROWS), (0, 0)))
        lists_N: Int64 = centres.search(tiles_ND, 1)[1][:count, 0]
        return lists_N

    return assign


def read_codes(path: Path, template: TrainedTemplate, rows: int, *, check_ids: bool = True) -> Any:
    """Return the faiss index over a shard's file of lists, mapped; ids are rows of the shard.

    It shares the template's centres, has nprobe 1, and takes no memory but the pages that
    are looked at. Nothing in the file can lead outside of it; with check_ids each id has
    been read and is a row, without it they are to be checked when they come up. The file
    must not change while the index lives, but its name may go. Raises CorruptData.

    Faiss reads what is made here, never what was stored. Its `merge_from` is not to be used
    on fast-scan lists: in 1.15.1 it writes beyond the end of one whose length is a multiple
    of the bytes of a block (1024 faces at 64 x 4 bits), and the process ends, or does not.
    """
    faiss = load_faiss()
    layout = list_layout(template, rows)
    sizes_L = read_sizes(path, layout, check_ids=check_ids)
    index = template.empty_index()
    offsets = layout.offsets(sizes_L)
    table = np.stack([sizes_L, layout.capacities(sizes_L), offsets[:-1]], axis=1)
    name = str(path.absolute()).encode()
    described = b"".join(
        (
            b"ilod",  # lists in a file, as faiss describes them (OnDiskInvertedLists)
            struct.pack("<3Q", layout.lists, layout.code_bytes, layout.lists),
            table.astype("<u8").tobytes(),
            struct.pack("<2Q", 0, len(name)),  # no free slots
            name,
            struct.pack("<Q", int(offsets[-1])),
        )
    )
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(described, np.uint8), reader.data)
    try:
        lists = faiss.read_InvertedLists(reader, faiss.IO_FLAG_READ_ONLY)
        lists.prefetch_nthread = 0  # no threads of its own
        index.replace_invlists(lists, True)
    except RuntimeError as error:  # such as a file that cannot be mapped
        raise CorruptData(f"{path} cannot be mapped ({error})") from error
    index.ntotal = rows
    return index
