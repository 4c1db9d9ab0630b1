"""Writes an evaluation as one HTML page that loads nothing, and its figures as PNG.

The page holds no date and nothing random: the same evaluation gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from facepipe.errors import StoreFull, UsageError
from pipelines.evaluate import Evaluation
from pipelines.evaluate_figures import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    det_plot,
    roc_plot,
    score_histograms,
)
from pipelines.evaluate_png import histogram_png, plot_png
from pipelines.evaluate_text import tables
from pipelines.report_figures import number


def check_places(report: str | None, plots: str | None) -> None:
    """Raise UsageError for a page that has another name, and for a folder that is a file."""
    if report is not None:
        path = Path(report)
        if path.is_dir() or path.suffix.lower() not in {".html", ".htm"}:
            raise UsageError(f"--report {report} is no page: give it a name that ends in .html")
    if plots is not None and Path(plots).exists() and not Path(plots).is_dir():
        raise UsageError(f"--plots {plots} is a file: name a folder")


def page(evaluation: Evaluation) -> str:
    """Return an evaluation as an HTML page with its figures inside."""
    result = evaluation.result
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # names of models, groups and files are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("evaluation.html.j2").render(
        data=result["data"],
        pictures=result["pictures"],
        tables=tables(result),
        figures=_figures(evaluation),
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=RIGHT,
        top=TOP,
        bottom=BOTTOM,
    )


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {
        protocol: {
            "plots": [det_plot(curves), roc_plot(curves)],
            "histograms": score_histograms(curves),
        }
        for protocol, curves in evaluation.curves.items()
    }


def pictures(evaluation: Evaluation) -> dict[str, bytes]:
    """Return the figures as PNG by file name: pairs-det.png, pairs-roc.png, pairs-scores-1.png."""
    found: dict[str, bytes] = {}
    for protocol, drawn in _figures(evaluation).items():
        for plot in drawn["plots"]:
            found[f"{protocol}-{plot.title.lower()}.png"] = plot_png(plot)
        for n, histogram in enumerate(drawn["histograms"], 1):
            found[f"{protocol}-scores-{n}.png"] = histogram_png(histogram)
    return found


def write_page(evaluation: Evaluation, path: str) -> str:
    """Write the page and return its path. Raises StoreFull."""
    _write(Path(path), page(evaluation).encode("utf-8", "replace"))
    return path


def write_pictures(evaluation: Evaluation, folder: str) -> list[str]:
    """Write the figures into a folder and return their paths. Raises StoreFull."""
    written = []
    for name, data in pictures(evaluation).items():
        _write(Path(folder) / name, data)
        written.append(str(Path(folder) / name))
    return written


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StoreFull(f"cannot write {path} ({error.strerror}): choose another place") from error
