"""Duplicates: what is one, what only looks like one, and which of them is kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import ValidationError

from facepipe import dedup, ids
from facepipe.dedup import DedupSettings, find_duplicates, same_bytes
from facepipe.schema import DUPLICATES

DIM = 64
BASE = 0x0F1E2D3C4B5A6978  # 32 bits set, as in the hash of an ordinary picture
BOX = [20.0, 20, 60, 70]


def unit(seed: int, near: npt.NDArray[Any] | None = None, cosine: float = 1.0) -> Any:
    """Return a unit vector; with ``near``, one at that cosine to it."""
    vector = np.random.default_rng(seed).normal(size=DIM)
    if near is not None:
        across = vector - (vector @ near) * near
        vector = cosine * near + np.sqrt(1 - cosine**2) * across / np.linalg.norm(across)
    return vector / np.linalg.norm(vector)


PERSON = unit(0)


def flipped(word: int, bits: int) -> int:
    """Return the hash with so many bits changed, from the highest down."""
    return word ^ sum(1 << (63 - bit) for bit in range(bits))


def face(photo: str, **changes: Any) -> dict[str, Any]:
    """Return a face, all alike but for what is said; ``word`` and sides are its photo's."""
    photo_id = ids.photo_id(photo.encode())
    row = {
        "face_id": ids.face_id(photo_id, changes.pop("ordinal", 0)),
        "photo_id": photo_id,
        "uri": f"file:///{photo}.jpg",
        "member": None,
        "box_xyxy_px": BOX,
        "det_score": 0.8,
        "eye_distance_px": 20.0,
        "sharpness": 100.0,
        "source_label": "ada",
        "status": "ok",
        "vector": PERSON,
        "word": BASE,
        "sides": (100, 100),
    }
    assert not changes.keys() - row.keys()
    return row | changes


FACE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("face_id", "photo_id", "uri", "member")),
        ("box_xyxy_px", pa.list_(pa.float32(), 4)),
        *((n, pa.float32()) for n in ("det_score", "eye_distance_px", "sharpness")),
        *((name, pa.string()) for name in ("source_label", "status")),
    ]
)


def tables(rows: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table, pa.Table]:
    faces = pa.Table.from_pylist([{n: r[n] for n in FACE_SCHEMA.names} for r in rows], FACE_SCHEMA)
    photos = [
        {
            "photo_id": r["photo_id"],
            "phash": None if r["word"] is None else r["word"].to_bytes(8, "big"),
            "width_px": r["sides"][0],
            "height_px": r["sides"][1],
        }
        for r in rows
    ]
    photo_schema = pa.schema(
        [
            ("photo_id", pa.string()),
            ("phash", pa.binary(8)),
            ("width_px", pa.int32()),
            ("height_px", pa.int32()),
        ]
    )
    vectors = [None if r["vector"] is None else np.float16(r["vector"]) for r in rows]
    embeddings = pa.table(
        [
            pa.array([r["face_id"] for r in rows], pa.string()),
            pa.array(vectors, pa.list_(pa.float16(), DIM)),
        ],
        names=["face_id", "vector"],
    )
    return faces, pa.Table.from_pylist(photos, photo_schema), embeddings


def found(rows: list[dict[str, Any]], **settings: Any) -> dict[str, dict[str, Any]]:
    """Return the decisions by the name of the photo they are about."""
    table = find_duplicates(*tables(rows), DedupSettings(**settings))
    assert table.schema.equals(DUPLICATES, check_metadata=True)
    table.validate(full=True)
    keys = [(r["face_id"], r["uri"], r["member"] or "") for r in table.to_pylist()]
    assert keys == sorted((r["face_id"], r["uri"], r["member"] or "") for r in rows)
    return {r["uri"].removeprefix("file:///").removesuffix(".jpg"): r for r in table.to_pylist()}


def is_pair(second: dict[str, Any], **settings: Any) -> bool:
    rows = found([face("first"), second], **settings)
    decisions = Counter(row["decision"] for row in rows.values())
    assert decisions in ({"keep": 2}, {"keep": 1, "duplicate": 1})
    return decisions["duplicate"] == 1


# --- what is a duplicate


def test_the_same_picture_twice() -> None:
    rows = found([face("big", eye_distance_px=40.0), face("small")])
    assert rows["small"] | {"face_id": 0} == {
        "face_id": 0,
        "uri": "file:///small.jpg",
        "member": None,
        "source_label": "ada",
        "identity_id": None,
        "decision": "duplicate",
        "reason": "same_picture",
        "confidence": pytest.approx(1.0, abs=1e-3),
        "evidence": rows["big"]["face_id"],
        "similarity": pytest.approx(1.0, abs=1e-3),
        "weight": 0.0,
    }
    kept = rows["big"]
    assert (kept["decision"], kept["reason"], kept["weight"]) == ("keep", "same_picture", 1.0)
    assert kept["evidence"] is None and kept["similarity"] is None


