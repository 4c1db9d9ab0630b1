"""The encoded crops of windows of samples, read ahead by one thread and dropped when done with.

Legend: W samples of a window, K those of it that this rank wants.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.sample_order import SampleOrder, Window
from training.samples import Crops, read_crops

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropWindow:
    """A window with the crops that were wanted of it."""

    window: Window
    crop_W: Crops  # None also where it was not wanted

    def __len__(self) -> int:
        """Return W."""
        return len(self.crop_W)


class CropWindows:
    """The windows of an order by their numbers; the one behind each is read ahead.

    One thread reads; `get` may be called from any.
    """

    def __init__(self, order: SampleOrder, wanted: Callable[[Int64], Bool]) -> None:
        """Read nothing yet; ``wanted`` tells which positions this rank decodes."""
        self._order, self._wanted = order, wanted
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="crop-windows")
        self._windows: dict[int, Future[CropWindow]] = {}

    def ask(self, number: int) -> None:
        """Begin to read a window and the one behind it; called by one thread, numbers rise."""
        for ahead in (number, number + 1):
            if ahead not in self._windows:
                self._windows[ahead] = self._thread.submit(self._load, ahead)

    def get(self, number: int) -> Future[CropWindow]:
        """Return a window that was asked for, which may still be read."""
        return self._windows[number]

    def drop_before(self, number: int) -> None:
        """Forget the windows before one."""
        for old in [n for n in self._windows if n < number]:
            del self._windows[old]

    def close(self) -> None:
        """Stop reading, and close what is open."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._windows.clear()
        self._order.samples.groups.close()

    def _load(self, number: int) -> CropWindow:
        window = self._order.window(number)
        size = len(window.sample_W)
        places = np.flatnonzero(self._wanted(window.start + np.arange(size)))
        crop_W = np.full(size, None, object)
        crop_W[places] = read_crops(self._order.samples, window.sample_W[places])
        return CropWindow(window=window, crop_W=crop_W)
