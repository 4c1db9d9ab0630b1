"""Does memory grow with the data? The peak of the whole process tree at N, 4N and 16N photos.

    python benchmarks/bench_memory.py --pack PACK PHOTOS [--photos 500] [--engine local]

The sum of proportional set sizes of the driver and all it starts, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mixed_sources import link_photos
from process_tree import run


def main() -> None:
    """Run the three sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos_folder", type=Path)
    parser.add_argument("--pack", required=True)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--command", default="curate", choices=["curate", "detect"])
    args, extra = parser.parse_known_args()
    photos = sorted(p for p in args.photos_folder.resolve().rglob("*") if p.is_file())
    least = None
    with tempfile.TemporaryDirectory() as temporary:
        for times in (1, 4, 16):
            folder = Path(temporary) / str(times)
            some = photos[: times * args.photos]
            link_photos(some, args.photos_folder.resolve(), folder / "in")
            cost = run(
                [
                    sys.executable,
                    "-m",
                    "pipelines.cli",
                    args.command,
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
                    *extra,
                ],
                memory=True,
            )
            least = least or cost.peak_bytes
            print(
                f"{times * args.photos:7} photos: {cost.peak_bytes / 1e6:8.1f} MB, "
                f"{cost.peak_bytes / least:.3f} of the first, {cost.wall_s:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
