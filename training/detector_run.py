"""Trains a face detector from photos and a teacher, from fresh weights to an ONNX file.

    python -m training.detector_run --photos LFW VARIOUS --teacher PACK --wider WIDER --out RUN \
        --people people.txt --leave-out-folds 6 7 --recipe training/recipes/builtin_detector.yaml

The teacher is a pack with a detector (YuNet's weights, Apache-2.0); WIDER is a folder of photos
with labels.csv, of which every second photo by name is kept out. The same command goes on where
a killed run stood, with the same weights. RUN holds run.json (settings, and a digest of photos,
labels and teacher), labels.npz (what the teacher said), checkpoints/ and, at the end,
detector.onnx. Progress goes to stderr, the file's path to stdout.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facepipe import ids
from facepipe.allocator import keep_freed
from facepipe.errors import ConfigError, FacepipeError
from facepipe.packs import find_pack
from training.detector_album import Photo, album_of
from training.detector_batches import batch_of
from training.detector_export import FILE, detector_bytes, folded
from training.detector_loss import Losses, LossSettings, detector_loss
from training.detector_mosaics import Mosaics, MosaicSettings
from training.detector_net import DetectorNet, NetSettings, last_layer
from training.detector_photos import labelled_half, people_of_folds, photos_in
from training.ema import WeightAverage
from training.muon_adamw import MuonAdamW, build_optimizers
from training.optimizers import set_rates
from training.run_state import begin, read_state, write_state, write_whole
from training.schedules import Cosine, factor

EPOCH_PICTURES = 10_000  # an epoch of pictures that never repeat is only a unit of the schedule
EXPORT_ONLY = {"score_scale", "score_shift"}  # settings that change the file and no weight
MOST_NORM = 10.0  # of the gradient: a batch of odd pictures moves the net no further


class FinishSettings(BaseModel):
    """More pictures at the end, from a lower rate on and with other stress on landmarks.

    Scores gain from small steps over many pictures, and lose to landmarks while they are learned;
    landmarks come last, when scores hardly move any more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int = Field(24_000, ge=1, description="to see besides")
    landmarks: float = Field(4.0, ge=0, description="weight of the landmarks' part")
    rate: float = Field(0.3, gt=0, le=1, description="share of the rates that it begins with")


class DetectorSettings(BaseModel):
    """A detector's training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="of fresh weights and of all pictures")
    pictures: int = Field(200_000, ge=1, description="to see; a step takes batch of them")
    batch: int = Field(24, ge=1, description="pictures a step")
    looks: tuple[float, ...] = Field(
        (0.64, 1.0, 1.4), description="the teacher's sizes, as shares of a photo's longer side"
    )
    net: NetSettings = NetSettings()
    mosaics: MosaicSettings = MosaicSettings()
    loss: LossSettings = LossSettings()
    optimizer: MuonAdamW = MuonAdamW()
    schedule: Cosine = Cosine(warmup_epochs=0.5, floor=0.01)
    finish: FinishSettings | None = Field(None, description="what comes after these pictures")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the averaged weights, a step")
    bf16: bool = Field(True, description="convolutions in bfloat16; all else in float32")
    threads: int = Field(1, ge=1, description="of torch")
    checkpoint_steps: int = Field(500, ge=1, description="from one checkpoint to the next")
    score_scale: float = Field(1.0, gt=0, description="of the exported logits")
    score_shift: float = Field(0.0, description="of the exported logits, after scaling")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a step did."""

    number: int
    steps: int
    pictures_per_s: float
    seconds_left: float
    losses: Losses


