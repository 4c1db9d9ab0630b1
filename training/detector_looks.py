"""How training pictures of a detector look: light, colour, blur, covers, textures without faces.

All that is drawn follows from the key of a picture. Legend: H, W pixels; C channels, BGR;
4 box corners x1 y1 x2 y2; 5 landmarks x, y.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.keyed_random import key_of, uniforms

Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]

GREY_SHARE, BLUR_SHARE, COARSE_SHARE, NOISE_SHARE, JPEG_SHARE = 0.12, 0.12, 0.2, 0.12, 0.25
NOISE_PX = 1024  # side of the noise that pictures take their noise from
_BLOCK = 512
_NOISE_KEY = 0x6E6F697365  # "noise"


class Draws:
    """Numbers of one key, one after the other; keys are made of whole numbers."""

    def __init__(self, *words: int) -> None:
        """Begin at the key's first number."""
        self._words, self._block, self._next, self._splits = words, 0, 0, 0
        self._numbers = self._more(_BLOCK)

    def _more(self, count: int) -> list[float]:
        self._block += 1
        self._next = 0
        key = key_of(*self._words, self._block)
        numbers: list[float] = uniforms(key, np.zeros(1, np.int64), count)[0].tolist()
        return numbers

    def unit(self) -> float:
        """Return the next number, in [0, 1)."""
        if self._next == len(self._numbers):
            self._numbers = self._more(_BLOCK)
        self._next += 1
        return self._numbers[self._next - 1]

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, count: int) -> int:
        """Return a whole number from 0 to count - 1."""
        return min(int(self.unit() * count), count - 1)

    def colour(self) -> tuple[int, int, int]:
        """Return any colour."""
        return self.below(256), self.below(256), self.below(256)

    def split(self, count: int) -> Draws:
        """Return draws of their own, so that what they are used for moves no later number."""
        self._splits += 1
        part = Draws.__new__(Draws)
        part._words, part._splits = (*self._words, -self._splits), 0
        part._block = 0
        part._numbers = part._more(count)
        return part


def _noise() -> NDArray[np.int16]:
    """Return noise of standard deviation near 16, the same each time, NOISE_PX squared x 3."""
    count = NOISE_PX * NOISE_PX
    units = uniforms(_NOISE_KEY, np.arange(count), 3) + uniforms(
        _NOISE_KEY + 1, np.arange(count), 3
    )
    return np.asarray((units - 1) * 40, np.int16).reshape(NOISE_PX, NOISE_PX, 3)


NOISE = _noise()


def look(canvas_HWC: Pixels, draws: Draws) -> Pixels:
    """Return the canvas in another light, perhaps grey, blurred, coarse, noisy or recompressed."""
    picture = _lit(canvas_HWC, draws)
    if draws.unit() < GREY_SHARE:
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        picture = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    height, width = picture.shape[:2]
    if draws.unit() < BLUR_SHARE:
        sigma = draws.between(0.4, 1.6)
        picture = np.asarray(cv2.GaussianBlur(picture, (5, 5), sigma), np.uint8)
    if draws.unit() < COARSE_SHARE:
        share = draws.between(0.35, 0.9)
        small = cv2.resize(
            picture, (round(width * share), round(height * share)), interpolation=cv2.INTER_AREA
        )
        picture = np.asarray(cv2.resize(small, (width, height)), np.uint8)
    if draws.unit() < NOISE_SHARE:
        x, y = draws.below(NOISE_PX - width + 1), draws.below(NOISE_PX - height + 1)
        noise = NOISE[y : y + height, x : x + width]
        strength = draws.between(0.1, 1.0)
        picture = np.clip(picture + noise * np.float32(strength), 0, 255).astype(np.uint8)
    if draws.unit() < JPEG_SHARE:
        quality = 25 + draws.below(70)
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return picture


def _lit(canvas_HWC: Pixels, draws: Draws) -> Pixels:
    """Change contrast, brightness, gamma and each channel's strength, through one table."""
    contrast, shift = draws.between(0.6, 1.35), draws.between(-35, 35)
    gamma = 2 ** draws.between(-0.5, 0.5)
    casts = [draws.between(0.88, 1.12) for _ in range(3)]
    curve = 255 * (np.arange(256) / 255) ** gamma
    curve = (curve - 127.5) * contrast + 127.5 + shift
    table = np.clip(np.stack([curve * cast for cast in casts], axis=-1), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(canvas_HWC, table[None]), np.uint8)


