"""What the graph rewrites of facepipe.onnx_graph and onnx_channels bring, model by model.

    python benchmarks/bench_models.py MODEL.onnx [...] [--size-px 640] [--repeats 25]

Runs the model as it is and as `facepipe.models.open_model` opens it by turns, on one thread,
and prints medians, their ratio and the greatest difference of any output.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from facepipe.models import ModelSettings, open_model
from facepipe.onnx_graph import input_shape, parse


def plain(data: bytes) -> ort.InferenceSession:
    """Open a model as anyone would, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size-px", type=int, default=640, help="where the graph leaves it free")
    parser.add_argument("--repeats", type=int, default=25)
    args = parser.parse_args()
    for path in args.models:
        data = Path(path).read_bytes()
        shape = [
            s or (1 if i == 0 else args.size_px)
            for i, s in enumerate(input_shape(parse(data, path)))
        ]
        blob = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        before = plain(data)
        after = open_model(data, path, ModelSettings(), size_px=args.size_px)
        name = before.get_inputs()[0].name
        times: tuple[list[float], list[float]] = ([], [])
        difference = 0.0
        for _ in range(args.repeats):
            started = time.perf_counter()
            old = before.run(None, {name: blob})
            times[0].append(time.perf_counter() - started)
            started = time.perf_counter()
            new = after(blob)
            times[1].append(time.perf_counter() - started)
            difference = max(float(np.abs(a - b).max()) for a, b in zip(old, new, strict=True))
        old_ms, new_ms = (statistics.median(t) * 1e3 for t in times)
        print(
            f"{Path(path).name} {shape}: {old_ms:.2f} ms as it is, {new_ms:.2f} ms opened by "
            f"facepipe, ratio {old_ms / new_ms:.3f}, greatest difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
