"""What a run is made of, and the words in which a training tells it: to MLflow, or to nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from training.metric_sender import LoggedStep

Status = Literal["finished", "failed", "stopped"]
Value = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run is made of."""

    name: str
    parameters: Mapping[str, Value]  # `flattened` settings
    tags: Mapping[str, str] = field(default_factory=dict)
    dataset_name: str = "samples"
    dataset_digest: str  # `Samples.digest`
    lineage: Mapping[str, object] = field(default_factory=dict)  # which decisions, which settings
    earlier_run_id: str | None = None  # of the run that goes on
    metrics_file: Path | None = None  # of that run: a JSON line a logged step


class Tracker(Protocol):
    """Where a training tells what it does; only its first rank does."""

    def start(self, facts: RunFacts) -> str:
        """Begin a run, or go on with an earlier one; return its id."""
        ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Tell what was measured at a step. Steps rise."""
        ...

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder, with the run."""
        ...

    def end(self, status: Status) -> None:
        """Close the run."""
        ...


class NoTracker:
    """Tells nobody."""

    def start(self, facts: RunFacts) -> str:
        """Return no id."""
        return ""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Forget them."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Leave it where it is."""

    def end(self, status: Status) -> None:
        """Do nothing."""


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    """Return nested settings as ``{"head.margin": 0.5}``; lists and None as JSON."""
    flat: dict[str, Value] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            plain = isinstance(value, str | int | float | bool)
            flat[prefix + name] = value if plain else json.dumps(value, sort_keys=True, default=str)
    return flat


def logged_before(path: Path | None) -> Iterator[LoggedStep]:
    """Yield the logged steps of a run's metrics.jsonl; a line that a kill has cut ends them.

    Each has the file's time: the lines have none.
    """
    if path is None or not path.is_file():
        return
    time_ms = path.stat().st_mtime_ns // 1_000_000
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return
        numbers = {
            name: float(value)
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        yield LoggedStep(int(row["step"]), time_ms, numbers)
