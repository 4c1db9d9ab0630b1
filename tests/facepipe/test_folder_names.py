"""Folder names: nothing leaves its folder, all differ, and all but cut ones can be undone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.folder_names import EMPTY, MAX_BYTES, escaped, folder_names, person_of

NASTY = [
    "../../etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "\0",
    "nul\0byte",
    "CON",
    "com1.txt",
    "-rf",
    " lead",
    "trail.",
    "~",
    "~2",
    "100%",
    "%41",
    "a\nb",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj",
    "n" * 300,
    "\N{GREEK SMALL LETTER ALPHA}" * 150,
    "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}",
    "Zoe\N{COMBINING DIAERESIS}",
    'a:b*c?d"e<f>g|h',
]


def careless(name: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name).casefold())


def check(people: list[str]) -> None:
    folders = folder_names(people)
    assert len({careless(f) for f in folders}) == len(people)
    for person, folder in zip(people, folders, strict=True):
        assert not set(folder) & set('/\\\0\n:*?"<>|') and folder not in ("", ".", "..")
        assert folder[0] not in ".- " and folder[-1] not in ". "
        assert folder.isprintable()
        assert len(folder.encode()) <= MAX_BYTES + 8
        back = person_of(folder)
        if back is None:
            assert len("".join(f"%{b:02X}" for b in person.encode())) > MAX_BYTES
        else:
            assert back == person


def test_hostile_names_are_tamed_and_can_be_undone() -> None:
    check(NASTY)


@given(st.lists(st.text(max_size=80), unique=True, max_size=20))
def test_any_names(people: list[str]) -> None:
    check(people)


@given(st.lists(st.text("aAbB.~% ", max_size=4), unique=True, max_size=30))
def test_names_that_differ_in_case(people: list[str]) -> None:
    check(people)


@pytest.mark.parametrize(
    ("person", "folder"),
    [
        ("Ann Lee", "Ann Lee"),
        ("Jos\N{LATIN SMALL LETTER E WITH ACUTE}", "Jos\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("../x", "%2E.%2Fx"),
        ("..", "%2E%2E"),
        ("nul", "%6Eul"),
        ("", EMPTY),
        ("a~b", "a%7Eb"),
        ("O'Neil, J. (Jr)", "O'Neil, J. (Jr)"),
    ],
)
def test_escaped_as_the_module_says(person: str, folder: str) -> None:
    assert escaped(person) == folder


def test_case_is_told_apart_in_the_order_of_the_names() -> None:
    assert folder_names(["ANN", "Ann", "ann", "bob"]) == ["ANN", "Ann~2", "ann~3", "bob"]


def test_a_long_name_keeps_its_start_and_is_told_from_its_like() -> None:
    first, second = folder_names(["n" * 500 + "1", "n" * 500 + "2"])
    assert first != second and first.startswith("nnn") and person_of(first) is None
    assert len(first.encode()) == MAX_BYTES
