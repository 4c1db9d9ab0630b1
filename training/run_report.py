"""What a run says of itself: a report a step, a line of means now and then, the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facepipe.errors import FacepipeError
from training.learner import StepResult

Values = dict[str, float | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """A step that was taken, as `train` tells it on every rank."""

    step: int  # steps taken, this one included
    position: int  # samples taken, over all ranks
    samples: int  # of this step
    total_samples: int  # of the run
    epoch: float
    lr: float
    loss_on_device: Tensor  # a scalar; NaN where float16 overflowed and nothing was changed
    logged: Mapping[str, float | int] | None  # the line of metrics, where there is one

    @property
    def loss(self) -> float:
        """Return the loss of the step; on a GPU this waits for it."""
        return float(self.loss_on_device)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    run: Path
    step: int
    epochs: float
    loss: float | None  # mean of the last logged steps
    bad: Mapping[str, int]  # samples without a crop, once a time that they came, by reason
    seconds: float  # of training, over all starts
    samples_per_s: float  # of the same
    stopped: bool = False  # before its end: the same call goes on
    mlflow_run_id: str | None = None
    pack: Path | None = None
    model_id: str | None = None  # of the pack: facepipe.packs
    cosine: float | None = None  # of the pack's answers with the net's, at the worst

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        paths = {"run": str(self.run), "pack": None if self.pack is None else str(self.pack)}
        return {**asdict(self), **paths, "bad": dict(self.bad)}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> TrainResult:
        """Return it from JSON."""
        pack = None if value["pack"] is None else Path(value["pack"])
        return cls(**{**value, "run": Path(value["run"]), "pack": pack})


class Means:
    """The losses since the last line of metrics, as sums that a checkpoint keeps."""

    def __init__(self, device: torch.device) -> None:
        """Begin with none."""
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self.steps = self.overflows = 0

    def add(self, result: StepResult) -> None:
        """Take in a step, unless float16 overflowed."""
        self.overflows += result.overflowed
        if result.overflowed:
            return
        self.steps += 1
        for name, value in result.losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def losses(self) -> Values:
        """Return the mean loss, and its parts where there are several; nothing without steps."""
        parts = {name: float(value) / self.steps for name, value in self._sums.items()}
        if not parts:
            return {}
        several = {f"loss_{name}": value for name, value in parts.items() if len(parts) > 1}
        return {"loss": sum(parts.values()), **several}

    def check(self, step: int) -> None:
        """Raise FacepipeError where a loss is not finite."""
        wrong = {name: float(value) for name, value in self._sums.items()}
        wrong = {name: value for name, value in wrong.items() if not math.isfinite(value)}
        if wrong:
            raise FacepipeError(
                f"the loss ({', '.join(wrong)}) is {next(iter(wrong.values()))} by step {step}: "
                "lower optimizer.lr, lengthen schedule.warmup_epochs or set clip_norm; the last "
                "checkpoint is from before"
            )

    def clear(self) -> None:
        """Begin again."""
        self._sums, self.steps, self.overflows = {}, 0, 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: float64 goes through JSON as it is."""
        sums = {name: float(value) for name, value in self._sums.items()}
        return {"sums": sums, "steps": self.steps, "overflows": self.overflows}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._sums = {
            name: torch.tensor(value, dtype=torch.float64, device=self._device)
            for name, value in state["sums"].items()
        }
        self.steps, self.overflows = state["steps"], state["overflows"]
