"""What do the engines add? CPU per photo and at start-up, and what two workers reach.

    python benchmarks/bench_cost.py --pack PACK PHOTOS [--few 100] [--many 600] [--rounds 3]

Each engine runs detect and embed with one worker on few and on many photos, interleaved:
the slope is the cost of a photo once started, the rest is start-up. Then two workers of each
engine, again by the difference of many and few, beside two independent raw loops (raw_loop.py)
on the same photos, their models opened before. Medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mixed_sources import link_photos
from process_tree import run

ENGINES = ("local", "ray", "beam")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--pack", required=True)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    args = parser.parse_args()
    photos = sorted(p for p in args.photos.resolve().rglob("*") if p.is_file())
    cpu: dict[tuple[str, int], list[float]] = {}
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for count in (args.few, args.many):
            link_photos(photos[:count], args.photos.resolve(), root / f"in{count}")
        for turn in range(args.rounds):
            for engine in args.engines:
                for count in (args.few, args.many):
                    cost = curate(root, f"{engine}-{count}-{turn}", count, engine, 1, args.pack)
                    cpu.setdefault((engine, count), []).append(cost[0])
                few, many = (
                    curate(root, f"two-{engine}-{count}-{turn}", count, engine, 2, args.pack)[1]
                    for count in (args.few, args.many)
                )
                rates.setdefault(engine, []).append((args.many - args.few) / (many - few))
            raw = raw_loops(root / f"in{args.many}", args.pack)
            rates.setdefault("two raw loops", []).append(raw)
    report(cpu, rates, args)


def curate(
    root: Path, name: str, count: int, engine: str, workers: int, pack: str
) -> tuple[float, float]:
    """Run detect and embed; return CPU seconds in all and seconds of the two steps."""
    command = [sys.executable, "-m", "pipelines.cli"]
    options = ["--out", str(root / name), "--models", pack, "--engine", engine, "--quiet"]
    options += ["--workers", str(workers), "--json"]
    source = str(root / f"in{count}")
    cost = run([*command, "curate", source, *options, "--no-index", "--no-report"])
    if cost.returncode:
        sys.exit(f"{name} failed")
    steps = json.loads(cost.stdout)["steps"]
    return cost.cpu_s, sum(s["wall_s"] for s in steps if s["step"][:5] in ("detec", "embed"))


def raw_loops(folder: Path, pack: str) -> float:
    """Return the photos a second of two bare loops, each on one half."""
    loops = [
        subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("raw_loop.py")),
                pack,
                str(i),
                "2",
                str(folder),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        for i in range(2)
    ]
    for loop in loops:
        assert loop.stdout is not None and loop.stdout.readline() == "ready\n"
    for loop in loops:
        assert loop.stdin is not None
        loop.stdin.write("go\n")
        loop.stdin.flush()
    results = [loop.communicate()[0].split() for loop in loops]
    return sum(int(r[0]) for r in results) / max(float(r[1]) for r in results)


def report(
    cpu: dict[tuple[str, int], list[float]], rates: dict[str, list[float]], args: argparse.Namespace
) -> None:
    """Print medians and ratios."""
    slopes, starts = {}, {}
    for engine in args.engines:
        few, many = (statistics.median(cpu[engine, n]) for n in (args.few, args.many))
        slopes[engine] = (many - few) / (args.many - args.few)
        starts[engine] = few - slopes[engine] * args.few
    for engine in args.engines:
        print(
            f"{engine:14} {1000 * slopes[engine]:6.2f} CPU-ms a photo, "
            f"{slopes[engine] / slopes[args.engines[0]]:.3f} of {args.engines[0]}; start-up "
            f"{starts[engine]:.2f} CPU-s, {starts[engine] - starts[args.engines[0]]:+.2f}"
        )
    raw = statistics.median(rates["two raw loops"])
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"{name:14} two at once: {rate:6.1f} photos/s, {rate / raw:.3f} of the raw loops")


if __name__ == "__main__":
    main()
