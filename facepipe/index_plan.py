"""How a gallery is laid out: which codes, lists and shards, from its size and a memory budget.

What was measured on face-like vectors (100,000 of 4,000 people, 512-d, one thread, the 100
best hits scored exactly), and what follows from it:

- 64 x 4 bits a vector lose nothing against 128 x 4 and 8 bits a dimension: whatever lists were
  searched, the same share of true matches (cosine of 0.40 or more among the 10 best) was
  found, in 1, 1.3 and 26 times the time. With 32 x 4 bits 2.6 points are lost, with codes of
  the difference from the list's centre 0.5.
- Lists decide what is found. With about as many as people, each holds a person: of 4,096 lists
  8 held 0.997 of the matches, of 2,048 it took 256 for 0.99, of 1,024 half of them.
- So lists have 64 faces up to 8,192 of them, whose centres are compared in 17 us a face; 16,384
  take 35, and encode 10 million faces at 19,000 a second in place of 28,000. From 10 million faces
  on longer lists would cost each search more than that: lists grow with the 3/4 power of the
  faces. From 65,536 on a graph finds the nearest.

Memory is what a search keeps busy: the pages of the mapped lists, the lists' centres, the face
ids of shards that are small enough for them to be held (of others they lie in a temporary
file), and for flat the whole file of vectors, of which every search reads all. What is read
only where hits are is not counted: other columns of the rows, the vectors that are scored
exactly. Disk is all of the gallery's files; its rows are estimated, since they depend on uris.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from facepipe.errors import UsageError
from facepipe.index_manifest import VECTOR_ITEM_BYTES, CodeKind
from facepipe.shard_rows import FACE_ID_BYTES, KEPT_BYTES

__all__ = ["CodeKind", "IndexPlan", "plan_index", "size_text"]

EXACT_FACES = 200_000  # below, exact search takes 2 ms a query and less
LIST_FACES, NEAR_LISTS = 64, 2**13
FAR_FACES, FAR_POWER = 10**7, 0.75  # a billion faces then have 2**18 lists
MIN_FACES_PER_LIST = 16  # of a small gallery
GRAPH_LISTS = 2**16  # more centres than this are searched by a graph
HNSW_LINKS = 32
GRAPH_BYTES = 4 * 2 * HNSW_LINKS + 24  # a centre: links of the ground floor, and its places
POINTS_PER_LIST = 24  # to train on: 24, 32 and 48 found the same, and memory is this
MIN_SAMPLE, MAX_SAMPLE = 2**14, 2**21
CODE_BITS = 4  # of a subquantizer; what the fast scan takes
CENTROIDS = 2**CODE_BITS
SUBQUANTIZERS, MORE_SUBQUANTIZERS = 64, 128
FEW_DIMS = 64  # up to which 8 bits each take no more than the larger codes
MAX_SUBVECTOR_DIMS = 15  # faiss encodes these one by one, so that a code does not depend on others
ID_BYTES = 8
ROW_BYTES = 50  # of rows.parquet: 32 were measured with uris of 20 letters, longer ones take more
LIST_BYTES = 40  # of a list in one shard: its sizes on file and in memory, its alignment
PADDING = 15.5  # codes a fast-scan list is filled up with to a multiple of 32, on average
PADDED_LIST_FACES = 32  # a list of so many in a shard is padded by a half
MIN_SHARD_ROWS, MAX_SHARD_ROWS = 2**18, 2**24
SHARDS = 8  # at least, where the gallery is large enough for them
BUILD_BYTES = 2**30  # memory of a shard's codes while it is built
BUILD_ROW_BYTES = 12  # beside the code: its list, its place in the order
PROBES, PROBES_LISTS = 256, 8192  # and with the root of the lists
CANDIDATES = 100  # 10 for each of the 10 best
CLOSE_RECALL = 0.995  # from here on codes count too: the larger where the memory is there


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """What is built, what it costs, and why; for flat the fields of lists are 0, factory ""."""

    kind: CodeKind
    factory: str  # of faiss.index_factory
    nlist: int
    subquantizers: int  # of 4 bits each; 0 unless ivf_pqfs
    bytes_per_vector: float  # kept busy by a search: codes with their padding, and ids
    shard_rows: int  # rows at which a shard is full
    sample: int  # vectors that the template is trained on
    nprobe: int  # to start calibrating from
    candidates: int  # hits scored exactly, to start calibrating from
    memory_bytes: int  # kept busy by a search
    disk_bytes: int  # vectors, codes, and an estimate of the rows
    reasons: tuple[str, ...]

    @property
    def uses_graph(self) -> bool:
        """Tell whether the lists' centres are searched by a graph (HNSW)."""
        return "_HNSW" in self.factory


