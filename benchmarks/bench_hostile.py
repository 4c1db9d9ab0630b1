"""Decodes every file of a folder, each in a fresh process: status, time, rise of memory.

python benchmarks/bench_hostile.py FOLDER [--slowest 10]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any


def one(path: str) -> dict[str, Any]:
    """Decode a file as the detect worker does; the process has imported everything before."""
    from facepipe.decode import DecodeSettings, decode

    data = Path(path).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    decoded = decode(data, DecodeSettings())
    took = time.perf_counter() - started
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "file": Path(path).name,
        "status": str(decoded.status),
        "error": decoded.error,
        "seconds": took,
        "rise_mb": rise / 1024,
        "size_px": [decoded.width_px, decoded.height_px],
    }


def _warm() -> None:
    import pi_heif  # noqa: F401
    from PIL import Image

    import facepipe.decode  # noqa: F401

    Image.init()


def main() -> None:
    """Print counts by status and the files that took most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--slowest", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    files = sorted(str(p) for p in Path(args.folder).rglob("*") if p.is_file())
    rows = []
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, initializer=_warm, maxtasksperchild=1) as pool:
        rows = pool.map(one, files, chunksize=1)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{len(rows)} files: {dict(Counter(r['status'] for r in rows))}")
    for key, unit in (("rise_mb", "MB"), ("seconds", "s")):
        print(f"greatest {key}:")
        for row in sorted(rows, key=lambda r: -r[key])[: args.slowest]:
            what = f"{row['status']:<12} {row['file']}  {row['error'][:60]}"
            print(f"  {row[key]:9.3f} {unit}  {what}")
    refused = [r for r in rows if r["status"] == "too_large"]
    for row in refused:
        print(f"refused: {row['file']} in {row['seconds'] * 1000:.1f} ms: {row['error']}")


if __name__ == "__main__":
    main()
