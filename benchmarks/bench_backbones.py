"""What the backbones cost and how fast they run here: parameters, multiply-adds, pictures/s.

    python benchmarks/bench_backbones.py [r50 mbf ...] [--batches 1,64] [--seconds 3]
        [--device cpu|cuda] [--precision float32|bfloat16|float16] [--threads N] [--train]

Made pictures; forward in evaluation mode, with --train forward and backward. Each net runs at
each batch size until the seconds are over, after a warm-up; the fastest batch size is marked.
On the CPU the pack that the net exports to is run beside it with onnxruntime, on as many
threads. Prints one line a net and batch size, and the machine.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import nn

from facepipe.models import ModelSettings, open_model
from training import backbone, iresnet, mobilefacenet, vit
from training.backbone import IMAGE_PX, BackboneSettings, build_backbone
from training.export import onnx_bytes
from training.flops import count_cost

NAMES = (*get_args(iresnet.Name), *get_args(mobilefacenet.Name), *get_args(vit.Name), "swin_t")
WARM_UP = 2  # runs before the clock starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the nets are run."""

    device: str
    precision: torch.dtype
    threads: int
    seconds: float
    train: bool


def pictures_per_s(run: Callable[[], object], batch: int, way: Way) -> float:
    """Return pictures a second of a run over one batch."""
    for _ in range(WARM_UP):
        run()
    settle(way)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < way.seconds:
        run()
        settle(way)
        done += batch
    return done / (time.perf_counter() - started)


def settle(way: Way) -> None:
    """Wait for the device."""
    if way.device == "cuda":
        torch.cuda.synchronize()


def torch_run(net: nn.Module, batch: int, way: Way) -> Callable[[], object]:
    """Return a run of the net over one batch."""
    crops = torch.rand(batch, 3, IMAGE_PX, IMAGE_PX, device=way.device) * 2 - 1
    crops = crops.to(memory_format=torch.channels_last)
    cast = torch.autocast(way.device, way.precision, enabled=way.precision != torch.float32)

    def forward() -> None:
        with torch.inference_mode(), cast:
            net(crops)

    def both() -> None:
        with cast:
            loss = net(crops).float().square().mean()
        loss.backward()
        net.zero_grad()

    return both if way.train else forward


def onnx_run(net: nn.Module, batch: int, way: Way) -> Callable[[], object]:
    """Return a run of the exported net over one batch, as facepipe runs it."""
    model = open_model(onnx_bytes(net), "net", ModelSettings(threads=way.threads))
    rng = np.random.default_rng(0)
    blob = rng.uniform(-1, 1, (batch, 3, IMAGE_PX, IMAGE_PX)).astype(np.float32)
    return lambda: model(blob)


def measure(name: backbone.Name, batches: list[int], way: Way) -> None:
    """Print a line for each batch size."""
    settings = BackboneSettings(name=name)
    with torch.device("meta"):
        cost = count_cost(build_backbone(settings))
    torch.manual_seed(0)
    net = build_backbone(settings).train(way.train).to(way.device)
    net = net.to(memory_format=torch.channels_last)
    speeds = {batch: pictures_per_s(torch_run(net, batch, way), batch, way) for batch in batches}
    with_onnx = way.device == "cpu" and not way.train
    for batch, speed in speeds.items():
        peer = ""
        if with_onnx:
            plain = net.to(memory_format=torch.contiguous_format)
            peer = f"{pictures_per_s(onnx_run(plain, batch, way), batch, way):9.1f}"
        best = "  <- fastest batch" if speed == max(speeds.values()) and len(speeds) > 1 else ""
        print(
            f"{name:14s} {cost.parameters / 1e6:8.2f} M {cost.multiply_adds / 1e9:8.3f} G "
            f"{batch:6d} {speed:10.1f} {peer or '-':>9s} "
            f"{2 * cost.multiply_adds * speed / 1e12 * (3 if way.train else 1):8.3f}{best}",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision", default="float32", choices=["float32", "bfloat16", "float16"]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    way = Way(
        device=args.device,
        precision=getattr(torch, args.precision),
        threads=args.threads,
        seconds=args.seconds,
        train=args.train,
    )
    where = torch.cuda.get_device_name() if way.device == "cuda" else platform.processor()
    print(
        f"{way.device} {where} {args.precision}, {args.threads} threads, "
        f"torch {torch.__version__}, {'forward and backward' if way.train else 'forward'}"
    )
    print("net              parameters  mult-adds  batch    torch/s    onnx/s  TFLOP/s")
    for name in args.names:
        measure(name, [int(size) for size in args.batches.split(",")], way)


if __name__ == "__main__":
    main()