def plan_index(
    count: int,
    dim: int,
    *,
    memory_budget_bytes: int | None,
    recall: float,
    kind: CodeKind | None = None,
) -> IndexPlan:
    """Return the layout for ``count`` vectors of ``dim``.

    kind: take these codes; None: choose. recall: the share of true matches that is to be
    found. Raises UsageError where nothing fits in the budget, naming the least that does,
    and where lists are asked for a handful of faces.
    """
    options = _options(count, dim, recall, kind)
    budget = math.inf if memory_budget_bytes is None else memory_budget_bytes
    for plan in options:
        if plan.memory_bytes <= budget:
            return replace(plan, reasons=_reasons(plan, count, dim, memory_budget_bytes, kind))
    least = min(plan.memory_bytes for plan in options)
    raise UsageError(
        f"{count} faces need {size_text(least)} of memory to be searched, and the memory budget "
        f"is {size_text(int(budget))}: give {size_text(least)}, or index fewer faces"
    )


def _options(count: int, dim: int, recall: float, kind: CodeKind | None) -> list[IndexPlan]:
    """Return the layouts that would do, the best first."""
    if kind != "flat" and count < CENTROIDS:
        if kind is not None:
            raise UsageError(
                f"{count} faces cannot train the codes of {kind}, which takes {CENTROIDS}: "
                "set index.kind=auto"
            )
        kind = "flat"
    if kind == "flat":
        return [_flat(count, dim)]
    sizes = (MORE_SUBQUANTIZERS, SUBQUANTIZERS) if recall > CLOSE_RECALL else (SUBQUANTIZERS,)
    small = [_coded(count, dim, "ivf_pqfs", split_evenly(dim, size)) for size in sizes]
    bytewise = _coded(count, dim, "ivf_sq8", 0)
    if kind is not None:
        return [bytewise] if kind == "ivf_sq8" else small
    exact = [_flat(count, dim)] if count < EXACT_FACES else []
    return [*exact, *([bytewise] if dim <= FEW_DIMS else small)]


def _flat(count: int, dim: int) -> IndexPlan:
    size = count * dim * VECTOR_ITEM_BYTES
    shard_rows = _shard_rows(count, 0, dim * VECTOR_ITEM_BYTES)
    return IndexPlan(
        kind="flat",
        factory="",
        nlist=0,
        subquantizers=0,
        bytes_per_vector=float(dim * VECTOR_ITEM_BYTES),
        shard_rows=shard_rows,
        sample=0,
        nprobe=0,
        candidates=0,
        memory_bytes=size + _held_ids(count, shard_rows),
        disk_bytes=size + count * ROW_BYTES,
        reasons=(),
    )


def _coded(count: int, dim: int, kind: CodeKind, subquantizers: int) -> IndexPlan:
    nlist = _lists(count)
    code_bytes = dim if kind == "ivf_sq8" else (subquantizers * CODE_BITS + 7) // 8
    shard_rows = _shard_rows(count, nlist, code_bytes + BUILD_ROW_BYTES)
    faces_per_list = min(count, shard_rows) / nlist
    per_list = LIST_BYTES + (PADDING * code_bytes if kind == "ivf_pqfs" else 0)
    per_vector = code_bytes + ID_BYTES + per_list / faces_per_list
    graph = nlist > GRAPH_LISTS
    codebook = 4 * dim * (2 if kind == "ivf_sq8" else CENTROIDS)
    template = nlist * (4 * dim + (GRAPH_BYTES if graph else 0)) + codebook
    lists = f"IVF{nlist}_HNSW{HNSW_LINKS}" if graph else f"IVF{nlist}"
    codes = math.ceil(count * per_vector)
    return IndexPlan(
        kind=kind,
        factory=f"{lists},SQ8" if kind == "ivf_sq8" else f"{lists},PQ{subquantizers}x4fs",
        nlist=nlist,
        subquantizers=subquantizers,
        bytes_per_vector=round(per_vector, 2),
        shard_rows=shard_rows,
        sample=min(count, MAX_SAMPLE, max(MIN_SAMPLE, POINTS_PER_LIST * nlist)),
        nprobe=min(nlist, _power_of_two(PROBES * math.sqrt(nlist / PROBES_LISTS))),
        candidates=CANDIDATES,
        memory_bytes=codes + template + _held_ids(count, shard_rows),
        disk_bytes=codes + template + count * (dim * VECTOR_ITEM_BYTES + ROW_BYTES),
        reasons=(),
    )


