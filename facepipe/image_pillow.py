"""Photos through Pillow: every format that has no shorter way, and any mode to BGR on white.

The plugins are called by name, so that no other format of Pillow's can be reached.

Legend: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from facepipe.image_header import Header

Pixels = NDArray[np.uint8]

BLOCK_PX = 1 << 20  # converted at a time, so that the copies of a large photo stay small
ERROR_CHARS = 300  # of a decoder's message kept in the table
_ORIENTATION_TAG = 274


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels as a decoder gave them: still to be turned, and what it complained about."""

    pixels_HWC: Pixels
    orientation: int = 1  # EXIF, still to be applied
    complaint: str = ""


class TooLarge(Exception):
    """The decoder found a larger size than the header reader."""

    def __init__(self, width: int, height: int) -> None:
        """Keep the size, in pixels, as a header."""
        super().__init__(width, height)
        self.header = Header(width, height, width * height)


def one_line(error: BaseException) -> str:
    """Return an error in one line without addresses, so that the same bytes give the same row."""
    message = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"<[^>]* at 0x[0-9a-f]+>", "data", message)[:ERROR_CHARS]


_PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "avif": AvifImagePlugin.AvifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}
_GLOBALS = threading.RLock()


@contextmanager
def pillow_globals(salvage: bool) -> Iterator[None]:
    """Set what Pillow only offers as globals, silence its warnings, and put all back."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    threads = AvifImagePlugin.DEFAULT_MAX_THREADS
    with _GLOBALS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ImageFile.LOAD_TRUNCATED_IMAGES = salvage
        Image.MAX_IMAGE_PIXELS = None  # ours rules: checked before and after opening
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before
            AvifImagePlugin.DEFAULT_MAX_THREADS = threads


def decode_any(format: str, data: bytes, max_pixels: int) -> Picture:
    """Decode strictly, and where that fails once more, as far as it goes."""
    try:
        with pillow_globals(salvage=False):
            image = opened(format, data, max_pixels)
            image.load()
            return Picture(to_bgr(image), _orientation(image))
    except (MemoryError, TooLarge):
        raise
    except Exception as error:
        complaint = one_line(error)
    with pillow_globals(salvage=True):
        image = opened(format, data, max_pixels)
        try:
            image.load()
        except MemoryError:
            raise
        except Exception:
            image.tile = []  # what has been decoded so far stays in the image
            image.load()
        return Picture(to_bgr(image), _orientation(image), complaint)


def opened(format: str, data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Open an image with the plugin of its format; raises TooLarge before any pixel is read."""
    image = _PLUGINS[format](io.BytesIO(data))
    if image.width * image.height > max_pixels:
        raise TooLarge(image.width, image.height)
    return image


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF turn that Pillow has left to us.

    It turns TIFFs itself and gives the irot and imir of an AVIF as if they were EXIF. JPEG and
    WebP are read from the header.
    """
    if image.format not in ("PNG", "AVIF"):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF never fails a photo
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _blocks(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, BLOCK_PX // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def to_bgr(image: Image.Image) -> Pixels:
    """Return the BGR pixels (H, W, 3) of a loaded Pillow image of any mode, on white."""
    to_8bit = _range_of(image) if image.mode[0] in "IF" else None
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, block in _blocks(image):
        part = pixels[top : top + block.height]
        if to_8bit is not None:
            cv2.cvtColor(to_8bit(np.asarray(block)), cv2.COLOR_GRAY2BGR, dst=part)
        else:
            cv2.cvtColor(np.asarray(_on_white(block)), cv2.COLOR_RGB2BGR, dst=part)
    return pixels


def _on_white(block: Image.Image) -> Image.Image:
    if not block.has_transparency_data:
        return block.convert("RGB")
    block = block.convert("RGBA")
    white = Image.new("RGB", block.size, (255, 255, 255))
    white.paste(block, mask=block.getchannel("A"))
    return white


def _range_of(image: Image.Image) -> Callable[[NDArray[np.generic]], Pixels]:
    """Return how the numbers of a deep grey image (16-bit, 32-bit, float) become 0..255.

    16-bit gives its high byte. Elsewhere the range is told from the numbers: 0..255 stays,
    0..65535 is divided by 256, floats in 0..1 are multiplied by 255, all else is stretched
    from least to greatest. What is not finite becomes the nearest end.
    """
    if image.mode.startswith("I;16") or image.format == "PPM":  # Pillow scales those to 16 bits
        return lambda values: (values >> 8).astype(np.uint8)  # type: ignore[operator]
    ends = [_extremes(np.asarray(block)) for _, block in _blocks(image)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    offset, scale = low, 255.0 / (high - low) if high > low else 0.0
    if low >= 0 and high <= 65535:
        offset, scale = 0.0, 1.0 if high <= 255 else 1 / 256
        if image.mode == "F" and high <= 1:
            scale = 255.0

    def to_8bit(values: NDArray[np.generic]) -> Pixels:
        numbers = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
        return ((numbers - offset) * scale).astype(np.uint8)

    return to_8bit


def _extremes(values: NDArray[np.generic]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
