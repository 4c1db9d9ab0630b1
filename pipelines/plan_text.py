"""A forecast, its comparison with the run, and a simulation, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from facepipe.simulation import Simulated


def format_forecast(plan: Mapping[str, Any]) -> str:
    """Return the table of a forecast."""
    lines = [("", "planned", "95 % interval", "")]
    sampled = f"sample of {plan['sampled']:,}"
    lines.append(_count("photos", plan["photos"], sampled))
    lines += [_count(f"  {s}", v) for s, v in plan["photo_status"].items()]
    lines.append(_count("faces", plan["faces"]))
    lines += [_count(f"  {s}", v) for s, v in plan["face_status"].items()]
    lines.append(_count("dropped", plan["unfit"], "not ok, or no vector; wrong labels not counted"))
    pairs = f"{plan['pairs_sampled']} pairs in the sample"
    lines.append(_count("duplicates", plan["duplicates"], pairs))
    lines.append(_count("kept", plan["kept"], "the others, less duplicates"))
    pace = "at the pace of the sample"
    lines.append(_hours("hours of work", plan["work_s"]["total"], pace))
    workers = f"hours, {plan['workers']:,} worker{'s' if plan['workers'] > 1 else ''}"
    lines.append(_hours(workers, plan["wall_s"], _in_time(plan)))
    tables = {n: v for n, v in plan["bytes"].items() if n != "total"}
    lines.append(_stored("stored", plan["bytes"]["total"]))
    lines += [_stored(f"  {name}", v) for name, v in tables.items()]
    for name, value in plan["memory_bytes"].items():
        lines.append((f"memory, {name}", _in_bytes(value), "", ""))
    useful = f"{plan['useful_workers']:,}"
    lines.append(("workers of use", useful, "", "with more, one process takes most of the time"))
    return _aligned(lines)


def _in_time(plan: Mapping[str, Any]) -> str:
    if plan["hours"] is None:
        return ""
    if plan["workers_in_time"] is None:
        return f"no number of workers is done in {plan['hours']:g} h"
    return f"the fewest for {plan['hours']:g} h"


def _count(name: str, value: Sequence[float], note: str = "") -> tuple[str, str, str, str]:
    return name, f"{value[0]:,.0f}", _between(value, "{:,.0f}"), note


def _hours(name: str, value: Sequence[float], note: str = "") -> tuple[str, str, str, str]:
    hours = [v / 3600 for v in value]
    return name, f"{hours[0]:.3g}", _between(hours, "{:.3g}"), note


def _stored(name: str, value: Sequence[float]) -> tuple[str, str, str, str]:
    low, high = _in_bytes(value[1]), _in_bytes(value[2])
    return name, _in_bytes(value[0]), f"{low} to {high}" if low != high else "", ""


def _in_bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def _between(value: Sequence[float], form: str) -> str:
    low, high = form.format(value[1]), form.format(value[2])
    return "exactly" if value[1] == value[2] else f"{low} to {high}"


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    out = []
    for name, *cells in lines:
        rest = [cell.rjust(width) for cell, width in zip(cells[:-1], widths[1:-1], strict=True)]
        out.append("  ".join([name.ljust(widths[0]), *rest, cells[-1]]).rstrip())
    return "\n".join(out)


def format_comparison(found: Mapping[str, Any]) -> str:
    """Return how right a plan was, in a line."""
    parts = [_said(found["faces"], "faces", 1, ",.0f"), _said(found["work_s"], "h of work")]
    if "wall_s" in found:
        workers = f"h with {found['workers']} worker{'s' if found['workers'] > 1 else ''}"
        parts.append(_said(found["wall_s"], workers))
    other = "" if found["same_settings"] else " (planned with other settings or models)"
    return f"plan: {'; '.join(parts)}{other}"


def _said(part: Mapping[str, Any], what: str, unit: float = 3600, form: str = ".3g") -> str:
    actual, value, low, high = (v / unit for v in (part["actual"], *part["planned"]))
    shown = [format(v, form) for v in (actual, low, high)]
    planned = shown[1] if shown[1] == shown[2] else f"{shown[1]} to {shown[2]}"
    return f"{shown[0]} {what}, planned {planned}: {_verdict(part['right'], actual, value)}"


def _verdict(right: bool, actual: float, planned: float) -> str:
    if right:
        return "right"
    by = f" by {abs(actual / planned - 1):.0%}" if planned else ""
    return f"{'more' if actual > planned else 'less'} than planned{by}"


def format_simulation(runs: Sequence[Simulated], memory_bytes: float) -> str:
    """Return the table of a simulation; what needs more memory than this in one process."""
    steps = ("members", "detect", "embed", "dedup", "clean", "index")
    lines: list[tuple[str, ...]] = [
        *[("photos", "workers", "hours", *steps, "driver", "of use", "")],
    ]
    for run in runs:
        hours = [run.wall_s, *(run.steps_s[s] for s in steps), run.driver_s]
        shown = [f"{h / 3600:,.3g}" if h < 3.6e6 else f"{h / 3600:,.0f}" for h in hours]
        lines.append((f"{run.photos:,}", f"{run.workers:,}", *shown, f"{run.useful_workers:,}", ""))
    seen = {run.photos: run for run in runs}
    notes = [_size(run, memory_bytes) for run in seen.values()]
    return _aligned(lines).rstrip() + "\n\n" + "\n".join(notes)


def _size(run: Simulated, memory_bytes: float) -> str:
    large = [f"{n} {_in_bytes(run.memory_bytes[n])}" for n in run.too_large(memory_bytes)]
    fits = f"does not fit in {_in_bytes(memory_bytes)}: {', '.join(large)}"
    return (
        f"{run.photos:,} photos: {_in_bytes(run.stored_bytes)} in {run.shards:,} shards, "
        f"{run.commits:,} commit records, {run.requests:,.0f} requests to the store, "
        f"driver {_in_bytes(run.memory_bytes['driver'])}; "
        + (fits if large else "every process fits in memory")
    )


def simulation_json(runs: Sequence[Simulated], memory_bytes: float) -> list[dict[str, Any]]:
    """Return a simulation for --json."""
    return [
        {
            "photos": run.photos,
            "workers": run.workers,
            "wall_s": round(run.wall_s, 3),
            "steps_s": {name: round(s, 3) for name, s in run.steps_s.items()},
            "driver_s": round(run.driver_s, 3),
            "serial_s": round(run.serial_s, 3),
            "work_s": round(run.work_s, 3),
            "slowest": run.slowest,
            "useful_workers": run.useful_workers,
            "shards": run.shards,
            "commits": run.commits,
            "requests": round(run.requests),
            "stored_bytes": round(run.stored_bytes),
            "memory_bytes": {name: round(b) for name, b in run.memory_bytes.items()},
            "does_not_fit": run.too_large(memory_bytes),
        }
        for run in runs
    ]
