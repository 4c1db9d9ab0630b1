"""Galleries on disk: exact search, and no byte that is believed unchecked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

import facepipe
from facepipe.commits import write_parquet
from facepipe.errors import CorruptData, DatasetNotFound, ModelMismatch, StoreError, UsageError
from facepipe.gallery import GALLERY
from facepipe.index import Gallery, IndexSettings, encode_vectors, open_index
from facepipe.index_manifest import (
    ROWS,
    VECTORS,
    Embedding,
    IndexFile,
    Manifest,
    Origin,
    Shard,
    Threshold,
    Totals,
    manifest_key,
)
from facepipe.store import LocalStore, Store, open_store
from tests.object_server import S3Server

Half = NDArray[np.float16]
DIM = 16


def units(count: int, dim: int = DIM, seed: int = 0) -> Half:
    raw = np.random.default_rng(seed).normal(size=(count, dim))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def names(count: int) -> list[str]:
    return [f"{i:032x}-0000" for i in range(count)]


def rows_of(count: int) -> bytes:
    rows = [
        {"face_id": name, "uri": f"/p/{i}.jpg", "box_xyxy_px": [i, 1, 2, 3], "identity_id": None}
        for i, name in enumerate(names(count))
    ]
    return write_parquet(pa.Table.from_pylist(rows, schema=GALLERY), GALLERY)


def record(codes: bytes, rows: bytes, count: int, dim: int = DIM) -> Manifest:
    files = {
        name: IndexFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in ((VECTORS, codes), (ROWS, rows))
    }
    return Manifest(
        inputs="0" * 64,
        embedding=Embedding(model_id="m" * 64, flip="none", dim=dim),
        dataset=Origin(plans={}, include="kept", by="status"),
        totals=Totals(expected=count, indexed=count, left_out={}, identities=0),
        faiss="any",
        threshold=Threshold(
            value=0.25,
            fpir=0.01,
            fmr=0.01,
            method="prior",
            note="",
            probes=0,
            comparisons=0,
            impostor_mean=0,
            impostor_std=0.05,
            seed=0,
        ),
        shards=(Shard(name="0" * 16, rows=count, files=files),),
    )


def publish(folder: Path, manifest: bytes, codes: bytes, rows: bytes) -> Path:
    store, version = LocalStore(folder), hashlib.sha256(manifest).hexdigest()
    store.put(f"shards/{'0' * 16}/{VECTORS}", codes)
    store.put(f"shards/{'0' * 16}/{ROWS}", rows)
    store.put(manifest_key(version), manifest)
    store.put("CURRENT", f"{version}\n".encode())
    return folder


def made(folder: Path, vectors_ND: Half) -> Path:
    codes, rows = encode_vectors(vectors_ND)[0], rows_of(len(vectors_ND))
    manifest = record(codes, rows, *vectors_ND.shape)
    return publish(folder, manifest.to_json(), codes, rows)


def gallery(folder: Path, vectors_ND: Half) -> Gallery:
    return open_index(made(folder, vectors_ND))


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


def test_codes_are_the_tables_float16_and_scores_are_a_flat_indexs(tmp_path: Path) -> None:
    base, queries = units(300, 64), units(25, 64, seed=1).astype(np.float32)
    codes = encode_vectors(base)[0]
    assert codes.endswith(base.tobytes())
    flat = faiss.IndexFlatIP(64)
    flat.add(base.astype(np.float32))
    scores, face_ids = gallery(tmp_path, base).search(queries, 7)
    expected, places = flat.search(queries, 7)
    np.testing.assert_array_equal(scores, expected)
    assert face_ids.tolist() == [[names(300)[i] for i in row] for row in places]


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


def test_a_gallery_in_a_bucket_is_the_same(tmp_path: Path, s3: S3Server, bucket: str) -> None:
    base, queries = units(60_000, 64), units(20, 64, seed=1)
    local = gallery(tmp_path, base)
    store = copied(tmp_path, f"{bucket}/index")
    s3.forget()
    remote = open_index(store.uri)
    asked = sum(r.method == "GET" for r in s3.requests)
    assert asked <= 16  # 12 MB: every byte once, in pieces that grow
    assert (remote.uri, remote.version, len(remote)) == (store.uri, local.version, 60_000)
    for ours, theirs in zip(remote.search(queries, 5), local.search(queries, 5), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert remote.rows(names(3)).equals(local.rows(names(3)))


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


def test_k_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="k is 0"):
        gallery(tmp_path, units(5)).search(units(1), 0)


# -- what opening refuses ----------------------------------------------------------------


def test_no_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="facepipe index build"):
        open_index(tmp_path / "nothing")


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_single_bit_flip_is_refused(tmp_path: Path) -> None:
    made(tmp_path, units(9))
    files = [p for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    assert {p.name for p in files} == {"CURRENT", "manifest.json", VECTORS, ROWS}
    rng = np.random.default_rng(5)
    for path in files:
        bits = path.stat().st_size * 8
        for bit in rng.choice(bits, size=min(bits, 120), replace=False).tolist():
            flip(path, bit)
            with pytest.raises(CorruptData, match="index build"):
                open_index(tmp_path)
            flip(path, bit)
    assert len(open_index(tmp_path)) == 9


@pytest.mark.parametrize("name", [VECTORS, ROWS, "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "longer", "gone"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    made(tmp_path, units(9))
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
    made(tmp_path, units(9))
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
        with pytest.raises(CorruptData, match=f"{store.uri}/{key} .*index build"):
            open_index(store.uri)
        store.put(key, data)
    assert len(open_index(store.uri)) == 9


@pytest.mark.parametrize("pointer", [b"", b"abc\n", b"../../etc/passwd\n", b"A" * 64 + b"\n"])
def test_a_pointer_that_names_no_version_is_refused(tmp_path: Path, pointer: bytes) -> None:
    made(tmp_path, units(3))
    (tmp_path / "CURRENT").write_bytes(pointer)
    with pytest.raises(CorruptData, match="CURRENT"):
        open_index(tmp_path)


def other_index(kind: str, base: Half) -> bytes:
    wide, (count, dim) = base.astype(np.float32), base.shape
    fp16, inner = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    index = {
        "flat": faiss.IndexFlatIP(dim),
        "l2": faiss.IndexScalarQuantizer(dim, fp16, faiss.METRIC_L2),
        "bf16": faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_bf16, inner),
        "fewer": faiss.IndexScalarQuantizer(dim, fp16, inner),
    }[kind]
    index.add(wide[: count - 1] if kind == "fewer" else wide)
    return bytes(faiss.serialize_index(index).tobytes())


@pytest.mark.parametrize("kind", ["flat", "l2", "bf16", "fewer"])
def test_another_index_under_a_right_checksum_is_refused(tmp_path: Path, kind: str) -> None:
    base = units(9)
    codes = other_index(kind, base)
    publish(tmp_path, record(codes, rows_of(9), 9).to_json(), codes, rows_of(9))
    with pytest.raises(CorruptData, match=VECTORS):
        open_index(tmp_path)


@pytest.mark.parametrize("offset", [4, 8, 37, 53, 61, 65, 73])
@pytest.mark.parametrize("value", [b"\xff" * 8, b"\xff" * 7 + b"\x0f", b"\1" * 8])
def test_a_hostile_header_under_a_right_checksum_is_refused(
    tmp_path: Path, offset: int, value: bytes
) -> None:
    """Sizes in the header that would have faiss take all memory or read past the end."""
    codes = bytearray(encode_vectors(units(9))[0])
    codes[offset : offset + 8] = value
    assert bytes(codes) != encode_vectors(units(9))[0]
    publish(tmp_path, record(codes, rows_of(9), 9).to_json(), bytes(codes), rows_of(9))
    try:
        opened = open_index(tmp_path)
    except CorruptData:
        return
    scores, _ = opened.search(units(9), 1)  # a field that search does not use
    np.testing.assert_allclose(scores[:, 0], 1, atol=2e-3)


@pytest.mark.parametrize(("dim", "text"), [(8, "holds .*16, 9"), (512, "cannot hold 9 x 512")])
def test_another_dimension_than_the_manifests_is_refused(
    tmp_path: Path, dim: int, text: str
) -> None:
    codes = encode_vectors(units(9))[0]
    publish(tmp_path, record(codes, rows_of(9), 9, dim=dim).to_json(), codes, rows_of(9))
    with pytest.raises(CorruptData, match=text):
        open_index(tmp_path)


@pytest.mark.parametrize("change", ["count", "order", "columns", "no parquet"])
def test_other_rows_under_a_right_checksum_are_refused(tmp_path: Path, change: str) -> None:
    codes, table = encode_vectors(units(9))[0], pa.Table.from_pylist([], schema=GALLERY)
    rows = {
        "count": rows_of(8),
        "order": write_parquet(_reversed(rows_of(9)), GALLERY),
        "columns": write_parquet(table.select(["face_id"]), pa.schema([GALLERY.field(0)])),
        "no parquet": b"PAR1" * 9,
    }[change]
    publish(tmp_path, record(codes, rows, 9).to_json(), codes, rows)
    with pytest.raises(CorruptData, match=ROWS):
        open_index(tmp_path)


def _reversed(data: bytes) -> pa.Table:
    table = pa.parquet.read_table(pa.BufferReader(data))
    return table.take(pa.array(range(len(table) - 1, -1, -1)))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema_version": 99}, "layout 99"),
        ({"surprise": 1}, "surprise"),
        ({"totals": None}, "totals"),
        ({"shards": []}, "one shard"),
    ],
)
def test_a_manifest_of_another_layout_is_refused(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    codes, rows = encode_vectors(units(2))[0], rows_of(2)
    value = {**json.loads(record(codes, rows, 2).to_json()), **change}
    publish(tmp_path, json.dumps(value).encode(), codes, rows)
    with pytest.raises(CorruptData, match=text):
        open_index(tmp_path)


def test_a_shard_cannot_point_outside_the_index(tmp_path: Path) -> None:
    codes, rows = encode_vectors(units(2))[0], rows_of(2)
    value = json.loads(record(codes, rows, 2).to_json())
    value["shards"][0]["name"] = "../../elsewhere0"
    publish(tmp_path, json.dumps(value).encode(), codes, rows)
    with pytest.raises(StoreError, match="name"):
        open_index(tmp_path)


def test_the_limit_for_hostile_files_is_put_back(tmp_path: Path) -> None:
    before = faiss.get_deserialization_vector_byte_limit()
    gallery(tmp_path, units(4))
    assert faiss.get_deserialization_vector_byte_limit() == before


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5])
def test_a_rate_is_between_none_and_all(value: float) -> None:
    with pytest.raises(ValidationError):
        IndexSettings(fpir=value)
