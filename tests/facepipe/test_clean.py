"""Cleaning: noise put in is found, a clean set stays whole, and every row has its reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import ValidationError

from facepipe import centres, ids, near_centres
from facepipe.clean import CleanFit, CleanSettings, LabelRules, clean_faces
from facepipe.errors import CorruptData
from facepipe.schema import DECISIONS, DUPLICATES, LABEL_PAIRS

DIM = 128
Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def people(sizes: list[int], seed: int = 0, mean: float = 0.68, std: float = 0.12) -> Array:
    """Return vectors of persons one after another; cosine to the centre N(mean, std).

    The generator of the cleaning benchmarks: 0.68 and 0.12 are what a recogniser shows on
    photos from the web.
    """
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(len(sizes), DIM))
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    own = np.repeat(centre, sizes, axis=0)
    cosine = np.clip(rng.normal(mean, std, len(own)), 0.0, 0.98)[:, None]
    away = rng.normal(size=own.shape)
    away -= (away * own).sum(axis=1, keepdims=True) * own
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    vectors: Array = cosine * own + np.sqrt(1 - cosine**2) * away
    return vectors


def log_normal_sizes(labels: int, seed: int = 0) -> list[int]:
    sizes = np.random.default_rng(seed).lognormal(np.log(14), 0.7, labels)
    return [max(3, int(size)) for size in sizes]


def id_of(number: int) -> str:
    return ids.face_id(ids.photo_id(b"%d" % number), 0)


def tables(
    labels: list[str | None], vectors: list[Any] | Array, **columns: list[Any]
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return faces, the duplicates table of no duplicates, and embeddings."""
    count = len(labels)
    face_id = [id_of(n) for n in range(count)]
    given = {
        "face_id": face_id,
        "uri": [f"{n:05d}" for n in range(count)],
        "member": [None] * count,
        "eye_distance_px": [40.0] * count,
        "source_label": labels,
        "status": ["ok"] * count,
    } | columns
    text, real = pa.string(), pa.float32()
    types = {"eye_distance_px": real}
    faces = pa.table({n: pa.array(v, types.get(n, text)) for n, v in given.items()})
    kept = {
        **{n: faces[n] for n in ("face_id", "uri", "member", "source_label")},
        "identity_id": pa.nulls(count, text),
        "decision": pa.array(["keep"] * count, text),
        "reason": pa.array(["single"] * count, text),
        "confidence": pa.array([1.0] * count, real),
        "evidence": pa.nulls(count, text),
        "similarity": pa.nulls(count, real),
        "weight": pa.array([1.0] * count, real),
    }
    duplicates = pa.table([kept[f.name] for f in DUPLICATES], schema=DUPLICATES)
    halves = [None if v is None else np.float16(v) for v in vectors]
    embeddings = pa.table(
        [faces["face_id"], pa.array(halves, pa.list_(pa.float16(), DIM))],
        names=["face_id", "vector"],
    )
    return faces, duplicates, embeddings


def cleaned(
    labels: list[str | None],
    vectors: list[Any] | Array,
    rules: LabelRules | None = None,
    **columns: list[Any],
) -> tuple[list[dict[str, Any]], CleanFit]:
    """Return the decisions in the order of the faces given."""
    faces, duplicates, embeddings = tables(labels, vectors, **columns)
    return decided(faces, duplicates, embeddings, rules)


def decided(
    faces: pa.Table,
    duplicates: pa.Table,
    embeddings: pa.Table,
    rules: LabelRules | None = None,
) -> tuple[list[dict[str, Any]], CleanFit]:
    table, fit = clean_faces(faces, duplicates, embeddings, CleanSettings(), rules=rules)
    assert fit.pairs.schema.equals(LABEL_PAIRS, check_metadata=True)
    fit.pairs.validate(full=True)
    assert table.schema.equals(DECISIONS, check_metadata=True)
    table.validate(full=True)
    rows = table.to_pylist()
    keys = [(r["face_id"], r["uri"], r["member"] or "") for r in rows]
    assert keys == sorted(keys) and len(rows) == len(faces)
    assert sum(count for *_, count in fit.counts) == len(rows)
    counted = Counter((r["decision"], r["reason"]) for r in rows)
    assert {(d, r): n for d, r, n in fit.counts} == counted
    return sorted(rows, key=lambda r: r["uri"]), fit


def named(label: Codes) -> list[str | None]:
    return [f"person-{code:03d}" for code in label]


