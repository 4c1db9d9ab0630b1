"""An evaluation's result as tables: of words for the terminal, of cells for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A value, and its interval in smaller letters."""

    text: str
    small: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One protocol's table; ``protocol`` says which figures go with it, if any."""

    title: str
    protocol: str
    notes: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def beside_name(name: str) -> str:
    """Return how a model is shown that was not asked for."""
    return f"{name} (beside)"


def tables(result: Result) -> list[Table]:
    """Return a table for each protocol that was measured, a row a model, the one beside last."""
    models = [*result.get("models", [result])]
    if "beside" in result:
        models.append(result["beside"] | {"model": beside_name(result["beside"]["model"])})
    found = []
    if "pairs" in models[0]:
        found.append(_pairs_table("Pairs of pictures", "pairs", models, models))
        if "groups" in models[0]:
            found.append(_groups_table(models))
    if "templates" in models[0]:
        inner = [model["templates"] for model in models]
        found.append(_pairs_table("Pairs of templates", "templates", models, inner))
    if "identification" in models[0]:
        found.append(_people_table(models))
    if "beside" in result:
        note = f"{models[-1]['model']}: not asked for, on the same crops, to compare with."
        found[0] = replace(found[0], notes=(*found[0].notes, note))
    return found


def _pairs_table(
    title: str, protocol: str, models: Sequence[Result], found: Sequence[Result]
) -> Table:
    first = found[0]
    heads = ["model"]
    if "accuracy" in first:
        heads.append("accuracy, all cuts")
    if "insightface" in first:
        heads.append("as insightface")
    heads += [f"TAR at FAR {t['far']:g}" for t in first["tar_at_far"]] + ["equal error"]
    rows = []
    for n, (model, row) in enumerate(zip(models, found, strict=True)):
        rows.append(tuple(_pairs_row(model["model"], row)))
        if n:
            rows.append(tuple(_difference_row(row)))
    return Table(
        title=title,
        protocol=protocol,
        notes=tuple(_pairs_notes(first)),
        heads=tuple(heads),
        rows=tuple(rows),
    )


def _pairs_notes(row: Result) -> list[str]:
    absent = row["pairs_not_in_dataset"]
    notes = [
        f"{row['pairs']:,} pairs, {row['pairs_without_face']:,} of them with a photo "
        "without a face (counted as wrong)"
        + (f"; {absent:,} more name photos that are not there" if absent else "")
        + "."
    ]
    if row["fars_unsupported"]:
        fars = ", ".join(f"{far:g}" for far in row["fars_unsupported"])
        notes.append(f"Too few mismatched pairs to show a FAR of {fars}.")
    return notes


def _pairs_row(name: str, row: Result) -> list[Cell]:
    cells = [Cell(text=name)]
    if "accuracy" in row:
        share = f"{row['accuracy']:.3%} +- {row['std']:.3%}"
        cells.append(Cell(text=share, small=_range(row["people_interval_95"], "{:.3%}")))
    if "insightface" in row:
        found = row["insightface"]
        cells.append(Cell(text=f"{found['accuracy']:.3%} +- {found['std']:.3%}"))
    cells += [
        Cell(text=f"{t['tar']:.4f}", small=_range(t["interval_95"], "{:.4f}"))
        for t in row["tar_at_far"]
    ]
    return [*cells, Cell(text=f"{row['equal_error']:.3%}")]


def _difference_row(row: Result) -> list[Cell]:
    difference = row["difference"]
    cells = [Cell(text="less the first")]
    if "accuracy" in row:
        gain = difference["accuracy"]
        share = f"{gain['difference']:+.3%}"
        cells.append(Cell(text=share, small=_range(gain["interval_95"], "{:+.3%}")))
    if "insightface" in row:
        cells.append(Cell(text=""))
    cells += [
        Cell(text=f"{t['difference']:+.4f}", small=_range(t["interval_95"], "{:+.4f}"))
        for t in difference["tar_at_far"]
    ]
    return [*cells, Cell(text="")]


def _range(bounds: Sequence[float], form: str) -> str:
    low, high = (form.format(bound) for bound in bounds)
    return f"[{low}, {high}]"


