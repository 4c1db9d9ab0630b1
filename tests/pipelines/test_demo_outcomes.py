"""Whether a file of the demo ended as expected, case by case, on made outcomes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from pipelines.demo_files import GROUP_NAME, Expected, Kind, Made
from pipelines.demo_originals import GROUP
from pipelines.demo_outcomes import Outcome, judged
from pipelines.demo_words import FoundFace, said

Box = tuple[float, float, float, float]


def face(
    decision: str,
    reason: str,
    identity: str | None = None,
    *,
    evidence: str = "",
    status: str = "ok",
    label: str | None = "ann",
    box_px: Box = (0.0, 0.0, 9.0, 9.0),
    similarity: float | None = None,
) -> FoundFace:
    return FoundFace(
        face_id="00-0000",
        box_px=box_px,
        status=status,
        eye_distance_px=5.0,
        label=label,
        decision=decision,
        reason=reason,
        identity=identity,
        evidence=evidence,
        similarity=similarity,
    )


KEPT = face("keep", "same_person", "ann")
BEN = face("keep", "same_person", "ben", label="ben")
OUTLIER = face("drop", "outlier")


def outcome(
    name: str,
    expected: Expected,
    faces: Sequence[FoundFace],
    *,
    person: str | None = "ann",
    picture: str | None = None,
    status: str = "ok",
) -> Outcome:
    made = Made(
        name=name,
        kind=Kind.COPY,
        told="made",
        expected=expected,
        data=b"",
        person=person,
        picture=picture,
    )
    return Outcome(
        made=made,
        status=status,
        error="",
        width_px=10,
        height_px=10,
        faces=tuple(faces),
        face=faces[0] if faces else None,
        said="",
        as_expected=False,
    )


# What makes ann and ben known, and a picture whose first file is kept.
AROUND = (
    outcome("ann/1.jpg", Expected.KEPT, [KEPT]),
    outcome("ben/1.jpg", Expected.KEPT, [BEN], person="ben"),
    outcome("ann/a-first.jpg", Expected.ONCE, [KEPT], picture="ann"),
)


def agrees(*outcomes: Outcome) -> list[bool]:
    found = judged([*AROUND, *outcomes])
    assert all(o.as_expected for o in found[: len(AROUND)])
    return [o.as_expected for o in found[len(AROUND) :]]


@pytest.mark.parametrize(
    ("expected", "found", "right"),
    [
        (Expected.KEPT, [KEPT], True),
        (Expected.KEPT, [face("merge", "merged", "ann", label="nan")], True),
        (Expected.KEPT, [OUTLIER], False),
        (Expected.KEPT, [face("relabel", "other_identity", "ben")], False),
        (Expected.KEPT, [face("duplicate", "same_picture", "ann", evidence="ann/1.jpg")], False),
        (Expected.KEPT, [], False),
        (Expected.MOVED, [face("relabel", "other_identity", "ann", label="ben")], True),
        (Expected.MOVED, [face("relabel", "other_identity", "ben")], False),
        (Expected.MOVED, [KEPT], False),
        (Expected.DROPPED, [OUTLIER], True),
        (Expected.DROPPED, [KEPT], False),
        (Expected.LEFT_OUT, [], True),
        (Expected.LEFT_OUT, [OUTLIER], True),
        (Expected.LEFT_OUT, [KEPT], True),
        (Expected.LEFT_OUT, [BEN], False),
        (Expected.UNFIT, [face("drop", "quality", status="small")], True),
        (Expected.UNFIT, [], True),
        (Expected.UNFIT, [OUTLIER], False),
        (Expected.UNFIT, [KEPT], False),
        (Expected.NO_FACE, [], True),
        (Expected.NO_FACE, [face("drop", "quality", status="small")], False),
        (Expected.NO_PIXELS, [], False),
    ],
)
def test_what_agrees(expected: Expected, found: list[FoundFace], right: bool) -> None:
    assert agrees(outcome("ann/x.jpg", expected, found)) == [right]


def test_a_file_without_pixels_is_no_photo_without_a_face() -> None:
    found = [
        outcome(f"ann/{expected}.jpg", expected, [], status="corrupt")
        for expected in (Expected.NO_PIXELS, Expected.NO_FACE)
    ]
    assert agrees(*found) == [True, False]


@pytest.mark.parametrize(
    ("found", "right"),
    [
        (face("duplicate", "same_picture", "ann", evidence="ann/a-first.jpg"), True),
        (face("duplicate", "same_crop", "ann", evidence=GROUP_NAME), True),
        (face("duplicate", "same_picture", "ann", evidence="ann/1.jpg"), False),  # a frame
        (face("duplicate", "same_picture", "ben", evidence="ben/1.jpg"), False),
        (KEPT, False),  # one of the picture is kept already
        (OUTLIER, False),
    ],
)
def test_of_a_picture_one_file_is_kept(found: FoundFace, right: bool) -> None:
    assert agrees(outcome("ann/b.jpg", Expected.ONCE, [found], picture="ann")) == [right]


def test_a_file_without_a_label_has_no_name_or_its_own() -> None:
    names = (None, "person-0123", "ann", "ben")
    found = [
        outcome(f"{n}.jpg", Expected.KEPT, [face("keep", "clustered", name, label=None)])
        for n, name in enumerate(names)
    ]
    assert agrees(*found) == [True, True, True, False]


def test_two_labels_of_one_person_become_one() -> None:
    def frame(number: int, name: str) -> Outcome:
        kept = face("keep", "same_person", name, label=name)
        return outcome(f"{name}/{number}.jpg", Expected.KEPT, [kept], person="astronaut")

    apart = [frame(1, "astronaut"), frame(2, "astronaut"), frame(1, "pilot")]
    assert agrees(*apart) == [True, True, False]
    merged = face("merge", "merged", "astronaut", label="pilot")
    one = outcome("pilot/1.jpg", Expected.KEPT, [merged], person="astronaut")
    assert agrees(*apart[:2], one) == [True] * 3


@pytest.mark.parametrize("wrong", [None, "name", "missing", "one more"])
def test_the_group_is_six_people_each_the_right_one(wrong: str | None) -> None:
    cut = [
        outcome(
            f"{sitter.name}/original.jpg",
            Expected.KEPT,
            [face("keep", "same_person", sitter.name, label=sitter.name)],
            person=sitter.name,
        )
        for sitter in GROUP.sitters
    ]
    faces = [
        face(
            "duplicate",
            "same_crop",
            sitter.name,
            evidence=f"{sitter.name}/original.jpg",
            box_px=tuple(map(float, sitter.box_px)),  # type: ignore[arg-type]
        )
        for sitter in GROUP.sitters
    ]
    if wrong == "name":
        faces[0] = face("keep", "unlabelled", box_px=faces[0].box_px, label=None)
    elif wrong == "missing":
        faces = faces[1:]
    elif wrong == "one more":
        faces.append(face("keep", "unlabelled", label=None))
    group = outcome(GROUP_NAME, Expected.NAMED, faces, person=None)
    assert agrees(*cut, group) == [True] * 6 + [wrong is None]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (face("keep", "same_person", "ann", similarity=0.931), "agrees with .* ann .cosine 0.93."),
        (face("drop", "outlier", similarity=-0.001), "dropped: .* ann, .*cosine 0.00"),
        (face("relabel", "other_identity", "ben"), "moved from ann to ben"),
        (face("merge", "merged", "ben"), "kept as ben: ann is the same person"),
        (face("duplicate", "same_bytes", "ann", evidence="a.jpg"), "the same file as a.jpg"),
        (face("drop", "quality", status="small"), "too small, eyes 5 pixels apart"),
        (face("drop", "quality", status="odd_mark"), "left out: odd mark"),
        (face("keep", "some_new_reason", "ann"), "keep: some new reason"),
        (None, "no face found"),
    ],
)
def test_a_decision_in_words(found: FoundFace | None, words: str) -> None:
    made = outcome("ann/x.jpg", Expected.KEPT, []).made
    row = {"status": "ok", "error": ""}
    text = said(made, row, [found] if found else [], found)
    assert re.search(words, text), text


def test_what_has_no_pixels_is_told_in_the_decoders_words() -> None:
    made = outcome("ann/x.jpg", Expected.NO_PIXELS, []).made
    assert said(made, {"status": "not_an_image", "error": "a text"}, [], None) == (
        "no pixels: not an image (a text)"
    )
    assert said(made, {"status": "salvaged", "error": ""}, [KEPT], KEPT).startswith("damaged, and")
