"""Lines of a person's list, read from CSV and written back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facepipe.constraint_lines import Kind, Said, format_lines, read_lines
from facepipe.errors import UsageError

F, G = "0" * 32 + "-0000", "f" * 32 + "-0012"
HEAD = b"kind,a,b\n"


def read(data: bytes) -> list[Said]:
    return list(read_lines(data, "list.csv"))


def test_every_kind_is_read() -> None:
    text = f"same,{F},{G}\ndifferent,{F},label:Ann\nkeep,{F},\ndrop,{G}\nname,{F},Ann Smith\n"
    assert read(HEAD + text.encode()) == [
        Said(Kind.SAME, F, G),
        Said(Kind.DIFFERENT, F, "label:Ann"),
        Said(Kind.KEEP, F),
        Said(Kind.DROP, G),
        Said(Kind.NAME, F, "Ann Smith"),
    ]


def test_pairs_have_no_order() -> None:
    assert Said(Kind.SAME, G, F) == Said(Kind.SAME, F, G)
    assert Said(Kind.SAME, G, F).text == f"same,{F},{G}"
    assert Said(Kind.DROP, F).text == f"drop,{F}"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + HEAD + f"keep,{F},\r\n".encode(),
        f"b,kind,a\n,keep,{F}\n".encode(),
        HEAD + f"\n  ,,\n keep , {F.upper()} ,\n\n".encode(),
    ],
    ids=["spreadsheet", "columns in another order", "blank lines and spaces"],
)
def test_what_spreadsheets_write_is_read(data: bytes) -> None:
    assert read(data) == [Said(Kind.KEEP, F)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "list.csv is empty.*kind,a,b"),
        (b"kind,a,b,note\n", "line 1: unknown column 'note'"),
        (b"kind,a\n", "line 1: wrong columns"),
        (b"kind,a,a,b\n", "line 1: wrong columns"),
        (f"keep,{F},\n".encode(), "line 1: unknown column"),
        (HEAD + b"sam,x,y\n", "line 2: unknown kind 'sam': did you mean same"),
        (HEAD + b"zzz,x,y\n", "line 2: unknown kind 'zzz': it is one of same, different"),
        (HEAD + b"\nkeep,abc,\n", "line 3: a is no face id.*facepipe why"),
        (HEAD + f"same,{F},Ann\n".encode(), "line 2: b is no face id.*or label:NAME"),
        (HEAD + f"same,{F},label:\n".encode(), "line 2: b is a label without a name"),
        (HEAD + f"same,{F},{F}\n".encode(), "line 2: both are the same"),
        (HEAD + f"name,{F}, \n".encode(), "line 2: no name"),
        (HEAD + f"drop,{F},{G}\n".encode(), "line 2: drop takes one face"),
        (HEAD + f"name,{F},Smith, Ann\n".encode(), "line 2: 4 cells.*quotes"),
        (HEAD + b"keep,label:Ann,\n", "line 2: a is no face id"),
        (HEAD + f"keep,{F},\nname,{F},\xff\n".encode("latin-1"), "line 3: no UTF-8"),
        (HEAD + b'name,"x\n', "no CSV"),
        (HEAD + f'name,{F},"a\nb"\nzzz,,\n'.encode(), "line 4: unknown kind"),
    ],
)
def test_a_wrong_line_is_named_with_its_remedy(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(data)


NODES = st.sampled_from(
    [F, G, "label:Ann", 'label:"O, Neil"\n', "label:a\rb", "label: ن ", "label:label:"]
)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda t: bool(t.strip()))
LINES = st.one_of(
    st.tuples(st.sampled_from([Kind.SAME, Kind.DIFFERENT]), NODES, NODES).filter(
        lambda t: t[1] != t[2]
    ),
    st.tuples(st.sampled_from([Kind.KEEP, Kind.DROP]), st.sampled_from([F, G]), st.just("")),
    st.tuples(st.just(Kind.NAME), st.sampled_from([F, G]), NAMES),
)


@given(st.lists(LINES))
@example([(Kind.NAME, F, "Ann\rLee"), (Kind.SAME, "label:\r\n", "label:x\r")])
def test_what_is_written_is_read_again(lines: list[tuple[Kind, str, str]]) -> None:
    said = [Said(*line) for line in lines]
    data = format_lines(said)
    assert read(data) == said
    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert rows[0] == ["kind", "a", "b"] and {len(row) for row in rows} == {3}