def load(path: Path | None) -> DetectorSettings:
    """Return the settings of a YAML file. Raises ConfigError, naming the key."""
    if path is None:
        return DetectorSettings()
    try:
        return DetectorSettings(**(yaml.safe_load(path.read_text(encoding="utf-8")) or {}))
    except (OSError, TypeError, ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is no recipe of a detector: {error}") from error


def train_detector(
    settings: DetectorSettings,
    album: Sequence[Photo],
    run: Path,
    *,
    lineage: str = "",
    on_step: Callable[[Step], None] | None = None,
    stop: Callable[[int], bool] | None = None,
) -> DetectorNet:
    """Train to the end, or until ``stop`` says so after a step; go on where the run stands.

    Returns the net with averaged weights, in evaluation mode. ``lineage`` tells the photos and
    their labels. Raises UsageError where the run is of other settings or lineage.
    """
    told = settings.model_dump(mode="json", exclude=EXPORT_ONLY, exclude_none=True)
    begin(run, {"settings": told, "lineage": lineage})
    torch.manual_seed(settings.seed)
    net = DetectorNet(settings.net)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    answering = [last_layer(head)[0] for head in net.heads]
    optimizers = build_optimizers(net, settings.optimizer, answering)
    average = WeightAverage(net, settings.ema_decay)
    done = read_state(run, net, average, optimizers)
    mosaics = Mosaics(album, settings.mosaics, settings.seed)
    steps = _steps(settings.pictures, settings)
    if settings.finish is not None:
        steps += _steps(settings.finish.pictures, settings)
    started, first = time.perf_counter(), done
    net.train()
    for step in range(done, steps):
        losses = _step(settings, step, net, optimizers, mosaics)
        average.update(step + 1)
        rate = (step + 1 - first) / (time.perf_counter() - started)
        if on_step is not None:
            left = (steps - step - 1) / rate
            on_step(
                Step(
                    number=step + 1,
                    steps=steps,
                    pictures_per_s=rate * settings.batch,
                    seconds_left=left,
                    losses=losses,
                )
            )
        last = step + 1 == steps
        if last or (step + 1) % settings.checkpoint_steps == 0:
            write_state(run, step + 1, net, average, optimizers)
        if stop is not None and stop(step + 1):
            break
    net.load_state_dict(average.state)
    return net.eval()


def _step(
    settings: DetectorSettings,
    step: int,
    net: DetectorNet,
    optimizers: Sequence[torch.optim.Optimizer],
    mosaics: Mosaics,
) -> Losses:
    """Take a step; return its losses. Raises FacepipeError where they are not finite."""
    seen = step * settings.batch
    numbers = range(seen, seen + settings.batch)
    drawn = [mosaics.picture(n // EPOCH_PICTURES, n % EPOCH_PICTURES) for n in numbers]
    pictures, truth, points = batch_of(drawn)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        answer = net(pictures)
    side = settings.mosaics.canvas_px
    weights, share = _course(settings, step)
    losses = detector_loss(answer, truth, points, (side, side), weights)
    if not bool(losses.total().isfinite()):
        raise FacepipeError(
            f"the loss of step {step + 1} is not finite: lower optimizer.lr, and run again"
        )
    for optimizer in optimizers:
        optimizer.zero_grad()
    losses.total().backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(net.parameters(), MOST_NORM)
    set_rates(optimizers, share)
    for optimizer in optimizers:
        optimizer.step()
    return Losses(*(part.detach() for part in losses))


def _steps(pictures: int, settings: DetectorSettings) -> int:
    return -(-pictures // settings.batch)


def _course(settings: DetectorSettings, step: int) -> tuple[LossSettings, float]:
    """Return the weights of a step's losses, and the share of the base rates."""
    before, finish = _steps(settings.pictures, settings), settings.finish
    if finish is None or step < before:
        weights, schedule, total, rate = settings.loss, settings.schedule, settings.pictures, 1.0
    else:
        weights = settings.loss.model_copy(update={"landmarks": finish.landmarks})
        schedule = settings.schedule.model_copy(update={"warmup_epochs": 0.0})
        step, total, rate = step - before, finish.pictures, finish.rate
    seen = step * settings.batch
    share = factor(schedule, seen, seen + settings.batch, total=total, epoch_samples=EPOCH_PICTURES)
    return weights, rate * share


class _Told:
    """Prints a line now and then."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._sums: list[float] = [0.0, 0.0, 0.0]

    def __call__(self, step: Step) -> None:
        self._sums = [s + float(v) for s, v in zip(self._sums, step.losses, strict=True)]
        if step.number % self._every and step.number != step.steps:
            return
        score, box, landmarks = (s / self._every for s in self._sums)
        self._sums = [0.0, 0.0, 0.0]
        print(
            f"step {step.number} of {step.steps}: score {score:.3f} box {box:.3f} landmarks "
            f"{landmarks:.3f}; {step.pictures_per_s:.1f} pictures/s, "
            f"{step.seconds_left / 60:.1f} min left",
            file=sys.stderr,
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="training.detector_run", description=__doc__)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--wider", type=Path, required=True, help="photos with labels.csv")
    parser.add_argument("--teacher", required=True, help="a pack with a detector")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--people", type=Path, help="people.txt of LFW: who is in which fold")
    parser.add_argument("--leave-out-folds", type=int, nargs="*", default=[])
    given = parser.parse_args(arguments)
    try:
        print(_run(given))
    except FacepipeError as error:
        print(f"detector_run: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(given: Any) -> Path:
    settings = load(given.recipe)
    torch.set_num_threads(settings.threads)
    keep_freed()  # a step's maps, for the next step
    left_out = people_of_folds(given.people, given.leave_out_folds) if given.people else set()
    sources = [*photos_in(given.photos, left_out), *labelled_half(given.wider, training=True)]
    labels = given.out / "labels.npz"
    album = album_of(sources, find_pack(given.teacher), settings.looks, labels)
    lineage = ids.sha256_hex(labels.read_bytes())
    net = train_detector(settings, album, given.out, lineage=lineage, on_step=_Told(50))
    notes = {"trained_by": "facepipe training.detector_run", "labels_sha256": lineage}
    data = detector_bytes(folded(net, settings.score_scale, settings.score_shift), notes)
    write_whole(given.out / FILE, data)
    return Path(given.out / FILE)


if __name__ == "__main__":
    sys.exit(main())