def occluded(canvas_HWC: Pixels, box_4: Floats, landmarks_52: Floats, draws: Draws) -> None:
    """Cover part of a face, in place: its lower half as a mask does, its eyes, or a corner."""
    x1, y1, x2, y2 = (float(v) for v in box_4)
    width, height = x2 - x1, y2 - y1
    kind = draws.below(3)
    eyes, mouth = landmarks_52[:2].mean(axis=0), landmarks_52[3:].mean(axis=0)
    down = mouth - eyes
    if kind < 2:  # across the face, at the height of nose to chin, or of the eyes
        across = np.array([-down[1], down[0]]) * draws.between(0.8, 1.1)
        top, bottom = (draws.between(0.35, 0.6), 1.7) if kind == 0 else (-0.25, 0.25)
        middle = eyes + down * top, eyes + down * bottom
        corners = [middle[0] - across, middle[0] + across, middle[1] + across, middle[1] - across]
        cv2.fillConvexPoly(canvas_HWC, np.round(corners).astype(np.int32), draws.colour())
        return
    cover_w, cover_h = width * draws.between(0.2, 0.5), height * draws.between(0.2, 0.5)
    left = x1 + draws.unit() * (width - cover_w)
    top = y1 + draws.unit() * (height - cover_h)
    cv2.rectangle(
        canvas_HWC,
        (round(left), round(top)),
        (round(left + cover_w), round(top + cover_h)),
        draws.colour(),
        thickness=-1,
    )


def made_texture(height: int, width: int, draws: Draws) -> Pixels:
    """Return height x width x 3 without a face: grain, slopes, stripes, discs or writing."""
    kind = draws.below(5)
    if kind == 0:
        return _grain(height, width, draws)
    base = _slope(height, width, draws)
    if kind == 1:
        return base
    if kind == 2:
        _stripes(base, draws)
    elif kind == 3:
        _discs(base, draws)
    else:
        _writing(base, draws)
    return base


def _grain(height: int, width: int, draws: Draws) -> Pixels:
    """Noise of any fineness, finer along one axis than the other: grass, gravel, cloth."""
    share_x, share_y = (2 ** draws.between(-5, 0) for _ in range(2))
    w, h = (
        max(2, min(NOISE_PX, round(width * share_x))),
        max(2, min(NOISE_PX, round(height * share_y))),
    )
    x, y = draws.below(NOISE_PX - w + 1), draws.below(NOISE_PX - h + 1)
    noise = NOISE[y : y + h, x : x + w].astype(np.float32) * np.float32(draws.between(0.5, 4))
    if draws.unit() < 0.5:
        noise = np.repeat(noise[..., :1], 3, axis=2)
    coarse = cv2.resize(noise, (width, height))
    return np.clip(coarse + np.array(draws.colour(), np.float32), 0, 255).astype(np.uint8)


def _slope(height: int, width: int, draws: Draws) -> Pixels:
    corners = np.array([[draws.colour() for _ in range(2)] for _ in range(2)], np.uint8)
    return np.asarray(cv2.resize(corners, (width, height)), np.uint8)


def _stripes(base_HWC: Pixels, draws: Draws) -> None:
    height, width = base_HWC.shape[:2]
    step = draws.between(3, 40)
    angle = draws.between(0, np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    phase = (x * np.cos(angle) + y * np.sin(angle)) / step
    if draws.unit() < 0.4:  # bricks and boards: a second set across
        phase = np.floor(phase) + np.floor((y * np.cos(angle) - x * np.sin(angle)) / step)
    base_HWC[np.mod(phase, 2) < draws.between(0.3, 1.2)] = draws.colour()


def _discs(base_HWC: Pixels, draws: Draws) -> None:
    height, width = base_HWC.shape[:2]
    for _ in range(1 + draws.below(6)):
        centre = (draws.below(width), draws.below(height))
        radius = max(2, round(min(height, width) * draws.between(0.03, 0.4)))
        axes = (radius, max(1, round(radius * draws.between(0.5, 1.0))))
        thickness = -1 if draws.unit() < 0.6 else 1 + draws.below(3)
        cv2.ellipse(
            base_HWC, centre, axes, draws.between(0, 180), 0, 360, draws.colour(), thickness
        )


def _writing(base_HWC: Pixels, draws: Draws) -> None:
    height = base_HWC.shape[0]
    scale = draws.between(0.3, 1.5)
    step = max(6, round(28 * scale))
    colour = draws.colour()
    for y in range(step, height + step, step):
        letters = "".join(chr(33 + draws.below(94)) for _ in range(12))
        cv2.putText(base_HWC, letters, (0, y), draws.below(8), scale, colour, 1 + draws.below(2))
