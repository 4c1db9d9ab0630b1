"""Encoded crops to RGB pixels, straight into the rows of a batch; a bad crop has a reason.

Legend: H, W pixels of a crop (112), C channels (R, G, B).
"""

from __future__ import annotations

from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from facepipe.align import CROP_PX, decode_crop
from facepipe.decode import DecodeSettings, decode

UInt8 = npt.NDArray[np.uint8]

# A crop has 37,632 bytes of pixels. What is longer holds something else, too.
MAX_CROP_BYTES = 1 << 20
_JPEG = b"\xff\xd8"
_STRICT = DecodeSettings(max_pixels=1 << 22, max_file_bytes=MAX_CROP_BYTES, truncated="refuse")


class BadCrop(StrEnum):
    """Why a sample has no pixels."""

    UNREADABLE = "unreadable"  # its bytes cannot be had
    TOO_LONG = "too_long"  # more than MAX_CROP_BYTES
    CORRUPT = "corrupt"  # no image, or a damaged one
    WRONG_SIZE = "wrong_size"  # an image, not of 112 x 112 px


def decode_into(data: bytes | None, pixels_HWC: UInt8) -> BadCrop | None:
    """Decode a crop into RGB pixels, (112, 112, 3) uint8; return why not, None where it went well.

    JPEG by libjpeg-turbo, with the exact DCT and smooth upsampling as everywhere in facepipe,
    all else by OpenCV. A truncated crop is corrupt. Where the answer is a reason the pixels
    hold anything.
    """
    if data is None:
        return BadCrop.UNREADABLE
    if len(data) > MAX_CROP_BYTES:
        return BadCrop.TOO_LONG
    if data.startswith(_JPEG):
        return _jpeg_into(data, pixels_HWC)
    crop = decode_crop(data)
    if crop is None:
        return _slowly_into(data, pixels_HWC)
    cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=pixels_HWC)
    return None


def _jpeg_into(data: bytes, pixels_HWC: UInt8) -> BadCrop | None:
    try:
        decoded_HWC = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=False, fastupsample=False, buffer=pixels_HWC, strict=True
        )
    except ValueError:  # too large for the row, or what libjpeg only warns of: with care
        return _slowly_into(data, pixels_HWC)
    return None if decoded_HWC.shape == pixels_HWC.shape else BadCrop.WRONG_SIZE


def _slowly_into(data: bytes, pixels_HWC: UInt8) -> BadCrop | None:
    decoded = decode(data, _STRICT)
    if decoded.pixels_HWC is None:
        return BadCrop.CORRUPT
    if decoded.pixels_HWC.shape != (CROP_PX, CROP_PX, 3):
        return BadCrop.WRONG_SIZE
    cv2.cvtColor(decoded.pixels_HWC, cv2.COLOR_BGR2RGB, dst=pixels_HWC)
    return None
