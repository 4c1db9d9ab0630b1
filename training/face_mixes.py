"""Made faces: real ones moved, bent, mixed and spoilt, for a teacher to label.

A teacher labels any picture, so that its student need not run out of them ("function matching":
Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022,
arXiv:2106.05237). Two or three faces are mixed by smooth random masks (as FMix, Harris et al. 2020,
arXiv:2002.12047, draws them by frequency), by weights (mixup, Zhang et al. 2018,
arXiv:1710.09412), or the coarse of one with the fine of another (Oliva, Torralba and Schyns,
"Hybrid images", SIGGRAPH 2006); bending (Simard, Steinkraus and Platt 2003, elastic distortions)
makes other proportions of them, to the teacher other people.

Picture k is a function of (faces, settings, seed, k).

Legend: N faces; H, W pixels; 3 channels B, G, R.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from facepipe.align import CROP_PX

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MARGIN_PX = 24  # of a window around the crop, so that a moved face has surroundings
WINDOW_PX = CROP_PX + 2 * MARGIN_PX
NO_SOURCE = -1
# ITU-R BT.601, as in OpenCV's COLOR_BGR2GRAY.
_LUMA = np.array([0.114, 0.587, 0.299], np.float32)


class MixSettings(BaseModel):
    """Which share of the pictures is made how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    real: float = Field(0.3, ge=0, le=1, description="share that shows one face only")
    masked: float = Field(0.45, ge=0, le=1, description="share mixed by masks")
    weighted: float = Field(
        0.13, ge=0, le=1, description="share mixed by weights; the rest: hybrid"
    )
    third: float = Field(0.35, ge=0, le=1, description="of the masked ones, with a third face")
    bent_mixes: float = Field(0.6, ge=0, le=1, description="of the mixes, bent")
    bent_real: float = Field(0.25, ge=0, le=1, description="of the others, bent")
    bend_px: float = Field(5.5, ge=0, le=20, description="most, one standard deviation")
    displaced: float = Field(0.25, ge=0, le=1, description="share that is aligned badly")


def make_picture(
    windows: Sequence[Pixels] | npt.NDArray[np.uint8], number: int, seed: int, settings: MixSettings
) -> tuple[Pixels, int]:
    """Return picture ``number`` (112, 112, 3), and the face that it shows, or `NO_SOURCE`.

    ``windows`` are N aligned faces with `MARGIN_PX` around, (160, 160, 3) uint8.
    """
    rng = np.random.default_rng([seed, number])
    kind, source = rng.random(), int(rng.integers(len(windows)))
    x = placed(windows[source], rng, bad=rng.random() < settings.displaced)
    if kind < settings.real:
        bent = rng.random() < settings.bent_real
    else:
        x = _mixed(x, windows, kind - settings.real, rng, settings)
        bent = rng.random() < settings.bent_mixes
    if bent:
        x = _bent(x, rng, settings.bend_px)
    shown = source if kind < settings.real and not bent else NO_SOURCE
    return np.clip(_spoilt(_lit(x, rng), rng), 0, 255).astype(np.uint8), shown


