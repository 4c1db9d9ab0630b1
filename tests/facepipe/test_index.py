"""Galleries on disk: searched the same however they are cut, and no byte believed unchecked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

import facepipe
from facepipe import shard_search
from facepipe.commits import write_parquet
from facepipe.errors import CorruptData, DatasetNotFound, ModelMismatch, StoreError, UsageError
from facepipe.gallery import GALLERY
from facepipe.index import Gallery, IndexSettings, open_index, verify_shard
from facepipe.index_filter import parse_filter
from facepipe.index_manifest import (
    CODES,
    ROWS,
    TEMPLATE,
    VECTORS,
    CodeKind,
    Manifest,
    Search,
    read_manifest,
)
from facepipe.store import LocalStore, Store, open_store
from tests.facepipe.made_index import (
    DIM,
    LISTS,
    made,
    manifest_of,
    names,
    people,
    publish,
    put,
    rows_of,
    shard_bytes,
    shard_of,
    template,
    units,
)
from tests.object_server import S3Server

Half = NDArray[np.float16]
KINDS: list[CodeKind] = ["flat", "ivf_sq8", "ivf_pqfs"]
CODED: list[CodeKind] = ["ivf_sq8", "ivf_pqfs"]


def gallery(folder: Path, vectors_ND: Half) -> Gallery:
    return open_index(made(folder, vectors_ND))


def published(
    folder: Path,
    files: dict[str, bytes],
    count: int,
    kind: CodeKind = "flat",
    dim: int = DIM,
) -> Path:
    """Write an index of one shard with these files, whatever they are, under right checksums."""
    shard = shard_of(files, count)
    if kind != "flat":
        data, trained = template(kind, dim)
        put(folder, trained.record.key, data)
    return publish(folder, manifest_of([shard], kind, dim), [(shard, files)])


def with_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Publish the manifest in force with a change, under its right hash."""
    value = read_manifest(LocalStore(folder))[1].model_dump(mode="json")
    change(value)
    return publish(folder, json.dumps(value).encode(), [])


def brute_force(vectors_ND: Half, queries_QD: Half, k: int) -> tuple[list[list[str]], NDArray]:
    """Sort every face by (cosine, face_id); sums in float64."""
    scores = queries_QD.astype(np.float64) @ vectors_ND.astype(np.float64).T
    order = np.lexsort((np.broadcast_to(np.arange(len(vectors_ND)), scores.shape), -scores))
    face_ids = names(len(vectors_ND))
    return (
        [[face_ids[i] for i in row[:k]] for row in order],
        np.take_along_axis(scores, order, axis=1)[:, :k],
    )


def copied(folder: Path, uri: str) -> Store:
    """Copy a gallery, as it is, to another store."""
    store = open_store(uri)
    for key in LocalStore(folder).list_all():
        store.put(key, LocalStore(folder).get(key))
    return store


# -- search ------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "dim", "k"), [(500, 64, 10), (500, 512, 1), (40, 8, 40)])
def test_search_equals_brute_force(tmp_path: Path, count: int, dim: int, k: int) -> None:
    base, queries = units(count, dim), units(30, dim, seed=1)
    scores, face_ids = gallery(tmp_path, base).search(queries, k)
    expected_ids, expected = brute_force(base, queries, k)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert face_ids.tolist() == expected_ids


def test_one_query_scores_the_same_alone_and_among_many(tmp_path: Path) -> None:
    opened, queries = gallery(tmp_path, units(700, 64)), units(50, 64, seed=3)
    scores, face_ids = opened.search(queries, 5)
    for q in (0, 21, 49):
        alone = opened.search(queries[q : q + 1], 5)
        np.testing.assert_array_equal(alone[0][0], scores[q])
        assert alone[1][0].tolist() == face_ids[q].tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 70))
def test_ties_are_in_the_order_of_face_id(
    tmp_path_factory: pytest.TempPathFactory, which: list[int], k: int
) -> None:
    """Copies of four vectors: nearly every k cuts through faces that score the same."""
    base = np.eye(4, DIM, dtype=np.float16)[which]
    query = np.array([[0.8, 0.5, 0.3, 0.1] + [0] * (DIM - 4)])
    query /= np.linalg.norm(query)
    scores, face_ids = gallery(tmp_path_factory.mktemp("i"), base).search(query, k)
    expected, _ = brute_force(base, query.astype(np.float16), k)
    kept = min(k, len(which))
    assert face_ids[0, :kept].tolist() == expected[0]
    assert set(face_ids[0, kept:]) <= {""}
    assert np.isneginf(scores[0, kept:]).all()


