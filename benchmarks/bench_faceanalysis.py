"""Are facepipe's faces those of insightface's FaceAnalysis, and how fast does each go?

    python benchmarks/bench_faceanalysis.py agree --pack PACK PHOTOS...
    python benchmarks/bench_faceanalysis.py speed --pack PACK PHOTOS... [--repeats 3]

``agree`` runs `facepipe detect` and `embed`, then FaceAnalysis with the same pack, and
compares photo by photo. ``speed`` runs both by turns, from cold processes, and prints
medians and the ratio pair by pair.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from peer_faceanalysis import analyse

from facepipe import open_dataset
from facepipe.detect import DetectSettings
from facepipe.evaluate import box_iou


def facepipe(photos: list[str], out: str, pack: str, workers: int, extra: list[str]) -> float:
    """Run detect and embed; return the seconds both took, start of Python included."""
    started = time.perf_counter()
    base = [sys.executable, "-m", "pipelines.cli"]
    common = ["--out", out, "--models", pack, "--workers", str(workers), "--quiet", "--json"]
    for command in (["curate", *photos, "--no-index", "--no-report", *extra],):
        subprocess.run([*base, *command, *common], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def padding(args: argparse.Namespace) -> list[str]:
    """Return the options that switch facepipe's second pass off, where that was asked for."""
    return ["--set", "detect.padded_pass=never"] if args.no_padded else []


def readable(photos: list[str]) -> list[str]:
    """Return the files that are photos to both."""
    import cv2

    files = [p for root in photos for p in sorted(Path(root).rglob("*"))] if photos else []
    files += [Path(p) for p in photos if Path(p).is_file()]
    return [str(p) for p in files if p.is_file() and cv2.imread(str(p)) is not None]


def faces_by_photo(out: str) -> dict[str, list[dict[str, Any]]]:
    """Return the faces of every photo with their vectors, from the dataset's tables."""
    dataset = open_dataset(out)
    faces = dataset.table("faces", ["uri", "box_xyxy_px", "landmarks_xy_px", "padded"]).to_pylist()
    vectors = dataset.table("embeddings", ["vector"])["vector"].to_pylist()
    found: dict[str, list[dict[str, Any]]] = {}
    for face, vector in zip(faces, vectors, strict=True):
        found.setdefault(face["uri"], []).append({**face, "vector": vector})
    return found


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Match faces by IoU, best first, and return the pairs' differences."""
    if not ours or not theirs:
        return {"iou": [], "landmarks_px": [], "cosine": []}
    iou = box_iou([f["box_xyxy_px"] for f in ours], [f["box"] for f in theirs])
    result: dict[str, Any] = {"iou": [], "landmarks_px": [], "cosine": []}
    while iou.size and iou.max() > 0.5:
        i, j = np.unravel_index(int(iou.argmax()), iou.shape)
        result["iou"].append(float(iou[i, j]))
        shift = np.subtract(ours[i]["landmarks_xy_px"], theirs[j]["landmarks"]).reshape(5, 2)
        result["landmarks_px"].append(float(np.hypot(*shift.T).max()))
        a, b = np.asarray(ours[i]["vector"], np.float64), np.asarray(theirs[j]["embedding"])
        result["cosine"].append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        iou[i, :] = iou[:, j] = 0
    return result


def agree(args: argparse.Namespace) -> None:
    """Print how far the two agree."""
    files = readable(args.photos)[: args.limit]
    with tempfile.TemporaryDirectory() as out:
        facepipe(files, out, args.pack, args.workers, padding(args))
        ours = faces_by_photo(out)
    theirs, _, _ = analyse(files, args.pack, workers=args.workers)
    same, all_pairs, differ = 0, {"iou": [], "landmarks_px": [], "cosine": []}, []
    for path, reference in zip(files, theirs, strict=True):
        mine = ours.get(path, [])
        if len(mine) == len(reference or []):
            same += 1
        else:
            padded = sum(f["padded"] for f in mine)
            differ.append((Path(path).name, len(mine), len(reference or []), padded))
        for name, values in compare(mine, reference or []).items():
            all_pairs[name] += values
    iou, shift, cosine = (np.array(all_pairs[k]) for k in ("iou", "landmarks_px", "cosine"))
    print(f"{len(files)} photos, {same} ({same / len(files):.2%}) with the same number of faces")
    for name, mine, reference, padded in differ:
        print(f"  differs: {name}: {mine} faces ({padded} by the padded pass), peer {reference}")
    print(f"{len(iou)} matched faces: least IoU {iou.min():.6f}, {(iou >= 0.99).mean():.3%} >= .99")
    print(f"  landmarks: greatest distance {shift.max():.4f} px, {(shift <= 0.5).mean():.3%} <= .5")
    print(f"  cosine: least {cosine.min():.6f}, {(cosine >= 0.9999).mean():.3%} >= .9999")


def speed(args: argparse.Namespace) -> None:
    """Print photos per second of both, by turns."""
    files = readable(args.photos)[: args.limit]
    print(f"{len(files)} photos, {args.workers} processes x 1 thread, {args.repeats} turns")
    rows = []
    for turn in range(args.repeats):
        with tempfile.TemporaryDirectory() as out:
            mine = facepipe(files, out, args.pack, args.workers, padding(args))
        _, whole, steady = analyse(files, args.pack, workers=args.workers)
        rows.append((len(files) / mine, len(files) / whole, len(files) / steady))
        print(json.dumps({"turn": turn, "facepipe": mine, "peer": whole, "peer_ready": steady}))
    names = ("facepipe, whole command", "FaceAnalysis, whole process", "FaceAnalysis, once ready")
    for k, name in enumerate(names):
        print(f"{name}: {statistics.median(r[k] for r in rows):.2f} photos/s")
    for k in (1, 2):
        ratios = sorted(r[0] / r[k] for r in rows)
        print(
            f"facepipe / {names[k]}: median {statistics.median(ratios):.3f}, "
            f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
        )
    print(f"(detector canvas {DetectSettings().size_px} px, same pack)")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=("agree", "speed"))
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--pack", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-padded", action="store_true", help="without facepipe's second pass")
    args = parser.parse_args()
    agree(args) if args.question == "agree" else speed(args)


if __name__ == "__main__":
    main()
