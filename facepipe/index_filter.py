"""Which faces of a gallery a search may find: conditions on their columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.errors import UsageError

# No value of a comparison begins with a sign of one: == and => would find nobody, without a word.
_CONDITION = re.compile(
    r"\s*([A-Za-z_]\w*)\s*(!=|<=|>=|=|<|>|~)(?:(?<=~)|(?![=<>]))(.*)", re.DOTALL
)
_COMPARE: dict[str, Callable[..., Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_FORM = "write COLUMN=VALUE, !=, <, <=, > or >=, or COLUMN~PART for a part of a text"


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column with a value."""

    column: str
    operator: str
    value: str

    def holds(self, column: pa.ChunkedArray) -> NDArray[np.bool_]:
        """Return for which rows it holds. Raises UsageError for a value that cannot be compared.

        A null is equal to the empty value alone: ``identity_id=`` is nobody known, and
        ``identity_id!=Ann`` holds for those, too. It is in no other relation to anything.
        """
        if self.operator in ("=", "!=") and self.value == "":
            nothing = column.is_null()
            if pa.types.is_string(column.type):
                nothing = pc.or_(nothing, pc.fill_null(pc.equal(column, ""), False))
            found = nothing if self.operator == "=" else pc.invert(nothing)
        elif self.operator == "~":
            if not pa.types.is_string(column.type):
                raise UsageError(f"--where {self}: {self.column} is not a text ({column.type})")
            found = pc.fill_null(pc.match_substring(column, self.value), False)
        else:
            compared = _COMPARE[self.operator](column, self._as(column.type))
            found = pc.fill_null(compared, self.operator == "!=")
        return np.asarray(found.to_numpy(), dtype=bool)

    def _as(self, kind: pa.DataType) -> pa.Scalar:
        try:
            return pa.scalar(self.value).cast(kind)
        except pa.ArrowException as error:
            raise UsageError(
                f"--where {self}: {self.value!r} cannot be compared with {self.column} ({kind})"
            ) from error

    def __str__(self) -> str:
        """Return the condition as it is written."""
        return f"{self.column}{self.operator}{self.value}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that all hold."""

    conditions: tuple[Condition, ...]

    @property
    def columns(self) -> list[str]:
        """Return the columns that are looked at."""
        return sorted({condition.column for condition in self.conditions})

    def need_columns(self, schema: pa.Schema) -> None:
        """Raise UsageError for a column that is not there, or that cannot be compared."""
        known = [f.name for f in schema if not pa.types.is_nested(f.type)]
        for column in self.columns:
            if column not in known:
                raise UsageError(
                    f"--where {column}: the gallery has no such column: take one of "
                    + ", ".join(known)
                )

    def mask(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Return which rows fulfil all conditions (N, bool). Raises UsageError."""
        found = np.ones(len(rows), dtype=bool)
        for condition in self.conditions:
            found &= condition.holds(rows.column(condition.column))
        return found


def parse_filter(texts: Sequence[str]) -> Filter | None:
    """Return the filter that conditions make up, all of which must hold; None for none.

    COLUMN=VALUE, COLUMN!=VALUE, <, <=, >, >= compare in the column's own type (texts by their
    code points); COLUMN~PART: the text contains PART. Raises UsageError for anything else.
    """
    conditions = []
    for text in texts:
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise UsageError(f"--where {text!r} is no condition: {_FORM}")
        conditions.append(Condition(*found.groups()))
    return Filter(tuple(conditions)) if conditions else None
