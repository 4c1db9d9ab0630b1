"""Kills `facepipe curate` at random moments, lets it finish, compares it with an undisturbed run.

    python benchmarks/bench_kill.py --pack PACK --kills 20 PHOTOS... [-- further curate options]

Also compares one worker with two. Every table and plan has to be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TABLES = (
    "photos",
    "faces",
    "embeddings",
    "duplicates",
    "decisions",
    "members",
    "by_label",
    "_plan",
)


def contents(root: Path) -> dict[str, bytes]:
    """Return a dataset's tables, plans and manifest, byte for byte."""
    files = [p for t in TABLES for p in (root / t).rglob("*") if p.is_file()]
    files.append(root / "MANIFEST.json")
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def main() -> None:
    """Run the comparison; exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--pack", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args, extra = parser.parse_known_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def command(out: str, workers: int) -> list[str]:
            base = [sys.executable, "-m", "pipelines.cli", "curate", *args.photos, *extra]
            base += ["--models", args.pack, "--out", str(folder / out), "--quiet"]
            return [*base, "--workers", str(workers), "--no-index", "--no-report"]

        started = time.perf_counter()
        subprocess.run(command("whole", 2), check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - started
        print(f"undisturbed, 2 workers: {took:.1f} s")
        subprocess.run(command("one", 1), check=True, stdout=subprocess.DEVNULL)
        killed = finished = 0
        while killed < args.kills:
            process = subprocess.Popen(command("killed", 2), stdout=subprocess.DEVNULL)
            try:
                # The whole run takes `took`; moments are drawn so that all steps are hit.
                process.wait(timeout=rng.uniform(0.2, max(2.0, took / args.kills * 2.5)))
                finished += 1
                if finished > 3:
                    subprocess.run(["rm", "-r", str(folder / "killed")], check=True)
                    finished = 0
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        subprocess.run(command("killed", 2), check=True, stdout=subprocess.DEVNULL)
        whole = contents(folder / "whole")
        same = {name: contents(folder / name) == whole for name in ("one", "killed")}
        print(f"{len(whole)} files, {sum(map(len, whole.values()))} bytes")
        print(f"1 worker and 2 workers byte-identical: {same['one']}")
        print(f"after {killed} kill -9 byte-identical: {same['killed']}")
    sys.exit(0 if all(same.values()) else 1)


if __name__ == "__main__":
    main()
