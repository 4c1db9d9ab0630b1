"""Progress to stderr: a bar with rate and time left on a terminal, one line a step elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

UNITS = {"members": "files", "detect": "photos"}  # of the others: faces


def printable(text: str, keep: str = "") -> str:
    """Return text without what a terminal would obey, but for ``keep``: names may hold anything."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


class Progress:
    """Shows the steps of a run; use it as a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        """Stay silent with ``quiet``; show bars only where stderr is a terminal."""
        self.quiet = quiet
        self._bars: Any = None
        self._bar: Any = None
        self._step = ""
        self._done = 0
        self._started = 0.0

    def __enter__(self) -> Progress:
        """Start drawing, on a terminal."""
        if not self.quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def begin(self, step: str, total: int, done: int) -> None:
        """Start a step of ``total`` items, ``done`` of them by an earlier run."""
        step = step.split("-")[0]  # embed-<model> is embed to a person
        self._step, self._done = step, 0
        self._started = time.monotonic()
        if self._bars is not None:
            unit = UNITS.get(step, "faces")
            self._bar = self._bars.add_task(step, total=total, completed=done, unit=unit, extra="")

    def advance(self, items: int, extra: str = "") -> None:
        """Count finished items."""
        self._done += items
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, advance=items, extra=extra)

    def end(self, summary: str) -> None:
        """Close a step with a line of what it found."""
        took = time.monotonic() - self._started
        rate = f", {self._done / took:.1f}/s" if self._done and took > 0.05 else ""
        self.say(f"{self._step}: {summary} ({took:.1f} s{rate})")

    def say(self, text: str) -> None:
        """Print a line to stderr, above the bars."""
        if self.quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr)


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f}/s" if speed else "-/s")

    return RichProgress(
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[extra]}"),
        console=Console(stderr=True),
    )
