"""A recogniser taught by another: faces, a pool of pictures, steps, an ONNX file; each resumed.

    python -m training.recogniser_run --photos LFW --people people.txt --pairs pairs.txt \\
        --teacher PACK --out RUN [--more FOLDER].. [--recipe F.yaml] [--workers 2]

RUN holds faces.safetensors (what photos gave), pool/ (what the teacher said), checkpoints/,
checks.jsonl (the measures on the test folds by step), first/ (a smaller net that the recipe's
begins as) and, at the end, recogniser.onnx and its twin recogniser_int8.onnx. Photos never leave
RUN; the ONNX files hold weights alone. The builtin pack's recogniser is the recipe
`recipes/builtin_recogniser.yaml` of this (facepipe/builtin/recogniser.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facepipe.allocator import keep_freed
from facepipe.errors import FacepipeError, ModelMismatch
from facepipe.packs import Pack, find_pack
from training import taught_pool
from training.export import HALF_RANGE, onnx_bytes
from training.face_windows import FaceWindows
from training.gathered_faces import Gathered, Say, Sources, gather
from training.int8_twin import int8_bytes
from training.mirrored import Mirrored
from training.recogniser_settings import RECIPE, RecogniserSettings, read_recipe
from training.schedules import factor
from training.stored_weights import stored_bytes
from training.taught_batches import TaughtBatches
from training.taught_check import Check, HeldOut, OnnxNet
from training.taught_learner import TaughtLearner

RECOGNISER, TWIN = "recogniser.onnx", "recogniser_int8.onnx"
CALIBRATION_PICTURES = 512  # that the twin's ranges are measured on
FIRST = "first"  # of a run: the smaller net that the recipe's begins as
FIRST_LOOK = 64  # batches that a net's normalisations are given their statistics back from
SAY_EVERY_S = 30.0


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
    start: bytes | None,
    say: Say,
) -> nn.Module:
    """Take the steps that are left; return the averaged net.

    ``start``: the file of the smaller net that the recipe's begins as.
    """
    learner = TaughtLearner(
        settings.backbone,
        settings.losses,
        settings.optimizer,
        clip_norm=settings.clip_norm,
        ema_decay=settings.ema_decay,
        seed=settings.seed,
        precision=settings.precision,
    )
    learner.load(run)
    if learner.step == 0 and start is not None and settings.first is not None:
        look = [batches.batch(n, settings.batch, settings.seed)[0] for n in range(FIRST_LOOK)]
        smaller = settings.first.backbone
        learner.begin_from(settings.backbone, start, smaller, settings.optimizer, look)
    a_batch, epoch = settings.batch, len(batches) // settings.batch
    steps = max(1, round(settings.epochs * epoch))
    began, first, said = time.monotonic(), learner.step, 0.0
    while learner.step < steps:
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
            learner.save(run)
            check = held.check(learner.averaged(settings.backbone))
            _note(run, learner.step, check)
            say(
                f"step {learner.step}: {check.accuracy:.4f} of the test folds' pairs, "
                f"cosine {check.cosine:.4f}"
            )
    return learner.averaged(settings.backbone)


def main(arguments: list[str] | None = None) -> int:
    """Run a recipe; return the exit code."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    keep_freed()  # a step's maps, for the next step
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
    folds = [fold - 1 for fold in settings.test]
    held = HeldOut(test.faces, test.taught_ND, sources.pairs, folds)
    smaller, start = settings.of_first(), None
    if smaller is not None:
        first = run / FIRST
        first.mkdir(exist_ok=True)
        if not (first / RECOGNISER).exists():
            _run_one(first, _batches(run, learnt, smaller), held, smaller, None, say)
        start = (first / RECOGNISER).read_bytes()
    return _run_one(run, _batches(run, learnt, settings), held, settings, start, say)


def _batches(run: Path, learnt: Gathered, settings: RecogniserSettings) -> TaughtBatches:
    batches = TaughtBatches(run / "pool", settings.pool.files)
    batches.lean_on_people(learnt.faces.person_N, learnt.taught_ND, settings.losses.identity)
    return batches


def _run_one(
    run: Path,
    batches: TaughtBatches,
    held: HeldOut,
    settings: RecogniserSettings,
    start: bytes | None,
    say: Say,
) -> Path:
    net = train(run, batches, held, settings, start, say)
    return _export(run, net, batches, settings, held, say)


def _export(
    run: Path,
    net: nn.Module,
    batches: TaughtBatches,
    settings: RecogniserSettings,
    held: HeldOut,
    say: Say,
) -> Path:
    """Write the recogniser and its twin, and measure both as they were written."""
    notes = {"recipe": settings.model_dump_json()}
    shown = batches.pictures(np.arange(min(CALIBRATION_PICTURES, len(batches))))
    twin = int8_bytes(onnx_bytes(Mirrored(net), notes), shown, HALF_RANGE, HALF_RANGE)
    files = {RECOGNISER: stored_bytes(Mirrored(net), notes), TWIN: twin}
    for name, data in files.items():
        unfinished = run / f"{name}.part"  # a run that goes on takes what has its name for whole
        unfinished.write_bytes(data)
        unfinished.replace(run / name)
        check = held.check(OnnxNet(data, name))
        folds = ", ".join(f"{share:.4f}" for share in check.folds)
        say(f"{name}, {len(data):,} bytes: {check.accuracy:.4f} ({folds}), {check.cosine:.4f}")
    return run / RECOGNISER


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


if __name__ == "__main__":
    sys.exit(main())
