"""A training run, from wherever it stands to its end: exactly as if nothing had come between.

A step is a function of the weights before it, its number and its position in the samples. Both
numbers are in the checkpoint, and nothing else that is drawn or counted has a state outside it.
So a run that was killed goes on with the same losses and weights, bit for bit, on the same
machine and the same number of ranks; on another number it goes on where it was, with sums added
in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from facepipe.packs import Pack
from training.checkpoint import read_checkpoint, write_checkpoint
from training.learner import Learner
from training.loader import Loader
from training.ranks import Ranks, device_of
from training.run_data import first_images, order_of
from training.run_end import export_run, net_of
from training.run_facts import NoTracker, RunFacts, Tracker, flattened
from training.run_folder import TEACHER, Begun, RunFolder, begun_of
from training.run_length import run_length
from training.run_log import RunLog, loss_of
from training.run_report import StepReport, TrainResult
from training.samples import Samples
from training.schedules import factor
from training.settings import TrainSettings
from training.teacher import teacher_digest

__all__ = ["StepReport", "TrainResult", "train"]

Evaluate = Callable[[nn.Module, int], Mapping[str, float]]


def train(
    settings: TrainSettings,
    samples: Samples,
    out: Path,
    *,
    tracker: Tracker | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    stop: Callable[[], bool] | None = None,
    on_checkpoint: Evaluate | None = None,
    lineage: Mapping[str, object] | None = None,
    detector: Pack | None = None,
) -> TrainResult:
    """Train to the end, or until ``stop`` says so on any rank; go on where OUT has a run.

    Runs on the ranks of torch.distributed where it is initialised, else alone. ``on_step`` is
    told every step, on every rank. ``on_checkpoint`` gets, on rank 0, the net in evaluation mode
    (with averaged weights where there are any) and the step, just before a checkpoint is
    written; the numbers it returns are logged. ``detector`` goes into the exported pack.

    A run that has finished is not run again: its result is returned. Raises UsageError where OUT
    holds something else or a run of other settings or samples, StoreError where another process
    is at it, FacepipeError where the loss is not finite, and as the parts do.
    """
    device = device_of(settings.device)
    ranks = Ranks.current(device)
    ranks.check_alike("samples", samples.digest)
    ranks.check_alike("settings", settings.model_dump_json())
    watchers = _Watchers(on_step=on_step, stop=stop, on_checkpoint=on_checkpoint)
    spoken = tracker if tracker is not None and ranks.first else NoTracker()
    folder = RunFolder(out)
    with _torch_as_set(settings, device), folder.held(ranks):
        run = _Run(settings, samples, ranks, RunLog(folder, spoken, ranks), watchers)
        return run.to_the_end({**(lineage or {}), **_taught_by(settings)}, detector)


def _taught_by(settings: TrainSettings) -> dict[str, object]:
    """Return what a run's lineage says of its teacher: a path alone does not say which model."""
    if settings.distillation is None:
        return {}
    return {TEACHER: teacher_digest(settings.distillation.teacher)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watchers:
    """Who looks on."""

    on_step: Callable[[StepReport], None] | None
    stop: Callable[[], bool] | None
    on_checkpoint: Evaluate | None


class _Run:
    """A run between its start and its end on one rank."""

    learner: Learner

    def __init__(
        self,
        settings: TrainSettings,
        samples: Samples,
        ranks: Ranks,
        log: RunLog,
        watchers: _Watchers,
    ) -> None:
        self.settings, self.samples, self.ranks = settings, samples, ranks
        self.log, self.folder, self.tracker = log, log.folder, log.tracker
        self.watchers = watchers
        self.order = order_of(samples, settings)
        self.step_samples, self.total = run_length(settings, self.order.epoch_samples, ranks.size)
        self.step = self.position = 0

    def to_the_end(self, lineage: Mapping[str, object], detector: Pack | None) -> TrainResult:
        begun = begun_of(
            self.ranks.agreed(
                lambda: self.folder.begin(
                    self.settings, self.samples, lineage, self.total, self.order.epoch_samples
                )
            )
        )
        if begun.result is not None:
            return self._over(begun, lineage)
        self.total = begun.total_samples
        self._load(begun)
        run_id = self.ranks.agreed(lambda: self._start(begun, lineage))
        try:
            stopped = self._steps()
            result = self._result(stopped, run_id)
            if not stopped:
                answer = self.ranks.agreed(
                    lambda: export_run(self.folder, self.learner, result, detector)
                )
                result = TrainResult.of_json(answer)
                self.tracker.artifact(self.folder.pack, "pack")
                for path in (self.folder.record_file, self.folder.metrics_file):
                    self.tracker.artifact(path)
        except BaseException:
            self.tracker.end("failed")
            raise
        self.tracker.end("stopped" if stopped else "finished")
        return result

    def _over(self, begun: Begun, lineage: Mapping[str, object]) -> TrainResult:
        """Return the result of a run that has finished; send what its tracker has not seen."""
        assert begun.result is not None
        if begun.mlflow_run_id is not None and self.ranks.first:
            self.tracker.start(self._facts(begun, lineage))
            self.tracker.end("finished")
        return TrainResult.of_json(begun.result)

    def _load(self, begun: Begun) -> None:
        """Make what learns, as the checkpoint has it or afresh."""
        images = None
        if begun.checkpoint is None:
            images = first_images(self.order, self.ranks.device)
        people = len(self.samples.people)
        self.learner = Learner(self.settings, people, self.ranks, first_images=images)
        if begun.checkpoint is None:
            return
        state = read_checkpoint(begun.checkpoint, self.learner)
        self.step, self.position = state["step"], state["position"]
        self.log.load(state["log"])
        if self.learner.scale is not None:
            self.learner.scale.load(state["loss_scale"])

    def _facts(self, begun: Begun, lineage: Mapping[str, object]) -> RunFacts:
        parameters = flattened(self.settings.model_dump(mode="json"))
        return RunFacts(
            name=self.folder.path.name,
            parameters={**parameters, "ranks": self.ranks.size},
            dataset_digest=self.samples.digest,
            lineage=lineage,
            earlier_run_id=begun.mlflow_run_id,
            metrics_file=self.folder.metrics_file,
        )

    def _start(self, begun: Begun, lineage: Mapping[str, object]) -> str | None:
        """Note the start on rank 0; return the tracker's id of the run."""
        self.folder.cut_metrics(self.step)
        run_id = self.tracker.start(self._facts(begun, lineage)) or None
        start = {
            "step": self.step,
            "position": self.position,
            "ranks": self.ranks.size,
            "batch_samples": self.settings.data.loader.batch_samples,
            "accumulation": self.settings.accumulation,
            "device": str(self.ranks.device),
        }
        self.folder.note_start(start, run_id or begun.mlflow_run_id)
        return run_id

    def _steps(self) -> bool:
        """Take steps; return whether the run was stopped before its end."""
        data, ranks = self.settings.data, self.ranks
        on_gpu = ranks.device.type == "cuda"
        pinned = data.loader.pin_memory and on_gpu  # there is no such memory without a GPU
        loader = Loader(
            self.order,
            data.loader.model_copy(update={"pin_memory": pinned}),
            data.augment,
            position=self.position,
            rank=ranks.rank,
            ranks=ranks.size,
        )
        with loader:
            self.log.start_clock(self.position)
            while self.position < self.total:
                self._step(loader)
                ended = self.position >= self.total
                asked = self.watchers.stop is not None and self.watchers.stop()
                stopping = ranks.any(asked) and not ended
                if ended or stopping or self.step % self.settings.checkpoint.every_steps == 0:
                    self._checkpoint(loader)
                if stopping:
                    return True
        return False

    def _step(self, loader: Loader) -> None:
        """Take a step, log it where that is due, and tell who looks on."""
        settings, epoch_samples = self.settings, self.order.epoch_samples
        batches = [next(loader) for _ in range(settings.accumulation)]
        start, end = self.position, self.position + self.step_samples
        rate = factor(settings.schedule, start, end, total=self.total, epoch_samples=epoch_samples)
        found = self.learner.step(batches, self.step, rate)
        self.step, self.position = self.step + 1, end
        self.log.means.add(found)
        place = {"step": self.step, "epoch": end / epoch_samples, "position": end}
        logged, lr = None, settings.optimizer.lr * rate
        if end >= self.total or self.step % settings.log_every_steps == 0:
            self.log.count_bad(loader)
            logged = self.log.line({**place, "lr": lr}, found, self.learner)
        if self.watchers.on_step is not None:
            self.watchers.on_step(
                StepReport(
                    step=self.step,
                    position=end,
                    samples=self.step_samples,
                    total_samples=self.total,
                    epoch=end / epoch_samples,
                    lr=lr,
                    loss_on_device=loss_of(found),
                    logged=logged,
                )
            )

    def _checkpoint(self, loader: Loader) -> None:
        self.log.means.check(self.step)  # weights that are no numbers replace none that are
        if self.watchers.on_checkpoint is not None and self.ranks.first:
            found = self.watchers.on_checkpoint(net_of(self.learner), self.step)
            if found:  # on the disk before the checkpoint, so that no kill loses them
                self.log.write({"step": self.step, **found})
        self.log.count_bad(loader)
        scale = self.learner.scale
        state = {
            "step": self.step,
            "position": self.position,
            "ranks": self.ranks.size,
            "log": self.log.state(),
            "loss_scale": None if scale is None else scale.state(),
        }
        folder, keep = self.folder.checkpoints, self.settings.checkpoint.keep
        write_checkpoint(folder, self.step, self.learner, state, self.ranks, keep=keep)

    def _result(self, stopped: bool, run_id: str | None) -> TrainResult:
        log = self.log
        return TrainResult(
            run=self.folder.path,
            step=self.step,
            epochs=self.position / self.order.epoch_samples,
            loss=log.last_loss,
            bad={kind.value: count for kind, count in log.bad.items() if count},
            seconds=log.seconds,
            samples_per_s=self.position / max(log.seconds, 1e-9),
            stopped=stopped,
            mlflow_run_id=run_id,
        )


@contextmanager
def _torch_as_set(settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """Leave torch's generators and switches as they were."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = settings.deterministic, not settings.deterministic
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
