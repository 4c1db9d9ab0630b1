"""The report of made tables: hostile text, broken crops, every fate, many faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from facepipe.commits import ShardFile
from facepipe.shards import Dataset
from facepipe.store import LocalStore
from pipelines.report_faces import read_faces
from pipelines.report_shots import SHOTS_BYTES, read_shots, shown
from tests.pipelines.report_pages import Row, a_face, a_photo, decided, page_of, stored

EVIL = "<script>alert(1)<\\script><img src=x onerror=alert(2)>\"'&amp;"


def test_hostile_text_is_inert(tmp_path: Path) -> None:
    uri = f"/photos/{EVIL}/x.jpg"
    faces = [a_face(0, source_label=EVIL, uri=uri), a_face(1), a_face(2, source_label=EVIL)]
    bad = a_photo(None, status="corrupt", error=f"bad {EVIL}", uri=f"/photos/{EVIL}.tif")
    rows = [
        decided(faces[0], "relabel", "other_identity", identity_id="anna", similarity=0.5),
        decided(faces[1], "keep", "same_person", identity_id="anna", similarity=0.7),
        decided(faces[2], "keep", "no_dominant", identity_id=EVIL, similarity=0.1),
    ]
    photos = [*(a_photo(f) for f in faces), bad]
    page = page_of(stored(tmp_path / "ds", faces, photos, [], rows), tmp_path)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert all(attrs.get("src", "").startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    for place in ("failures", "moves", "people"):
        assert EVIL in page.text_of[place]


def test_control_and_direction_characters_do_not_reach_the_page(tmp_path: Path) -> None:
    label = "abc\u202etxt.exe\nline\x07\u2066x"
    faces = [a_face(0, source_label=label), a_face(1, source_label="ن\u200cم")]
    page = page_of(stored(tmp_path / "ds", faces), tmp_path)
    assert not {"\u202e", "\u2066", "\x07"} & set(page.html)
    assert "abc�txt.exe�line��x" in page.html
    assert "ن\u200cم" in page.html  # a joiner is part of how a name is written


def test_long_text_keeps_its_ends() -> None:
    text = shown("a" * 500 + "/photo.jpg", 40)
    assert len(text) == 40 and text.startswith("aaa") and text.endswith("/photo.jpg")
    assert shown("x" * 40, 40) == "x" * 40


def test_a_broken_crop_is_said_to_have_no_picture(tmp_path: Path) -> None:
    faces = [a_face(0, crop=b""), a_face(1, crop=b"no picture"), a_face(2)]
    page = page_of(stored(tmp_path / "ds", faces), tmp_path)
    assert page.words("faces").count("no picture") == 2


def test_failures_are_fifty_at_most_and_the_rest_counted(tmp_path: Path) -> None:
    broken = [a_photo(None, status="corrupt", uri=f"/p/c{i:03d}.jpg") for i in range(90)]
    large = [a_photo(None, status="too_large", uri=f"/p/l{i}.jpg") for i in range(3)]
    page = page_of(stored(tmp_path / "ds", [], [*large, *reversed(broken)]), tmp_path)
    text = page.words("failures")
    assert text.count(".jpg") == 50 and text.count("l0.jpg") == 1
    assert "c046.jpg" in text and "c047.jpg" not in text and "and 43 more" in text


def many_fates(count: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Return faces, duplicates and decisions that meet every fate in turn."""
    statuses = ["bystander", "low_score", "small", "cut_off", "profile", "blurred", "dark"]
    cleaned = [("keep", "same_person"), ("keep", "single"), ("keep", "no_dominant")]
    cleaned += [("drop", "outlier"), ("drop", "no_dominant"), ("drop", "no_vector")]
    cleaned += [("relabel", "other_identity"), ("duplicate", "same_picture")]
    faces, duplicates, decisions = [], [], []
    for i in range(count):
        kind = i % (len(statuses) + len(cleaned))
        face = a_face(i, source_label=f"person {i % 9}", status="ok")
        if kind < len(statuses):
            face["status"] = statuses[kind]
            decision = decided(face, "drop", "quality", evidence=face["status"])
        else:
            name, reason = cleaned[kind - len(statuses)]
            extra = {"similarity": (i % 100) / 100, "confidence": 0.5 + (i % 50) / 100}
            decision = decided(face, name, reason, identity_id=f"person {i % 7}", **extra)
        same = decision["decision"] == "duplicate"
        reason = {"decision": "duplicate", "reason": "same_picture", "similarity": 0.9}
        keep = {"decision": "keep", "reason": "same_picture" if i == 7 else "single"}
        evidence = {"evidence": faces[7]["face_id"]} if same else {}
        duplicates.append({**decision, **(reason if same else keep), **evidence})
        faces.append(face)
        decisions.append(decision)
    return faces, duplicates, decisions


