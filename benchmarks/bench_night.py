"""What does a second run cost, and a night that brings one photo in a hundred?

    python benchmarks/bench_night.py --pack PACK PHOTOS [--share 0.01] [--engine local]

Links the photos into a folder, curates them, curates again with nothing new, then with the
share that was held back; prints seconds and CPU seconds of each, and of an empty start-up.
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

        def link(some: list[Path]) -> None:
            link_photos(some, args.photos.resolve(), folder / "in")

        def curate(name: str, *options: str) -> Cost:
            cost = run(
                [
                    sys.executable,
                    "-m",
                    "pipelines.cli",
                    "curate",
                    str(folder / "in"),
                    "--labels",
                    "folder",
                    "--models",
                    args.pack,
                    "--out",
                    str(folder / "ds"),
                    "--engine",
                    args.engine,
                    "--workers",
                    args.workers,
                    "--quiet",
                    *options,
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
        for name, cost in (("again", again), ("night", night), ("night - again", None)):
            wall = cost.wall_s if cost else night.wall_s - idle.wall_s
            cpu = cost.cpu_s if cost else night.cpu_s - idle.cpu_s
            print(f"{name:16} {wall / first.wall_s:.2%} of the time, {cpu / first.cpu_s:.2%} CPU")


if __name__ == "__main__":
    main()
