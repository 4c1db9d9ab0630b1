"""Do all engines write the same bytes? LFW, messy files, .rec, tar, zip and TSV in one dataset.

    python benchmarks/bench_engines.py --assets ASSETS [--photos 500]

Runs `facepipe curate` locally with 1 and 2 workers, on a real Ray cluster of two nodes on this
machine, and on Beam's FnApiRunner in memory and multi-processing; compares every table, plan
and manifest, and prints what each run took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mixed_sources import make_sources

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

ENGINES = {
    "local, 1 worker": ["--engine", "local", "--workers", "1"],
    "local, 2 workers": ["--engine", "local", "--workers", "2"],
    "ray, two nodes": ["--engine", "ray", "--workers", "2"],
    "beam, in memory": ["--engine", "beam", "--workers", "1"],
    "beam, 2 workers": ["--engine", "beam", "--workers", "2"],
    "beam, multi-processing": [
        *("--engine", "beam", "--workers", "2"),
        *("--", "--direct_running_mode=multi_processing"),
    ],
}


def contents(root: Path) -> dict[str, bytes]:
    """Return a dataset's tables, plans and manifest, byte for byte."""
    files = [p for t in TABLES for p in (root / t).rglob("*") if p.is_file()]
    files.append(root / "MANIFEST.json")
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


@contextmanager
def ray_cluster(nodes: int = 2) -> Iterator[object]:
    """Start a Ray cluster of one-core nodes on this machine, and point RAY_ADDRESS at it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield cluster
    finally:
        del os.environ["RAY_ADDRESS"]
        cluster.shutdown()


def curate(sources: Path, out: Path, pack: Path, engine: list[str]) -> tuple[float, object]:
    """Run the command; return its seconds and its --json."""
    started = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pipelines.cli",
            "curate",
            *sorted(map(str, sources.iterdir())),
            "--labels",
            "folder",
            "--models",
            str(pack),
            "--out",
            str(out),
            "--quiet",
            "--json",
            "--no-index",
            "--no-report",
            *engine,
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    return time.perf_counter() - started, json.loads(done.stdout)


def main() -> None:
    """Run every engine; exit 1 where any byte differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=500)
    args = parser.parse_args()
    pack = args.assets / "models/insightface_pack"
    with tempfile.TemporaryDirectory() as temporary:
        sources = make_sources(args.assets.resolve(), Path(temporary) / "in", args.photos)
        first: dict[str, bytes] = {}
        same = True
        for name, engine in ENGINES.items():
            out = Path(temporary) / name.replace(", ", "-").replace(" ", "-")
            if engine[1] == "ray":
                with ray_cluster():
                    took, report = curate(sources, out, pack, engine)
            else:
                took, report = curate(sources, out, pack, engine)
            got = contents(out)
            if not first:
                first = got
                print(json.dumps({s["step"]: s["counts"] for s in report["steps"]}))  # type: ignore[index]
            equal = got == first
            same &= equal
            size = sum(map(len, got.values()))
            print(f"{name:24} {took:6.1f} s  {len(got)} files, {size} bytes, same: {equal}")
            for key in sorted(k for k in {*got, *first} if got.get(k) != first.get(k))[:5]:
                print(f"    differs: {key}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
