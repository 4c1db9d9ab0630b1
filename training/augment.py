"""Changes to crops before training, each a function of the crop and of numbers from its key.

The numbers are keyed by (seed, epoch, sample, copy), so that a sample's pixels depend neither on
its batch nor on who decodes it. Every change has its own columns of numbers: one that is turned
on does not alter what the others draw.

Legend: B samples of a batch, K columns; H, W pixels of a crop, C channels (R, G, B).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, auto

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from pydantic import BaseModel, ConfigDict, Field

from facepipe.align import CROP_PX
from training.keyed_random import Float64, Int64, hashes, key_of, uniforms

UInt8 = npt.NDArray[np.uint8]

_AUGMENT = 21  # what a key is for
_MIDDLE_PX = (CROP_PX - 1) / 2
# ITU-R BT.601, as in OpenCV's COLOR_RGB2GRAY.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_INTERPOLATIONS = (
    *(cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA),
    *(cv2.INTER_CUBIC, cv2.INTER_LANCZOS4),
)
_LEAST_OCCLUDED = 0.02  # share of the crop: Zhong et al., "Random erasing", AAAI 2020, s_l
_MOST_ASPECT = 1 / 0.3  # the same, r_1


class AugmentSettings(BaseModel):
    """Which share of the crops is changed, and by how much; by default they are only mirrored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: float = Field(0.5, ge=0, le=1, description="share that is mirrored")
    affine: float = Field(0.0, ge=0, le=1, description="share that is turned, scaled and moved")
    rotation_deg: float = Field(10.0, ge=0, le=180, description="most, to either side")
    scale: float = Field(0.1, ge=0, lt=1, description="most, larger or smaller, of 1")
    shift_px: float = Field(4.0, ge=0, le=CROP_PX, description="most, to each side")
    colour: float = Field(
        0.0, ge=0, le=1, description="share with other brightness, contrast and saturation"
    )
    colour_strength: float = Field(0.3, ge=0, lt=1, description="most, of each factor, from 1")
    grey: float = Field(0.0, ge=0, le=1, description="share without colour")
    blur: float = Field(0.0, ge=0, le=1, description="share that is blurred")
    blur_sigma_px: float = Field(2.0, gt=0, le=20, description="largest Gaussian")
    low_resolution: float = Field(
        0.0, ge=0, le=1, description="share that is made small and large again"
    )
    low_resolution_px: int = Field(
        22, ge=4, le=CROP_PX, description="least side; 22 is a fifth, as AdaFace's trainer has it"
    )
    jpeg: float = Field(0.0, ge=0, le=1, description="share that is compressed once more")
    jpeg_quality: int = Field(30, ge=1, le=95, description="least; 95 is the most")
    occlusion: float = Field(0.0, ge=0, le=1, description="share with a rectangle of one colour")
    occlusion_share: float = Field(
        0.3, ge=_LEAST_OCCLUDED, le=1, description="largest rectangle, of the crop"
    )


class _Draw(IntEnum):
    """The columns of numbers; new ones go to the end, so that old runs stay what they were."""

    FLIP = 0
    AFFINE = auto()
    ANGLE = auto()
    SCALE = auto()
    SHIFT_X = auto()
    SHIFT_Y = auto()
    COLOUR = auto()
    BRIGHTNESS = auto()
    CONTRAST = auto()
    SATURATION = auto()
    GREY = auto()
    BLUR = auto()
    SIGMA = auto()
    LOW_RESOLUTION = auto()
    SIDE = auto()
    SMALLER_BY = auto()
    LARGER_BY = auto()
    JPEG = auto()
    QUALITY = auto()
    OCCLUSION = auto()
    AREA = auto()
    ASPECT = auto()
    LEFT = auto()
    TOP = auto()
    RED = auto()
    GREEN = auto()
    BLUE = auto()


_SHARED = (  # each is compared with the share of its name in the settings
    *(_Draw.FLIP, _Draw.AFFINE, _Draw.COLOUR, _Draw.GREY),
    *(_Draw.BLUR, _Draw.LOW_RESOLUTION, _Draw.JPEG, _Draw.OCCLUSION),
)


def draws(seed: int, epoch: int, sample_B: Int64, copy_B: npt.NDArray[np.integer]) -> Float64:
    """Return the numbers in [0, 1) of some samples in an epoch, (B, K) float64."""
    key = key_of(seed, _AUGMENT, epoch)
    own_B = hashes(hashes(key, sample_B), copy_B)
    return uniforms(key, own_B.view(np.int64), len(_Draw))


def is_changed(draw_BK: Float64, settings: AugmentSettings) -> npt.NDArray[np.bool_]:
    """Return which samples `augment` changes at all, (B,) bool."""
    shares = [getattr(settings, draw.name.lower()) for draw in _SHARED]
    return np.asarray((draw_BK[:, list(_SHARED)] < np.array(shares)).any(axis=1))