def placed(window: Pixels, rng: np.random.Generator, *, bad: bool) -> Floats:
    """Return a window's face as another alignment might have cut it, (112, 112, 3) float32."""
    more = 1.0 if bad else 0.0
    angle = np.deg2rad(rng.normal(0, 3.5) + more * rng.normal(0, 6))
    scale = np.exp(rng.normal(0, 0.035) + more * rng.normal(0, 0.06))
    aspect = np.exp(rng.normal(0, 0.03))
    shift = rng.normal(0, 1.5, 2) + more * rng.normal(0, 2.5, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([scale * aspect, scale / aspect])
    middle = np.full(2, CROP_PX / 2)
    offset = middle + shift - matrix @ (middle + MARGIN_PX)
    if rng.random() < 0.5:
        window = np.ascontiguousarray(window[:, ::-1])
    moved = cv2.warpAffine(
        window,
        np.hstack([matrix, offset[:, None]]),
        (CROP_PX, CROP_PX),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(moved, np.float32)


def _mixed(
    x: Floats,
    windows: Sequence[Pixels] | npt.NDArray[np.uint8],
    kind: float,
    rng: np.random.Generator,
    settings: MixSettings,
) -> Floats:
    """Return a face mixed with one or two others."""
    other = placed(windows[int(rng.integers(len(windows)))], rng, bad=False)
    if rng.random() < 0.7:
        other = _coloured_like(other, x)
    if kind < settings.masked:
        mask = _mask(rng, 0.0)
        x = x * mask + other * (1 - mask)
        if rng.random() < settings.third:
            third = placed(windows[int(rng.integers(len(windows)))], rng, bad=False)
            mask = _mask(rng, -0.5)
            x = _coloured_like(third, x) * mask + x * (1 - mask)
        return x
    if kind < settings.masked + settings.weighted:
        weight = np.float32(rng.uniform(0.2, 0.8))
        return x * weight + other * (1 - weight)
    sigma_px = rng.uniform(1.5, 6)
    fine = other - cv2.GaussianBlur(other, (0, 0), sigma_px)
    return np.asarray(cv2.GaussianBlur(x, (0, 0), sigma_px) + fine, np.float32)


def _smooth(rng: np.random.Generator, cells: int, channels: int) -> Floats:
    """Return smooth noise of about unit size, (112, 112, channels)."""
    coarse = rng.standard_normal((cells, cells, channels)).astype(np.float32)
    fine = cv2.resize(coarse, (CROP_PX, CROP_PX), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine, np.float32).reshape(CROP_PX, CROP_PX, channels)


def _mask(rng: np.random.Generator, lean: float) -> Floats:
    """Return a smooth mask in [0, 1] with edges between soft and hard, (112, 112, 1)."""
    noise = _smooth(rng, int(rng.integers(2, 6)), 1) + np.float32(lean)
    return np.asarray(1 / (1 + np.exp(-noise * np.float32(rng.uniform(1, 8)))), np.float32)


def _coloured_like(x: Floats, model: Floats) -> Floats:
    """Return a picture with each channel's mean and spread of another.

    Reinhard et al. 2001, "Color transfer between images", in B, G, R instead of their l, a, b.
    """
    mean, spread = x.mean((0, 1)), x.std((0, 1)) + 1
    like = (x - mean) * ((model.std((0, 1)) + 1) / spread) + model.mean((0, 1))
    return np.asarray(like, np.float32)


def _bent(x: Floats, rng: np.random.Generator, most_px: float) -> Floats:
    """Return a picture with its places moved smoothly; the finer the bends, the smaller."""
    cells = int(rng.integers(3, 7))
    size_px = np.float32(rng.uniform(0.2, 1.0) * most_px * 3 / cells)
    moved = _smooth(rng, cells, 2) * size_px
    row, column = np.mgrid[:CROP_PX, :CROP_PX].astype(np.float32)
    bent = cv2.remap(
        x,
        column + moved[..., 0],
        row + moved[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(bent, np.float32)


def _lit(x: Floats, rng: np.random.Generator) -> Floats:
    """Return a picture in another light: gains, offset, gamma, grey, a shade across it."""
    if rng.random() < 0.5:
        strength = 1.0 if rng.random() < 0.5 else 0.3
        gain = rng.uniform(0.7, 1.25, 3).astype(np.float32) ** np.float32(strength)
        x = x * gain + np.float32(rng.uniform(-20, 20))
    if rng.random() < 0.25:
        gamma = np.float32(rng.uniform(0.6, 1.6))
        x = np.asarray(255 * np.clip(x / 255, 0, 1) ** gamma, np.float32)
    if rng.random() < 0.08:
        x = np.repeat((x @ _LUMA)[..., None], 3, axis=2)
    if rng.random() < 0.15:
        x = x * np.exp(np.float32(0.35) * _smooth(rng, 2, 1))
    return np.asarray(x, np.float32)


def _spoilt(x: Floats, rng: np.random.Generator) -> Floats:
    """Return a picture of low resolution, blurred, noisy or partly hidden, or as it is."""
    if rng.random() < 0.2:
        side = int(rng.integers(28, 90))
        small = cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA)
        x = np.asarray(cv2.resize(small, (CROP_PX, CROP_PX), interpolation=cv2.INTER_LINEAR))
    elif rng.random() < 0.1:
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), rng.uniform(0.5, 1.6)))
    if rng.random() < 0.1:
        x = x + rng.normal(0, rng.uniform(2, 12), x.shape).astype(np.float32)
    if rng.random() < 0.08:
        width, height = rng.integers(15, 55, 2)
        left, top = rng.integers(0, CROP_PX - 15, 2)
        x = x.copy()
        x[top : top + height, left : left + width] = rng.uniform(0, 255, 3)
    return np.asarray(x, np.float32)
