"""What does a step of a head take, and how much memory? Time and peak, by kind and classes.

    python benchmarks/bench_head.py [--classes 20000 100000] [--batch 256] [--dim 512] \
        [--device cuda] [--gemm-dtype bfloat16] [--rates 1.0 0.1] [--steps 5]

Side by side in one run: a matrix head written as arcface_torch writes it (logits of all
classes, softmax cross-entropy, SGD that moves every row), the dense head, the fused head, and
PartialFC at each rate. A step is forward, backward and update. Peak is what is held at most,
centres, momentum and gradient included, in units of W, the bytes of the centres; on the CPU
it is counted by the storages that live, on a GPU it is the allocator's. On a GPU the
roofline is also printed: the time of the four (or three) large products at the peak rate
given by --peak-tflops.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.training.live_bytes import LiveBytes
from training.centre_sgd import CentreSGD
from training.fused_head import FusedHead
from training.heads import Head, HeadSettings
from training.partial_fc import PartialFC

SCALE, MARGIN_RAD = 64.0, 0.5


class MatrixHead(nn.Module):
    """The peer: all logits at once, the margin without a gradient, as arcface_torch has it."""

    def __init__(self, classes: int, dim: int, dtype: torch.dtype) -> None:
        """Draw centres."""
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, dim) * 0.01)
        self.dtype = dtype

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss."""
        with torch.autocast(embeddings.device.type, self.dtype, self.dtype != torch.float32):
            cosines = F.linear(F.normalize(embeddings), F.normalize(self.centres))
        cosines = cosines.float().clamp(-1, 1)
        with torch.no_grad():
            rows = torch.arange(len(labels), device=labels.device)
            cosines[rows, labels] = torch.cos(cosines[rows, labels].acos() + MARGIN_RAD)
        return F.cross_entropy(cosines * SCALE, labels)


def main() -> None:
    """Measure each kind at each number of classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gemm-dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--chunk-bytes", type=int)
    parser.add_argument("--rates", type=float, nargs="*", default=[1.0, 0.1])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, help="of the device, to print the roofline")
    args = parser.parse_args()
    print(f"{args.device}, batch {args.batch}, {args.dim}-d, products in {args.gemm_dtype}")
    print(f"{'classes':>9} {'head':<16} {'ms/step':>9} {'peak MB':>9} {'peak/W':>7} {'roof ms':>8}")
    for classes in args.classes:
        for name, products, make in kinds(classes, args):
            measure(classes, name, products, make, args)


def kinds(
    classes: int, args: argparse.Namespace
) -> list[tuple[str, float, Callable[[], nn.Module]]]:
    """Return each head's name, its large products (in units of rate 1), and how to make it."""

    def settings(rate: float = 1.0) -> HeadSettings:
        return HeadSettings(
            sample_rate=rate, gemm_dtype=args.gemm_dtype, chunk_bytes=args.chunk_bytes
        )

    def partial(rate: float) -> Callable[[], nn.Module]:
        return lambda: PartialFC(classes, args.dim, settings(rate))

    return [
        ("matrix (peer)", 3, lambda: MatrixHead(classes, args.dim, dtype_of(args))),
        ("dense", 3, lambda: Head(classes, args.dim, settings())),
        ("fused", 4, lambda: FusedHead(classes, args.dim, settings())),
        *((f"partial {rate}", 4 * rate, partial(rate)) for rate in args.rates),
    ]


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    """Return the dtype of the large products."""
    return torch.bfloat16 if args.gemm_dtype == "bfloat16" else torch.float32


def measure(
    classes: int,
    name: str,
    products: float,
    make: Callable[[], nn.Module],
    args: argparse.Namespace,
) -> None:
    """Time steps of one head, and count its memory in one more; print the row."""
    torch.manual_seed(0)
    head = make().to(args.device)
    centres = head.get_parameter("centres")
    optimizer: torch.optim.Optimizer = CentreSGD([centres], lr=0.1, weight_decay=5e-4)
    if name.startswith("matrix"):
        optimizer = torch.optim.SGD([centres], lr=0.1, momentum=0.9, weight_decay=5e-4)
    embeddings = torch.randn(args.batch, args.dim, device=args.device, requires_grad=True)
    labels = torch.randint(0, classes, (args.batch,), device=args.device)

    def step() -> None:
        optimizer.zero_grad()
        head(embeddings, labels).backward()
        optimizer.step()

    step()
    times = []
    for _ in range(args.steps):
        begin = clock(args)
        step()
        times.append(clock(args) - begin)
    peak = peak_bytes(step, centres, optimizer, args)
    flops = products * 2 * args.batch * classes * args.dim
    roof = f"{flops / args.peak_tflops / 1e9:8.2f}" if args.peak_tflops else f"{'':>8}"
    print(
        f"{classes:>9} {name:<16} {sorted(times)[len(times) // 2] * 1e3:>9.1f} "
        f"{peak / 1e6:>9.0f} {peak / centres.nbytes:>7.2f} {roof}"
    )


def clock(args: argparse.Namespace) -> float:
    """Return the time at which all work so far is done, in seconds."""
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(
    step: Callable[[], None],
    centres: Tensor,
    optimizer: torch.optim.Optimizer,
    args: argparse.Namespace,
) -> int:
    """Return the most bytes held during a step."""
    optimizer.zero_grad()
    if args.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    with LiveBytes(centres, optimizer.state[centres]["momentum_buffer"]) as live:
        step()
    return live.peak


if __name__ == "__main__":
    main()