def _groups_table(models: Sequence[Result]) -> Table:
    far = models[0]["groups"]["far"]
    rows = []
    for model in models:
        for group in model["groups"]["groups"]:
            cells = [model["model"], group["group"], f"{group['people']:,}"]
            cells += [f"{group['matched']:,}", f"{group['mismatched']:,}"]
            rates = [
                Cell(
                    text="none" if group[kind]["rate"] is None else f"{group[kind]['rate']:.4f}",
                    small=_range(group[kind]["interval_95"], "{:.4f}"),
                )
                for kind in ("fnmr", "fmr")
            ]
            said = "; ".join(group["unsupported"])
            rows.append((*(Cell(text=c) for c in cells), *rates, Cell(text=said)))
    return Table(
        title="Groups of people",
        protocol="groups",
        notes=(f"One threshold for all, set for a FAR of {far:g} on all pairs.",),
        heads=("model", "group", "people", "matched", "mismatched", "FNMR", "FMR", "unsupported"),
        rows=tuple(rows),
    )


def _people_table(models: Sequence[Result]) -> Table:
    first = models[0]["identification"]
    heads = ["model", *(f"rank {r['rank']}" for r in first["ranks"])]
    heads += [f"FNIR at FPIR {p['fpir']:g}" for p in first["fnir_at_fpir"]]
    rows = []
    for model in models:
        found = model["identification"]
        cells = [Cell(text=model["model"])]
        cells += [
            Cell(text=f"{r['rate']:.4f}", small=_range(r["interval_95"], "{:.4f}"))
            for r in found["ranks"]
        ]
        cells += [
            Cell(text=f"{p['fnir']:.4f}", small=_range(p["interval_95"], "{:.4f}"))
            for p in found["fnir_at_fpir"]
        ]
        rows.append(tuple(cells))
    notes = [
        f"{first['enrolled']:,} people enrolled with a picture each, {first['distractors']:,} "
        f"distractors; {first['searches']:,} searches for the enrolled, {first['strangers']:,} "
        "for strangers. FNIR counts a search as missed unless its person comes first and "
        "reaches the threshold."
    ]
    if first["fpirs_unsupported"]:
        fpirs = ", ".join(f"{fpir:g}" for fpir in first["fpirs_unsupported"])
        notes.append(f"Too few strangers to show a FPIR of {fpirs}.")
    return Table(
        title="Identification",
        protocol="identification",
        notes=tuple(notes),
        heads=tuple(heads),
        rows=tuple(rows),
    )


def format_evaluation(result: Result) -> str:
    """Return an evaluation as text: of one model line by line, of several as tables."""
    if "models" not in result and "accuracy" in result:
        lines = _single(result)
        rest = [t for t in tables(result) if t.protocol != "pairs"]
    else:
        lines, rest = [], tables(result)
    for table in rest:
        lines += ([""] if lines else []) + _table_lines(table)
    return "\n".join(lines)


def _single(result: Result) -> list[str]:
    low, high = result["interval_95"]
    people_low, people_high = result["people_interval_95"]
    absent = result["pairs_not_in_dataset"]
    lines = [
        f"{result['pairs']} pairs, {result['pairs_without_face']} of them with a photo "
        "without a face (counted as wrong)"
        + (f"; {absent} more name photos that are not in the dataset" if absent else ""),
        f"accuracy {result['accuracy']:.4%} +- {result['std']:.4%} over "
        f"{len(result['folds'])} folds (standard error {result['standard_error']:.4%}; "
        f"95 % interval {low:.4%} to {high:.4%}, resampling people {people_low:.4%} to "
        f"{people_high:.4%})",
        f"as insightface computes it: {result['insightface']['accuracy']:.4%} +- "
        f"{result['insightface']['std']:.4%}",
    ]
    lines += [
        f"  fold {f['fold']}: {f['accuracy']:.4%} at threshold {f['threshold']:.4f}"
        for f in result["folds"]
    ]
    for t in result["tar_at_far"]:
        at = "no threshold" if t["threshold"] is None else f"threshold {t['threshold']:.4f}"
        lines.append(
            f"TAR {t['tar']:.4f} at FAR {t['far']:g} ({at}; 95 % interval "
            f"{t['interval_95'][0]:.4f} to {t['interval_95'][1]:.4f})"
        )
    lines += [
        f"TAR at FAR {far:g}: too few mismatched pairs to show it"
        for far in result["fars_unsupported"]
    ]
    return lines


def _table_lines(table: Table) -> list[str]:
    shown = [list(table.heads)]
    for row in table.rows:
        shown.append([" ".join(part for part in (c.text, c.small) if part) for c in row])
    widths = [max(len(row[n]) for row in shown) for n in range(len(table.heads))]
    return [
        f"{table.title}",
        *table.notes,
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in shown
        ),
    ]