def flipped(true: Codes, share: float, seed: int) -> Codes:
    """Return labels of which a share is another person's, drawn evenly."""
    rng = np.random.default_rng([seed, 1])
    wrong = rng.random(len(true)) < share
    shift = rng.integers(1, true.max() + 1, len(true))
    return np.where(wrong, (true + shift) % (true.max() + 1), true)


def noisy_set(share: float, seed: int) -> tuple[Codes, Codes, Array]:
    sizes = log_normal_sizes(120, seed)
    true = np.repeat(np.arange(len(sizes)), sizes)
    return true, flipped(true, share, seed), people(sizes, seed)


# --- noise


@pytest.mark.parametrize(
    ("share", "f1", "kept"), [(0.1, 0.96, 0.995), (0.3, 0.97, 0.985), (0.5, 0.96, 0.95)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_injected_noise_is_found(share: float, f1: float, kept: float, seed: int) -> None:
    true, label, vectors = noisy_set(share, seed)
    rows, fit = cleaned(named(label), vectors)
    wrong = true != label
    flagged = np.array([r["decision"] != "keep" for r in rows])
    assert 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum()) >= f1
    assert (~flagged)[~wrong].mean() >= kept
    assert fit.mixture.clean_share == pytest.approx(1 - share, abs=0.04)
    assert 0.1 < fit.threshold < 0.5

    moved = [r["decision"] == "relabel" for r in rows]
    right = [r["identity_id"] == name for r, name in zip(rows, named(true), strict=True)]
    assert np.mean([right[i] for i in np.flatnonzero(moved)]) >= 0.97
    assert sum(moved) / wrong.sum() >= 0.8


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_set_stays_whole(seed: int) -> None:
    true, _, vectors = noisy_set(0.0, seed)
    rows, fit = cleaned(named(true), vectors)
    lost = [r for r in rows if r["decision"] != "keep"]
    assert len(lost) <= 0.002 * len(rows)
    assert fit.labels_without_dominant == ()
    assert fit.mixture.clean_share > 0.99


def test_small_clean_labels_stay_whole() -> None:
    for size in (2, 3):
        rows, _ = cleaned(
            named(np.repeat(np.arange(100), size)), people([size] * 100, mean=0.75, std=0.06)
        )
        assert sum(r["decision"] != "keep" for r in rows) <= 2


def test_strangers_are_dropped_not_moved() -> None:
    vectors = people([10] * 40 + [1] * 100, mean=0.75, std=0.06)
    label = np.concatenate([np.repeat(np.arange(40), 10), np.arange(100) % 40])
    rows, _ = cleaned(named(label), vectors)
    strangers = Counter((r["decision"], r["reason"]) for r in rows[400:])
    assert strangers["drop", "outlier"] >= 98
    assert all(
        r["identity_id"] is None and r["weight"] == 0 for r in rows if r["decision"] == "drop"
    )


def test_confidence_is_a_probability_that_holds() -> None:
    """On faces that are hard to tell, so that there are doubts to be right about."""
    sure, right = [], []
    for seed in range(12):
        sizes = [12] * 80
        true = np.repeat(np.arange(80), sizes)
        label = flipped(true, 0.3, seed)
        rows, _ = cleaned(named(label), people(sizes, seed, mean=0.5, std=0.14))
        sure += [r["confidence"] for r in rows]
        right += [
            (r["decision"] == "keep") == (t == y) for r, t, y in zip(rows, true, label, strict=True)
        ]
    sure_N, right_N = np.array(sure), np.array(right)
    assert ((sure_N >= 0) & (sure_N <= 1)).all()
    for low, high in ((0.5, 0.8), (0.8, 0.95), (0.95, 0.995), (0.995, 1.01)):
        band = (sure_N >= low) & (sure_N < high)
        assert band.sum() > 50
        assert right_N[band].mean() == pytest.approx(sure_N[band].mean(), abs=0.1)


# --- labels by size and kind


def tight(sizes: list[int], seed: int = 0) -> Array:
    return people(sizes, seed, mean=0.8, std=0.03)


def test_the_faces_of_one_label() -> None:
    """A label of one, of a pair that agrees, of one that does not, and of three strangers."""
    vectors = tight([1, 2, 1, 1, 1, 1, 1] + [6] * 30)
    label = np.concatenate([[0, 1, 1, 2, 2, 3, 3, 3], np.repeat(np.arange(10, 40), 6)])
    rows, fit = cleaned(named(label), vectors)
    assert [(r["decision"], r["reason"]) for r in rows[:8]] == [
        ("keep", "single"),
        ("keep", "same_person"),
        ("keep", "same_person"),
        ("keep", "no_dominant"),
        ("keep", "no_dominant"),
        ("drop", "no_dominant"),
        ("drop", "no_dominant"),
        ("drop", "no_dominant"),
    ]
    assert fit.labels_without_dominant == ("person-002", "person-003")
    assert (fit.labels, fit.labels_single) == (34, 1)
    pair, torn = rows[1], rows[3]
    cosine = float(np.float16(vectors[1]) @ np.float16(vectors[2]).astype(np.float64))
    assert pair["similarity"] == pytest.approx(cosine, abs=1e-3)
    assert pair["evidence"] == pair["identity_id"] == "person-001"
    assert torn["identity_id"] == "person-002"
    assert 0.3 < torn["weight"] < 0.51 < pair["weight"]
    assert rows[0]["evidence"] is None and rows[0]["similarity"] is None
    assert rows[5]["identity_id"] is None and rows[5]["evidence"] == "person-003"


def test_outliers_name_their_label_and_how_far_off_they_are() -> None:
    vectors = tight([9, 1] + [8] * 20)
    label = np.concatenate([[0] * 10, np.repeat(np.arange(1, 21), 8)])
    rows, _ = cleaned(named(label), vectors)
    outlier = rows[9]
    assert (outlier["decision"], outlier["reason"]) == ("drop", "outlier")
    assert outlier["evidence"] == "person-000" and outlier["identity_id"] is None
    mean = vectors[:9].mean(axis=0)
    cosine = vectors[9] @ mean / np.linalg.norm(mean)
    assert outlier["similarity"] == pytest.approx(cosine, abs=0.01)
    assert outlier["weight"] == 0.0 and outlier["confidence"] > 0.9


def test_a_face_under_the_wrong_name_is_moved() -> None:
    vectors = tight([8] * 20)
    label = np.repeat(np.arange(20), 8)
    label[0] = 7
    rows, _ = cleaned(named(label), vectors)
    moved = rows[0]
    assert (moved["decision"], moved["reason"]) == ("relabel", "other_identity")
    assert moved["source_label"] == "person-007"
    assert moved["evidence"] == moved["identity_id"] == "person-000"
    assert moved["confidence"] > 0.95
    assert moved["weight"] == pytest.approx(moved["confidence"])
    assert {r["decision"] for r in rows[1:]} == {"keep"}


def test_two_labels_do_not_swap_their_faces() -> None:
    """Two labels of two, each face nearest to one of the other label: nobody can say whose."""
    crowd = people([6] * 60, seed=3)
    cosines = np.array(
        [[1, 0.2, 0.7, 0.5], [0.2, 1, 0.5, 0.7], [0.7, 0.5, 1, 0.2], [0.5, 0.7, 0.2, 1]]
    )
    pairs = np.zeros((4, crowd.shape[1]))
    pairs[:, :4] = np.linalg.cholesky(cosines)
    labels: list[str | None] = [f"p{i // 6:02d}" for i in range(360)]
    rows, _ = cleaned([*labels, "ann", "ann", "bea", "bea"], np.vstack([crowd, pairs]))
    moved = {(r["source_label"], r["identity_id"]) for r in rows if r["decision"] == "relabel"}
    assert not {("ann", "bea"), ("bea", "ann")} <= moved


def test_a_face_that_fits_two_labels_alike_is_not_moved() -> None:
    """Two labels of one person, said to be apart: a stray face of theirs has no clear home."""
    vectors = tight([17] + [8] * 20)
    label = np.concatenate([[1] * 8, [2] * 8, [5], np.repeat(np.arange(3, 23), 8)])
    rules = LabelRules(different=(("person-001", "person-002"),))
    rows, fit = cleaned(named(label), vectors, rules=rules)
    assert (rows[16]["decision"], rows[16]["reason"]) == ("drop", "outlier")
    assert {r["decision"] for r in rows[:16]} == {"keep"}
    assert [p["verdict"] for p in fit.pairs.to_pylist()] == ["refused"]


def test_two_people_of_equal_share_have_no_dominant_identity() -> None:
    vectors = tight([4, 4, 5, 3] + [6] * 30)
    label = np.concatenate([[0] * 8, [1] * 8, np.repeat(np.arange(2, 32), 6)])
    rows, fit = cleaned(named(label), vectors)
    assert {r["reason"] for r in rows[:8]} == {"no_dominant"}
    assert {r["decision"] for r in rows[:8]} == {"drop"}
    assert [r["decision"] for r in rows[8:16]] == ["keep"] * 5 + ["drop"] * 3
    assert fit.labels_without_dominant == ("person-000",)


def test_a_tie_is_broken_by_knowing_who_the_others_are() -> None:
    """Four of person 0, much alike, and four of person 5, who has a label too."""
    vectors = np.vstack([people([4], 1, 0.95, 0.01), tight([10] + [6] * 30, 2)])
    label = np.concatenate([[0] * 8, [5] * 6, np.repeat(np.arange(6, 36), 6)])
    rows, fit = cleaned(named(label), vectors)
    assert {(r["decision"], r["identity_id"]) for r in rows[:4]} == {("keep", "person-000")}
    assert {(r["decision"], r["identity_id"]) for r in rows[4:8]} == {("relabel", "person-005")}
    assert fit.labels_without_dominant == ()


def test_a_folder_of_strangers_has_no_dominant_identity() -> None:
    vectors = tight([1] * 150 + [6] * 30)
    label = np.concatenate([[99] * 150, np.repeat(np.arange(30), 6)])
    rows, fit = cleaned(named(label), vectors)
    assert fit.labels_without_dominant == ("person-099",)
    assert {r["decision"] for r in rows[:150]} == {"drop"}
    assert {r["decision"] for r in rows[150:]} == {"keep"}


@pytest.mark.parametrize("halves", [1, 2])
def test_one_person_in_one_or_two_labels_is_no_noise(halves: int) -> None:
    rows, fit = cleaned(named(np.arange(30) % halves), tight([30]))
    lesser = {("merge", "merged")} if halves == 2 else set()
    assert {(r["decision"], r["reason"]) for r in rows} == {("keep", "same_person")} | lesser
    assert fit.labels == halves and len({r["identity_id"] for r in rows}) == 1


# --- labels that are one person


def split_set(**more: Any) -> tuple[list[str | None], Array]:
    """Return 30 people of nine faces, of whom the first two have a second label."""
    vectors = tight([14, 14] + [9] * 28)
    label = np.concatenate([[0] * 9, [50] * 5, [1] * 9, [51] * 5, np.repeat(np.arange(2, 30), 9)])
    return named(label), vectors


def test_a_person_under_two_labels_is_merged_into_the_larger() -> None:
    labels, vectors = split_set()
    rows, fit = cleaned(labels, vectors)
    for person, lesser in ((0, 50), (1, 51)):
        mine = [r for r in rows if r["source_label"] == f"person-{lesser:03d}"]
        assert {(r["decision"], r["reason"]) for r in mine} == {("merge", "merged")}
        assert {r["identity_id"] for r in mine} == {f"person-{person:03d}"}
        assert {r["evidence"] for r in mine} == {f"person-{person:03d}"}
        assert all(r["similarity"] > 0.9 and r["weight"] > 0.9 for r in mine)
    assert Counter(r["decision"] for r in rows) == {"keep": len(rows) - 10, "merge": 10}
    pairs = fit.pairs.to_pylist()
    assert [(p["label_a"], p["label_b"], p["verdict"]) for p in pairs] == [
        ("person-000", "person-050", "merged"),
        ("person-001", "person-051", "merged"),
    ]
    assert all(p["confidence"] > 0.9 and p["support"] > 0.9 and p["rank"] == 1 for p in pairs)


@pytest.mark.parametrize(
    ("people_, parts"), [(60, 2), (40, 5)], ids=["all in two labels", "all in five"]
)
def test_everybody_under_several_labels_is_merged(people_: int, parts: int) -> None:
    """Collections joined: names that are next to each other are one person."""
    true = np.repeat(np.arange(people_), 10 * parts)
    label = np.repeat(np.arange(people_ * parts), 10)
    _, fit = cleaned(named(label), people([10 * parts] * people_, seed=4))
    merged = {
        (p["label_a"], p["label_b"]) for p in fit.pairs.to_pylist() if p["verdict"] == "merged"
    }
    person = {f"person-{code:03d}": int(true[code * 10]) for code in range(people_ * parts)}
    assert all(person[a] == person[b] for a, b in merged)
    assert len(merged) == people_ * (parts - 1)


def test_a_person_under_ten_labels_beside_ordinary_ones_is_merged() -> None:
    label = np.repeat(np.arange(110), 10)
    _, fit = cleaned(named(label), people([100] + [10] * 100, seed=5))
    merged = [p for p in fit.pairs.to_pylist() if p["verdict"] == "merged"]
    assert len(merged) == 9 and {p["label_b"] for p in merged} <= set(named(np.arange(10)))


def test_a_stray_face_of_merged_labels_goes_to_the_survivor() -> None:
    vectors = tight([15] + [9] * 29)
    label = np.concatenate([[0] * 8, [50] * 6, [7], np.repeat(np.arange(1, 30), 9)])
    rows, _ = cleaned(named(label), vectors)
    assert (rows[14]["decision"], rows[14]["identity_id"]) == ("relabel", "person-000")


def test_what_a_person_says_about_labels_is_done() -> None:
    labels, vectors = split_set()
    rules = LabelRules(
        same=(("person-002", "person-003"),), different=(("person-000", "person-050"),)
    )
    rows, fit = cleaned(labels, vectors, rules=rules)
    of = {r["source_label"]: r for r in rows}
    assert of["person-050"]["decision"] == "keep"
    assert of["person-050"]["identity_id"] == "person-050"
    assert of["person-003"]["identity_id"] == of["person-002"]["identity_id"] == "person-002"
    assert of["person-051"]["identity_id"] == "person-001"
    verdicts = {(p["label_a"][-3:], p["label_b"][-3:]): p["verdict"] for p in fit.pairs.to_pylist()}
    assert verdicts == {
        ("000", "050"): "refused",
        ("001", "051"): "merged",
        ("002", "003"): "merged",
    }


def test_rules_about_labels_that_are_not_there_change_nothing() -> None:
    labels, vectors = split_set()
    rules = LabelRules(same=(("a", "b"), ("person-000", "c")), different=(("d", "person-001"),))
    assert cleaned(labels, vectors, rules=rules) == cleaned(labels, vectors)


def test_names_stay_with_people() -> None:
    """The group of 0 and 50 was called 50 when that was larger; 1 was called something else."""
    labels, vectors = split_set()
    earlier = {"person-000": "person-050", "person-050": "person-050", "person-001": "Ann"}
    rows, _ = cleaned(labels, vectors, rules=LabelRules(survivors=earlier))
    names: dict[str, set[str]] = {}
    for row in rows:
        names.setdefault(row["source_label"], set()).add(row["identity_id"])
    assert names["person-000"] == names["person-050"] == {"person-050"}
    assert names["person-001"] == names["person-051"] == {"Ann"}
    assert names["person-002"] == {"person-002"}
    assert {r["decision"] for r in rows if r["source_label"] == "person-000"} == {"merge"}


def test_a_split_group_does_not_share_its_old_name() -> None:
    labels, vectors = split_set()
    earlier = {name: "person-002" for name in ("person-002", "person-003")}
    rows, _ = cleaned(labels, vectors, rules=LabelRules(survivors=earlier))
    names = {r["source_label"]: r["identity_id"] for r in rows}
    assert (names["person-002"], names["person-003"]) == ("person-002", "person-003")


# --- several groups in a label


def test_an_age_mode_of_the_same_person_stays() -> None:
    """Childhood photos: each far from the others, but their mean is near to the rest's mean."""
    rng = np.random.default_rng(2)
    vectors = tight([20] + [9] * 60, seed=3)
    mean = vectors[:12].mean(axis=0) / np.linalg.norm(vectors[:12].mean(axis=0))
    child = rng.normal(size=DIM)
    child -= (child @ mean) * mean
    child = 0.62 * mean + np.sqrt(1 - 0.62**2) * child / np.linalg.norm(child)
    away = rng.normal(size=(8, DIM))
    away -= (away @ child)[:, None] * child
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    vectors[12:20] = 0.8 * child + 0.6 * away
    label = np.concatenate([[0] * 20, np.repeat(np.arange(1, 61), 9)])
    rows, _ = cleaned(named(label), vectors)
    assert [r["decision"] for r in rows[:20]] == ["keep"] * 20


def test_a_minority_of_somebody_else_is_flagged_though_it_agrees() -> None:
    vectors = tight([9, 6] + [9] * 40)
    label = np.concatenate([[0] * 15, np.repeat(np.arange(1, 41), 9)])
    rows, _ = cleaned(named(label), vectors)
    assert [r["decision"] for r in rows[:15]] == ["keep"] * 9 + ["drop"] * 6


def test_look_alikes_who_outnumber_a_person_do_not_take_the_label() -> None:
    """A third of everybody's faces lie under the next person's label; 0 has far more than 1."""
    sizes = [60] + [9] * 30
    vectors = tight(sizes)
    true = np.repeat(np.arange(31), sizes)
    third = np.concatenate([np.arange(n) % 3 == 0 for n in sizes])
    label = np.where(third, (true + 1) % 31, true)
    rows, fit = cleaned(named(label), vectors)
    assert [r["decision"] == "keep" for r in rows] == (~third).tolist()
    assert all(
        r["identity_id"] == n for r, n in zip(rows, named(true), strict=True) if r["identity_id"]
    )
    assert "merged" not in fit.pairs["verdict"].to_pylist()


def test_near_copies_are_one_witness() -> None:
    """A wrong face twice, and two different right ones: the right ones agree."""
    vectors = tight([2, 1] + [9] * 40)
    copy = vectors[2] + 0.01 * np.random.default_rng(0).normal(size=DIM)
    vectors = np.vstack([vectors[:3], copy / np.linalg.norm(copy), vectors[3:]])
    label = np.concatenate([[0] * 4, np.repeat(np.arange(1, 41), 9)])
    rows, _ = cleaned(named(label), vectors)
    assert [r["decision"] for r in rows[:4]] == ["keep", "keep", "drop", "drop"]
    assert rows[2]["confidence"] == rows[3]["confidence"]


@pytest.mark.parametrize("wrong", [1, 2])
def test_frames_of_one_scene_are_not_lost_to_a_few_wrong_faces(wrong: int) -> None:
    """A clip of thirty frames is one witness, and two others do not outvote it."""
    vectors = tight([1] * (1 + wrong) + [9] * 40)
    frames = vectors[0] + 0.01 * np.random.default_rng(0).normal(size=(30, DIM))
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    vectors = np.vstack([frames, vectors[1:]])
    label = np.concatenate([[0] * (30 + wrong), np.repeat(np.arange(1, 41), 9)])
    rows, _ = cleaned(named(label), vectors)
    assert {(r["decision"], r["identity_id"]) for r in rows[:30]} == {("keep", "person-000")}
    twice, _ = cleaned(named(label[28:]), vectors[28:])  # two frames are no scene
    assert Counter(r["reason"] for r in twice[: 2 + wrong]) == {"no_dominant": 2 + wrong}


def test_the_last_face_of_a_label_is_kept_when_the_others_are_explained() -> None:
    """One right face and three wrong ones, whose people are known: it is right by elimination."""
    rng = np.random.default_rng(1)
    vectors = tight([1] + [9] * 40)
    label = np.concatenate([[0], np.repeat(np.arange(1, 41), 9)])
    for row in (5, 30, 77):
        label[row] = 0
    for row in rng.permutation(np.arange(100, 361))[:60]:  # noise, so that it is expected
        label[row] = 1 + (label[row] + rng.integers(1, 39)) % 40
    rows, _ = cleaned(named(label), vectors)
    assert (rows[0]["decision"], rows[0]["reason"]) == ("keep", "single")
    assert rows[0]["confidence"] > 0.8
    assert [rows[n]["decision"] for n in (5, 30, 77)] == ["relabel"] * 3


# --- every row


def test_what_decides_before_any_label_does() -> None:
    vectors: list[Any] = list(tight([4, 4, 1, 1]))
    vectors[0] = None
    labels = ["a"] * 4 + ["b"] * 4 + [None, "c"]
    status = ["ok"] * 10
    status[1], status[9] = "blurred", "small"
    eyes = [70.48, 70.48, 35.24, 17.62, *[35.24] * 4, 8.81, 35.24]
    rows, fit = cleaned(labels, vectors, status=status, eye_distance_px=eyes)
    assert (rows[0]["decision"], rows[0]["reason"]) == ("drop", "no_vector")
    assert [rows[1][k] for k in ("decision", "reason", "evidence")] == [
        "drop",
        "quality",
        "blurred",
    ]
    assert rows[9]["evidence"] == "small" and fit.labels == 2
    free = rows[8]
    assert (free["decision"], free["reason"], free["identity_id"]) == ("keep", "unlabelled", None)
    assert free["weight"] == pytest.approx(0.25)  # a quarter of the crop's resolution
    assert rows[3]["weight"] == pytest.approx(rows[3]["confidence"] / 2)
    assert rows[2]["weight"] == pytest.approx(rows[2]["confidence"])


def test_duplicates_follow_the_face_that_was_kept() -> None:
    vectors = tight([6] * 20)
    label = np.repeat(np.arange(20), 6)
    label[3] = 9  # a wrong name, to be moved to person 0
    faces, duplicates, embeddings = tables(named(label), vectors)
    copies = {1: 0, 4: 3, 50: 49}  # of a face kept, of one moved; 49 is of no use
    status = ["blurred" if n == 49 else "ok" for n in range(120)]
    faces = faces.set_column(5, "status", pa.array(status))
    change: dict[str, list[Any]] = {n: duplicates[n].to_pylist() for n in duplicates.column_names}
    for copy, kept in copies.items():
        change["decision"][copy], change["reason"][copy] = "duplicate", "same_picture"
        change["evidence"][copy], change["similarity"][copy] = id_of(kept), 0.9
        change["confidence"][copy], change["weight"][copy] = 0.9, 0.0
    duplicates = pa.table(change, schema=DUPLICATES)
    rows, _ = decided(faces, duplicates, embeddings)
    for copy, kept in copies.items():
        row = rows[copy]
        assert (row["decision"], row["reason"]) == ("duplicate", "same_picture")
        assert row["evidence"] == id_of(kept)
        assert row["similarity"] == pytest.approx(0.9) and row["weight"] == 0.0
        assert row["identity_id"] == rows[kept]["identity_id"]
    assert rows[4]["identity_id"] == "person-000" and rows[4]["source_label"] == "person-000"
    assert rows[3]["decision"] == "relabel" and rows[50]["identity_id"] is None


def test_an_occurrence_counts_once() -> None:
    """The same bytes under two names: two rows of one face id, one of them a duplicate."""
    faces, duplicates, embeddings = tables(["a"] * 4, tight([4]))
    twice = pa.concat_tables([faces, faces.slice(0, 1).set_column(1, "uri", pa.array(["zz"]))])
    copy = duplicates.slice(0, 1).to_pylist()[0] | {
        "uri": "zz",
        "decision": "duplicate",
        "reason": "same_bytes",
        "evidence": id_of(0),
    }
    both = pa.concat_tables([duplicates, pa.Table.from_pylist([copy], DUPLICATES)])
    rows, _ = decided(twice, both, embeddings)
    assert Counter(r["decision"] for r in rows) == {"keep": 4, "duplicate": 1}
    assert rows[-1]["identity_id"] == "a"


def under_too(given: tuple[pa.Table, ...], copies: list[tuple[int, str]]) -> tuple[pa.Table, ...]:
    """Return the tables with more rows of some faces, kept already, under further labels."""
    faces, duplicates, embeddings = given
    for number, (face, label) in enumerate(copies):
        at = {"uri": f"zz{number}", "source_label": label}
        again = faces.slice(face, 1).to_pylist()[0] | at
        kept = {"decision": "duplicate", "reason": "same_bytes", "evidence": id_of(face)}
        copy = duplicates.slice(face, 1).to_pylist()[0] | at | kept
        faces = pa.concat_tables([faces, pa.Table.from_pylist([again], faces.schema)])
        duplicates = pa.concat_tables([duplicates, pa.Table.from_pylist([copy], DUPLICATES)])
    return faces, duplicates, embeddings


def test_a_picture_under_two_labels_goes_to_the_right_one() -> None:
    """Faces 0 and 1 are one person; 1 was kept under another label, with its copy under "z"."""
    vectors = tight([2] + [6] * 20)
    labels = ["z", "person-003", *named(np.repeat(np.arange(20), 6))]
    alone, _ = decided(*tables(labels, vectors))
    assert (alone[0]["reason"], alone[1]["decision"]) == ("single", "drop")
    given = under_too(tables(labels, vectors), [(1, "z"), (1, "z"), (1, "person-007")])
    rows, fit = decided(*given)
    by_uri = {(row["uri"], row["source_label"]): row for row in rows}
    moved, copy = by_uri["00001", "person-003"], by_uri["zz0", "z"]
    assert (moved["decision"], moved["reason"]) == ("relabel", "other_identity")
    assert moved["identity_id"] == moved["evidence"] == copy["identity_id"] == "z"
    assert moved["confidence"] > 0.9 and moved["similarity"] > 0.5
    assert by_uri["00000", "z"]["reason"] == "same_person"
    others = [row for row in rows if row["uri"] > "00001" and not row["uri"].startswith("zz")]
    assert {row["decision"] for row in others} == {"keep"}
    assert sum(count for *_, count in fit.counts) == len(rows) == 125 and fit.labels_single == 1


def test_a_bystander_of_another_label_is_not_claimed_by_it() -> None:
    """Face 1 stands beside in a photo of "z", whose person looks a little like it."""
    vectors = tight([1] + [6] * 20)
    labels = ["z", *named(np.repeat(np.arange(20), 6))]
    before, _ = decided(*tables(labels, vectors))
    faces, duplicates, embeddings = under_too(
        tables(labels, vectors), [(1, "z"), (0, "person-004")]
    )
    status = [*faces.column("status").to_pylist()[:-2], "bystander", "ok"]
    faces = faces.set_column(5, "status", pa.array(status))
    rows, _ = decided(faces, duplicates, embeddings)
    kept = [(r["uri"], r["decision"], r["identity_id"]) for r in rows if r["uri"] < "zz"]
    assert kept == [(r["uri"], r["decision"], r["identity_id"]) for r in before]


def test_a_picture_under_two_labels_stays_where_it_is_right() -> None:
    labels = named(np.repeat(np.arange(20), 6))
    vectors = tight([6] * 20)
    before, _ = decided(*tables(labels, vectors))
    rows, _ = decided(*under_too(tables(labels, vectors), [(0, "person-009"), (7, "nobody")]))
    kept = [row for row in rows if not row["uri"].startswith("zz")]
    facts = ("uri", "decision", "reason", "identity_id", "evidence")
    assert [[row[f] for f in facts] for row in kept] == [[row[f] for f in facts] for row in before]
    copies = [row["identity_id"] for row in rows if row["uri"].startswith("zz")]
    assert copies == [rows[0]["identity_id"], "person-001"]


def test_duplicates_of_other_faces_are_refused() -> None:
    faces, duplicates, embeddings = tables(["a", "a", "b"], tight([2, 1]))
    for other in (duplicates.slice(1), duplicates.take([0, 0, 1])):
        with pytest.raises(CorruptData, match="run dedup again"):
            clean_faces(faces, other, embeddings, CleanSettings())


@pytest.mark.parametrize("labels", [[], [None, None], ["a"], ["a", "b", "c"]])
def test_hardly_any_data_is_no_error(labels: list[str | None]) -> None:
    rows, fit = cleaned(labels, tight([1] * len(labels)) if labels else [])
    assert {r["decision"] for r in rows} <= {"keep"}
    assert fit.labels == len([x for x in labels if x]) == fit.labels_single


def test_the_order_of_the_rows_and_extra_columns_change_nothing() -> None:
    _, label, vectors = noisy_set(0.3, 3)
    faces, duplicates, embeddings = tables(named(label), vectors)
    one, fit = clean_faces(faces, duplicates, embeddings, CleanSettings())
    mixed = np.random.default_rng(0).permutation(len(faces))
    other, fit_again = clean_faces(
        faces.take(mixed).append_column("crop", pa.array([b""] * len(faces))),
        duplicates.take(mixed[::-1].copy()),
        embeddings.take(mixed),
        CleanSettings(),
    )
    assert one.equals(other) and fit.mixture == fit_again.mixture
    assert fit.pairs.equals(fit_again.pairs) and fit.counts == fit_again.counts


def test_the_size_of_a_block_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    _, label, vectors = noisy_set(0.3, 4)
    whole, _ = cleaned(named(label), vectors)
    monkeypatch.setattr(centres, "BLOCK_ROWS", 50)
    monkeypatch.setattr(centres, "PART_ROWS", 20)
    parts, _ = cleaned(named(label), vectors)
    for a, b in zip(whole, parts, strict=True):
        assert [a[k] for k in ("decision", "reason", "identity_id", "evidence")] == [
            b[k] for k in ("decision", "reason", "identity_id", "evidence")
        ]
        assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-3)


@pytest.mark.parametrize("block", [50, 4096])
def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    _, label, vectors = noisy_set(0.3, 2)
    given = tables(named(label), vectors)
    monkeypatch.setattr(near_centres, "EXACT_PAIRS", 1)  # nearest people by codes
    monkeypatch.setattr(near_centres, "CANDIDATES", 32)
    monkeypatch.setattr(near_centres, "QUERY_ROWS", 64)
    monkeypatch.setattr(centres, "BLOCK_ROWS", block)
    monkeypatch.setattr(centres, "PART_ROWS", 3 * block)
    stored = np.asarray(vectors, np.float16)
    one, three = (
        clean_faces(*given, CleanSettings(), vectors=stored, threads=threads) for threads in (1, 3)
    )
    assert one[0].equals(three[0]) and one[1].pairs.equals(three[1].pairs)
    assert replace(one[1], pairs=None) == replace(three[1], pairs=None)


def test_settings_have_limits() -> None:
    with pytest.raises(ValidationError):
        CleanSettings(relabel_confidence=0.3)
    with pytest.raises(ValidationError):
        CleanSettings(threshold=0.3)  # type: ignore[call-arg]
