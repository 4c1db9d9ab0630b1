"""What curate and its steps print: what a run would do, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.stage import StepReport


def dry_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what a run would do, a line a step."""
    return "\n".join(
        f"{r['step']}: after {r['after']}, whose result it needs"
        if "after" in r
        else f"{r['step']}: {r['items_to_do']} of {r['items']} items to do, "
        f"in {r['shards_to_do']} of {r['shards']} shards{_would_decide(r)}"
        for r in rows
    )


def result_text(out: str, reports: Sequence[StepReport], made: Mapping[str, Any]) -> str:
    """Return the result as a person wants it; the steps' own lines went to stderr."""
    counts = {table: c for r in reports for table, c in r.counts.items()}
    lines = [f"{'dataset':<10} {out}"]
    if not any(r.shards_run for r in reports):
        of = "of its tables " if made else ""  # a gallery and a report may have been made anew
        lines.insert(0, f"nothing to do: all {of}was done before")
    for table in ("photos", "faces", "embeddings", "duplicates", "decisions"):
        if table in counts:
            parts = ", ".join(f"{n:,} {status}" for status, n in counts[table].items())
            lines.append(f"{table:<10} {parts or 'none'}")
    lines += [f"{name:<10} {path}" for name, path in made.items()]
    seen = sum(counts.get("photos", {}).get(status, 0) for status in ("ok", "salvaged"))
    if seen and not counts.get("faces", {"ok": 1}):
        lines.append("no face in any photo: are --models and detect.threshold right?")
    return "\n".join(lines)


def _would_decide(row: Mapping[str, Any]) -> str:
    return "".join(
        f"\n  {decision} {reason}: {faces}"
        for decision, reasons in row.get("decisions", {}).items()
        for reason, faces in reasons.items()
    )
