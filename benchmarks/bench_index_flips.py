"""Flips single bits of an index, one at a time, over all its files: is each one noticed?

    python benchmarks/bench_index_flips.py [--flips 1000] [--faces 6000] [--kind ivf_pqfs]

The index has two shards, deleted rows, a template and a version before. Each file gets its share
of the flips by its size, and at least ten. After each, `index verify` has to find a problem, and
open has to refuse the index where the file is part of the version in force. Exit code 1 where one
goes unseen.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench_index_kill import add, build, delete, make_datasets

from facepipe.errors import FacepipeError
from facepipe.index import open_index
from facepipe.index_manifest import read_manifest
from facepipe.store import open_store
from pipelines.index_files import version_keys
from pipelines.index_verify import verify_index

LEAST_FLIPS = 10  # of each file


def main() -> None:
    """Flip, look, and flip back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--faces", type=int, default=6000)
    parser.add_argument("--kind", default="ivf_pqfs", choices=["flat", "ivf_sq8", "ivf_pqfs"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, index = Path(folder), Path(folder) / "index"
        make_datasets(root, args.faces)
        for command in (build, add, delete):
            command(root, index, args.kind)
        shutil.rmtree(index / "_tmp", ignore_errors=True)
        sys.exit(0 if flip_all(index, args.flips, random.Random(args.seed), args.kind) else 1)


def flip_all(index: Path, flips: int, rng: random.Random, kind: str) -> bool:
    """Flip bits of all files; print a line for each kind of file. True where all were seen."""
    store = open_store(str(index))
    in_force = version_keys(*read_manifest(store))
    if verify_index(str(index), full=True)["problems"]:
        sys.exit("the index has problems before anything was flipped")
    total: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    to_refuse: Counter[str] = Counter()
    started = time.perf_counter()
    for key, bits in _drawn(store.list_all(), flips, rng).items():
        path, name = index / key, Path(key).name if key != "CURRENT" else key
        data = path.read_bytes()
        for bit in bits:
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            total[name] += 1
            seen[name] += _is_seen(index)
            if key in in_force:
                to_refuse[name] += 1
                refused[name] += _is_refused(index)
        path.write_bytes(data)
    took = time.perf_counter() - started
    print(f"{kind}, {sum(total.values())} flips, {took:.0f} s\n")
    print(f"{'file':<24}{'flips':>7}{'verify':>8}{'in force':>10}{'refused':>9}")
    for name, count in sorted(total.items()):
        print(f"{name:<24}{count:>7}{seen[name]:>8}{to_refuse[name]:>10}{refused[name]:>9}")
    return seen == total and refused == to_refuse and not verify_index(str(index))["problems"]


def _drawn(files: dict[str, int], flips: int, rng: random.Random) -> dict[str, list[int]]:
    """Return the bits to flip in each file: different ones, more in larger files."""
    files = {key: size for key, size in files.items() if size and key != "_lock"}
    whole = sum(files.values())
    drawn = {}
    for key, size in files.items():
        count = min(8 * size, max(LEAST_FLIPS, round(flips * size / whole)))
        drawn[key] = rng.sample(range(8 * size), count)
    return drawn


def _is_seen(index: Path) -> bool:
    try:
        return bool(verify_index(str(index))["problems"])
    except FacepipeError:
        return True


def _is_refused(index: Path) -> bool:
    try:
        open_index(index, threads=1)
    except FacepipeError:
        return True
    return False


if __name__ == "__main__":
    main()