class Watched(Dataset):
    """A dataset that remembers which columns were read of which file."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self.reads: list[tuple[str, tuple[str, ...]]] = []

    def read(self, file: ShardFile, columns: Sequence[str] | None = None) -> pa.Table:
        self.reads.append((file.file, tuple(columns or ["crop"])))
        return super().read(file, columns)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    faces, duplicates, decisions = many_fates(1500)
    folder = tmp_path_factory.mktemp("many") / "ds"
    return stored(folder, faces, None, duplicates, decisions, shard_faces=5)


def test_size_is_bounded_with_noise_for_faces_and_the_longest_names(tmp_path: Path) -> None:
    faces, duplicates, decisions = many_fates(1500)
    for face, duplicate, decision in zip(faces, duplicates, decisions, strict=True):
        long = {"uri": f"{'<' * 400}{face['uri']}", "source_label": f"{'&' * 300}{face['uri']}"}
        for row in (face, duplicate, decision):
            row.update(long)
        decision["identity_id"] = decision["identity_id"] and f"{'&' * 300}{face['uri']}"
    dataset = stored(tmp_path / "ds", faces, None, duplicates, decisions)
    page = page_of(dataset, tmp_path)
    assert 3_000_000 < len(page.html.encode()) < 6_000_000
    assert len(page.sheets["quality-small"]) == 40
    assert len(page.sheets["moves"]) >= 40


def test_many_pictures_are_encoded_coarser(many: Dataset) -> None:
    faces, _ = read_faces(many)
    few = read_shots(many, faces, range(100), "")
    all_of_them = read_shots(many, faces, range(1500), "")
    size = {row: len(few[row].source) for row in few}
    assert all(len(all_of_them[row].source) < size[row] for row in few)
    total = sum(len(shot.source) for shot in all_of_them.values())
    assert total < 1.4 * SHOTS_BYTES < 15 * sum(size.values())


def test_only_crops_that_are_shown_are_read(many: Dataset, tmp_path: Path) -> None:
    watched = Watched(many.store)
    page = page_of(watched, tmp_path)
    shown_ids = set().union(*page.sheets.values())
    with_crops = [file for file, columns in watched.reads if "crop" in columns]
    needed = [
        f.file
        for f in many.files("faces")
        if shown_ids & set(many.read(f, ["face_id"])["face_id"].to_pylist())
    ]
    assert sorted(with_crops) == sorted(needed) and len(set(with_crops)) == len(with_crops)
    assert len(needed) < len(many.files("faces"))
    shots = ("crop", "uri", "member")
    assert {columns for _, columns in watched.reads if "crop" in columns} == {shots}


def test_least_certain_come_first(many: Dataset, tmp_path: Path) -> None:
    page = page_of(many, tmp_path)
    rows = many.table("decisions", ["face_id", "decision", "reason", "confidence"]).to_pylist()
    sure = {r["face_id"]: r["confidence"] for r in rows}
    outliers = [r["face_id"] for r in rows if r["reason"] == "outlier"]
    found = page.sheets["clean-outlier"]
    assert len(found) == 40 < len(outliers)
    assert [sure[f] for f in found] == sorted(sure[f] for f in outliers)[:40]


def test_the_least_alike_duplicates_come_first_and_the_same_bytes_last(tmp_path: Path) -> None:
    faces = [a_face(i) for i in range(10)]
    rows = [decided(f, "keep", "single") for f in faces]
    alike = {1: ("same_picture", 0.9), 3: ("same_bytes", 0.1), 5: ("same_picture", 0.86)}
    for i, (reason, similarity) in (alike | {7: ("same_picture", 0.5)}).items():
        kept = {"evidence": faces[i - 1]["face_id"], "similarity": similarity}
        rows[i] = decided(faces[i], "duplicate", reason, **kept)
    faces[7]["status"] = "small"  # goes out before, for its quality
    page = page_of(stored(tmp_path / "ds", faces, duplicates=rows), tmp_path)
    expected = [faces[i]["face_id"] for pair in (4, 0, 2, 6) for i in (pair, pair + 1)]
    assert page.sheets["duplicates"] == expected
    assert "4 faces are duplicates" in page.words("duplicates")
    assert "1 of the 4 had gone out" in page.words("duplicates")


def test_moved_faces_stand_between_faces_of_both_labels(tmp_path: Path) -> None:
    faces = [a_face(i, source_label=label) for i, label in enumerate("aabbc")]
    rows = [
        decided(faces[0], "relabel", "other_identity", identity_id="b", similarity=0.61),
        decided(faces[1], "keep", "same_person", identity_id="a", similarity=0.8),
        decided(faces[2], "keep", "same_person", identity_id="b", similarity=0.7),
        decided(faces[3], "keep", "same_person", identity_id="b", similarity=0.9),
        decided(faces[4], "relabel", "other_identity", identity_id="d", similarity=0.5),
    ]
    page = page_of(stored(tmp_path / "ds", faces, decisions=rows), tmp_path)
    first, second = page.sheets["moves"][:3], page.sheets["moves"][3:]
    expected = {tuple(faces[i]["face_id"] for i in (1, 0, 3)), (faces[4]["face_id"],)}
    # The least certain first; both are certain, so the lower face id is first.
    if faces[4]["face_id"] < faces[0]["face_id"]:
        first, second = page.sheets["moves"][:1], page.sheets["moves"][1:]
    assert {tuple(first), tuple(second)} == expected
    assert "a → b" in page.words("moves") and "none kept" in page.words("moves")


def test_labels_without_a_dominant_person_are_named(tmp_path: Path) -> None:
    faces = [a_face(i, source_label="mixed") for i in range(3)] + [a_face(9)]
    rows = [decided(f, "drop", "no_dominant", similarity=0.1) for f in faces[:3]]
    rows.append(decided(faces[3], "keep", "single", identity_id="anna"))
    page = page_of(stored(tmp_path / "ds", faces, decisions=rows), tmp_path)
    assert "1 label holds faces that do not agree" in page.words("people")
    assert "mixed 3" in page.words("people") and "anna 1 of 1" in page.words("people")


def test_times_are_the_sums_of_the_records(tmp_path: Path) -> None:
    faces = [a_face(i) for i in range(4)]
    dataset = stored(tmp_path / "ds", faces, shard_faces=2)
    text = page_of(dataset, tmp_path).words("times")
    assert "1.6 photos/s 2.50 s" in text  # 4 photos; twice read 0.25 s and detect 1 s
    assert "detect 2.00 s" in text and "read 0.50 s" in text
