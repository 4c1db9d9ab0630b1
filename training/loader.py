"""Batches of decoded crops, by threads that read ahead: the same ones however many there are.

Decoders let go of Python's lock, so that threads keep all cores busy and share the windows of
encoded crops; nothing is copied between processes. Batch after batch takes the next stretch of one
endless sequence of samples (sample_order.py); of that stretch each rank has its block. So the
sequence, and with it the whole run, hangs on `position` alone.

Legend: B samples of a rank's batch; H, W pixels of a crop, C channels (R, G, B).
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field

from facepipe.align import CROP_PX
from facepipe.errors import UsageError
from training.augment import AugmentSettings, augment, draws, is_changed
from training.crop_pixels import BadCrop, decode_into
from training.crop_windows import CropWindow, CropWindows
from training.sample_order import SampleOrder

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

IGNORED = -1  # the label of a sample without pixels: heads leave it out of the loss
_HALF_RANGE = 127.5  # (x - 127.5) / 127.5 is in [-1, 1]: the input of insightface's recognisers
_PREFETCH_PER_WORKER = 2  # batches: one that is decoded, and one that waits


class LoaderSettings(BaseModel):
    """How batches are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_samples: int = Field(128, ge=1, description="samples of a batch of one rank")
    workers: int = Field(
        2, ge=1, le=256, description="threads of a rank that decode; no result depends on them"
    )
    pin_memory: bool = Field(
        False, description="batches in page-locked memory, from which a GPU copies by itself"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A rank's part of a step."""

    position: int  # where the step behind this one begins: what a checkpoint keeps
    epoch: int  # of the first sample
    pixels_BHWC: torch.Tensor  # uint8, RGB; black where there is no crop
    label_B: torch.Tensor  # int64; IGNORED where there is no crop
    weight_B: torch.Tensor  # float32; 0 where there is no crop
    sample_B: Int64
    bad: dict[int, BadCrop]  # why a row has no crop

    def images(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the input of a backbone, (B, 3, 112, 112) float32 in [-1, 1], channels last.

        The bytes are copied to the device, and made four times as large there.
        """
        pixels = self.pixels_BHWC.to(device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2).float().sub_(_HALF_RANGE).div_(_HALF_RANGE)


class _PixelMemory:
    """Memory of batches that nobody holds any more, to be used again.

    Fresh pages cost the system a twentieth of what decoding costs. torch keeps page-locked memory
    itself.
    """

    def __init__(self, samples: int, pinned: bool) -> None:
        self._shape, self._pinned = (samples, CROP_PX, CROP_PX, 3), pinned
        self._free: list[npt.NDArray[np.uint8]] = []

    def take(self) -> torch.Tensor:
        """Return pixels of a batch, (B, 112, 112, 3) uint8, holding anything."""
        if self._pinned:
            return torch.empty(self._shape, dtype=torch.uint8, pin_memory=True)
        try:
            owner = self._free.pop()
        except IndexError:
            owner = np.empty(self._shape, np.uint8)
        view = owner.view()  # the tensor and all that are made of it hold the view
        weakref.finalize(view, self._free.append, owner).atexit = False
        return torch.from_numpy(view)


class Loader:
    """An endless iterator over batches, from a position on; a context manager.

    One rank of ``ranks``, all of which are given the same order, settings and position. The step
    at ``position`` is made of the samples there up to ``position + ranks * batch_samples``; rank r
    has the r-th block of them. ``bad`` counts samples of this rank whose crop could not be used,
    once a time that they came.

    OpenCV is held to one thread in this process: the workers are the threads.
    """

    def __init__(
        self,
        order: SampleOrder,
        settings: LoaderSettings | None = None,
        augmentation: AugmentSettings | None = None,
        *,
        position: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Start to read. Raises UsageError for a position or a rank that cannot be."""
        if position < 0 or not 0 <= rank < ranks:
            raise UsageError(
                f"position {position} of rank {rank} of {ranks}: positions count from 0, and "
                "ranks from 0 up to their number"
            )
        cv2.setNumThreads(1)
        self.settings = settings or LoaderSettings()
        self.position = position
        self.bad: Counter[BadCrop] = Counter()
        self.bad_samples: set[int] = set()
        self._order, self._augmentation = order, augmentation or AugmentSettings()
        self._block = rank * self.settings.batch_samples
        self._step_samples = ranks * self.settings.batch_samples
        self._asked = position  # where the next batch that is begun begins
        self._windows = CropWindows(order, self._wanted_from(position))
        self._pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="crop-decoder")
        self._begun: deque[Future[Batch]] = deque()
        self._memory = _PixelMemory(self.settings.batch_samples, self.settings.pin_memory)

    def __iter__(self) -> Loader:
        """Return the loader itself."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch. Raises CorruptData where a committed file is damaged."""
        while len(self._begun) < _PREFETCH_PER_WORKER * self.settings.workers + 1:
            self._begin()
        batch = self._begun.popleft().result()
        self.position = batch.position
        self.bad.update(batch.bad.values())
        self.bad_samples.update(batch.sample_B[list(batch.bad)].tolist())
        self._windows.drop_before(self._order.window_at(batch.position))
        return batch

    def __enter__(self) -> Loader:
        """Return the loader."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the threads."""
        self.close()

    def close(self) -> None:
        """Stop the threads and forget what was read ahead; `position` stays."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._begun.clear()
        self._windows.close()

    def _wanted_from(self, start: int) -> Callable[[Int64], Bool]:
        low, high = self._block, self._block + self.settings.batch_samples

        def wanted(position_K: Int64) -> Bool:
            within_K = (position_K - start) % self._step_samples
            return (position_K >= start) & (low <= within_K) & (within_K < high)

        return wanted

    def _begin(self) -> None:
        """Let a thread make the next batch, once its windows are being read."""
        first = self._asked + self._block
        last = first + self.settings.batch_samples - 1
        numbers = range(self._order.window_at(first), self._order.window_at(last) + 1)
        for number in numbers:
            self._windows.ask(number)
        windows = [self._windows.get(number) for number in numbers]
        self._asked += self._step_samples
        self._begun.append(self._pool.submit(self._made, first, self._asked, windows))

    def _made(self, first: int, position: int, windows: list[Future[CropWindow]]) -> Batch:
        """Return the batch whose samples begin at ``first``."""
        size = self.settings.batch_samples
        pixels = self._memory.take()
        pixels_BHWC = pixels.numpy()
        sample_B = np.empty(size, np.int64)
        bad: dict[int, BadCrop] = {}
        done = 0
        for window in (future.result() for future in windows):
            start = first + done - window.window.start
            stop = min(start + size - done, len(window))
            rows = slice(done, done + stop - start)
            sample_B[rows] = window.window.sample_W[start:stop]
            found = self._decoded(window, range(start, stop), pixels_BHWC[rows])
            bad.update({done + row: problem for row, problem in found.items()})
            done += stop - start
        samples = self._order.samples
        missing_B = np.isin(np.arange(size), list(bad))
        label_B = np.where(missing_B, IGNORED, samples.label_N[sample_B]).astype(np.int64)
        weight_B = np.where(missing_B, np.float32(0), samples.weight_N[sample_B])
        return Batch(
            position=position,
            epoch=self._order.epoch_of(first),
            pixels_BHWC=pixels,
            label_B=torch.from_numpy(label_B),
            weight_B=torch.from_numpy(weight_B),
            sample_B=sample_B,
            bad=bad,
        )

    def _decoded(
        self, window: CropWindow, places: range, pixels_KHWC: npt.NDArray[np.uint8]
    ) -> dict[int, BadCrop]:
        """Decode and augment crops of a window into rows; return why some rows have none."""
        own = window.window
        stretch = slice(places.start, places.stop)
        samples = own.sample_W[stretch]
        draw_KD = draws(self._order.seed, own.epoch, samples, own.copy_W[stretch])
        changed = is_changed(draw_KD, self._augmentation).tolist()
        bad = {}
        for row, place in enumerate(places):
            pixels_HWC = pixels_KHWC[row]
            problem = decode_into(window.crop_W[place], pixels_HWC)
            if problem is not None:
                pixels_HWC[:] = 0
                bad[row] = problem
            elif changed[row]:
                augment(pixels_HWC, draw_KD[row].tolist(), self._augmentation)
        return bad