def augment(pixels_HWC: UInt8, draw_K: Sequence[float], settings: AugmentSettings) -> None:
    """Change a crop in place, (112, 112, 3) uint8 RGB, by the numbers drawn for it."""
    if draw_K[_Draw.FLIP] < settings.flip:
        cv2.flip(pixels_HWC, 1, dst=pixels_HWC)
    if draw_K[_Draw.AFFINE] < settings.affine:
        pixels_HWC[:] = _moved(pixels_HWC, draw_K, settings)
    if draw_K[_Draw.COLOUR] < settings.colour:
        pixels_HWC[:] = _coloured(pixels_HWC, draw_K, settings.colour_strength)
    if draw_K[_Draw.GREY] < settings.grey:
        pixels_HWC[:] = cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2GRAY)[:, :, None]
    if draw_K[_Draw.BLUR] < settings.blur:
        sigma_px = draw_K[_Draw.SIGMA] * settings.blur_sigma_px
        if sigma_px > 0:
            pixels_HWC[:] = cv2.GaussianBlur(pixels_HWC, (0, 0), sigma_px)
    if draw_K[_Draw.LOW_RESOLUTION] < settings.low_resolution:
        pixels_HWC[:] = _coarse(pixels_HWC, draw_K, settings.low_resolution_px)
    if draw_K[_Draw.JPEG] < settings.jpeg:
        _compress(pixels_HWC, draw_K, settings.jpeg_quality)
    if draw_K[_Draw.OCCLUSION] < settings.occlusion:
        _occlude(pixels_HWC, draw_K, settings.occlusion_share)


def _within(unit: float, most: float) -> float:
    """Return a number in [-most, most)."""
    return (2 * unit - 1) * most


def _moved(pixels_HWC: UInt8, draw_K: Sequence[float], settings: AugmentSettings) -> UInt8:
    """Return the crop turned and scaled about its middle, then moved; black where nothing was."""
    angle = np.deg2rad(_within(draw_K[_Draw.ANGLE], settings.rotation_deg))
    factor = 1 + _within(draw_K[_Draw.SCALE], settings.scale)
    a, b = factor * np.cos(angle), factor * np.sin(angle)
    linear = np.array([[a, b], [-b, a]])
    shift = [_within(draw_K[d], settings.shift_px) for d in (_Draw.SHIFT_X, _Draw.SHIFT_Y)]
    offset = _MIDDLE_PX - linear @ [_MIDDLE_PX, _MIDDLE_PX] + shift
    matrix = np.column_stack([linear, offset])
    return np.asarray(cv2.warpAffine(pixels_HWC, matrix, (CROP_PX, CROP_PX)), np.uint8)


def _coloured(pixels_HWC: UInt8, draw_K: Sequence[float], strength: float) -> UInt8:
    """Return the crop with another brightness, contrast and saturation, all at once.

    Each is a blend by a factor f around 1, as in PIL's ImageEnhance: f x + (1 - f) black, mean
    grey, or the pixel's own grey. All three are linear in the pixel, so they are one matrix.
    """
    brightness, contrast, saturation = (
        1 + _within(draw_K[d], strength)
        for d in (_Draw.BRIGHTNESS, _Draw.CONTRAST, _Draw.SATURATION)
    )
    mean = np.array(cv2.mean(pixels_HWC)[:3], np.float32) @ _LUMA
    linear = np.eye(3, dtype=np.float32) * saturation + (1 - saturation) * _LUMA[None, :]
    offset = (1 - contrast) * brightness * mean
    matrix = np.column_stack([contrast * brightness * linear, np.full(3, offset)])
    return np.asarray(cv2.transform(pixels_HWC, matrix.astype(np.float32)), np.uint8)


def _coarse(pixels_HWC: UInt8, draw_K: Sequence[float], least_px: int) -> UInt8:
    """Return the crop made small and large again, each by an interpolation of its own.

    After AdaFace's trainer (dataset/augmenter.py, low_res_augmentation).
    """
    side = least_px + int(draw_K[_Draw.SIDE] * (CROP_PX - least_px))
    down, up = (
        _INTERPOLATIONS[int(draw_K[d] * len(_INTERPOLATIONS))]
        for d in (_Draw.SMALLER_BY, _Draw.LARGER_BY)
    )
    small = cv2.resize(pixels_HWC, (side, side), interpolation=down)
    return np.asarray(cv2.resize(small, (CROP_PX, CROP_PX), interpolation=up), np.uint8)


def _compress(pixels_HWC: UInt8, draw_K: Sequence[float], least: int) -> None:
    quality = least + int(draw_K[_Draw.QUALITY] * (96 - least))
    data = simplejpeg.encode_jpeg(pixels_HWC, quality, "RGB", "420", fastdct=False)
    simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, buffer=pixels_HWC)


def _occlude(pixels_HWC: UInt8, draw_K: Sequence[float], most: float) -> None:
    """Paint a rectangle of one colour: random erasing, which lies within the crop.

    Area uniform between 2 % and ``most`` of the crop, the aspect's logarithm uniform.
    """
    area = _LEAST_OCCLUDED + draw_K[_Draw.AREA] * (most - _LEAST_OCCLUDED)
    aspect = _MOST_ASPECT ** _within(draw_K[_Draw.ASPECT], 1)
    height = min(CROP_PX, max(1, round(CROP_PX * float(np.sqrt(area * aspect)))))
    width = min(CROP_PX, max(1, round(CROP_PX * float(np.sqrt(area / aspect)))))
    top = int(draw_K[_Draw.TOP] * (CROP_PX - height + 1))
    left = int(draw_K[_Draw.LEFT] * (CROP_PX - width + 1))
    colour = [int(256 * draw_K[d]) for d in (_Draw.RED, _Draw.GREEN, _Draw.BLUE)]
    pixels_HWC[top : top + height, left : left + width] = colour
