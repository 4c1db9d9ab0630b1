"""Bytes of a photo to upright BGR pixels and one status, whatever the bytes are.

JPEG goes through simplejpeg (libjpeg-turbo with the exact DCT and smooth upsampling, the pixels
of cv2.imread to the bit), still opaque WebP through OpenCV, HEIC through libheif, all else
through Pillow's plugins, called by name so that no other format can be reached. Transparency is
composited on white. Colour profiles are not applied, as in cv2.imread.

Legend: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Literal, cast

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from facepipe.image_codecs import DECODERS, MEBIBYTE
from facepipe.image_header import SNIFF_BYTES, Header, read_header, sniff
from facepipe.image_pillow import ERROR_CHARS, Picture, Pixels, TooLarge, one_line
from facepipe.schema import PhotoStatus

__all__ = ["SNIFF_BYTES", "DecodeSettings", "Decoded", "decode", "sniff", "upright"]


MAX_SIDE_PX = 2**31 - 1  # what the table of photos can hold; a hostile header may claim more


class DecodeSettings(BaseModel):
    """What is decoded, and what is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(
        64_000_000, ge=1, description="largest width x height decoded, in pixels"
    )
    max_file_bytes: int = Field(
        256 * MEBIBYTE, ge=1, description="largest encoded photo decoded, in bytes"
    )
    truncated: Literal["salvage", "refuse"] = Field(
        "salvage", description="keep the pixels of a truncated or damaged photo, or refuse it"
    )


@dataclass(frozen=True, slots=True)
class Decoded:
    """A photo after decoding; sizes are upright, and None where no header could be read."""

    status: PhotoStatus
    error: str = ""
    format: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    orientation: int | None = None  # EXIF 1..8 as found, 1 where absent; HEIF and AVIF: always 1
    pixels_HWC: Pixels | None = None


def decode(data: bytes, settings: DecodeSettings) -> Decoded:
    """Decode a photo to upright, C-contiguous BGR pixels (H, W, 3) of uint8, or say why not.

    Never raises for bad data: every problem is a status and a text. MemoryError passes.
    """
    format = sniff(data[:SNIFF_BYTES])
    if not data:
        return Decoded(PhotoStatus.NOT_AN_IMAGE, "empty file")
    if format is None:
        return Decoded(PhotoStatus.NOT_AN_IMAGE, f"no image format read: begins {data[:8].hex()}")
    if len(data) > settings.max_file_bytes:
        error = f"{len(data)} bytes, over decode.max_file_bytes = {settings.max_file_bytes}"
        return Decoded(PhotoStatus.TOO_LARGE, error, format)
    header = read_header(data, format)
    known = _described(format, header)
    if header.largest_px > settings.max_pixels:
        return _too_large(known, header, settings)
    try:
        picture = DECODERS[format](data, header, settings.max_pixels)
    except MemoryError:
        raise
    except TooLarge as large:
        return _too_large(known, large.header, settings)
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        cut = isinstance(error.__cause__ or error, (struct.error, IndexError))
        text = "header cut or damaged" if cut else one_line(error)
        return replace(known, status=PhotoStatus.CORRUPT, error=text)
    return _finished(known, picture, settings)


def _described(format: str, header: Header) -> Decoded:
    stored = (header.width_px, header.height_px)
    width, height = (side if side is None or side <= MAX_SIDE_PX else None for side in stored)
    if header.orientation >= 5:
        width, height = height, width
    return Decoded(PhotoStatus.OK, "", format, width, height, header.orientation)


def _too_large(known: Decoded, header: Header, settings: DecodeSettings) -> Decoded:
    size = f"{header.width_px} x {header.height_px} pixels"
    if header.width_px and header.largest_px != header.width_px * (header.height_px or 0):
        size = f"a tile of {header.largest_px} pixels"
    error = f"{size[:ERROR_CHARS]}, over decode.max_pixels = {settings.max_pixels}"
    return replace(known, status=PhotoStatus.TOO_LARGE, error=error)


def _finished(known: Decoded, picture: Picture, settings: DecodeSettings) -> Decoded:
    status = PhotoStatus.SALVAGED if picture.complaint else PhotoStatus.OK
    if picture.complaint and _is_blank(picture.pixels_HWC):
        error = f"nothing could be decoded: {picture.complaint}"  # all is the fill colour
        return replace(known, status=PhotoStatus.CORRUPT, error=error)
    if picture.complaint and settings.truncated == "refuse":
        status = PhotoStatus.TRUNCATED
    pixels = upright(picture.pixels_HWC, picture.orientation)
    height, width = pixels.shape[:2]
    return replace(
        known,
        status=status,
        error=picture.complaint,
        orientation=picture.orientation if known.format == "png" else known.orientation,
        width_px=width,
        height_px=height,
        pixels_HWC=pixels if status in (PhotoStatus.OK, PhotoStatus.SALVAGED) else None,
    )


def _is_blank(pixels_HWC: Pixels) -> bool:
    flat = pixels_HWC.reshape(-1, 3)
    return bool((flat.min(axis=0) == flat.max(axis=0)).all())


def upright(pixels_HWC: Pixels, orientation: int) -> Pixels:
    """Return pixels as EXIF orientation 1..8 wants them shown, C-contiguous and writable.

    May reuse the memory of ``pixels_HWC``, which is therefore not to be used afterwards.
    """
    pixels = np.require(pixels_HWC, np.uint8, ["C", "W"])
    transposed, flip = _TURNS[orientation]
    if transposed:
        pixels = cast(Pixels, cv2.transpose(pixels))
    if flip is not None:
        cv2.flip(pixels, flip, dst=pixels)  # in place
    return pixels


# CIPA DC-008 (EXIF 2.32), tag 274, as (transpose first?, cv2.flip code)
_ACROSS, _DOWN, _BOTH = 1, 0, -1
_TURNS: dict[int, tuple[bool, int | None]] = {
    1: (False, None),
    2: (False, _ACROSS),
    3: (False, _BOTH),
    4: (False, _DOWN),
    5: (True, None),
    6: (True, _ACROSS),
    7: (True, _BOTH),
    8: (True, _DOWN),
}
