"""What does a second run cost, and a night that brings one photo in a hundred?

    python benchmarks/bench_night.py --pack PACK PHOTOS [--share 0.01] [--engine local]

Links the photos into a folder, curates them, curates again with nothing new, then with the
share that was held back; prints seconds and CPU seconds of each. Start-up is what a first run
with a photo for each worker costs: processes, models and every step once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mixed_sources import link_photos
from process_tree import Cost, run


def main() -> None:
    """Run the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--pack", required=True)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", default="2")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = sorted(p for p in args.photos.resolve().rglob("*") if p.is_file())
        step = round(1 / args.share)
        late = photos[step // 2 :: step]

        def link(some: list[Path], where: str = "in") -> None:
            link_photos(some, args.photos.resolve(), folder / where)

        def curate(name: str, where: str = "in", *more: str) -> Cost:
            cost = run(
                [
                    sys.executable,
                    "-m",
                    "pipelines.cli",
                    "curate",
                    str(folder / where),
                    "--labels",
                    "folder",
                    "--models",
                    args.pack,
                    "--out",
                    str(folder / f"ds-{where}"),
                    "--engine",
                    args.engine,
                    "--workers",
                    args.workers,
                    "--quiet",
                    *more,
                ]
            )
            if cost.returncode:
                sys.exit(f"{name} failed")
            print(f"{name:32} {cost.wall_s:7.2f} s {cost.cpu_s:7.2f} CPU-s", flush=True)
            return cost

        link([p for p in photos if p not in set(late)])
        first = curate(f"first run, {len(photos) - len(late)} photos")
        again = curate("the same again")
        link(late)
        night = curate(f"{len(late)} new photos")
        idle = curate("the same again")
        link(photos[: int(args.workers)], "few")
        start_up = curate("start-up", "few", "--set", "run.shard_photos=1")
        for name, cost, less in (
            ("again", again, None),
            ("night", night, None),
            ("night - again", night, idle),
            ("night - start-up", night, start_up),
        ):
            wall = cost.wall_s - (less.wall_s if less else 0.0)
            cpu = cost.cpu_s - (less.cpu_s if less else 0.0)
            print(f"{name:16} {wall / first.wall_s:.2%} of the time, {cpu / first.cpu_s:.2%} CPU")


if __name__ == "__main__":
    main()
