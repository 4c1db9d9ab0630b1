"""What does the trainer cost beside a bare loop, and what does a GPU do with a real net?

    PYTHONPATH=. python benchmarks/bench_train.py [--steps 30] [--rounds 5] [--batch 64] \
        [--backbone tiny] [--dim 128] [--people 1000]
    PYTHONPATH=. python benchmarks/bench_train.py --gpu [--classes 1000000] [--batch 512] \
        [--rates 1.0 0.1] [--peak-tflops 989]

First table: samples/s of `training.train` and of a loop of a dozen lines with the same net, head,
optimiser and loader on the same made crops, in turns, so that both see the same machine; medians
and their ratio, also of the CPU time, which other work on the machine moves less. Clocks start
after the third step; checkpoints are outside.

With --gpu, where there is one: R50, 512-d, bf16: samples/s of whole steps on crops that lie in
memory, peak memory, the head's share and its roofline (its products at --peak-tflops; the bytes of
centres and momentum that a step moves at --memory-tbs), and R50's inference at batch 64 and at
the best batch. Without a GPU it says so and only prints the first table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.training.made_samples import samples_of
from training.backbone import BackboneSettings, build_backbone
from training.heads import HeadSettings
from training.learner import Learner
from training.loader import Batch, Loader
from training.partial_fc import PartialFC
from training.ranks import Ranks
from training.run_data import order_of
from training.samples import Samples
from training.settings import TrainSettings
from training.train import StepReport, train

WARM_STEPS = 3
CROPS = 512  # made ones; a sample is one of them


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--classes", type=int, default=1_000_000)
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16; H100 SXM's sheet")
    parser.add_argument("--memory-tbs", type=float, default=3.35, help="TB/s; H100 SXM's sheet")
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {where}")
    if not args.gpu:
        beside_a_bare_loop(args)
    elif torch.cuda.is_available():
        on_a_gpu(args)
    else:
        print("--gpu: torch finds none here, so that nothing is measured")


def settings_of(args: argparse.Namespace) -> TrainSettings:
    """Return what both loops run."""
    return TrainSettings.model_validate(
        {
            "steps": args.steps,
            "data": {"loader": {"batch_samples": args.batch or 64, "workers": 1}},
            "backbone": {"name": args.backbone, "dim": args.dim},
            "schedule": {"name": "poly", "power": 0.0},
            "checkpoint": {"every_steps": 10**9},
            "log_every_steps": 10,
            "clip_norm": 5.0,
        }
    )


def beside_a_bare_loop(args: argparse.Namespace) -> None:
    """Print samples/s of both, in turns."""
    settings = settings_of(args)
    labels = [n % args.people for n in range(max(CROPS, args.people))]
    sizes = [CROPS, *([len(labels) - CROPS] if len(labels) > CROPS else [])]
    samples = samples_of(labels, sizes, pictures=True)
    found: dict[str, list[Rate]] = {"trainer": [], "bare loop": []}
    for _ in range(args.rounds):
        found["trainer"].append(trainer(settings, samples))
        found["bare loop"].append(bare_loop(settings, samples))
    print(
        f"{args.backbone}, {args.dim}-d, batch {args.batch or 64}, {args.people} people, "
        f"{args.steps} steps, {args.rounds} rounds in turns"
    )
    print(f"{'':<10} {'samples/s':>10} {'least':>8} {'most':>8} {'CPU ms/sample':>14}")
    for name, rates in found.items():
        walls = [rate.samples_per_s for rate in rates]
        cpu = median(rate.cpu_ms for rate in rates)
        print(
            f"{name:<10} {median(walls):>10.1f} {min(walls):>8.1f} {max(walls):>8.1f} {cpu:>14.2f}"
        )
    pairs = list(zip(found["trainer"], found["bare loop"], strict=True))
    wall = median(a.samples_per_s / b.samples_per_s for a, b in pairs)
    cpu = median(b.cpu_ms / a.cpu_ms for a, b in pairs)
    print(f"trainer / bare loop, median of rounds: {wall:.3f}; by CPU time {cpu:.3f}")


class Rate(NamedTuple):
    """How quick a loop was."""

    samples_per_s: float
    cpu_ms: float  # of all threads, a sample


class Clock:
    """The times of steps."""

    def __init__(self) -> None:
        """Begin with none."""
        self.times: list[tuple[float, float]] = []

    def tick(self) -> None:
        """Note the end of a step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append((time.perf_counter(), time.process_time()))

    def rate(self, batch: int) -> Rate:
        """Return the rate of the steps after the first few."""
        (wall, cpu), (last_wall, last_cpu) = self.times[WARM_STEPS - 1], self.times[-1]
        samples = batch * (len(self.times) - WARM_STEPS)
        return Rate(samples / (last_wall - wall), (last_cpu - cpu) / samples * 1e3)


def trainer(settings: TrainSettings, samples: Samples) -> Rate:
    """Return the rate of `train`."""
    clock, steps = Clock(), settings.steps or 0

    def on_step(report: StepReport) -> None:
        clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        train(settings, samples, out, on_step=on_step, stop=lambda: len(clock.times) == steps - 1)
    return clock.rate(settings.data.loader.batch_samples)


