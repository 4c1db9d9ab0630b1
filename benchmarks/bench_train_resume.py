"""Does a killed training go on exactly? Kills at random, compares with an undisturbed run.

    PYTHONPATH=. python benchmarks/bench_train_resume.py [--kills 20] [--ranks 1 2] [--seed 0]

A small net on made crops, with everything that has a state: dropout, CurricularFace, sampled
classes, a center loss, averaged weights, two batches a step. In two of three starts a random rank
is killed (SIGKILL) after a random step, in the third while a checkpoint is being written; the
other ranks are killed with it, as torchrun does. Prints a line a number of ranks: kills, steps
done twice, and whether every logged number, every file of the last checkpoint and the exported
pack are those of the undisturbed run, byte for byte. Exits 1 where one is not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.training.train_runs import Job, metrics_of, run_ranks, run_settings, state_of
from training.checkpoint import checkpoints
from training.settings import TrainSettings

STEPS, EVERY = 160, 4


def main() -> None:
    """Compare for each number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {STEPS} steps, a checkpoint every {EVERY}")
    print(f"{'ranks':>5} {'kills':>6} {'in a write':>11} {'logged twice':>12}  verdict")
    same = True
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            same &= trial(Path(folder), ranks, args.kills, random.Random(args.seed))
    sys.exit(0 if same else 1)


def settings() -> TrainSettings:
    """Return the run that is killed."""
    return run_settings(
        steps=STEPS,
        backbone={"name": "tiny", "dim": 8, "dropout": 0.3},
        head={"margin": {"name": "curricularface", "scale": 16.0}, "sample_rate": 0.5},
        center={},
        ema_decay=0.9,
        accumulation=2,
        log_every_steps=3,
        checkpoint={"every_steps": EVERY},
    )


def trial(folder: Path, ranks: int, kills: int, rng: random.Random) -> bool:
    """Print how a killed run compares; return whether it is the same."""
    made, out = settings(), folder / "killed"
    assert run_ranks(Job(out=folder / "whole", settings=made), ranks) == [0] * ranks
    killed = writing = again = at = 0
    while killed < kills:
        in_write = killed % 3 == 2
        job = Job(
            out=out,
            settings=made,
            victim=0 if in_write else rng.randrange(ranks),
            kill_at=None if in_write else at + rng.randint(1, 2 * EVERY),
            kill_in_write=rng.randint(1, 6) if in_write else None,
        )
        if all(code == 0 for code in run_ranks(job, ranks)):
            break  # the end came first
        killed, writing = killed + 1, writing + in_write
        reached = max([0, *(int(row["step"]) for row in metrics_of(out))])
        at = max([0, *(int(path.name[5:]) for path in checkpoints(out / "checkpoints"))])
        again += max(0, reached - at)
    assert run_ranks(Job(out=out, settings=made), ranks) == [0] * ranks
    whole = folder / "whole"
    same = {
        "metrics": metrics_of(out) == metrics_of(whole),
        "checkpoint": state_of(out) == state_of(whole),
        "pack": files(out / "pack") == files(whole / "pack"),
    }
    wrong = [name for name, alike in same.items() if not alike]
    verdict = f"DIFFERS: {', '.join(wrong)}" if wrong else "the same, byte for byte"
    print(f"{ranks:>5} {killed:>6} {writing:>11} {again:>12}  {verdict}", flush=True)
    return not wrong


def files(folder: Path) -> dict[str, bytes]:
    """Return a folder's files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    main()
