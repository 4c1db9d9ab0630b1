"""The lines in which a person says who is who, who is not, what to keep, drop and call how.

A list is a CSV file in UTF-8 with the columns kind, a and b, in any order:

    same,A,B          A and B are one person
    different,A,B     they are two
    keep,FACE         the face is right under its source label
    drop,FACE         the face is not to be used
    name,FACE,NAME    the person of this face is called NAME

FACE is a face id; A and B are face ids or ``label:NAME``, NAME as the photos have it or, for
people found without labels, as decisions has it.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from facepipe.errors import UsageError

COLUMNS = ("kind", "a", "b")
LABEL = "label:"
_FACE = re.compile(r"[0-9a-f]{32}-[0-9]{4,9}")


class Kind(StrEnum):
    """What a line says."""

    SAME = "same"
    DIFFERENT = "different"
    KEEP = "keep"
    DROP = "drop"
    NAME = "name"


PAIRS = (Kind.SAME, Kind.DIFFERENT)


@dataclass(frozen=True, slots=True, order=True)
class Said:
    """One line; ``where`` says where it was read and is no part of what it says."""

    kind: Kind
    a: str
    b: str = ""
    where: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Put the two of a pair in order: same,A,B and same,B,A say the same."""
        if self.kind in PAIRS and self.b < self.a:
            a, b = self.b, self.a
            object.__setattr__(self, "a", a)
            object.__setattr__(self, "b", b)

    @property
    def text(self) -> str:
        """Return the line as one writes it, without the end of the line."""
        return _csv([[self.kind, self.a, self.b] if self.b else [self.kind, self.a]])

    @property
    def faces(self) -> tuple[str, ...]:
        """Return the faces that the line names."""
        both = (self.a, self.b) if self.kind in PAIRS else (self.a,)
        return tuple(node for node in both if not node.startswith(LABEL))

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels that the line names."""
        both = (self.a, self.b) if self.kind in PAIRS else (self.a,)
        return tuple(node.removeprefix(LABEL) for node in both if node.startswith(LABEL))


# -- reading and writing ---------------------------------------------------------------------


def format_lines(lines: Iterable[Said]) -> bytes:
    """Return lines as the CSV file that `read_lines` reads."""
    rows = [COLUMNS, *((line.kind, line.a, line.b) for line in lines)]
    return (_csv(rows) + "\n").encode()


def _csv(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(_csv_line(row) for row in rows)


def _csv_line(row: Iterable[str]) -> str:
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\r\n").writerow(row)  # what it ends with is put in quotes
    return sink.getvalue().removesuffix("\r\n")


def read_lines(data: bytes, name: str) -> Iterator[Said]:
    """Yield the lines of a CSV file; ``name`` is what messages call it.

    Raises UsageError, naming the line and what to do, for anything but what the module says.
    """
    try:
        text = data.decode("utf-8-sig")  # a spreadsheet writes the mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}, line {line}: no UTF-8: save it as CSV in UTF-8") from error
    reader, order, line = csv.reader(io.StringIO(text, newline=""), strict=True), None, 1
    try:
        for row in reader:
            where, line = f"{name}, line {line}", reader.line_num + 1
            if order is None:
                order = _header(row, where)
            elif any(cell.strip() for cell in row):
                if len(row) > len(COLUMNS):
                    raise UsageError(
                        f"{where}: {len(row)} cells: a name with a comma in it stands in quotes"
                    )
                cells = [*row, *[""] * (len(COLUMNS) - len(row))]
                kind, a, b = (cells[place] for place in order)
                yield _said(kind, a, b, where)
    except csv.Error as error:
        raise UsageError(f"{name}, line {reader.line_num}: no CSV: {error}") from error
    if order is None:
        raise UsageError(f"{name} is empty: its first line is {','.join(COLUMNS)}")


def _header(row: list[str], where: str) -> list[int]:
    """Return the places of kind, a and b."""
    names = [cell.strip() for cell in row]
    unknown = [n for n in names if n not in COLUMNS]
    if unknown or len(names) != len(COLUMNS) or set(names) != set(COLUMNS):
        what = f"unknown column {unknown[0]!r}" if unknown else "wrong columns"
        raise UsageError(f"{where}: {what}: the first line must be {','.join(COLUMNS)}")
    return [names.index(n) for n in COLUMNS]


def _said(kind: str, a: str, b: str, where: str) -> Said:
    word = kind.strip()
    if word not in set(Kind):
        close = difflib.get_close_matches(word.lower(), list(Kind), n=1)
        hint = f"did you mean {close[0]}?" if close else f"it is one of {', '.join(Kind)}"
        raise UsageError(f"{where}: unknown kind {word!r}: {hint}")
    known = Kind(word)
    if known in PAIRS:
        line = Said(known, _node(a, "a", where), _node(b, "b", where), where)
        if line.a == line.b:
            raise UsageError(f"{where}: both are the same: name two faces or labels")
        return line
    face = _face(a, "a", where)
    if known is Kind.NAME and not b.strip():
        raise UsageError(f"{where}: no name: write name,FACE,NAME")
    if known is not Kind.NAME and b.strip():
        raise UsageError(f"{where}: {known} takes one face: leave b empty")
    return Said(known, face, b if known is Kind.NAME else "", where)


def _node(text: str, column: str, where: str) -> str:
    if text.startswith(LABEL):
        if text == LABEL:
            raise UsageError(f"{where}: {column} is a label without a name: write label:NAME")
        return text
    return _face(text, column, where, " or label:NAME")


def _face(text: str, column: str, where: str, other: str = "") -> str:
    face = text.strip().lower()
    if not _FACE.fullmatch(face):
        raise UsageError(
            f"{where}: {column} is no face id: write all of it, as facepipe why prints it{other}"
        )
    return face
