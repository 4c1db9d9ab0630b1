"""A recogniser taught by another: faces, a pool of pictures, steps, an ONNX file; each resumed.

    python -m training.recogniser_run --photos LFW --people people.txt --pairs pairs.txt \\
        --teacher PACK --out RUN [--more FOLDER].. [--recipe F.yaml] [--workers 2]

RUN holds faces.safetensors (what photos gave), pool/ (what the teacher said), checkpoints/,
checks.jsonl (the measures on the test folds by step) and, at the end, recogniser.onnx. Photos
never leave RUN; the ONNX file holds weights alone. The builtin pack's recogniser is the recipe
`recipes/builtin_recogniser.yaml` of this (facepipe/builtin/recogniser.md).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facepipe.errors import FacepipeError, ModelMismatch
from facepipe.packs import Pack, find_pack
from training import taught_pool
from training.checkpoint import checkpoints
from training.face_windows import (
    NOBODY,
    FaceWindows,
    embeddings,
    joined,
    named_faces,
    unnamed_faces,
    without,
)
from training.mirrored import Mirrored
from training.recogniser_settings import RECIPE, RecogniserSettings, read_recipe
from training.schedules import factor
from training.stored_weights import stored_bytes
from training.taught_batches import TaughtBatches
from training.taught_check import Check, HeldOut, people_by_fold
from training.taught_learner import TaughtLearner
from training.tensor_file import read_tensors, tensor_bytes

FACES = "faces.safetensors"
SAY_EVERY_S = 30.0
Say = Callable[[str], None]


class Sources:
    """Where a run's faces come from."""

    def __init__(self, photos: Path, people: Path, pairs: Path, more: list[Path]) -> None:
        """Keep the places; nothing is read yet."""
        self.photos, self.people, self.pairs, self.more = photos, people, pairs, more


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Faces of a run, and the teacher's unit embedding of each, flip-summed."""

    faces: FaceWindows
    taught_ND: npt.NDArray[np.float32]

    def only(self, keep_N: npt.NDArray[np.bool_]) -> Gathered:
        """Return some of them."""
        return Gathered(faces=self.faces.only(keep_N), taught_ND=self.taught_ND[keep_N])


def gather(
    run: Path, sources: Sources, settings: RecogniserSettings, pack: Pack, say: Say
) -> tuple[Gathered, Gathered]:
    """Return the faces to learn and those to test on, from RUN where they are there already."""
    folds = people_by_fold(sources.people)
    held_out = set().union(*(folds[n - 1] for n in settings.held_out), set())
    test_people = set().union(*(folds[n - 1] for n in settings.test))
    learn_people = set().union(*folds) - held_out
    path = run / FACES
    if not path.exists():
        say("looking for faces")
        named = named_faces(sources.photos, pack, learn_people | held_out | test_people)
        faces = joined([named, *(unnamed_faces(folder, pack) for folder in sources.more)])
        say(f"asking the teacher about {len(faces.names):,} faces")
        save_faces(path, Gathered(faces=faces, taught_ND=embeddings(faces, pack)))
    every = read_faces(path)
    person_N = every.faces.person_N
    folder_of = [name.split("/")[0] for name in every.faces.names]
    named_N = person_N != NOBODY
    held_N = named_N & _in(folder_of, held_out)
    keep_N = ~held_N & without(every.taught_ND, person_N, every.taught_ND[held_N])
    keep_N &= ~named_N | _in(folder_of, learn_people)
    return every.only(keep_N), every.only(named_N & _in(folder_of, test_people))


def fill_pool(
    run: Path, faces: FaceWindows, pack: Pack, settings: RecogniserSettings, workers: int, say: Say
) -> None:
    """Make what is missing of the pool, by several processes."""
    folder, wanted = run / "pool", settings.pool.files
    taught_pool.open_pool(folder, faces, pack, settings.pool, settings.seed)
    missing = [n for n in range(wanted) if not taught_pool.file_of(folder, n).exists()]
    if not missing:
        return
    job = (folder, faces, pack, settings.pool, settings.seed)
    with ProcessPoolExecutor(workers, get_context("spawn"), taught_pool.take_job, job) as pool:
        tasks = [pool.submit(taught_pool.make_file, number) for number in missing]
        for done, _ in enumerate(as_completed(tasks), wanted - len(missing) + 1):
            say(f"pool: {done} of {wanted} files")
        for task in tasks:
            task.result()


