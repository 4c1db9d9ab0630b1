"""Average precision of a pack's detector on labelled photos, through the product's tables.

    python benchmarks/bench_detection.py --pack PACK --photos FOLDER --labels labels.csv

labels.csv has a row a face: file, x1, y1, x2, y2 in pixels of the photo (further columns are
ignored). Faces under --min-px (longer side) are neither hits nor misses. Scores down to
--threshold count.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from facepipe import open_dataset
from facepipe.evaluate import average_precision


def main() -> None:
    """Run detect on the photos and print AP50 for each least size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--threshold", type=float, default=0.02)
    parser.add_argument("--min-px", type=float, nargs="+", default=[4, 10, 20])
    args, extra = parser.parse_known_args()
    truth: dict[str, list[list[float]]] = defaultdict(list)
    with Path(args.labels).open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            truth[row["file"]].append([float(row[c]) for c in ("x1", "y1", "x2", "y2")])
    photos = [str(p) for p in sorted(Path(args.photos).iterdir()) if p.name in truth]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "pipelines.cli", "detect", *photos, "--out", out]
        command += ["--models", args.pack, "--set", f"detect.threshold={args.threshold}", "-q"]
        subprocess.run([*command, *extra], check=True, stdout=subprocess.DEVNULL)
        rows = open_dataset(out).table("faces", ["uri", "box_xyxy_px", "det_score"]).to_pylist()
    found: dict[str, list[tuple[list[float], float]]] = defaultdict(list)
    for row in rows:
        found[Path(row["uri"]).name].append((row["box_xyxy_px"], row["det_score"]))
    names = sorted(truth)
    boxes = [np.array([b for b, _ in found[n]]).reshape(-1, 4) for n in names]
    scores = [np.array([s for _, s in found[n]]) for n in names]
    labelled = [np.array(truth[n]).reshape(-1, 4) for n in names]
    print(f"{len(names)} photos, {len(rows)} detections at score >= {args.threshold}")
    for size in args.min_px:
        score = average_precision(boxes, scores, labelled, min_size_px=size)
        kept = f"{score.faces} faces >= {size:g} px"
        print(f"AP50 {score.ap:.4f} for {kept} ({score.ignored} ignored)")


if __name__ == "__main__":
    main()
