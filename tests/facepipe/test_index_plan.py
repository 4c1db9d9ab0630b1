"""The planner, from no face to a billion: what fits, what it says, what it costs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from facepipe.errors import UsageError
from facepipe.index_plan import CodeKind, IndexPlan, plan_index, size_text

COUNTS = [0, 1, 15, 16, 1000, 40_000, 199_999, 200_000, 10**6, 12_345_678, 10**8, 10**9]
CODED: list[CodeKind] = ["ivf_sq8", "ivf_pqfs"]


def plan(
    count: int,
    budget: float | None = None,
    *,
    dim: int = 512,
    recall: float = 0.99,
    kind: CodeKind | None = None,
) -> IndexPlan:
    budget_bytes = None if budget is None else int(budget)
    return plan_index(count, dim, memory_budget_bytes=budget_bytes, recall=recall, kind=kind)


@pytest.mark.parametrize(
    ("count", "budget", "factory"),
    [
        (0, None, ""),
        (199_999, None, ""),
        (199_999, 1e9, ""),
        (199_999, 50e6, "IVF4096,PQ64x4fs"),
        (200_000, None, "IVF4096,PQ64x4fs"),
        (500_000, None, "IVF8192,PQ64x4fs"),
        (10**6, None, "IVF8192,PQ64x4fs"),
        (10**7, 1e9, "IVF8192,PQ64x4fs"),
        (10**8, 1e10, "IVF32768,PQ64x4fs"),
        (10**9, None, "IVF262144_HNSW32,PQ64x4fs"),
        (10**9, 64e9, "IVF262144_HNSW32,PQ64x4fs"),
    ],
)
def test_what_is_chosen(count: int, budget: float | None, factory: str) -> None:
    assert plan(count, budget).factory == factory


def test_a_billion_faces_in_64_gigabytes() -> None:
    """docs/scale.md on paper: 42 GB of codes and ids, and what lists and padding add."""
    found = plan(10**9, 64e9)
    assert (found.kind, found.subquantizers, found.nlist) == ("ivf_pqfs", 64, 2**18)
    assert 42e9 < found.memory_bytes < 55e9
    assert 1.07e12 < found.disk_bytes < 1.13e12  # vectors 1.02, rows 0.05
    assert found.sample == 2**21
    text = " ".join(found.reasons)
    for said in (
        "64 x 4 bits",
        "262144 lists",
        "49 GB of memory busy",
        "64 GB allowed",
        "60 shards",
    ):
        assert said in text


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dim", [128, 512, 768])
@pytest.mark.parametrize("kind", [None, *CODED, "flat"])
def test_every_plan_holds_to_its_rules(count: int, dim: int, kind: CodeKind | None) -> None:
    if kind in CODED and count < 16:
        with pytest.raises(UsageError, match=r"takes 16: set index.kind=auto"):
            plan(count, dim=dim, kind=kind)
        return
    found = plan(count, dim=dim, kind=kind)
    assert found.kind in ([kind] if kind else ["flat", "ivf_pqfs"])
    again = plan(count, found.memory_bytes, dim=dim, kind=found.kind)
    assert replace(again, reasons=()) == replace(found, reasons=())
    assert 2**18 <= found.shard_rows <= 2**24
    assert math.log2(found.shard_rows).is_integer()
    assert all(reason[0].islower() or reason[0].isdigit() for reason in found.reasons)
    if found.kind == "flat":
        assert (found.factory, found.nlist, found.nprobe, found.candidates) == ("", 0, 0, 0)
        held = 37 if min(count, found.shard_rows) * 37 <= 2**24 else 0
        assert found.memory_bytes == count * (dim * 2 + held)
        assert found.disk_bytes == count * (dim * 2 + 50)
        return
    assert math.log2(found.nlist).is_integer()
    assert found.nlist <= max(1, count // 16)
    if count > 10_000:  # between 4 and 16 to the root, of powers of two the nearest
        assert 2.3 <= found.nlist / math.sqrt(count) <= 16 * math.sqrt(2)
    assert found.factory.startswith(f"IVF{found.nlist}" + ("_HNSW32," if found.uses_graph else ","))
    assert found.nlist <= found.sample <= min(count, 2**21)
    assert 1 <= found.nprobe <= found.nlist
    assert found.candidates >= 10


@pytest.mark.parametrize("count", [40_000, 10**6, 10**7, 10**8, 10**9])
@pytest.mark.parametrize(("kind", "code_bytes"), [("ivf_sq8", 512), ("ivf_pqfs", 32)])
def test_shards_are_built_in_a_gigabyte_and_lists_are_not_mostly_padding(
    count: int, kind: CodeKind, code_bytes: int
) -> None:
    found = plan(count, kind=kind)
    # A code, the list it is in and its place in the order: what ShardCodes holds on to.
    assert found.shard_rows * (code_bytes + 4 + 8) <= 2**30 or found.shard_rows == 2**18
    padding = found.bytes_per_vector / (code_bytes + 8)
    assert 1 < padding < 1.45
    assert count / found.shard_rows >= 8 or found.shard_rows <= max(2**18, 32 * found.nlist)


@pytest.mark.parametrize("count", [200_000, 10**6, 10**8])
def test_the_smallest_budget_is_named_and_is_enough(count: int) -> None:
    with pytest.raises(UsageError, match="memory budget is 1 MB: give") as refused:
        plan(count, 1e6)
    assert plan(count, _least(count)).subquantizers == 64
    assert f"give {size_text(_least(count))}, or" in str(refused.value)


def _least(count: int) -> int:
    """Return the smallest budget that is not refused, by trying."""
    low, high = 0, count * 1024
    while high - low > 1:
        middle = (low + high) // 2
        try:
            plan(count, middle)
            high = middle
        except UsageError:
            low = middle
    return high


@pytest.mark.parametrize(
    ("count", "held"), [(250_000, True), (10**6, True), (4 * 10**6, True), (10**7, False)]
)
def test_face_ids_count_as_memory_where_they_are_held_and_rows_as_disk(
    count: int, held: bool
) -> None:
    found = plan(count)
    template = found.nlist * 4 * 512 + 4 * 512 * 16
    codes = found.bytes_per_vector * count
    assert found.memory_bytes == pytest.approx(codes + template + 37 * count * held, rel=1e-3)
    assert found.disk_bytes == pytest.approx(codes + template + (1024 + 50) * count, rel=1e-4)


def test_more_memory_never_gives_coarser_codes() -> None:
    for count in (50_000, 10**6, 10**9):
        least = _least(count)
        budgets = [least * factor / 10 for factor in range(10, 200)]
        found = [plan(count, budget, recall=0.999).memory_bytes for budget in budgets]
        assert found == sorted(found)


def test_larger_codes_where_nearly_all_is_to_be_found() -> None:
    assert plan(10**6, recall=0.999).factory == "IVF8192,PQ128x4fs"
    assert plan(10**6, 130e6, recall=0.999).factory == "IVF8192,PQ64x4fs"
    assert plan(100, recall=0.999).kind == "flat"


@pytest.mark.parametrize(("dim", "suffix"), [(2, "SQ8"), (64, "SQ8"), (65, "PQ65x4fs")])
def test_eight_bits_where_the_dimensions_are_few(dim: int, suffix: str) -> None:
    assert plan(10**6, dim=dim).factory == f"IVF8192,{suffix}"


@pytest.mark.parametrize("dim", [1, 7, 16, 100, 128, 192, 257, 509, 512, 1024])
def test_subvectors_divide_a_vector(dim: int) -> None:
    subquantizers = plan(10**6, dim=dim, kind="ivf_pqfs").subquantizers
    assert dim % subquantizers == 0
    assert dim // subquantizers <= 15  # else faiss multiplies matrices, and codes depend on others


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (4_400_000, "4.4 MB"),
        (999_600, "1 MB"),
        (52_345_000_000, "52.3 GB"),
        (1_070_000_000_000, "1.07 TB"),
    ],
)
def test_sizes_are_said_as_people_read_them(size: int, text: str) -> None:
    assert size_text(size) == text
