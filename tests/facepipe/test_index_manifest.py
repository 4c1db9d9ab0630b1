"""The record of an index: named by its content, refused where it contradicts itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from facepipe.errors import CorruptData, DatasetNotFound
from facepipe.index_manifest import (
    CODES,
    CURRENT,
    MAX_MANIFEST_BYTES,
    ROWS,
    VECTORS,
    Manifest,
    current_version,
    current_with_etag,
    manifest_key,
    read_manifest,
    read_version,
)
from facepipe.store import LocalStore

DIM = 4


def file_of(text: str, size: int) -> dict[str, Any]:
    return {"bytes": size, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def shard(text: str, rows: int, *, dead: int = 0, codes: bool = False) -> dict[str, Any]:
    files = {VECTORS: file_of(f"v{text}", rows * DIM * 2), ROWS: file_of(f"r{text}", 7)}
    if codes:
        files[CODES] = file_of(f"c{text}", 9)
    hashes = {name: file["sha256"] for name, file in files.items()}
    canonical = json.dumps(hashes, sort_keys=True, separators=(",", ":"))
    return {
        "name": hashlib.sha256(canonical.encode()).hexdigest()[:16],
        "rows": rows,
        "files": files,
        "inputs": "made of this",
        "dead": dead,
        "tombstones": file_of(f"t{text}", 4 * dead) if dead else None,
    }


def template() -> dict[str, Any]:
    file = file_of("template", 5000)
    return {
        "name": file["sha256"][:16],
        "kind": "ivf_pqfs",
        "factory": "IVF8,PQ2x4fs",
        "nlist": 8,
        "seed": 0,
        "sample": 100,
        "faiss": "1.15.1",
        "file": file,
    }


def manifest(*, codes: bool = False, **changed: Any) -> dict[str, Any]:
    """Return a flat gallery of two shards with a dead row in 30, or one with codes."""
    shards = [shard("a", 10, dead=1, codes=codes), shard("b", 20, codes=codes)]
    recall = dict.fromkeys(
        ("target", "rth", "rth_low", "rth_high", "id_at_1", "id_at_1_low", "id_at_1_high"), 0.99
    )
    return {
        "schema_version": 2,
        "inputs": "i",
        "parent": None,
        "action": "build",
        "embedding": {"model_id": "m", "flip": None, "dim": DIM},
        "dataset": {"plans": {"detect": "d"}, "include": "kept", "by": "status"},
        "totals": {"expected": 31, "indexed": 29, "left_out": {"small": 2}, "identities": 3},
        "kind": "ivf_pqfs" if codes else "flat",
        "template": template() if codes else None,
        "search": {"nprobe": 4, "candidates": 100} if codes else {"nprobe": 0, "candidates": 0},
        "recall": {
            **recall,
            "recall_at_10": 0.9,
            "queries": 10,
            "pairs": 50,
            "min_cosine": 0.4,
            "seed": 0,
        }
        if codes
        else None,
        "threshold": {
            "value": 0.3,
            "fpir": 0.01,
            "fmr": 0.001,
            "method": "prior",
            "note": "",
            "probes": 0,
            "comparisons": 0,
            "impostor_mean": 0.0,
            "impostor_std": 0.1,
            "seed": 0,
        },
        "shards": shards,
        "shard_rows": 262144,
        "note": ["because"],
        **changed,
    }


def put(store: LocalStore, data: bytes) -> str:
    version = hashlib.sha256(data).hexdigest()
    store.put(manifest_key(version), data)
    store.put(CURRENT, f"{version}\n".encode())
    return version


@pytest.mark.parametrize("codes", [False, True])
def test_what_is_written_is_read_and_the_bytes_are_its_name(tmp_path: Path, codes: bool) -> None:
    store = LocalStore(tmp_path)
    data = Manifest.model_validate(manifest(codes=codes)).to_json()
    version = put(store, data)
    found, record = read_manifest(store)
    assert (found, record.to_json()) == (version, data)
    assert json.loads(data)["shards"][1]["name"] == record.shards[1].name
    assert read_version(store, version) == record
    assert current_version(store) == version


def test_the_bytes_do_not_depend_on_the_order_of_what_was_given() -> None:
    value = manifest(codes=True)
    turned = dict(reversed(value.items()))
    turned["shards"] = [dict(reversed(s.items())) for s in value["shards"]]
    one, other = Manifest.model_validate(value), Manifest.model_validate(turned)
    assert one.to_json() == other.to_json()


def test_where_things_are() -> None:
    record = Manifest.model_validate(manifest(codes=True))
    first = record.shards[0]
    assert first.key(VECTORS) == f"shards/{first.name}/vectors.f16"
    assert first.tombstones is not None
    assert first.tombstones_key == f"tombstones/{first.tombstones.sha256[:16]}.u32"
    assert record.shards[1].tombstones_key is None
    assert record.template is not None
    assert record.template.key == f"templates/{record.template.name}/template.faiss"


def changed_shard(place: int = 0, **values: Any) -> dict[str, Any]:
    value = manifest(codes=True)
    value["shards"][place] = {**value["shards"][place], **values}
    return value


CONTRADICTIONS = {
    "a living row too many": manifest(totals={**manifest()["totals"], "indexed": 30}),
    "a shard twice": manifest(
        shards=[shard("a", 10), shard("a", 10)],
        totals={"expected": 20, "indexed": 20, "left_out": {}, "identities": 0},
    ),
    "flat with a template": manifest(template=template()),
    "flat that probes": manifest(search={"nprobe": 1, "candidates": 0}),
    "flat with a recall": manifest(recall=manifest(codes=True)["recall"]),
    "lists without a template": manifest(codes=True, template=None),
    "another kind than the template's": manifest(codes=True, kind="ivf_sq8"),
    "a template with another name": manifest(codes=True, template={**template(), "name": "0" * 16}),
    "more probes than lists": manifest(codes=True, search={"nprobe": 9, "candidates": 1}),
    "no candidates": manifest(codes=True, search={"nprobe": 1, "candidates": 0}),
    "codes in a flat gallery": manifest(shards=[shard("a", 29, codes=True)]),
    "no codes in one of lists": manifest(codes=True, shards=[shard("a", 29)]),
    "a shard with another name": changed_shard(name="0" * 16),
    "a name that leaves the folder": changed_shard(name="../../../../etcpa"),
    "a file more": changed_shard(1, files={**shard("b", 20)["files"], "x": file_of("x", 1)}),
    "vectors of another size": manifest(embedding={**manifest()["embedding"], "dim": 5}),
    "dead rows that are not listed": changed_shard(1, dead=1),
    "a list of no dead rows": changed_shard(1, tombstones=file_of("t", 0)),
    "more listed than dead": changed_shard(0, tombstones=file_of("t", 8)),
    "more dead than there are": changed_shard(0, dead=11, tombstones=file_of("t", 44)),
    "a setting nobody knows": manifest(surprise=1),
    "no hash": changed_shard(0, tombstones={"bytes": 4, "sha256": "abc"}),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_contradiction_is_refused(tmp_path: Path, what: str) -> None:
    value = CONTRADICTIONS[what]
    with pytest.raises(ValidationError):
        Manifest.model_validate(value)
    store = LocalStore(tmp_path)
    put(store, json.dumps(value).encode())
    with pytest.raises(CorruptData, match=r"(?s)is not a manifest .* build the index again"):
        read_manifest(store)


def test_no_index_is_no_damage(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert current_version(store) is None
    assert current_with_etag(store) == (None, None)
    with pytest.raises(DatasetNotFound, match="facepipe index build"):
        read_manifest(store)


def test_the_etag_swaps_what_was_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = "a" * 64, "b" * 64
    assert store.put_if_match(CURRENT, f"{first}\n".encode(), current_with_etag(store)[1])
    version, etag = current_with_etag(store)
    assert version == first
    assert store.put_if_match(CURRENT, f"{second}\n".encode(), etag)
    assert store.put_if_match(CURRENT, f"{first}\n".encode(), etag) is None
    assert current_version(store) == second


@pytest.mark.parametrize("text", ["", "x", "a" * 64, "A" * 64 + "\n", "a" * 64 + "\n\n"])
def test_a_pointer_that_names_no_version_is_refused(tmp_path: Path, text: str) -> None:
    store = LocalStore(tmp_path)
    store.put(CURRENT, text.encode())
    with pytest.raises(CorruptData, match="does not name a version"):
        read_manifest(store)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a manifest"),
        (b"[]", "is of layout None"),
        (b'{"schema_version": 1}', "is of layout 1, not 2: build the index again"),
        (b'{"schema_version": 2}', "is not a manifest"),
        (b"[" * 100_000, "is not a manifest"),
        (b"\xff\xfe", "is not a manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    store = LocalStore(tmp_path)
    put(store, data)
    with pytest.raises(CorruptData, match=reason):
        read_manifest(store)


def test_a_manifest_that_is_missing_changed_or_huge_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    data = Manifest.model_validate(manifest()).to_json()
    version = put(store, data)
    key = manifest_key(version)
    for place in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        store.put(key, bytes(flipped))
        with pytest.raises(CorruptData, match="does not have the hash"):
            read_manifest(store)
    with store.path(key).open("r+b") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(CorruptData, match="too large"):
        read_manifest(store)
    store.delete(key)
    with pytest.raises(CorruptData, match="is missing"):
        read_manifest(store)