def train(
    run: Path,
    batches: TaughtBatches,
    held: HeldOut,
    settings: RecogniserSettings,
    say: Say,
    stop: Callable[[], bool] = lambda: False,
) -> nn.Module | None:
    """Take the steps that are left; return the averaged net, or nothing where it was stopped."""
    learner = TaughtLearner(
        settings.backbone,
        settings.losses,
        settings.optimizer,
        clip_norm=settings.clip_norm,
        ema_decay=settings.ema_decay,
        seed=settings.seed,
    )
    saved = checkpoints(run / "checkpoints")
    if saved:
        learner.load(saved[-1])
    a_batch, epoch = settings.batch, len(batches) // settings.batch
    steps = max(1, round(settings.epochs * epoch))
    began, first, said = time.monotonic(), learner.step, 0.0
    while learner.step < steps and not stop():
        step = learner.step
        rate = factor(
            settings.schedule,
            step * a_batch,
            (step + 1) * a_batch,
            total=steps * a_batch,
            epoch_samples=epoch * a_batch,
        )
        terms = learner.learn(*batches.batch(step, a_batch, settings.seed), rate)
        passed = time.monotonic() - began
        if passed - said > SAY_EVERY_S:
            said, speed = passed, (learner.step - first) / passed
            left_min = (steps - learner.step) / speed / 60
            shown = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
            say(
                f"step {learner.step} of {steps}: {speed * a_batch:.0f} pictures/s, "
                f"{left_min:.0f} min left; {shown}"
            )
        if learner.step % settings.check_every == 0 or learner.step == steps:
            learner.save(run / "checkpoints")
            check = held.check(learner.averaged(settings.backbone))
            _note(run, learner.step, check)
            say(
                f"step {learner.step}: {check.accuracy:.4f} of the test folds' pairs, "
                f"cosine {check.cosine:.4f}"
            )
    return learner.averaged(settings.backbone) if learner.step >= steps else None


def main(arguments: list[str] | None = None) -> int:
    """Run a recipe; return the exit code."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:8.0f} s  {text}", file=sys.stderr, flush=True)

    try:
        sources = Sources(given.photos, given.people, given.pairs, given.more)
        run_recipe(given.out, sources, read_recipe(given.recipe), given.teacher, given.workers, say)
    except FacepipeError as error:
        print(f"facepipe: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run_recipe(
    run: Path,
    sources: Sources,
    settings: RecogniserSettings,
    teacher: str,
    workers: int,
    say: Say,
) -> Path:
    """Make what is missing of a run, to the end; return its ONNX file."""
    pack = find_pack(teacher)
    run.mkdir(parents=True, exist_ok=True)
    _claim(run, settings)
    learnt, test = gather(run, sources, settings, pack, say)
    faces = learnt.faces
    say(f"{len(faces.names):,} faces to learn from, {len(test.faces.names):,} to test on")
    fill_pool(run, faces, pack, settings, workers, say)
    batches = TaughtBatches(run / "pool", settings.pool.files)
    batches.lean_on_people(faces.person_N, learnt.taught_ND, settings.losses.identity)
    folds = [fold - 1 for fold in settings.test]
    held = HeldOut(test.faces, test.taught_ND, sources.pairs, folds)
    net = train(run, batches, held, settings, say)
    assert net is not None  # nobody asked it to stop
    path = run / "recogniser.onnx"
    path.write_bytes(stored_bytes(Mirrored(net), {"recipe": settings.model_dump_json()}))
    say(f"wrote {path}, {path.stat().st_size:,} bytes")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.recogniser_run",
        description="Train a small recogniser that a larger one teaches.",
    )
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="LFW's folder: one folder of photos per person")
    add("--people", type=Path, required=True, help="LFW's people.txt, which says the folds")
    add("--pairs", type=Path, required=True, help="LFW's pairs.txt, to measure with")
    add("--more", type=Path, nargs="*", default=[], help="folders of other photos, without names")
    add("--teacher", required=True, help="a pack: its detector finds, its recogniser teaches")
    add("--recipe", type=Path, default=RECIPE, help="default: the builtin pack's")
    add("--out", type=Path, required=True, help="folder of the run; begun runs go on")
    add("--workers", type=int, default=1, help="processes that make the pool")
    add("--threads", type=int, default=1, help="of a training step; changes its last bits")
    return parser


def _claim(run: Path, settings: RecogniserSettings) -> None:
    path, text = run / "recipe.json", settings.model_dump_json(indent=1) + "\n"
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise ModelMismatch(f"{run} is a run of another recipe: give a folder of its own")


def _note(run: Path, step: int, check: Check) -> None:
    line = {"step": step, "accuracy": check.accuracy, "folds": check.folds, "cosine": check.cosine}
    with (run / "checks.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _in(names: list[str], people: set[str]) -> npt.NDArray[np.bool_]:
    return np.array([name in people for name in names], bool)


def save_faces(path: Path, gathered: Gathered) -> None:
    """Write faces to a file, whole or not at all."""
    faces = gathered.faces
    tensors = {
        "pixels": torch.from_numpy(faces.pixels_NHWC),
        "person": torch.from_numpy(faces.person_N),
        "names": torch.frombuffer(bytearray("\n".join(faces.names).encode()), dtype=torch.uint8),
        "taught": torch.from_numpy(gathered.taught_ND),
    }
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_bytes(tensor_bytes(tensors))
    partial.replace(path)


def read_faces(path: Path) -> Gathered:
    """Return the faces of a file. Raises CorruptData where it is cut short."""
    tensors = read_tensors(path.read_bytes(), str(path))
    faces = FaceWindows(
        pixels_NHWC=tensors["pixels"].numpy(),
        person_N=tensors["person"].numpy(),
        names=tuple(bytes(tensors["names"].numpy()).decode().split("\n")),
    )
    return Gathered(faces=faces, taught_ND=tensors["taught"].numpy())


if __name__ == "__main__":
    sys.exit(main())
