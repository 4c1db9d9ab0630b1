"""Duplicates: what is one, what only looks like one, and which of them is kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import ValidationError

from facepipe import crop_rows, dedup, ids
from facepipe.crop_hash import crop_hash
from facepipe.crop_match import match_probability, unexplained_motion
from facepipe.dedup import DedupSettings, find_duplicates, same_bytes
from facepipe.schema import CROP_GREY_PX, CROP_HASH_BYTES, DUPLICATES
from tests.facepipe.small_pictures import Grey, moved, next_frame, picture

DIM = 64
WORD = 0x0F1E2D3C4B5A6978  # 32 bits set, as in the hash of an ordinary photo
SCENE = picture(1)


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
    """Return a face, all alike but for what is said; ``word`` is its photo's hash."""
    photo_id = ids.photo_id(photo.encode())
    row = {
        "face_id": ids.face_id(photo_id, changes.pop("ordinal", 0)),
        "photo_id": photo_id,
        "uri": f"file:///{photo}.jpg",
        "member": None,
        "det_score": 0.8,
        "eye_distance_px": 20.0,
        "sharpness": 100.0,
        "source_label": "ada",
        "status": "ok",
        "grey": SCENE,
        "vector": PERSON,
        "word": WORD,
    }
    assert not changes.keys() - row.keys()
    return row | changes


FACE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("face_id", "uri", "member")),
        *((n, pa.float32()) for n in ("det_score", "eye_distance_px", "sharpness")),
        *((name, pa.string()) for name in ("source_label", "status")),
        ("crop_hash", pa.binary(CROP_HASH_BYTES)),
        ("crop_grey", pa.binary(CROP_GREY_PX**2)),
    ]
)


def stored(row: dict[str, Any]) -> dict[str, Any]:
    grey: Grey | None = row["grey"]
    hashed = None if grey is None else crop_hash(np.ascontiguousarray(grey))
    return {"crop_hash": hashed, "crop_grey": None if grey is None else grey.tobytes()}


def tables(rows: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table, pa.Table]:
    faces = pa.Table.from_pylist([r | stored(r) for r in rows], FACE_SCHEMA)
    photos = [
        {
            "photo_id": r["photo_id"],
            "phash": None if r["word"] is None else r["word"].to_bytes(8, "big"),
        }
        for r in rows
    ]
    photo_schema = pa.schema([("photo_id", pa.string()), ("phash", pa.binary(8))])
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


def reason(second: dict[str, Any], **settings: Any) -> str | None:
    """Return why a face is a duplicate of, or is kept for, an ordinary one; None if neither."""
    rows = found([face("first"), second], **settings)
    decisions = Counter(row["decision"] for row in rows.values())
    assert decisions in ({"keep": 2}, {"keep": 1, "duplicate": 1})
    reasons = {row["reason"] for row in rows.values()}
    assert len(reasons) == 1  # the kept face has the reason of its copy
    return None if decisions["keep"] == 2 else reasons.pop()


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
    ("changes", "expected"),
    [
        ({}, "same_picture"),
        ({"grey": moved(SCENE, 1.2, -0.8, 1.03, 2.0)}, "same_picture"),
        ({"grey": SCENE[:, ::-1], "word": WORD ^ 0x5555555555555555}, "same_picture"),
        ({"grey": SCENE[:, ::-1]}, "same_crop"),  # mirrored, the photo around it is not
        ({"word": flipped(WORD, 10)}, "same_picture"),
        ({"word": flipped(WORD, 11)}, "same_crop"),
        ({"word": None}, "same_crop"),
        ({"word": 1 << 63}, "same_crop"),  # a featureless photo
        ({"grey": np.where(np.arange(48) < 41, SCENE, 0)}, "same_picture"),  # cut off
        ({"grey": next_frame(SCENE)}, None),  # the same moment, another exposure
        ({"grey": next_frame(SCENE[:, ::-1])}, None),
        ({"grey": picture(2)}, None),
        ({"grey": None}, None),
        ({"grey": np.full((48, 48), 90, np.uint8)}, None),
        ({"vector": unit(1, PERSON, 0.55)}, "same_picture"),
        ({"vector": unit(1, PERSON, 0.45)}, None),
        ({"vector": unit(1)}, None),
        ({"vector": None}, None),
        ({"source_label": "bob"}, "same_picture"),
        ({"status": "blurred"}, "same_picture"),
        ({"eye_distance_px": float("nan")}, "same_picture"),
    ],
)
def test_crop_and_vector_have_to_agree(changes: dict[str, Any], expected: str | None) -> None:
    changes = {
        k: v.astype(np.uint8) if k == "grey" and v is not None else v for k, v in changes.items()
    }
    assert reason(face("second", **changes)) == expected


