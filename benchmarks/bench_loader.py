"""How many crops a second does the loader give, and what does each part of that cost?

    OMP_NUM_THREADS=1 python benchmarks/bench_loader.py FOLDER --faces 65536 [--crops png] \\
        [--real DATASET]

Everything is off but the mirror. Side by side, in turns, the median counts:

    decode     a bare loop over crops in memory: simplejpeg or OpenCV, nothing else
    1, 2 ..    the loader with so many threads, straight from FACES and DECISIONS
    torch      torch's DataLoader with 2 processes over the same crops held in memory
    all on     the loader with every augmentation on for a tenth of the crops
    .rec       the loader over the same crops in a .rec

`cpu` is crops a second of processor time, of this process and its children: what a core gives.
FOLDER keeps the dataset, 12 KB a face. Crops are made ones, longer than real ones, or with --real
those of a dataset that `facepipe detect` made, in JPEG of quality 95 (`align.crop_format=jpeg`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import cv2
import numpy as np
import torch
from crop_dataset import pictures, real_pictures, write_crops

from facepipe.record_writer import RecordStreams, write_records
from facepipe.shards import open_dataset
from training.augment import AugmentSettings
from training.crop_pixels import decode_into
from training.dataset_samples import dataset_samples
from training.loader import Loader, LoaderSettings
from training.sample_order import OrderSettings, SampleOrder
from training.samples import Samples
from training.source_samples import source_samples

BATCH = 512
ALL_ON = AugmentSettings(
    flip=0.5,
    affine=0.1,
    colour=0.1,
    grey=0.1,
    blur=0.1,
    low_resolution=0.1,
    jpeg=0.1,
    occlusion=0.1,
)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faces", type=int, default=65_536)
    parser.add_argument("--crops", choices=("jpeg", "png"), default="jpeg")
    parser.add_argument("--real", type=Path, help="a dataset whose crops are taken")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--window", type=int, default=16_384)
    parser.add_argument("--parts", type=int, default=OrderSettings().group_parts)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.folder / f"{'real-' if args.real else ''}{args.crops}-{args.faces}"
    if args.real is None:
        encoded = pictures(args.crops)
    else:
        encoded = real_pictures(open_dataset(args.real), args.crops)
    if not (folder / "MANIFEST.json").exists():
        write_crops(folder, args.faces, encoded)
    samples, seconds = timed(lambda: dataset_samples(open_dataset(folder)))
    print(f"{samples.text()}; listed in {seconds:.2f} s")
    settings = OrderSettings(window_samples=args.window, group_parts=args.parts)
    print(f"{np.mean([len(e) for e in encoded]):.0f} bytes a crop, {os.cpu_count()} cores")
    questions: dict[str, Callable[[], tuple[float, float]]] = {
        "decode": lambda: bare(encoded, args.seconds),
    }
    for n in args.workers:
        questions[f"loader, {n}"] = lambda n=n: loaded(samples, settings, n, args.seconds)
    most = max(args.workers)
    questions["all on"] = lambda: loaded(samples, settings, most, args.seconds, ALL_ON)
    rec = as_rec(folder.with_suffix(".rec"), args.faces, encoded)
    questions[".rec"] = lambda: loaded(rec, settings, most, args.seconds)
    questions["torch"] = lambda: torch_loader(encoded, args.seconds)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in questions}
    for _ in range(args.repeats):
        for name, ask in questions.items():
            rates[name].append(ask())
    print(f"{'':12}{'crops/s':>10}{'cpu':>10}   load {os.getloadavg()[0]:.1f}")
    for name, found in rates.items():
        wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:12}{wall:10,.0f}{cpu:10,.0f}")


def timed(ask: Callable[[], Samples]) -> tuple[Samples, float]:
    """Return an answer and how many seconds it took."""
    start = time.perf_counter()
    return ask(), time.perf_counter() - start


class Watch:
    """Wall and processor time of this process and its children."""

    def __init__(self) -> None:
        """Start."""
        self.wall, self.cpu = time.perf_counter(), _cpu()

    def rates(self, crops: int) -> tuple[float, float]:
        """Return crops a second, by the clock and by the processor."""
        return crops / (time.perf_counter() - self.wall), crops / (_cpu() - self.cpu)


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def bare(encoded: list[bytes], seconds: float) -> tuple[float, float]:
    """Decode crops over and over."""
    pixels = np.empty((112, 112, 3), np.uint8)
    watch, crops = Watch(), 0
    while time.perf_counter() - watch.wall < seconds:
        for data in encoded:
            decode_into(data, pixels)
        crops += len(encoded)
    return watch.rates(crops)


def loaded(
    samples: Samples,
    settings: OrderSettings,
    workers: int,
    seconds: float,
    augmentation: AugmentSettings | None = None,
) -> tuple[float, float]:
    """Take batches, from the first one that is ready on, for some seconds or more."""
    order = SampleOrder(samples, settings)
    with Loader(
        order, LoaderSettings(batch_samples=BATCH, workers=workers), augmentation
    ) as loader:
        next(loader)
        watch, crops = Watch(), 0
        # Whole windows, so that as many are read as are decoded.
        while crops % settings.window_samples or time.perf_counter() - watch.wall < seconds:
            crops += len(next(loader).sample_B)
        if loader.bad:
            raise SystemExit(f"made crops do not decode: {dict(loader.bad)}")
        return watch.rates(crops)


def as_rec(folder: Path, faces: int, encoded: list[bytes]) -> Samples:
    """Return the same crops as samples of a .rec."""
    if not folder.exists():
        folder.mkdir()
        names = ("train.rec", "train.idx", "train.lst", "property")
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context((folder / name).open("wb")) for name in names]
            streams = RecordStreams(rec=files[0], idx=files[1], lst=files[2], property=files[3])
            rows = ((i // 60, f"{i}.jpg", encoded[i % len(encoded)]) for i in range(faces))
            write_records(rows, streams)
    return source_samples([str(folder)])


class _Crops(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Crops in memory, decoded as usual: OpenCV, channels first, a tensor a crop."""

    def __init__(self, encoded: list[bytes]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return 1 << 24

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        data = np.frombuffer(self._encoded[index % len(self._encoded)], np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]
        if index & 1:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), index


def torch_loader(encoded: list[bytes], seconds: float) -> tuple[float, float]:
    """Take batches of torch's DataLoader; its processes count once they have ended."""
    loader = torch.utils.data.DataLoader(_Crops(encoded), batch_size=BATCH, num_workers=2)
    batches = iter(loader)
    next(batches)
    start, before, crops = time.perf_counter(), Watch(), BATCH
    while time.perf_counter() - start < seconds:
        crops += len(next(batches)[1])
    wall = crops / (time.perf_counter() - start)
    del batches  # ends the processes, whose time is then known
    return wall, before.rates(crops)[1]


if __name__ == "__main__":
    main()
