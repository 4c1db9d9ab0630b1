"""Which loss teaches a small net most about faces, from few people and in the same few minutes?

    facepipe curate LFW --labels folder --models PACK --out FACES
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/bench_losses.py run FACES \\
        --pairs pairs.txt --people people.txt --out OUT
        [--losses arcface ..] [--seeds 1 2 3 4 5] [--minutes 1.2] [--workers 2] [--pause FILE]
    python benchmarks/bench_losses.py table OUT --pairs pairs.txt \\
        [--figure docs/loss-curves.svg] [--page docs/training-results.md]

LFW's folds share nobody. The last two folds of pairs.txt are the test. Each loss has four tries
(loss_families.py), with seed 0, trained on the folds before the last three and measured on the
third last by AUC; the best one is then trained with every seed on all folds but the last two. A
run has --minutes times 60 times SAMPLES_PER_S samples, whatever the loss and the machine, and one
thread; --workers runs are under way side by side.

Every finished run is a line of OUT/runs.jsonl: run again, and what is there is not done again; a
run that was killed goes on from its last checkpoint. While FILE exists no run begins.

The table: means over seeds of accuracy (each fold by the other's threshold), AUC and TAR at a FAR
of 1 %, the deviation over seeds, and the difference of accuracy to ArcFace with the interval of a
bootstrap that draws people and seeds anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from lfw_split import test_pairs, training_samples
from loss_families import FAMILIES
from loss_report import draw, paged, table
from loss_runs import BATCH, UNTRAINED, Run, result_of

from facepipe.evaluate import read_people
from facepipe.shards import open_dataset

SAMPLES_PER_S = 240  # of one core of a Xeon with AMX: what a minute of a run stands for
TUNE, FINAL = "tune", "final"
TUNE_SEED = 0
PAUSE_S = 20
TEST_FOLDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces:
    """Where the faces are, and the files that cut them."""

    dataset: str
    pairs: Path
    people: Path
    pause: Path | None


_FACES: Faces
_LOADED: dict[str, Any] = {}  # of a worker, by stage


def main() -> None:
    """Run or report."""
    args = _arguments()
    log = args.out / "runs.jsonl"
    if args.command == "table":
        text = table(finished(log).values(), args.pairs)
        print(text)
        if args.figure:
            draw(finished(log).values(), args.figure)
            text += f"\n\n![AUC by step, mean over seeds]({args.figure.name})"
        if args.page:
            args.page.write_text(paged(args.page.read_text(), text))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    faces = Faces(dataset=args.faces, pairs=args.pairs, people=args.people, pause=args.pause)
    steps = round(args.minutes * 60 * SAMPLES_PER_S / BATCH)
    with ProcessPoolExecutor(
        args.workers, get_context("spawn"), initializer=_start, initargs=(faces,)
    ) as pool:
        tries = list(tries_of(args.losses, steps))
        for runs in (
            lambda: tries,
            lambda: finals_of(finished(log), args.losses, args.seeds, steps),
        ):
            missing = [run for run in runs() if run.key not in finished(log)]
            work = [pool.submit(_run, run, args.out) for run in missing]
            for done in as_completed(work):
                keep(log, done.result())
    print(table(finished(log).values(), args.pairs))


def tries_of(losses: Iterable[str], steps: int) -> Iterator[Run]:
    """Yield the tries of each loss."""
    for loss in losses:
        for rate, value in FAMILIES[loss].tries():
            yield Run(stage=TUNE, loss=loss, seed=TUNE_SEED, rate=rate, value=value, steps=steps)


def finals_of(
    done: dict[str, dict[str, Any]], losses: list[str], seeds: list[int], steps: int
) -> list[Run]:
    """Return the runs that count, seed by seed: each loss with its best try, and no training."""
    runs = []
    for seed in seeds:
        runs.append(Run(stage=FINAL, loss=UNTRAINED, seed=seed, rate=0.0, value=0.0, steps=0))
        for loss in losses:
            tried = [done[run.key] for run in tries_of([loss], steps)]
            best = max(tried, key=lambda result: result["auc"])  # the first of equals
            rate, value = best["rate"], best["value"]
            runs.append(Run(stage=FINAL, loss=loss, seed=seed, rate=rate, value=value, steps=steps))
    return runs


def finished(log: Path) -> dict[str, dict[str, Any]]:
    """Return the runs that are done, by key; the last line may be half of one."""
    lines = log.read_text().splitlines() if log.exists() else []
    found = {}
    for line in lines:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        found[result["key"]] = result
    return found


def keep(log: Path, result: dict[str, Any]) -> None:
    """Append a run, so that it is there whole or not at all."""
    with log.open("a+b") as file:
        # A line that was cut off by a kill is ended first.
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(result).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    brief = {key: result[key] for key in ("key", "accuracy", "auc", "seconds")}
    print(json.dumps(brief), flush=True)


def _start(faces: Faces) -> None:
    global _FACES
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _FACES = faces


def _run(run: Run, out: Path) -> dict[str, Any]:
    while _FACES.pause is not None and _FACES.pause.exists():
        time.sleep(PAUSE_S)
    samples, pairs = _loaded(run.stage)
    return result_of(run, samples, pairs, out)


def _loaded(stage: str) -> Any:
    """Return a stage's training samples and test pairs; read once a worker."""
    if stage not in _LOADED:
        dataset, folds = open_dataset(_FACES.dataset), read_people(_FACES.people)
        first_test = len(folds) - TEST_FOLDS
        trained = folds[: first_test - 1] if stage == TUNE else folds[:first_test]
        tested = [first_test - 1] if stage == TUNE else range(first_test, len(folds))
        people = set().union(*trained)
        if people & set().union(*(folds[fold] for fold in tested)):
            raise SystemExit(f"{_FACES.people} has people in two folds: these are not LFW's")
        _LOADED[stage] = (
            training_samples(dataset, people),
            test_pairs(dataset, _FACES.pairs, list(tested)),
        )
    return _LOADED[stage]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("faces")
    run.add_argument("--people", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--losses", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    run.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    run.add_argument("--minutes", type=float, default=1.2, help="of one core, a run")
    run.add_argument("--workers", type=int, default=2)
    run.add_argument("--pause", type=Path, help="no run begins while this file exists")
    report = commands.add_parser("table")
    report.add_argument("out", type=Path)
    report.add_argument("--figure", type=Path, help="an SVG of the curves")
    report.add_argument("--page", type=Path, help="a page whose tables are put in between marks")
    for command in (run, report):
        command.add_argument("--pairs", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
