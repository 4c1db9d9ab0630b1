"""How a demo ended, for machines and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.demo import DATASET, INDEX, Json, Searched, Shown

SURPRISES = 10  # lines of text


def result_json(shown: Shown, page: Path) -> Json:
    """Return how a demo ended, for machines."""
    demo = shown.demo
    return {
        "page": str(page),
        "out": str(demo.out),
        "dataset": str(demo.out / DATASET),
        "report": str(demo.out / DATASET / "report.html"),
        "index": str(demo.out / DATASET / INDEX),
        "models": demo.pack_name,
        "photos": len(shown.outcomes),
        "missing": list(shown.photos.missing),
        "as_expected": len(shown.outcomes) - len(shown.surprises),
        "surprises": [
            {"file": o.made.name, "expected": o.expected, "decided": o.said}
            for o in shown.surprises
        ],
        "searches": [_search_json(searched) for searched in shown.searches],
        "export": shown.export,
        "training": _training_json(shown),
        "evaluation": shown.evaluation,
    }


def _search_json(searched: Searched) -> Json:
    return {
        "photo": searched.query.name,
        "expected": searched.query.person,
        "found": [face["identity_id"] for face in searched.result["faces"]],
        "as_expected": searched.as_expected,
    }


def _training_json(shown: Shown) -> Json:
    if shown.trained is None:
        return {"left_out": shown.demo.left_out}
    result: Mapping[str, Any] = shown.trained.result
    return {name: result[name] for name in ("run", "step", "loss", "pack", "model_id")}


# -- as text ------------------------------------------------------------------------------


def plan_text(plan: Json) -> str:
    """Return what a demo would do, as text."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in plan["kinds"].items())
    lines = [
        f"{plan['photos']} files would be made in {plan['out']}: {kinds}",
        f"then: {', '.join(plan['steps'])}",
        *plan["missing"],
    ]
    return "\n".join(lines + [plan[k] for k in ("training_left_out",) if k in plan])


def result_text(told: Json) -> str:
    """Return the result as a person wants it."""
    lines = [
        f"{'models':<10} {told['models']}",
        f"{'photos':<10} {told['as_expected']} of {told['photos']} files ended as expected",
        *_surprise_lines(told["surprises"]),
        *(_search_line(search) for search in told["searches"]),
        f"{'export':<10} {_counted(told['export']['exported'], 'face', 'faces')} of "
        f"{_counted(told['export']['people'], 'person', 'people')} "
        f"in {told['export']['out']}",
        _training_line(told["training"]),
        f"{'report':<10} {told['report']}",
        f"{'page':<10} {told['page']}",
        f"{'time':<10} {told['seconds']:.0f} s. Next: facepipe curate PHOTOS --out DATASET "
        "--labels folder",
    ]
    return "\n".join(lines)


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _surprise_lines(surprises: Sequence[Json]) -> list[str]:
    lines = [
        f"{'surprise':<10} {surprise['file']}: {surprise['decided']}; "
        f"expected: {surprise['expected']}"
        for surprise in surprises[:SURPRISES]
    ]
    more = len(surprises) - len(lines)
    return [*lines, *([f"{'':<10} and {more} more, which the page shows"] if more > 0 else [])]


def _search_line(search: Json) -> str:
    who = ", ".join(name or "nobody above the threshold" for name in search["found"]) or "no face"
    odd = (
        "" if search["as_expected"] else f" (a surprise: expected {search['expected'] or 'nobody'})"
    )
    return f"{'search':<10} {search['photo']}: {who}{odd}"


def _training_line(training: Json) -> str:
    if "left_out" in training:
        return f"{'training':<10} left out: {training['left_out'] or 'no face was kept'}"
    return f"{'training':<10} {training['step']} steps, pack {training['pack']}"