@pytest.mark.parametrize(
    ("changes", "duplicate"),
    [
        ({}, True),
        ({"word": flipped(BASE, 6)}, True),
        ({"word": flipped(BASE, 7)}, False),
        ({"vector": unit(1, PERSON, 0.87)}, True),
        ({"vector": unit(1, PERSON, 0.83)}, False),  # the same person, not the same picture
        ({"vector": unit(1)}, False),
        ({"sides": (200, 200), "box_xyxy_px": [40.0, 40, 120, 140]}, True),  # twice the size
        ({"sides": (200, 200)}, False),  # elsewhere in the picture
        ({"box_xyxy_px": [20.0, 20, 60, 62]}, True),
        ({"box_xyxy_px": [20.0, 20, 60, 48]}, False),
        ({"vector": None}, False),
        ({"word": None}, False),
        ({"sides": (None, 100)}, False),
        ({"sides": (0, 0)}, False),
        ({"source_label": "bob"}, True),
        ({"status": "blurred"}, True),
    ],
)
def test_hash_place_and_vector_all_have_to_agree(changes: dict[str, Any], duplicate: bool) -> None:
    assert is_pair(face("second", **changes)) is duplicate


def test_settings_are_the_limits() -> None:
    near = face("second", word=flipped(BASE, 3), vector=unit(1, PERSON, 0.9))
    assert is_pair(near, max_distance_bits=3, min_similarity=0.89)
    assert not is_pair(near, max_distance_bits=2, min_similarity=0.89)
    assert not is_pair(near, max_distance_bits=3, min_similarity=0.91)
    with pytest.raises(ValidationError):
        DedupSettings(min_similarity=1.5)


def test_a_burst_is_kept_whole() -> None:
    """One person before one wall: faces nearly alike, the pictures are not; and vice versa."""
    burst = [face(f"shot-{i}", word=flipped(BASE, 8 * i)) for i in range(5)]
    assert {r["decision"] for r in found(burst).values()} == {"keep"}
    changing = [face(f"shot-{i}", vector=unit(i, PERSON, 0.8)) for i in range(5)]
    assert {r["reason"] for r in found(changing).values()} == {"single"}


def test_two_faces_of_one_photo_are_two_people() -> None:
    rows = find_duplicates(*tables([face("a"), face("a", ordinal=1)]), DedupSettings())
    assert rows["decision"].to_pylist() == ["keep", "keep"]


def test_each_face_of_a_group_photo_finds_its_own() -> None:
    boxes = [[10.0, 10, 30, 30], [40.0, 10, 60, 30], [70.0, 10, 90, 30]]
    rows = [
        face(photo, ordinal=i, box_xyxy_px=boxes[i], vector=unit(i), eye_distance_px=size)
        for photo, size in (("large", 30.0), ("small", 15.0))
        for i in range(3)
    ]
    table = find_duplicates(*tables(rows), DedupSettings()).to_pylist()
    evidence = {r["face_id"]: r["evidence"] for r in table if r["decision"] == "duplicate"}
    large, small = ids.photo_id(b"large"), ids.photo_id(b"small")
    assert evidence == {ids.face_id(small, i): ids.face_id(large, i) for i in range(3)}


def test_featureless_pictures_are_not_compared() -> None:
    rows = [face(f"{i}", word=1 << 63) for i in range(3)]
    assert {r["decision"] for r in found(rows).values()} == {"keep"}


# --- the same bytes


def test_the_same_bytes_under_two_names_keep_their_labels() -> None:
    rows = [face("a") | {"uri": f"file:///{uri}.jpg"} for uri in ("2", "1", "3")]
    rows[0]["source_label"] = "bob"
    result = found(rows)
    assert {name: r["decision"] for name, r in result.items()} == {
        "1": "keep",
        "2": "duplicate",
        "3": "duplicate",
    }
    assert {r["reason"] for r in result.values()} == {"same_bytes"}
    assert result["2"]["source_label"] == "bob"
    assert result["2"]["evidence"] == result["1"]["face_id"]
    assert (result["2"]["similarity"], result["2"]["confidence"]) == (1.0, 1.0)


def test_members_of_an_archive_are_occurrences() -> None:
    rows = [face("a", member=member) for member in ("y", "x", None)]
    table = find_duplicates(*tables(rows), DedupSettings()).to_pylist()
    assert [(r["member"], r["decision"]) for r in table] == [
        (None, "keep"),
        ("x", "duplicate"),
        ("y", "duplicate"),
    ]


def test_the_same_bytes_need_no_vector_and_no_hash() -> None:
    rows = [face("a", vector=None, word=None) | {"uri": f"file:///{u}.jpg"} for u in "12"]
    result = found(rows)
    assert result["2"]["reason"] == "same_bytes"
    assert result["2"]["similarity"] == 1.0


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ({}, {}, "1"),
        ({"status": "bystander"}, {}, "2"),  # fit for use goes before the name
        ({"source_label": None}, {}, "2"),  # and so does having a label
        ({"status": "bystander"}, {"source_label": None}, "2"),
    ],
)
def test_which_occurrence_is_kept(first: dict[str, Any], second: dict[str, Any], kept: str) -> None:
    rows = [
        face("a", **first) | {"uri": "file:///1.jpg"},
        face("a", **second) | {"uri": "file:///2.jpg"},
    ]
    assert [n for n, r in found(rows).items() if r["decision"] == "keep"] == [kept]