def _lists(count: int) -> int:
    """Return the lists for so many faces, a power of two."""
    far = NEAR_LISTS * (count / FAR_FACES) ** FAR_POWER
    lists = max(far, min(count / LIST_FACES, NEAR_LISTS))
    return min(_power_of_two(lists), 1 << (max(1, count // MIN_FACES_PER_LIST).bit_length() - 1))


def _power_of_two(value: float) -> int:
    """Return the power of two nearest to a number by ratio; 1 for less."""
    return 1 << max(0, round(math.log2(max(value, 1.0))))


def _shard_rows(count: int, nlist: int, build_row_bytes: int) -> int:
    """Return a power of two: an eighth of the faces, within what lists and memory allow."""
    eighth = 1 << (max(1, count // SHARDS).bit_length() - 1)
    wanted = max(MIN_SHARD_ROWS, eighth, PADDED_LIST_FACES * nlist)
    built = 1 << ((BUILD_BYTES // build_row_bytes).bit_length() - 1)
    return max(MIN_SHARD_ROWS, min(wanted, built, MAX_SHARD_ROWS))


def _held_ids(count: int, shard_rows: int) -> int:
    """Return the bytes of face ids that an open gallery holds in memory."""
    held = min(count, shard_rows) * FACE_ID_BYTES <= KEPT_BYTES
    return count * FACE_ID_BYTES if held else 0


def split_evenly(dim: int, wanted: int) -> int:
    """Return how many subvectors divide a vector evenly, near to what is wanted."""
    parts = [n for n in range(1, dim + 1) if dim % n == 0 and dim // n <= MAX_SUBVECTOR_DIMS]
    return min(parts, key=lambda n: (abs(math.log(n / wanted)), -n))


def _reasons(
    plan: IndexPlan, count: int, dim: int, budget: int | None, kind: CodeKind | None
) -> tuple[str, ...]:
    """Return why, in sentences."""
    room = "no memory budget is set" if budget is None else f"of {size_text(budget)} allowed"
    memory = f"a search keeps {size_text(plan.memory_bytes)} of memory busy ({room})"
    disk = f"vectors, codes and rows take about {size_text(plan.disk_bytes)} of disk"
    asked = "" if kind is None else f"index.kind={kind} is set: "
    if plan.kind == "flat":
        why = f"{asked}{count} faces are searched exactly, vector by vector"
        if kind is None:
            why += f": under {EXACT_FACES} that is a matter of milliseconds"
        return (why, f"{memory}: the file of vectors, which is mapped, and the face ids", disk)
    codes = "8 bits a dimension"
    if plan.kind == "ivf_pqfs":
        codes = f"{plan.subquantizers} x {CODE_BITS} bits a face ({dim} dimensions)"
    shards = -(-count // plan.shard_rows)
    points = plan.sample / plan.nlist
    return (
        f"{asked}{count} faces in {plan.nlist} lists, with codes of {codes}: "
        f"{plan.bytes_per_vector:.1f} bytes a face with ids and padding",
        memory,
        disk,
        f"{shards} shards of up to {plan.shard_rows} rows: each is built in under "
        f"{size_text(BUILD_BYTES)} beside the template",
        f"the template is trained on {plan.sample} faces ({points:.0f} a list), which are laid out "
        f"in a file of {size_text(plan.sample * dim * VECTOR_ITEM_BYTES)}",
        f"at first {plan.nprobe} lists are searched and {plan.candidates} hits scored exactly; "
        "both are set by what is measured",
    )


def size_text(size: int) -> str:
    """Return a size as people read it: 4.4 MB, 52 GB, 1.1 TB."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}" if unit else f"{size} bytes"


_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
