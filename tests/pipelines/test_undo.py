"""Decisions taken back become lines of the list, and a person's own lines go again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facepipe.commits import Plan
from facepipe.constraints import label_rules, parse_constraints
from facepipe.errors import DatasetNotFound, UsageError
from facepipe.shards import Dataset
from pipelines.constraints import KEY, add_constraints, own_labels, read_constraints
from pipelines.undo import Choice, format_undo, plan_undo, settings_as_run, undo
from tests.pipelines.report_pages import a_face, decided, stored

LABELS = ["ann", "ann", "ann", "bob", "bob", "cid", "cid", "cid", None]
FACES = [a_face(i, source_label=label) for i, label in enumerate(LABELS)]
ID = [face["face_id"] for face in FACES]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = [
        decided(FACES[0], "keep", "same_person", identity_id="ann", evidence="ann"),
        decided(FACES[1], "drop", "outlier", evidence="ann"),
        decided(FACES[2], "relabel", "other_identity", identity_id="bob", evidence="bob"),
        decided(FACES[3], "merge", "merged", identity_id="ann", evidence="ann"),
        decided(FACES[4], "duplicate", "same_picture", evidence=ID[3]),
        decided(FACES[5], "duplicate", "same_bytes", evidence=ID[5]),
        decided(FACES[6], "drop", "quality", evidence="small"),
        decided(FACES[7], "drop", "no_vector"),
        decided(FACES[8], "keep", "unlabelled"),
    ]
    return stored(tmp_path / "ds", FACES, decisions=rows)


def texts(dataset: Dataset) -> list[str]:
    return [line.text for line in read_constraints(dataset).lines]


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (1, f"keep,{ID[1]}"),
        (2, f"keep,{ID[2]}"),
        (3, "different,label:ann,label:bob"),
        (4, f"keep,{ID[4]}"),
        (6, f"keep,{ID[6]}"),
    ],
)
def test_each_decision_has_its_line(dataset: Dataset, number: int, line: str) -> None:
    found = undo(dataset, Choice(faces=[ID[number]]))
    assert [said.text for said in found.added] == [line] == texts(dataset)
    assert sum(found.taken_back.values()) == 1 and not found.left and found.lines == 1
    again = undo(dataset, Choice(faces=[ID[number]]))
    assert not again.added and texts(dataset) == [line]


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (0, "kept already"),
        (5, "another copy of a kept file"),
        (7, "no vector"),
        (8, "kept already"),
    ],
)
def test_what_cannot_be_taken_back_is_said(dataset: Dataset, number: int, why: str) -> None:
    found = undo(dataset, Choice(faces=[ID[number]]))
    assert found.left == {why: 1} and not found.added
    assert "nothing to take back" in format_undo(found) and why in format_undo(found)
    assert not dataset.has(KEY)


def test_a_label_or_a_reason_or_both(dataset: Dataset) -> None:
    found = plan_undo(dataset, Choice(label="ann"))
    assert found.taken_back == {"drop outlier": 1, "relabel other_identity": 1}
    assert found.left == {"kept already": 1}
    assert not dataset.has(KEY), "a plan writes nothing"
    assert plan_undo(dataset, Choice(reason="outlier")).taken_back == {"drop outlier": 1}
    assert not plan_undo(dataset, Choice(reason="outlier", label="bob")).taken_back
    both = undo(dataset, Choice(label="bob"))
    assert sorted(line.kind for line in both.added) == ["different", "keep"]


def test_a_run_is_the_photos_that_it_brought(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=r"--run 1: no photos .* known: none"):
        plan_undo(dataset, Choice(generation=1))


def test_the_start_of_an_id_is_enough_if_it_is_one_face(dataset: Dataset) -> None:
    found = plan_undo(dataset, Choice(faces=[ID[1][:9], ID[2][:12]]))
    assert sum(found.taken_back.values()) == 2
    starts: dict[str, int] = {}
    for face in ID:
        starts[face[0]] = starts.get(face[0], 0) + 1
    shared = next(start for start, count in starts.items() if count > 1)
    with pytest.raises(UsageError, match=f"{starts[shared]} faces have an id"):
        plan_undo(dataset, Choice(faces=[shared]))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(), "say what to take back"),
        (Choice(faces=["ann/0001.jpg"]), "is no face id"),
        (Choice(faces=["f" * 32]), "no face in"),
        (Choice(reason="odd"), "--reason odd is none: it is one of .*outlier"),
        (Choice(faces=["0"] * 60), "60 faces: give whole"),
    ],
)
def test_a_choice_of_nothing_is_refused(dataset: Dataset, choice: Choice, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_undo(dataset, choice)


def test_a_decision_of_ones_own_goes_with_its_line(tmp_path: Path) -> None:
    rows = [
        decided(FACES[0], "drop", "said", evidence=f"drop,{ID[0]}"),
        decided(FACES[3], "merge", "said", identity_id="ann", evidence="ann"),
        decided(FACES[1], "drop", "outlier", evidence="ann"),
    ]
    dataset = stored(tmp_path / "ds", [FACES[i] for i in (0, 3, 1)], decisions=rows)
    lines = f"kind,a,b\ndrop,{ID[0]},\nsame,label:ann,label:bob\nname,{ID[0]},Ann\nkeep,{ID[8]},\n"
    with dataset.held():
        add_constraints(dataset, parse_constraints(lines.encode(), "own"))
    found = undo(dataset, Choice(faces=[ID[0]]))
    assert [line.kind for line in found.removed] == ["drop", "name"]
    assert found.taken_back == {"drop said": 1}
    assert [line.kind for line in undo(dataset, Choice(faces=[ID[3]])).removed] == ["same"]
    assert texts(dataset) == [f"keep,{ID[8]}"]
    assert not undo(dataset, Choice(faces=[ID[1]], said=True)).added
    gone = undo(dataset, Choice(faces=[ID[8]], said=True))  # also of a face that is not there
    assert len(gone.removed) == 1 and texts(dataset) == []


def test_lines_that_go_though_nothing_followed_from_them_are_counted(dataset: Dataset) -> None:
    with dataset.held():
        add_constraints(dataset, parse_constraints(b"kind,a,b\nsame,label:ann,label:bob\n", "own"))
    found = undo(dataset, Choice(label="bob", said=True))
    assert format_undo(found).startswith("forgotten: 1 lines of what was said")


def test_what_was_said_of_a_label_is_forgotten(dataset: Dataset) -> None:
    with dataset.held():
        lines = f"kind,a,b\nsame,label:ann,label:bob\ndrop,{ID[0]},\nkeep,{ID[6]},\n"
        add_constraints(dataset, parse_constraints(lines.encode(), "own"))
    found = undo(dataset, Choice(label="ann", said=True))
    assert [line.kind for line in found.removed] == ["same", "drop"]
    assert texts(dataset) == [f"keep,{ID[6]}"] and found.lines == 1


@pytest.mark.parametrize(
    ("lines", "numbers", "added", "removed"),
    [
        (["different,#1,label:ann"], [1], [], [0]),
        (["different,#1,#2"], [1, 2], None, [0]),  # one of them is kept: of two no more can be
        (["same,#1,#2", "different,#2,label:ann"], [1], [], [0]),
        (["name,#1,Ann", "drop,#0"], [1], ["keep,#1"], []),
        (["same,#3,label:ann", "same,#3,label:bob"], [3], [], [0]),
        (["keep,#4", "drop,#0"], [2, 3, 6], ["different,label:ann,label:bob"], []),
    ],
)
def test_lines_that_do_not_agree_go(
    dataset: Dataset,
    lines: list[str],
    numbers: list[int],
    added: list[str] | None,
    removed: list[int],
) -> None:
    def of(line: str) -> str:
        return re.sub(r"#(\d)", lambda found: ID[int(found[1])], line)

    said = parse_constraints("\n".join(["kind,a,b", *map(of, lines)]).encode(), "own")
    with dataset.held():
        add_constraints(dataset, said)
    found = undo(dataset, Choice(faces=[ID[n] for n in numbers]))
    if added is None:
        assert len(found.added) == 1
    else:
        assert {of(line) for line in added} <= {line.text for line in found.added}
        assert bool(added) == bool(found.added)
    assert found.removed == [said.lines[n] for n in removed]
    stored = read_constraints(dataset)
    assert stored.lines == tuple(said.without(found.removed).added(found.added).lines)
    label_rules(stored, own_labels(dataset, stored.faces, "decisions"))  # clean can obey it


def test_what_lines_of_others_contradict_is_not_stored(dataset: Dataset) -> None:
    lines = f"kind,a,b\nkeep,{ID[0]},\nkeep,{ID[4]},\nsame,{ID[0]},{ID[4]}\n"
    with dataset.held():
        add_constraints(dataset, parse_constraints(lines.encode(), "own"))
    before = texts(dataset)
    with pytest.raises(UsageError, match=r"this run \(different\) contradicts .*line 4 \(same\)"):
        undo(dataset, Choice(faces=[ID[3]]))
    assert texts(dataset) == before


def test_a_label_that_no_face_has_is_said(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=r"no face in .* came under the label 'nobody'"):
        undo(dataset, Choice(label="nobody"))
    assert not undo(dataset, Choice(label="nobody", said=True)).removed
    label = FACES[0]["source_label"]
    assert not undo(dataset, Choice(label=label, reason="said")).taken_back  # there, but not so


def test_a_reason_may_be_given_as_it_is_printed(dataset: Dataset) -> None:
    found = plan_undo(dataset, Choice(reason="other identity"))
    assert found.taken_back == plan_undo(dataset, Choice(reason="other_identity")).taken_back
    assert sum(found.taken_back.values()) == 1


def test_undo_needs_decisions(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="facepipe clean"):
        plan_undo(stored(tmp_path / "ds", FACES), Choice(reason="outlier"))


def test_clean_runs_again_as_it_ran(dataset: Dataset) -> None:
    basis = {"version": 1, "clean": {"relabel_confidence": 0.75}, "model_id": "m"}
    dataset.write_plan(Plan(step="clean", shards={}, basis=basis))
    assert settings_as_run(dataset).clean.relabel_confidence == 0.75
    dataset.write_plan(Plan(step="clean", shards={}, basis={"clean": {"other": 1}}))
    assert settings_as_run(dataset).clean.relabel_confidence == 0.95
