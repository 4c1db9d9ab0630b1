"""What a run counts and logs: losses, bad crops, time; all of it goes on after a kill."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from training.crop_pixels import BadCrop
from training.learner import Learner, StepResult
from training.loader import Loader
from training.ranks import Ranks
from training.run_facts import Tracker
from training.run_folder import RunFolder
from training.run_report import Means, Values

_BAD = tuple(BadCrop)


class RunLog:
    """The counts of a run; every rank has the same ones, rank 0 writes them."""

    def __init__(self, folder: RunFolder, tracker: Tracker, ranks: Ranks) -> None:
        """Begin at nothing."""
        self.folder, self.tracker, self.ranks = folder, tracker, ranks
        self.means = Means(ranks.device)
        self.last_loss: float | None = None
        self.seconds = 0.0  # of training, up to the last checkpoint
        self.bad = dict.fromkeys(_BAD, 0)  # samples without a crop, as last counted
        self._bad_before = dict(self.bad)  # in earlier starts
        self._since, self._logged_at = 0.0, (0.0, 0)

    def start_clock(self, position: int) -> None:
        """Begin to count time."""
        self._since = time.monotonic()
        self._logged_at = (self._since, position)

    def line(self, place: Mapping[str, float | int], found: StepResult, learner: Learner) -> Values:
        """Return the losses since the last line, and how the last step went.

        ``place`` has step, epoch, position and rate. Raises FacepipeError where a loss is not
        finite.
        """
        self.means.check(int(place["step"]))
        losses = self.means.losses()
        self.last_loss = float(losses["loss"]) if losses else self.last_loss
        now, (then, position) = time.monotonic(), self._logged_at
        values: Values = {
            **place,
            **losses,
            "samples_per_s": (int(place["position"]) - position) / max(now - then, 1e-9),
            "bad": sum(self.bad.values()),
        }
        if not found.overflowed:
            values["grad_norm"] = float(found.grad_norm)
        if learner.scale is not None:
            values["loss_scale"] = learner.scale.scale
            values["overflows"] = self.means.overflows
        self.means.clear()
        self._logged_at = (now, int(place["position"]))
        self.write(values)
        return values

    def write(self, values: Values) -> None:
        """Write a line of metrics, and tell the tracker."""
        if self.ranks.first:
            self.folder.append_metrics(values)
            told = {name: float(value) for name, value in values.items() if name != "step"}
            self.tracker.metrics(told, int(values["step"]))

    def count_bad(self, loader: Loader) -> None:
        """Count the samples without a crop, of all ranks and starts."""
        own = self.ranks.sums([loader.bad[kind] for kind in _BAD])
        self.bad = {
            kind: self._bad_before[kind] + count for kind, count in zip(_BAD, own, strict=True)
        }

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, having counted the time."""
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        return {
            "means": self.means.state(),
            "last_loss": self.last_loss,
            "seconds": self.seconds,
            "bad": {kind.value: count for kind, count in self.bad.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.means.load(state["means"])
        self.last_loss, self.seconds = state["last_loss"], state["seconds"]
        self.bad = {kind: state["bad"].get(kind.value, 0) for kind in _BAD}
        self._bad_before = dict(self.bad)


def loss_of(found: StepResult) -> torch.Tensor:
    """Return the loss of a step on its device; NaN where float16 overflowed."""
    loss = torch.stack(list(found.losses.values())).sum()
    return torch.full_like(loss, torch.nan) if found.overflowed else loss
