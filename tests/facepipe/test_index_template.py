"""Templates: the same bytes for the same sample, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from functools import lru_cache

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe.errors import CorruptData, UsageError
from facepipe.index_manifest import IndexFile, Template
from facepipe.index_plan import IndexPlan, plan_index
from facepipe.index_template import (
    describe_template,
    read_template,
    train_template,
)

DIM = 16
KINDS = ["IVF8,SQ8", "IVF8,PQ2x4fs", "IVF32_HNSW32,PQ2x4fs"]


def units(count: int, seed: int = 0) -> NDArray[np.float16]:
    raw = np.random.default_rng(seed).normal(size=(count, DIM))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def plan_of(factory: str) -> IndexPlan:
    kind = "ivf_sq8" if "SQ8" in factory else "ivf_pqfs"
    plan = plan_index(1000, DIM, memory_budget_bytes=None, recall=0.99, kind=kind)  # type: ignore[arg-type]
    nlist = int(factory[3:].split(",")[0].split("_")[0])
    return replace(plan, factory=factory, nlist=nlist)


@lru_cache
def made(factory: str, seed: int = 0) -> tuple[bytes, Template]:
    sample = units(max(600, 2 * plan_of(factory).nlist))
    data = train_template(sample, plan_of(factory), seed)
    return data, describe_template(data, plan_of(factory), seed, len(sample))


def record_of(data: bytes, like: Template) -> Template:
    """Return the record that somebody would forge for other bytes."""
    sha256 = hashlib.sha256(data).hexdigest()
    file = IndexFile(bytes=len(data), sha256=sha256)
    return like.model_copy(update={"name": sha256[:16], "file": file})


@pytest.mark.parametrize("factory", [*KINDS, "IVF4096,PQ2x4fs"])
def test_the_same_sample_gives_the_same_bytes_and_another_seed_others(factory: str) -> None:
    data, record = made(factory)
    count = record.sample
    assert train_template(units(count), plan_of(factory), 0) == data
    assert made(factory, seed=1)[0] != data
    assert train_template(units(count, seed=1), plan_of(factory), 0) != data
    assert record.name == hashlib.sha256(data).hexdigest()[:16]
    assert (record.nlist, record.sample, record.faiss) == (
        plan_of(factory).nlist,
        max(600, 2 * record.nlist),
        faiss.__version__,
    )


@pytest.mark.parametrize("factory", KINDS)
def test_plain_faiss_reads_it_and_finds_the_same(factory: str) -> None:
    """The file is a faiss index like any other, empty and with nprobe 1."""
    data, record = made(factory)
    plain = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    assert (plain.ntotal, plain.nprobe, plain.is_trained) == (0, 1, True)
    found = read_template(data, record, DIM)
    vectors = units(500, seed=2).astype(np.float32)
    ours = found.empty_index()
    assert ours.ntotal == 0
    for index in (plain, ours):
        index.add(vectors)
        index.nprobe = 4
    one, other = plain.search(vectors, 5), ours.search(vectors, 5)
    np.testing.assert_allclose(one[0], other[0], atol=1e-5)  # centres of 8 bits, and of 32
    assert (one[1] == other[1]).mean() > 0.99
    assert found.index.ntotal == 0


@pytest.mark.parametrize("factory", KINDS)
def test_an_empty_index_outlives_its_template(factory: str) -> None:
    vectors = units(300, seed=3).astype(np.float32)
    template = read_template(*made(factory), DIM)
    index = template.empty_index()
    index.add(vectors)
    before = index.search(vectors, 3)
    del template
    for _ in range(20):
        read_template(*made(factory), DIM)  # would take the place of what was freed
    np.testing.assert_array_equal(before[0], index.search(vectors, 3)[0])


def test_centres_are_unit_vectors_and_know_their_lists() -> None:
    template = read_template(*made("IVF8,PQ2x4fs"), DIM)
    centres = template.quantizer.reconstruct_n(0, 8)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=0.01)
    assert (template.dim, template.code_bytes) == (DIM, 1)


@pytest.mark.parametrize("count", [0, 7, 15])
def test_too_few_vectors_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match=r"cannot train IVF8,PQ2x4fs: it takes 16"):
        train_template(units(count), plan_of("IVF8,PQ2x4fs"), 0)


def test_flat_has_no_template() -> None:
    plan = plan_index(10, DIM, memory_budget_bytes=None, recall=0.99)
    with pytest.raises(UsageError, match="cannot train flat"):
        train_template(units(100), plan, 0)
    with pytest.raises(UsageError, match="no template"):
        describe_template(b"", plan, 0, 0)


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this faiss has GPUs")
def test_a_gpu_that_is_asked_for_and_absent_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"install faiss-gpu .* index.device=cpu"):
        train_template(units(600), plan_of("IVF8,SQ8"), 0, device="cuda")


# -- bytes that are not a template -------------------------------------------------------


@pytest.mark.parametrize("factory", KINDS)
def test_any_changed_byte_is_refused_by_the_checksum(factory: str) -> None:
    data, record = made(factory)
    for place in range(0, len(data), 31):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        with pytest.raises(CorruptData, match="does not match its checksum"):
            read_template(bytes(flipped), record, DIM)
    for length in range(0, len(data), 101):
        with pytest.raises(CorruptData, match="does not match its checksum"):
            read_template(data[:length], record, DIM)


@pytest.mark.parametrize("factory", KINDS)
def test_a_changed_byte_with_a_checksum_to_match_does_no_harm(factory: str) -> None:
    """Either it is refused, or it is a number of the arrays, and a search goes through."""
    data, record = made(factory)
    vectors = units(200).astype(np.float32)
    rng = np.random.default_rng(5)
    header = {int(i) for i in range(200)} | {int(i) for i in range(len(data) - 120, len(data))}
    places = sorted(header | set(rng.integers(0, len(data), 200).tolist()))
    refused = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        forged = bytes(flipped)
        try:
            index = read_template(forged, record_of(forged, record), DIM).empty_index()
        except CorruptData:
            refused += 1
            continue
        index.add(vectors)
        _, rows = index.search(vectors[:20], 5)
        assert ((rows >= -1) & (rows < 200)).all()
    assert refused > 100  # all of the header, but for what it says twice


@pytest.mark.parametrize("factory", KINDS)
def test_a_cut_off_template_with_a_checksum_to_match_is_refused(factory: str) -> None:
    data, record = made(factory)
    for length in [*range(0, 300, 7), *range(300, len(data), 211), len(data) - 1]:
        with pytest.raises(CorruptData):
            read_template(data[:length], record_of(data[:length], record), DIM)
    longer = data + b"\0"
    with pytest.raises(CorruptData):
        read_template(longer, record_of(longer, record), DIM)


# Of an IVF index: rows, lists; of the quantizer in it: rows, dimensions, bytes of a code, the
# length of its ranges and that of its codes.
RANGES_AT, CODES_AT = 118, 126 + 2 * DIM * 4
COUNTS_AT = [8, 37, 61, 102, 110, RANGES_AT, CODES_AT]


@pytest.mark.parametrize("factory", ["IVF8,SQ8", "IVF8,PQ2x4fs"])
@pytest.mark.parametrize("count", [2**20, 2**40, 2**62, 2**64 - 1])
def test_counts_that_would_fill_the_memory_are_refused(factory: str, count: int) -> None:
    data, record = made(factory)
    assert struct.unpack_from("<Q", data, RANGES_AT)[0] == 2 * DIM
    assert struct.unpack_from("<Q", data, CODES_AT)[0] == 8 * DIM
    for place in COUNTS_AT:
        forged = data[:place] + struct.pack("<Q", count) + data[place + 8 :]
        with pytest.raises(CorruptData):
            read_template(forged, record_of(forged, record), DIM)


def test_another_kind_of_index_is_refused() -> None:
    _, record = made("IVF8,PQ2x4fs")
    vectors = units(600).astype(np.float32)
    for factory in ("Flat", "IVF8,Flat", "IVF8,PQ2x4", "HNSW8", "IVF8,SQ8", "PQ2x4fs", "SQfp16"):
        index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(vectors)
        forged = faiss.serialize_index(index).tobytes()
        with pytest.raises(CorruptData):
            read_template(forged, record_of(forged, record), DIM)


@pytest.mark.parametrize(
    "change", ["metric", "rows", "nprobe", "residual", "more subquantizers", "lists", "nan"]
)
def test_another_template_than_the_record_says_is_refused(change: str) -> None:
    _, record = made("IVF8,PQ2x4fs")
    factory = {"more subquantizers": "IVF8,PQ4x4fs", "lists": "IVF4,PQ2x4fs"}.get(change)
    metric = faiss.METRIC_L2 if change == "metric" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(DIM, factory or "IVF8,PQ2x4fs", metric)
    vectors = units(600).astype(np.float32)
    index.train(vectors)
    if change == "rows":
        index.add(vectors[:3])
    if change == "nprobe":
        index.nprobe = 2
    if change == "residual":
        index.by_residual = True
    if change == "nan":
        faiss.copy_array_to_vector(np.full(16 * DIM, np.nan, np.float32), index.pq.centroids)
    forged = faiss.serialize_index(index).tobytes()
    with pytest.raises(CorruptData):
        read_template(forged, record_of(forged, record), DIM)


def test_a_template_of_other_dimensions_is_refused() -> None:
    with pytest.raises(CorruptData, match="of 32 dimensions"):
        read_template(*made("IVF8,SQ8"), 32)


@pytest.mark.parametrize("limit", ["vector_byte", "loop"])
def test_the_limits_of_faiss_are_put_back(limit: str) -> None:
    get = getattr(faiss, f"get_deserialization_{limit}_limit")
    before = get()
    read_template(*made("IVF8,SQ8"), DIM)
    data, record = made("IVF8,PQ2x4fs")
    with pytest.raises(CorruptData):
        read_template(data[:200], record_of(data[:200], record), DIM)
    assert get() == before