@pytest.mark.parametrize("count", [0, 2])
def test_short_galleries_are_padded(tmp_path: Path, count: int) -> None:
    scores, face_ids = gallery(tmp_path, units(count)).search(units(3), 5)
    assert scores.shape == face_ids.shape == (3, 5)
    assert np.isneginf(scores[:, count:]).all()
    assert np.isfinite(scores[:, :count]).all()
    assert (face_ids[:, count:] == "").all()


def test_no_queries_give_no_results(tmp_path: Path) -> None:
    scores, face_ids = gallery(tmp_path, units(4)).search(units(0), 2)
    assert scores.shape == face_ids.shape == (0, 2)


@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_pqfs"])
def test_no_queries_of_lists_give_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: CodeKind
) -> None:
    monkeypatch.setattr("facepipe.shard_search.EXACT_ROWS", 0)
    opened = open_index(made(tmp_path, FACES, kind=kind), threads=2)
    scores, face_ids = opened.search(FACES[:0].astype(np.float32), 2, nprobe=1)
    assert scores.shape == face_ids.shape == (0, 2)


def test_the_door_of_the_package_and_what_it_tells(tmp_path: Path) -> None:
    opened = facepipe.open_index(made(tmp_path, units(6)))
    assert (len(opened), opened.dim, opened.threshold) == (6, DIM, 0.25)
    assert opened.model_id == "m" * 64
    assert opened.manifest["totals"]["indexed"] == 6
    wanted = [names(6)[4], names(6)[0], names(6)[4]]
    rows = opened.rows(wanted)
    assert rows["face_id"].to_pylist() == wanted
    assert rows["uri"].to_pylist() == ["/p/4.jpg", "/p/0.jpg", "/p/4.jpg"]
    assert opened.rows([]).num_rows == 0
    with pytest.raises(UsageError, match="'nobody' is not in the gallery"):
        opened.rows(["nobody"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_gallery_in_a_bucket_is_the_same(
    tmp_path: Path, s3: S3Server, bucket: str, kind: CodeKind
) -> None:
    base, queries = people(1500, 2, 64), units(20, 64, seed=1)
    local = open_index(made(tmp_path, base, kind=kind, shards=2, dead=[3]))
    store = copied(tmp_path, f"{bucket}/index")
    s3.forget()
    remote = open_index(store.uri)
    asked = sum(r.method == "GET" for r in s3.requests)
    assert asked <= 40  # every byte once, in pieces that grow
    assert (remote.uri, remote.version, len(remote)) == (store.uri, local.version, 2999)
    s3.forget()
    for ours, theirs in zip(remote.search(queries, 5), local.search(queries, 5), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert remote.rows(names(3)).equals(local.rows(names(3)))
    assert not s3.requests  # all of it is here


# -- shards, lists, deletions, filters ---------------------------------------------------

FACES = people(150, 6)
COUNT = len(FACES)
PEOPLE = [f"p{i // 6}" if i % 3 else None for i in range(COUNT)]
PROBES = FACES[:: 6 * 7]
NAMES = names(COUNT)


@pytest.fixture
def by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search by codes, however few the faces are."""
    monkeypatch.setattr(shard_search, "EXACT_ROWS", 0)
    monkeypatch.setattr(shard_search, "EXACT_SHARE", 0.0)


@pytest.mark.usefixtures("by_codes")
@pytest.mark.parametrize("kind", KINDS)
def test_one_to_64_shards_give_the_same_answer(tmp_path: Path, kind: CodeKind) -> None:
    search = None if kind == "flat" else Search(nprobe=5, candidates=30)
    gone = list(range(0, COUNT, 31))
    answers = []
    for shards in (1, 2, 7, 64):
        folder = made(
            tmp_path / str(shards), FACES, kind=kind, shards=shards, dead=gone, search=search
        )
        opened = open_index(folder, threads=1 + shards % 3)
        assert len(opened) == COUNT - len(gone)
        answers.append(opened.search(PROBES, 12))
    for scores, face_ids in answers[1:]:
        np.testing.assert_array_equal(scores, answers[0][0])
        np.testing.assert_array_equal(face_ids, answers[0][1])
    assert not set(answers[0][1].ravel()) & {NAMES[i] for i in gone}


@pytest.mark.usefixtures("by_codes")
@pytest.mark.parametrize("kind", CODED)
def test_scores_of_codes_are_exact_and_more_lists_find_more(tmp_path: Path, kind: CodeKind) -> None:
    opened = open_index(made(tmp_path, FACES, kind=kind, search=Search(nprobe=1, candidates=300)))
    exact_ids, exact = brute_force(FACES, PROBES, 10)
    found = []
    for nprobe in (None, 3, LISTS, 1000):
        scores, face_ids = opened.search(PROBES, 10, nprobe=nprobe)
        for q, (row, ids) in enumerate(zip(scores, face_ids, strict=True)):
            places = [NAMES.index(face) for face in ids]
            expected = FACES[places].astype(np.float64) @ PROBES[q].astype(np.float64)
            np.testing.assert_allclose(row, expected, atol=1e-6)
            assert (np.diff(row) <= 0).all()
        found.append(sum(len(set(a) & set(b)) for a, b in zip(face_ids, exact_ids, strict=True)))
    assert found[0] < found[1] < found[2] == found[3]
    assert found[2] >= 0.98 * exact.size


@pytest.mark.parametrize("few", [0, 4096])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("where", "fits"),
    [
        (["identity_id=p5"], lambda i: PEOPLE[i] == "p5"),
        (["identity_id="], lambda i: PEOPLE[i] is None),
        (["identity_id!="], lambda i: PEOPLE[i] is not None),
        (["uri~7.jpg"], lambda i: f"{i}.jpg".endswith("7.jpg")),
        (["face_id>=00000000000000000000000000000064"], lambda i: i >= 100),
        (["identity_id=nobody"], lambda i: False),
    ],
)
def test_filters_are_applied_inside_the_search(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    kind: CodeKind,
    where: list[str],
    fits: Callable[[int], bool],
) -> None:
    """All lists are searched, so that what is found among so many candidates is exact."""
    monkeypatch.setattr(shard_search, "EXACT_ROWS", few)
    monkeypatch.setattr(shard_search, "EXACT_SHARE", 0.0)
    search = None if kind == "flat" else Search(nprobe=LISTS, candidates=900)
    folder = made(
        tmp_path, FACES, kind=kind, shards=3, identities=PEOPLE, dead=[35, 36, 50], search=search
    )
    opened, chosen = open_index(folder), parse_filter(where)
    left = np.array([i for i in range(COUNT) if fits(i) and i not in (35, 36, 50)], np.int64)
    for _ in range(2):  # the second one finds the rows remembered
        scores, face_ids = opened.search(PROBES, 9, where=chosen)
        exact = PROBES.astype(np.float64) @ FACES[left].astype(np.float64).T
        for q, row in enumerate(exact):
            best = left[np.lexsort((left, -row))][:9]
            assert face_ids[q, : len(best)].tolist() == [NAMES[i] for i in best]
            assert (face_ids[q, len(best) :] == "").all()
            assert np.isneginf(scores[q, len(best) :]).all()
    unfiltered = opened.search(PROBES, 9)
    assert (unfiltered[1] != "").all()


def test_a_filter_on_an_unknown_column_is_refused(tmp_path: Path) -> None:
    for opened in (gallery(tmp_path / "some", units(5)), gallery(tmp_path / "none", units(0))):
        with pytest.raises(UsageError, match="no such column"):
            opened.search(units(1), 1, where=parse_filter(["year=1990"]))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(1, 70))
def test_ties_over_shards_are_in_the_order_of_face_id(
    tmp_path_factory: pytest.TempPathFactory, which: list[int], k: int
) -> None:
    base = np.eye(4, DIM, dtype=np.float16)[which]
    query = np.array([[0.8, 0.5, 0.3, 0.1] + [0] * (DIM - 4)])
    query /= np.linalg.norm(query)
    opened = open_index(made(tmp_path_factory.mktemp("i"), base, shards=2))
    expected, _ = brute_force(base, query.astype(np.float16), k)
    found = [face for face in opened.search(query, k)[1][0] if face]
    assert found == expected[0]


@pytest.mark.usefixtures("by_codes")
@pytest.mark.parametrize("kind", KINDS)
def test_many_threads_may_search_one_gallery(tmp_path: Path, kind: CodeKind) -> None:
    opened = open_index(made(tmp_path, FACES, kind=kind, shards=2, identities=PEOPLE), threads=3)
    wheres = [None, parse_filter(["identity_id!="]), parse_filter(["identity_id="])]
    queries = np.repeat(PROBES, 4, axis=0)
    expected = [opened.search(queries, 6, where=where)[1] for where in wheres]
    wrong: list[int] = []

    def search(number: int) -> None:
        for turn in range(6):
            which = (number + turn) % 3
            found = opened.search(queries, 6, where=wheres[which])[1]
            if not np.array_equal(found, expected[which]):
                wrong.append(number)

    threads = [threading.Thread(target=search, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- what a search refuses ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda v: v * 1.05, UsageError, "query 0 is no unit vector"),
        (lambda v: v * 0, UsageError, "no unit vector"),
        (lambda v: np.where(np.arange(len(v))[:, None] == 2, np.nan, v), UsageError, "query 2"),
        (lambda v: np.where(np.arange(len(v))[:, None] == 1, np.inf, v), UsageError, "query 1"),
        (lambda v: v[0], UsageError, "shape"),
        (lambda v: v[:, :-1], ModelMismatch, "15 dimensions.*16.*mmmm"),
    ],
)
def test_bad_queries_are_refused(
    tmp_path: Path,
    spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text):
        gallery(tmp_path, units(5)).search(spoil(units(4).astype(np.float32)), 1)


def test_k_and_nprobe_must_be_positive(tmp_path: Path) -> None:
    opened = gallery(tmp_path, units(5))
    with pytest.raises(UsageError, match="k is 0"):
        opened.search(units(1), 0)
    with pytest.raises(UsageError, match="nprobe is 0"):
        opened.search(units(1), 1, nprobe=0)


# -- what opening refuses ----------------------------------------------------------------


def test_no_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="facepipe index build"):
        open_index(tmp_path / "nothing")


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_bit_flip_is_refused(tmp_path: Path, kind: CodeKind) -> None:
    made(tmp_path, units(9), kind=kind, shards=2, dead=[2, 5, 6])
    files = [p for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    coded = set() if kind == "flat" else {CODES, TEMPLATE}
    assert {p.name for p in files if p.suffix != ".u32"} == {
        "CURRENT", "manifest.json", VECTORS, ROWS, *coded,
    }  # fmt: skip
    assert any(p.suffix == ".u32" for p in files)
    rng = np.random.default_rng(5)
    for path in files:
        bits = path.stat().st_size * 8
        for bit in rng.choice(bits, size=min(bits, 40), replace=False).tolist():
            flip(path, bit)
            with pytest.raises(CorruptData, match=r"index build|build it again"):
                open_index(tmp_path)
            flip(path, bit)
    assert len(open_index(tmp_path)) == 6


def test_verify_shard_checks_every_file(tmp_path: Path) -> None:
    made(tmp_path, units(9), kind="ivf_sq8", dead=[2])
    store = LocalStore(tmp_path)
    (shard,) = read_manifest(store)[1].shards
    verify_shard(store, shard)
    assert shard.tombstones_key is not None
    for key in [shard.key(name) for name in (VECTORS, CODES, ROWS)] + [shard.tombstones_key]:
        flip(store.path(key), 5)
        with pytest.raises(CorruptData, match=key):
            verify_shard(store, shard)
        flip(store.path(key), 5)
    verify_shard(store, shard)


@pytest.mark.parametrize("kind", ["flat", "ivf_pqfs"])
def test_sizes_alone_do_not_see_a_changed_bit_and_see_all_else(
    tmp_path: Path, kind: CodeKind
) -> None:
    made(tmp_path, FACES[:500], kind=kind, shards=2, dead=[2])
    whole = open_index(tmp_path, check="sizes").search(PROBES, 3)
    np.testing.assert_array_equal(whole[1], open_index(tmp_path).search(PROBES, 3)[1])
    flip(next(tmp_path.rglob(VECTORS)), 5)
    assert len(open_index(tmp_path, check="sizes")) == 499
    with pytest.raises(CorruptData, match=VECTORS):
        open_index(tmp_path)
    flip(next(tmp_path.rglob(VECTORS)), 5)
    for pattern in ("CURRENT", "manifest.json", "*.u32", *([TEMPLATE] if kind != "flat" else [])):
        path = next(tmp_path.rglob(pattern))
        flip(path, 9)
        with pytest.raises(CorruptData):
            open_index(tmp_path, check="sizes")
        flip(path, 9)
    for name in (VECTORS, ROWS, *([CODES] if kind != "flat" else [])):
        path = next(tmp_path.rglob(name))
        data = path.read_bytes()
        for wrong in (data[:-1], data + b"\0", b""):
            path.write_bytes(wrong)
            with pytest.raises(CorruptData, match=name):
                open_index(tmp_path, check="sizes")
        path.write_bytes(data)


@pytest.mark.parametrize("name", [VECTORS, CODES, ROWS, TEMPLATE, "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "longer", "gone"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    made(tmp_path, units(9), kind="ivf_sq8")
    path = next(tmp_path.rglob(name))
    if damage == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-1] if damage == "truncated" else data + b"\0")
    with pytest.raises(CorruptData, match=name):
        open_index(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "longer", "gone"])
def test_damage_in_a_bucket_is_named(tmp_path: Path, bucket: str, damage: str) -> None:
    made(tmp_path, units(9), kind="ivf_pqfs", dead=[4])
    store = copied(tmp_path, f"{bucket}/index")
    with pytest.raises(DatasetNotFound, match="facepipe index build"):
        open_index(f"{bucket}/other")
    for key in store.list_all():
        if key == "CURRENT":
            continue
        data = store.get(key)
        if damage == "gone":
            store.delete(key)
        else:
            wrong = {"truncated": data[:-1], "longer": data + b"0"}
            store.put(key, wrong.get(damage, data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]))
        with pytest.raises(CorruptData, match=f"{store.uri}/{key} "):
            open_index(store.uri)
        store.put(key, data)
    assert len(open_index(store.uri)) == 8


@pytest.mark.parametrize("pointer", [b"", b"abc\n", b"../../etc/passwd\n", b"A" * 64 + b"\n"])
def test_a_pointer_that_names_no_version_is_refused(tmp_path: Path, pointer: bytes) -> None:
    made(tmp_path, units(3))
    (tmp_path / "CURRENT").write_bytes(pointer)
    with pytest.raises(CorruptData, match="CURRENT"):
        open_index(tmp_path)


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("other", ["faiss", "other kind", "fewer", "empty", "noise"])
def test_other_codes_under_a_right_checksum_are_refused(
    tmp_path: Path, kind: CodeKind, other: str
) -> None:
    base = units(90)
    files = shard_bytes(base, rows_of(names(90)), kind)
    index = faiss.deserialize_index(np.frombuffer(template(kind)[0], np.uint8))
    index.add(base.astype(np.float32))
    files[CODES] = {
        "faiss": faiss.serialize_index(index).tobytes(),
        "other kind": shard_bytes(
            base, rows_of(names(90)), "ivf_sq8" if kind == "ivf_pqfs" else "ivf_pqfs"
        )[CODES],
        "fewer": shard_bytes(base[:89], rows_of(names(89)), kind)[CODES],
        "empty": b"",
        "noise": np.random.default_rng(0).bytes(len(files[CODES])),
    }[other]
    with pytest.raises(CorruptData, match=r"index build"):
        open_index(published(tmp_path, files, 90, kind))


@pytest.mark.parametrize("kind", CODED)
def test_hostile_codes_under_a_right_checksum_never_lead_outside(
    tmp_path: Path, kind: CodeKind
) -> None:
    """Overwritten 8 bytes at a time, near the start and anywhere: refused, or answers of faces."""
    base = FACES[:600]
    files = shard_bytes(base, rows_of(names(600)), kind)
    rng, good, refused = np.random.default_rng(1), files[CODES], 0
    places = [*range(0, 120, 8), *rng.integers(0, len(good) - 8, 25).tolist()]
    for number, place in enumerate(places):
        data = bytearray(good)
        data[place : place + 8] = [b"\xff" * 8, b"\xff" * 7 + b"\x0f", b"\1" * 8][number % 3]
        folder = published(tmp_path / str(number), {**files, CODES: bytes(data)}, 600, kind)
        try:
            opened = open_index(folder)
        except CorruptData:
            refused += 1
            continue
        assert opened.codes is not None
        _, rows = opened.codes.candidates(base[:9].astype(np.float32), 20, LISTS, None)
        assert ((rows >= 0) & (rows < 600)).all()
    assert refused >= 10


def test_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    files = shard_bytes(units(9), rows_of(names(9)), "flat")
    published(tmp_path, files, 9)
    with pytest.raises(CorruptData, match="144 bytes"):
        open_index(with_manifest(tmp_path, lambda v: v["embedding"].update(dim=8)))


def test_deleted_rows_that_the_shard_does_not_have_are_refused(tmp_path: Path) -> None:
    made(tmp_path, units(9), dead=[3, 4])
    path = next(tmp_path.rglob("*.u32"))
    for rows in ([4, 3], [3, 3], [3, 9]):
        path.write_bytes(np.array(rows, "<u4").tobytes())
        with pytest.raises(CorruptData, match=r"\.u32"):
            open_index(tmp_path)


@pytest.mark.parametrize("change", ["count", "order", "columns", "no parquet"])
def test_other_rows_under_a_right_checksum_are_refused(tmp_path: Path, change: str) -> None:
    table = rows_of(names(9))
    rows = {
        "count": write_parquet(rows_of(names(8)), GALLERY),
        "order": write_parquet(table.take(list(range(8, -1, -1))), GALLERY),
        "columns": write_parquet(table.select(["face_id"]), pa.schema([GALLERY.field(0)])),
        "no parquet": b"PAR1" * 9,
    }[change]
    files = {**shard_bytes(units(9), table, "flat"), ROWS: rows}
    with pytest.raises(CorruptData, match=ROWS):
        open_index(published(tmp_path, files, 9))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema_version": 99}, "layout 99"),
        ({"schema_version": 1}, "layout 1, .*build the index again"),
        ({"surprise": 1}, "surprise"),
        ({"totals": None}, "totals"),
        ({"shards": []}, "2 faces .*indexed.* 0"),
    ],
)
def test_a_manifest_of_another_layout_is_refused(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    made(tmp_path, units(2))
    with pytest.raises(CorruptData, match=text):
        open_index(with_manifest(tmp_path, lambda value: value.update(change)))


def test_a_shard_cannot_point_outside_the_index(tmp_path: Path) -> None:
    made(tmp_path, units(2))
    with pytest.raises(StoreError, match="name"):
        open_index(
            with_manifest(tmp_path, lambda v: v["shards"][0].update(name="../../elsewhere0"))
        )


def test_the_limit_for_hostile_files_is_put_back(tmp_path: Path) -> None:
    before = faiss.get_deserialization_vector_byte_limit()
    open_index(made(tmp_path, units(40), kind="ivf_pqfs"))
    assert faiss.get_deserialization_vector_byte_limit() == before


def test_a_version_that_is_removed_while_it_is_opened_gives_way_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions are published after CURRENT was read: the files of the first have gone."""
    made(tmp_path, units(5))
    old = read_manifest(LocalStore(tmp_path))
    for path in tmp_path.rglob(VECTORS):
        path.unlink()
    made(tmp_path, units(6))
    answers = iter([old])
    monkeypatch.setattr(
        "facepipe.index.read_manifest", lambda store: next(answers, None) or read_manifest(store)
    )
    assert len(open_index(tmp_path)) == 6


def test_a_manifest_that_is_removed_before_it_is_read_gives_way_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CURRENT was read, then another run has published and removed that version."""
    made(tmp_path, units(5))
    turns = iter([True])

    def late(store: LocalStore) -> tuple[str, Manifest]:
        if next(turns, False):
            made(tmp_path, units(6))
            raise CorruptData("the manifest of the version before is missing")
        return read_manifest(store)

    monkeypatch.setattr("facepipe.index.read_manifest", late)
    assert len(open_index(tmp_path)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_gallery_outlives_its_files(tmp_path: Path, kind: CodeKind) -> None:
    opened = open_index(made(tmp_path, FACES, kind=kind, shards=2))
    before = opened.search(PROBES, 5)
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    np.testing.assert_array_equal(opened.search(PROBES, 5)[1], before[1])
    assert opened.rows([before[1][0, 0]]).num_rows == 1


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5])
def test_a_rate_is_between_none_and_all(value: float) -> None:
    with pytest.raises(ValidationError):
        IndexSettings(fpir=value)