def test_the_confidence_is_the_probability_that_the_crops_are_copies() -> None:
    other = moved(SCENE, 0.6, 0.4, 0.98)
    rows = found([face("big", eye_distance_px=40.0), face("small", grey=other)])
    motion = unexplained_motion(other[None], SCENE[None])
    expected = match_probability(motion, np.array([20.0]))[0]
    assert rows["small"]["confidence"] == pytest.approx(expected, abs=1e-6)
    assert 0.9 < expected <= 1.0


def test_settings_are_the_limits() -> None:
    near = face("second", grey=next_frame(SCENE, 0.3), vector=unit(1, PERSON, 0.8))
    rows = found([face("first"), near], min_confidence=0.5).values()
    (sure,) = [r["confidence"] for r in rows if r["decision"] == "duplicate"]
    assert 0.5 < sure < 0.9999
    assert reason(near, min_confidence=sure - 0.001)
    assert not reason(near, min_confidence=min(sure + 0.0001, 0.99999))
    assert not reason(near, min_confidence=0.5, min_similarity=0.82)
    for wrong in ({"min_confidence": 1.0}, {"min_confidence": 0.4}, {"min_similarity": 1.5}):
        with pytest.raises(ValidationError):
            DedupSettings(**wrong)


def test_a_burst_is_kept_whole() -> None:
    """One person before one wall: equal vectors and photos, but something always moves."""
    burst = [
        face(f"shot-{i}", grey=next_frame(SCENE, 1.0, x, y))
        for i, (x, y) in enumerate([(0.3, 0.3), (0.7, 0.35), (0.5, 0.55), (0.4, 0.75), (0.6, 0.8)])
    ]
    assert {r["reason"] for r in found(burst).values()} == {"single"}


def test_two_faces_of_one_photo_are_two_people() -> None:
    rows = find_duplicates(*tables([face("a"), face("a", ordinal=1)]), DedupSettings())
    assert rows["decision"].to_pylist() == ["keep", "keep"]


def test_each_face_of_a_group_photo_finds_its_own() -> None:
    rows = [
        face(photo, ordinal=i, grey=picture(10 + i), vector=unit(i), eye_distance_px=size)
        for photo, size in (("large", 30.0), ("small", 15.0))
        for i in range(3)
    ]
    table = find_duplicates(*tables(rows), DedupSettings()).to_pylist()
    evidence = {r["face_id"]: r["evidence"] for r in table if r["decision"] == "duplicate"}
    large, small = ids.photo_id(b"large"), ids.photo_id(b"small")
    assert evidence == {ids.face_id(small, i): ids.face_id(large, i) for i in range(3)}


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


def test_the_same_bytes_need_no_vector_and_no_crop() -> None:
    rows = [face("a", vector=None, grey=None) | {"uri": f"file:///{u}.jpg"} for u in "12"]
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


def agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two faces are one picture, as it is said of them alone."""
    return "duplicate" in {r["decision"] for r in found([one, other]).values()}


def test_duplicates_are_stars_and_never_chains() -> None:
    """a - b - c, each a little further: the ends are not the same picture."""
    frames = [next_frame(SCENE, cells) for cells in (0.0, 0.3, 0.6)]
    a, b, c = (
        face(name, grey=frame, eye_distance_px=40.0 - i)
        for i, (name, frame) in enumerate(zip("abc", frames, strict=True))
    )
    assert agree(a, b) and agree(b, c) and not agree(a, c)
    result = found([a, b, c])
    assert {n: r["decision"] for n, r in result.items()} == {
        "a": "keep",
        "b": "duplicate",
        "c": "keep",
    }
    assert result["b"]["evidence"] == result["a"]["face_id"]


def crowd(count: int = 40) -> list[dict[str, Any]]:
    """Return many photos of a few pictures and people, with ties and near misses."""
    rng = np.random.default_rng(3)
    return [
        face(
            f"{i:03d}",
            grey=moved(
                next_frame(picture(int(rng.integers(0, 3))), float(rng.choice([0, 0, 1]))),
                *rng.uniform(-0.8, 0.8, 2),
            ),
            vector=unit(100 + i, unit(int(rng.integers(0, 2))), rng.uniform(0.9, 1)),
            eye_distance_px=float(rng.integers(20, 24)),
            status=str(rng.choice(["ok", "ok", "blurred"])),
        )
        for i in range(count)
    ]


def test_every_duplicate_agrees_with_a_kept_face_and_no_two_kept_ones_agree() -> None:
    rows = crowd()
    result = found(rows)
    by_id = {r["face_id"]: r for r in rows}
    kept = [by_id[r["face_id"]] for r in result.values() if r["decision"] == "keep"]
    assert 6 <= len(kept) < 30
    assert not any(agree(a, b) for i, a in enumerate(kept) for b in kept[:i])
    for row in result.values():
        if row["decision"] == "duplicate":
            assert by_id[row["evidence"]] in kept
            assert agree(by_id[row["face_id"]], by_id[row["evidence"]])


def test_a_crowd_of_copies_is_one_star(monkeypatch: pytest.MonkeyPatch) -> None:
    """More copies than a key is asked for; and behind them those of another picture."""
    monkeypatch.setattr("facepipe.crop_pairs.CROWD", 4)
    monkeypatch.setattr(dedup, "CROWD", 4)
    rng = np.random.default_rng(1)
    rows = [
        face(f"{i:02d}", grey=moved(scene, *rng.uniform(-0.3, 0.3, 2)), eye_distance_px=90.0 - i)
        for i in range(50)
        for scene in [SCENE if i < 25 else next_frame(SCENE)]
    ]
    result = found(rows)
    assert {n for n, r in result.items() if r["decision"] == "keep"} == {"00", "25"}


@pytest.mark.parametrize(("pairs", "faces"), [(1, 1), (4, 3), (7, 1000)])
def test_the_size_of_a_block_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, pairs: int, faces: int
) -> None:
    whole = found(crowd())
    monkeypatch.setattr(dedup, "READ_PAIRS", pairs)
    monkeypatch.setattr(crop_rows, "READ_FACES", faces)
    monkeypatch.setattr(crop_rows, "PAIR_BLOCK", pairs)
    assert found(crowd()) == whole


def test_a_scene_is_done_before_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame of a scene is asked for when the better ones are done: the file stays at hand."""
    scenes, frames = 5, 4
    rows = [
        face(f"{i}-{j}", grey=next_frame(picture(i), j / 4), eye_distance_px=20.0 + (7 * i + j) % 5)
        for i in range(scenes)
        for j in range(frames)
    ]
    faces, photos, embeddings = tables(rows)
    asked: list[int] = []

    class Asked:
        def __getitem__(self, at: npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]:
            asked.extend(sorted({int(row) // frames for row in at}))
            return np.stack([rows[row]["grey"] for row in at])

    monkeypatch.setattr(dedup, "READ_PAIRS", 1)
    find_duplicates(faces, photos, embeddings, DedupSettings(), greys=Asked())
    assert asked == sorted(asked)
    assert set(asked) == set(range(scenes))
    assert len(asked) > scenes  # more than one round of each


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = crowd()
    rows += [r | {"uri": r["uri"] + "x"} for r in rows[:9]]
    forwards = find_duplicates(*tables(rows), DedupSettings())
    backwards = find_duplicates(*tables(rows[::-1]), DedupSettings())
    assert forwards.equals(backwards)


def test_no_faces_no_rows() -> None:
    assert len(find_duplicates(*tables([]), DedupSettings())) == 0
