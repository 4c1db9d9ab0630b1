"""What do dedup and clean take at 100,000, 300,000 and a million faces? Time and memory.

    python benchmarks/bench_clean_scale.py [--faces 100000 300000 1000000] [--workers 2] \
        [--folder FOLDER] [--engine local]

Makes synthetic datasets (made_dataset.py: 64 effective dimensions, 40 % wrong labels), runs the
commands `facepipe dedup` and `facepipe clean` on them, start-up and all, and prints seconds, CPU
seconds, and the peak of the memory of the whole process tree. Datasets in --folder are kept and
taken again; their decisions are made anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from made_dataset import make_dataset
from process_tree import Cost, run

WRONG, DIMENSIONS = 0.4, 64
DECIDED = ("dedup", "by_label", "clean")  # steps that are run here


def main() -> None:
    """Make the datasets and run the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--workers", default="2")
    parser.add_argument("--engine", default="local")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--commands", nargs="+", default=["dedup", "clean"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for faces in args.faces:
            folder = (args.folder or Path(temporary)) / f"faces{faces}"
            if not (folder / "MANIFEST.json").exists():
                make_dataset(folder, faces, WRONG, DIMENSIONS, seed=0)
            forget(folder)
            for command in args.commands:
                measure(folder, command, faces, args)
            if args.folder is None:
                shutil.rmtree(folder)


def forget(folder: Path) -> None:
    """Let the steps be done anew."""
    for step in DECIDED:
        shutil.rmtree(folder / "_commits" / step, ignore_errors=True)
        (folder / "_commits" / f"{step}.jsonl").unlink(missing_ok=True)
        (folder / "_plan" / f"{step}.json").unlink(missing_ok=True)


def measure(folder: Path, command: str, faces: int, args: argparse.Namespace) -> None:
    """Run one command twice, for its memory and for its time: looking takes time."""
    times = once(folder, command, args, memory=False)
    forget_one = [step for step in DECIDED if (step == "dedup") == (command == "dedup")]
    for step in forget_one:
        shutil.rmtree(folder / "_commits" / step, ignore_errors=True)
        (folder / "_commits" / f"{step}.jsonl").unlink(missing_ok=True)
    peak = once(folder, command, args, memory=True).peak_bytes
    parts = {
        f"{report['step']}.{part}": seconds
        for report in json.loads(times.stdout)["steps"]
        for part, seconds in report["seconds"].items()
    }
    print(
        f"{faces:9} faces  {command:6} {times.wall_s:8.1f} s  {times.cpu_s:8.1f} CPU-s  "
        f"{peak / 1e6:8.1f} MB  {faces / times.wall_s:9.0f} faces/s  "
        + " ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items()),
        flush=True,
    )


def once(folder: Path, command: str, args: argparse.Namespace, *, memory: bool) -> Cost:
    """Run a command."""
    options = ["--workers", args.workers, "--engine", args.engine, "--quiet", "--json"]
    if command == "clean":  # one task: as many threads as there would be workers
        options += ["--set", f"run.resources.clean.num_cpus={args.workers}"]
    cost = run(
        [sys.executable, "-m", "pipelines.cli", command, "--out", str(folder), *options],
        memory=memory,
    )
    if cost.returncode:
        sys.exit(f"{command} failed on {folder}")
    return cost


if __name__ == "__main__":
    main()
