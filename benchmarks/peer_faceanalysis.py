"""The peer: insightface.app.FaceAnalysis over a list of photos, as N processes x 1 thread.

Used by the benchmarks beside it; not part of the product.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

_APP: Any = None


def _open(pack: str, det_size_px: int, threshold: float) -> None:
    global _APP
    import cv2
    import onnxruntime
    from insightface.app import FaceAnalysis

    cv2.setNumThreads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    folder = Path(pack)
    _APP = FaceAnalysis(
        name=folder.name,
        root=str(folder.parent.parent),
        allowed_modules=["detection", "recognition"],
        providers=["CPUExecutionProvider"],
        sess_options=options,
    )
    _APP.prepare(ctx_id=-1, det_thresh=threshold, det_size=(det_size_px, det_size_px))


def _analyse(path: str) -> list[dict[str, Any]] | None:
    import warnings

    import cv2

    warnings.simplefilter("ignore")  # skimage's deprecation of the call insightface makes
    picture = cv2.imread(path)
    if picture is None:
        return None
    return [
        {
            "box": f.bbox.tolist(),
            "landmarks": f.kps.ravel().tolist(),
            "score": float(f.det_score),
            "embedding": f.normed_embedding.tolist(),
        }
        for f in _APP.get(picture)
    ]


def analyse(
    paths: list[str], pack: str, *, workers: int, det_size_px: int = 640, threshold: float = 0.5
) -> tuple[list[list[dict[str, Any]] | None], float, float]:
    """Return (faces of each photo, seconds in all, seconds once every process is ready)."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    parent = str(Path(pack).resolve())
    root = Path(parent).parent.parent
    if Path(parent).parent.name != "models" or not root.is_dir():
        raise SystemExit(f"{pack}: insightface wants its packs in a folder named models")
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_open, initargs=(parent, det_size_px, threshold)
    ) as pool:
        # A photo each, so that the clock starts when every process has its models open.
        list(pool.map(_analyse, [paths[0]] * workers * 2))
        ready = time.perf_counter()
        found = list(pool.map(_analyse, paths, chunksize=4))
        done = time.perf_counter()
    return found, done - started, done - ready
