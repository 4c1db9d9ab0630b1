"""What the report shows first: even odds, pairs of labels, merged groups, mixed labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facepipe.shards import STEP_OF_TABLE, Dataset
from pipelines.report_checks import BORDERLINE, PAIRS, find_checks
from pipelines.report_faces import read_faces
from tests.pipelines.report_pages import Row, a_face, decided, page_of, stored


@pytest.fixture(autouse=True)
def with_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEP_OF_TABLE, "label_pairs", "clean")


def a_pair(a: str, b: str, confidence: float, **given: Any) -> Row:
    pair = {"label_a": a, "label_b": b, "confidence": confidence, "similarity": 0.4}
    return {**pair, "verdict": "ambiguous", "support": 0.25, "rank": 3, **given}


def checks_of(dataset: Dataset) -> Any:
    return find_checks(dataset, read_faces(dataset)[0], 0.25)


def ids(dataset: Dataset, rows: list[int]) -> list[str]:
    return [r["face_id"] for r in read_faces(dataset)[0].records(rows)]


def test_faces_at_even_odds_come_first_on_either_side(tmp_path: Path) -> None:
    faces = [a_face(i, source_label=f"p{i % 3}") for i in range(4 * BORDERLINE)]
    rows = []
    for i, face in enumerate(faces):
        odds = 0.501 + ((i * 37) % 100) / 200
        kind = [("keep", "same_person"), ("drop", "outlier"), ("keep", "single")][i % 3]
        if i == 0:
            kind = ("relabel", "other_identity")
        rows.append(decided(face, *kind, confidence=odds, identity_id="p0", similarity=0.1))
    dataset = stored(tmp_path / "ds", faces, decisions=rows)
    kept, dropped, moved = checks_of(dataset).borderline
    for strip, decision in ((kept, "keep"), (dropped, "drop")):
        expected = sorted(
            r["confidence"]
            for r in rows
            if r["decision"] == decision
            and r["reason"] in {"same_person", "outlier"}
            and r["confidence"] < 0.95
        )
        assert strip.in_all == len(expected)
        assert [sure for _, sure in strip.faces] == pytest.approx(expected[:BORDERLINE])
        found = {r["face_id"]: r["confidence"] for r in rows}
        shown = ids(dataset, [row for row, _ in strip.faces])
        assert [found[f] for f in shown] == pytest.approx([sure for _, sure in strip.faces])
    assert ids(dataset, [moved.faces[0][0]]) == [faces[0]["face_id"]] and moved.in_all == 1
    page = page_of(dataset, tmp_path)
    assert page.html.index('id="check"') < page.html.index('id="faces"')
    assert page.sheets["check"][: len(kept.faces)] == ids(dataset, [r for r, _ in kept.faces])
    assert "52%" in page.words("check") or "50%" in page.words("check")


def test_pairs_stand_side_by_side_with_the_lines_that_decide(tmp_path: Path) -> None:
    faces = [a_face(i, source_label="ann" if i % 2 else "b,ob") for i in range(10)]
    rows = [
        decided(f, "keep", "same_person", identity_id=f["source_label"], similarity=i / 10)
        for i, f in enumerate(faces)
    ]
    rows[9] |= {"decision": "drop", "reason": "outlier"}
    pairs = [
        a_pair("ann", "b,ob", 0.55),
        a_pair("ann", "gone", 0.5),
        a_pair("ann", "cid", 0.99, verdict="merged"),
    ]
    dataset = stored(tmp_path / "ds", faces, decisions=rows, pairs=pairs)
    checks = checks_of(dataset)
    assert checks.pairs_in_all == 2
    assert [p.names for p in checks.pairs] == [("ann", "gone"), ("ann", "b,ob")]
    assert checks.pairs[0].rows[1] == ()
    left, right = (ids(dataset, list(side)) for side in checks.pairs[1].rows)
    assert left == [faces[i]["face_id"] for i in (7, 5, 3)]  # 9 was dropped
    assert right == [faces[i]["face_id"] for i in (8, 6, 4)]
    page = page_of(dataset, tmp_path)
    assert page.sheets["pairs"][-6:] == left + right
    text = page.words("pairs")
    assert 'same,label:ann,"label:b,ob"' in text and 'different,label:ann,"label:b,ob"' in text
    assert "55% one person; centres 0.40, 25% of face pairs match, rank 3" in text
    assert "none kept" in text


def test_of_many_pairs_the_first_are_shown(tmp_path: Path) -> None:
    pairs = [a_pair(f"a{i:02d}", f"b{i:02d}", 0.5 + i / 100) for i in range(PAIRS + 5)]
    face = a_face(0)
    dataset = stored(
        tmp_path / "ds", [face], decisions=[decided(face, "keep", "single")], pairs=pairs[::-1]
    )
    checks = checks_of(dataset)
    assert checks.pairs_in_all == PAIRS + 5
    assert [p.names[0] for p in checks.pairs] == [f"a{i:02d}" for i in range(PAIRS)]


def test_the_largest_groups_of_merged_labels_are_shown(tmp_path: Path) -> None:
    labels = ["ann", "ann", "ann", "anne", "anna", "anna", "bob", "bobby", "cid"]
    people = ["ann"] * 6 + ["bob"] * 2 + ["cid"]
    faces = [a_face(i, source_label=label) for i, label in enumerate(labels)]
    rows = []
    for i, (face, person) in enumerate(zip(faces, people, strict=True)):
        kind = ("keep", "same_person") if face["source_label"] == person else ("merge", "merged")
        rows.append(decided(face, *kind, identity_id=person, similarity=i / 10))
    dataset = stored(tmp_path / "ds", faces, decisions=rows)
    checks = checks_of(dataset)
    first, second = checks.groups
    assert checks.groups_in_all == 2
    assert (first.name, first.faces, first.more) == ("ann", 6, 0)
    assert [(name, count) for name, count, _ in first.labels] == [
        ("ann", 3),
        ("anna", 2),
        ("anne", 1),
    ]
    shown = ids(dataset, [row for _, _, row in first.labels])
    assert shown == [faces[i]["face_id"] for i in (2, 5, 3)]
    assert second.name == "bob"
    page = page_of(dataset, tmp_path)
    assert "2 people have several labels" in page.words("merged")
    assert "No face was." in page.words("moves"), "merges are no moves"
    assert "of a label that is another's person" in page.words("funnel")


def test_labels_without_a_dominant_person_are_shown(tmp_path: Path) -> None:
    faces = [a_face(i, source_label="mixed" if i < 9 else "few") for i in range(11)]
    rows = [decided(f, "drop", "no_dominant", similarity=0.1) for f in faces]
    dataset = stored(tmp_path / "ds", faces, decisions=rows)
    checks = checks_of(dataset)
    assert [(m.name, m.count, len(m.rows)) for m in checks.mixed] == [
        ("mixed", 9, 6),
        ("few", 2, 2),
    ]
    assert "mixed: 6 of 9" in page_of(dataset, tmp_path).words("mixed")


def test_what_is_certain_is_not_borderline(tmp_path: Path) -> None:
    face = a_face(0)
    said = decided(face, "drop", "said", evidence=f"drop,{face['face_id']}", confidence=1.0)
    dataset = stored(tmp_path / "ds", [face], decisions=[said])
    assert not checks_of(dataset).rows
    page = page_of(dataset, tmp_path)
    assert "Nothing is borderline" in page.words("check")
    assert "Dropped, as a person said" in page.words("faces")


def test_paths_order_the_faces_of_one_photo_that_is_there_twice(tmp_path: Path) -> None:
    places = [("/b.jpg", None), ("/a.tar", "z.jpg"), ("/a.tar", None), ("/c.jpg", None)]
    faces = [a_face(5, uri=u, member=m, source_label=u) for u, m in places]
    faces += [a_face(1), a_face(9)]
    rows = [decided(f, "keep", "single", confidence=i / 10) for i, f in enumerate(faces)]
    dataset = stored(tmp_path / "ds", faces, decisions=rows[::-1], shard_faces=2)
    found, problems = read_faces(dataset)
    assert "clean" not in problems
    five = [r for r in found.records(range(6)) if r["face_id"] == faces[0]["face_id"]]
    assert [r["decisions.confidence"] for r in five] == pytest.approx([0.2, 0.1, 0.0, 0.3])