def bare_loop(settings: TrainSettings, samples: Samples) -> Rate:
    """Return the rate of the same step, written out."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = build_backbone(settings.backbone).to(device, memory_format=torch.channels_last).train()
    head = PartialFC(len(samples.people), settings.backbone.dim, settings.head or HeadSettings())
    head.to(device)
    trained = [p for p in net.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(
        [*trained, head.centres], lr=settings.optimizer.lr, momentum=0.9, weight_decay=5e-4
    )
    clock = Clock()
    with Loader(order_of(samples, settings), settings.data.loader) as loader:
        for _ in range((settings.steps or 0) - 1):
            batch = next(loader)
            loss = head(net(batch.images(device)), batch.label_B.to(device))
            sgd.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 5.0)
            sgd.step()
            clock.tick()
    return clock.rate(settings.data.loader.batch_samples)


def on_a_gpu(args: argparse.Namespace) -> None:
    """Print whole steps of R50 with a large head, and R50's inference."""
    batch = args.batch or 512
    print(f"R50, 512-d, {args.classes:,} classes, batch {batch}, bf16")
    print(f"{'rate':>5} {'samples/s':>10} {'step ms':>8} {'head ms':>8} {'roof ms':>8} {'GiB':>9}")
    for rate in args.rates:
        step_ms, head_ms, peak = steps_on_a_gpu(args, batch, rate)
        print(
            f"{rate:>5} {batch / step_ms * 1e3:>10,.0f} {step_ms:>8.2f} {head_ms:>8.2f} "
            f"{roofline_ms(args, batch, rate):>8.2f} {peak:>9.2f}",
            flush=True,
        )
    print("inference, R50, bf16")
    rates = {size: inference(size) for size in (64, 128, 256, 512, 1024)}
    best = max(rates, key=lambda size: rates[size])
    print(f"batch 64: {rates[64]:,.0f} crops/s; best, batch {best}: {rates[best]:,.0f} crops/s")


def gpu_settings(rate: float) -> TrainSettings:
    """Return R50's settings with a sampled head."""
    return TrainSettings.model_validate(
        {
            "backbone": {"name": "r50", "dim": 512},
            "head": {"sample_rate": rate, "gemm_dtype": "bfloat16"},
            "precision": "bfloat16",
            "deterministic": False,
        }
    )


def made_batches(batch: int, classes: int) -> Iterator[Batch]:
    """Yield batches of noise without end; two that alternate."""
    rng = np.random.default_rng(0)
    made = [
        Batch(
            position=0,
            epoch=0,
            pixels_BHWC=torch.from_numpy(
                rng.integers(0, 256, (batch, 112, 112, 3), dtype=np.uint8)
            ).pin_memory(),
            label_B=torch.from_numpy(rng.integers(0, classes, batch)).pin_memory(),
            weight_B=torch.ones(batch).pin_memory(),
            sample_B=np.arange(batch),
            bad={},
        )
        for _ in range(2)
    ]
    while True:
        yield from made


def steps_on_a_gpu(args: argparse.Namespace, batch: int, rate: float) -> tuple[float, float, float]:
    """Return ms of a step, ms of its head, and the peak of memory in GiB."""
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda", 0)
    torch.cuda.reset_peak_memory_stats()
    learner = Learner(gpu_settings(rate), args.classes, Ranks.current(device), first_images=[])
    batches, number = made_batches(batch, args.classes), iter(range(10**9))

    def step() -> None:
        learner.step([next(batches)], next(number), 1.0)

    step_ms = timed(step, args.steps)
    peak = torch.cuda.max_memory_allocated() / 2**30
    assert learner.head is not None and learner.centre_optimizer is not None
    embeddings = torch.randn(batch, 512, device=device, requires_grad=True)
    labels = torch.randint(0, args.classes, (batch,), device=device)

    def head() -> None:
        assert learner.head is not None and learner.centre_optimizer is not None
        learner.centre_optimizer.zero_grad()
        learner.head(embeddings, labels).backward()
        learner.centre_optimizer.step()

    return step_ms, timed(head, args.steps), peak


def roofline_ms(args: argparse.Namespace, batch: int, rate: float) -> float:
    """Return the least a head's step can take: four products, and centres read and written.

    A step reads the centres for each of two passes, and reads and writes centres, momentum and
    gradient in the update: 2 + 5 times W of float32.
    """
    rows = args.classes * rate
    products_ms = 4 * 2 * batch * rows * 512 / (args.peak_tflops * 1e12) * 1e3
    memory_ms = 7 * rows * 512 * 4 / (args.memory_tbs * 1e12) * 1e3
    return max(products_ms, memory_ms)


def inference(batch: int) -> float:
    """Return crops/s of R50 in evaluation mode."""
    net: Any = build_backbone(BackboneSettings(name="r50")).cuda().eval()
    net = net.to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 112, 112, device="cuda").to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            net(images)

    return batch / timed(run, 20) * 1e3


def timed(run: Callable[[], None], times: int) -> float:
    """Return the median ms of a call, on the GPU's clock, after some that do not count."""
    for _ in range(WARM_STEPS):
        run()
    found = []
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end))
    return median(found)


if __name__ == "__main__":
    main()