def test_occurrences_of_a_smaller_copy_go_to_the_picture_kept() -> None:
    rows = [face("small") | {"uri": f"file:///{u}.jpg"} for u in "12"]
    result = found([*rows, face("big", eye_distance_px=40.0)])
    assert {n: (r["decision"], r["reason"], r["evidence"]) for n, r in result.items()} == {
        "big": ("keep", "same_picture", None),
        "1": ("duplicate", "same_picture", result["big"]["face_id"]),
        "2": ("duplicate", "same_picture", result["big"]["face_id"]),
    }


def test_rows_of_the_same_bytes() -> None:
    groups = same_bytes(["b", "a", "c", "b", "a", "b"])
    assert [group.tolist() for group in groups] == [[1, 4], [0, 3, 5]]
    assert same_bytes([]) == []


# --- which picture is kept


@pytest.mark.parametrize(
    "better",
    [
        {"eye_distance_px": 21.0, "sharpness": 1.0, "det_score": 0.1},
        {"sharpness": 101.0, "det_score": 0.1},
        {"det_score": 0.9},
    ],
)
def test_the_best_is_kept(better: dict[str, float]) -> None:
    result = found([face("plain"), face("better", **better)])
    assert result["better"]["decision"] == "keep"
    assert result["plain"]["evidence"] == result["better"]["face_id"]


@pytest.mark.parametrize(
    "worse", [{"status": "blurred"}, {"source_label": None}, {"eye_distance_px": float("nan")}]
)
def test_a_face_of_no_use_is_not_kept_for_its_size(worse: dict[str, Any]) -> None:
    result = found([face("plain"), face("worse", **({"eye_distance_px": 99.0} | worse))])
    assert result["plain"]["decision"] == "keep"


def test_equal_quality_is_decided_by_the_id() -> None:
    result = found([face(f"{i}") for i in range(6)])
    kept = [r["face_id"] for r in result.values() if r["decision"] == "keep"]
    assert kept == [min(r["face_id"] for r in result.values())]


def test_duplicates_are_stars_and_never_chains() -> None:
    """a - b - c - d, each 5 bits from the next: the ends are not the same picture."""
    rows = [
        face(name, word=flipped(BASE, 5 * i), eye_distance_px=40.0 - i)
        for i, name in enumerate("abcd")
    ]
    result = found(rows)
    assert {n: r["decision"] for n, r in result.items()} == {
        "a": "keep",
        "b": "duplicate",
        "c": "keep",
        "d": "duplicate",
    }
    assert result["b"]["evidence"] == result["a"]["face_id"]
    assert result["d"]["evidence"] == result["c"]["face_id"]


def crowd(count: int = 60) -> list[dict[str, Any]]:
    """Return many photos of a few pictures and people, with ties and near misses."""
    rng = np.random.default_rng(3)
    return [
        face(
            f"{i:03d}",
            word=flipped(BASE, int(rng.integers(0, 10))),
            vector=unit(100 + i, unit(int(rng.integers(0, 3))), rng.uniform(0.9, 1)),
            eye_distance_px=float(rng.integers(20, 24)),
            status=str(rng.choice(["ok", "ok", "blurred"])),
        )
        for i in range(count)
    ]


def test_every_duplicate_agrees_with_a_kept_face_and_no_two_kept_ones_agree() -> None:
    rows = crowd()
    result = found(rows)
    by_id = {r["face_id"]: r for r in rows}

    def agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
        near = (a["word"] ^ b["word"]).bit_count() <= 6
        return near and float(np.float16(a["vector"]) @ np.float16(b["vector"])) >= 0.85

    kept = [by_id[r["face_id"]] for r in result.values() if r["decision"] == "keep"]
    assert 1 < len(kept) < 30
    assert not any(agree(a, b) for i, a in enumerate(kept) for b in kept[:i])
    for row in result.values():
        if row["decision"] == "duplicate":
            assert by_id[row["evidence"]] in kept
            assert agree(by_id[row["face_id"]], by_id[row["evidence"]])


@pytest.mark.parametrize("block", [1, 4, 7])
def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    whole = found(crowd())
    monkeypatch.setattr(dedup, "FACE_BLOCK", block)
    parts = found(crowd())
    for name, row in whole.items():
        assert parts[name] | {"similarity": 0, "confidence": 0} == row | {
            "similarity": 0,
            "confidence": 0,
        }


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = crowd()
    rows += [r | {"uri": r["uri"] + "x"} for r in rows[:9]]
    forwards = find_duplicates(*tables(rows), DedupSettings())
    backwards = find_duplicates(*tables(rows[::-1]), DedupSettings())
    assert forwards.equals(backwards)


def test_no_faces_no_rows() -> None:
    assert len(find_duplicates(*tables([]), DedupSettings())) == 0
