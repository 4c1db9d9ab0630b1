"""A bare inference loop: read, decode, detect, align, embed; no tables, no pipeline.

    python benchmarks/raw_loop.py PACK FIRST STRIDE PHOTOS   (run by bench_cost.py)

Prints "ready" once its models are open, waits for a line on stdin, and prints its seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2

from facepipe.align import aligned_crop, encode_crop
from facepipe.config import Settings
from facepipe.decode import decode
from facepipe.detect import Detector
from facepipe.embed import Recogniser
from facepipe.packs import find_pack

BATCH = 64


def main() -> None:
    """Run over every STRIDE-th photo from FIRST on."""
    cv2.setNumThreads(1)
    pack, first, stride, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    settings = Settings()
    detector = Detector(find_pack(pack), settings.detect, settings.models)
    recogniser = Recogniser(find_pack(pack), settings.embed, settings.models)
    paths = sorted(p for p in Path(folder).rglob("*") if p.is_file())[first::stride]
    print("ready", flush=True)
    sys.stdin.readline()
    started, crops = time.perf_counter(), []
    for path in paths:
        pixels = decode(path.read_bytes(), settings.decode).pixels_HWC
        if pixels is None:
            continue
        (faces,) = detector.find([pixels])
        for points in faces.landmarks_N52:
            crops.append(aligned_crop(pixels, points))
            encode_crop(crops[-1], settings.align)
        if len(crops) >= BATCH:
            recogniser.embed(crops)
            crops = []
    if crops:
        recogniser.embed(crops)
    print(len(paths), time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
