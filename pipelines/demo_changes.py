"""What the demo does to a photo: copies that anyone could make, and made frames of a burst.

A copy is the same picture in another file: another size, compression, light or frame. A frame
stands for the next shot of the same moment: the picture is bent as if the head had turned by a
few degrees and the mouth had moved, what is behind it shifts, the light changes a little, and
noise is drawn anew. It is made of one photo and is no new photo.

Every change is a function of its picture and a seed: the same bytes each time.
Legend: H, W pixels; BGR; 5 landmarks x, y in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Float = NDArray[np.float32]
Rng = np.random.Generator

JPEG_QUALITY = 92
# A head as half an ellipsoid, in distances between the eyes, with a nose; turned under scaled
# orthography (project).
HEAD_HALF_WIDTH, HEAD_HALF_HEIGHT, HEAD_DEPTH = 1.2, 1.6, 0.9
NOSE_DEPTH, NOSE_WIDTH = 0.35, 0.22
TURN_DEG = (3.0, 7.0)
MOUTH = (0.05, 0.11)  # how far lips part or close, in distances between the eyes
BACKGROUND_SHIFT = 0.12  # of things behind the head, in the same unit
LIGHT, LIGHT_SLOPE = 0.08, 0.12  # shares of the brightness
NOISE = (2.0, 5.0)  # grey levels, standard deviation: a sensor in a room

_ORIENTATION_TAG, _SHORT = 274, 3  # of TIFF 6.0; CIPA DC-008 (EXIF 2.32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """A photo of one person, and where the face is."""

    pixels_HWC: Pixels
    landmarks_52: NDArray[np.float64]
    data: bytes  # as it is stored
    suffix: str


def jpeg(pixels_HWC: NDArray[Any], quality: int = JPEG_QUALITY) -> bytes:
    """Return pixels as JPEG bytes; floats are rounded and cut to 0 to 255."""
    return _stored(pixels_HWC, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _stored(pixels_HWC: NDArray[Any], suffix: str, how: list[int]) -> bytes:
    pixels = np.clip(np.rint(pixels_HWC), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(suffix, pixels, how)[1].tobytes())


def _scaled(pixels_HWC: Pixels, factor: float) -> Pixels:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels_HWC, None, fx=factor, fy=factor, interpolation=how))


def _cropped(photo: Portrait) -> Pixels:
    """Cut a twelfth off three sides; no side of a face is so near."""
    height, width = photo.pixels_HWC.shape[:2]
    return photo.pixels_HWC[height // 24 : height - height // 12, width // 12 : width - width // 12]


def _brighter(pixels_HWC: Pixels) -> Float:
    return np.asarray(255.0 * (pixels_HWC / 255.0) ** 0.75 * 1.05)


def _grey(pixels_HWC: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels_HWC, cv2.COLOR_BGR2GRAY))


def _turned(pixels_HWC: Pixels, degrees: float) -> Pixels:
    height, width = pixels_HWC.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    size = (width, height)
    return np.asarray(
        cv2.warpAffine(pixels_HWC, turn, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    )


def _framed(pixels_HWC: Pixels) -> Pixels:
    side = max(pixels_HWC.shape[:2]) // 10
    return np.asarray(
        cv2.copyMakeBorder(
            pixels_HWC, side, side, side, side, cv2.BORDER_CONSTANT, value=(235, 240, 245)
        )
    )


# What was done, in the words of the page; the suffix of the file; how.
Copy = tuple[str, str, Callable[[Portrait], bytes]]
COPIES: dict[str, Copy] = {
    "half": ("half the size", ".jpg", lambda p: jpeg(_scaled(p.pixels_HWC, 0.5))),
    "jpeg30": ("saved again as JPEG, quality 30", ".jpg", lambda p: jpeg(p.pixels_HWC, 30)),
    "mirrored": ("mirrored", ".jpg", lambda p: jpeg(p.pixels_HWC[:, ::-1])),
    "cropped": ("its edges cut off", ".jpg", lambda p: jpeg(_cropped(p))),
    "brighter": ("made brighter", ".jpg", lambda p: jpeg(_brighter(p.pixels_HWC))),
    "grey": ("its colours taken out", ".jpg", lambda p: jpeg(_grey(p.pixels_HWC))),
    "turned": ("turned by 6 degrees", ".jpg", lambda p: jpeg(_turned(p.pixels_HWC, 6.0))),
    "framed": ("put in a frame", ".jpg", lambda p: jpeg(_framed(p.pixels_HWC))),
    "double": ("twice the size", ".jpg", lambda p: jpeg(_scaled(p.pixels_HWC, 2.0))),
    "webp": (
        "saved as WebP, quality 50",
        ".webp",
        lambda p: _stored(p.pixels_HWC, ".webp", [cv2.IMWRITE_WEBP_QUALITY, 50]),
    ),
}


def burst_frame(photo: Portrait, seed: int) -> bytes:
    """Return a made frame of the same moment, as JPEG."""
    rng = np.random.default_rng(seed)
    height, width = photo.pixels_HWC.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    shift_x, shift_y = _motion(photo.landmarks_52.astype(np.float32), x, y, rng)
    moved = cv2.remap(
        photo.pixels_HWC,
        x + shift_x,
        y + shift_y,
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )
    angle = float(rng.uniform(0, 2 * np.pi))
    base, slope = float(rng.uniform(1 - LIGHT, 1 + LIGHT)), float(rng.uniform(-1, 1)) * LIGHT_SLOPE
    along = math.cos(angle) * (x / width - 0.5) + math.sin(angle) * (y / height - 0.5)
    light = base + slope * along
    noise = rng.standard_normal(moved.shape, np.float32) * np.float32(rng.uniform(*NOISE))
    return jpeg(moved * light[..., None] + noise)


def frame_of(person: str, photo: Portrait, number: int) -> bytes:
    """Return a made frame of a person that no other number or person has."""
    return burst_frame(photo, sum(person.encode()) * 1000 + number)


def _motion(landmarks_52: Float, x: Float, y: Float, rng: Rng) -> tuple[Float, Float]:
    """Return how far off each pixel of the frame lies in the photo, in px."""
    eye = float(np.hypot(*(landmarks_52[1] - landmarks_52[0])))
    middle = (landmarks_52[:2].mean(axis=0) + landmarks_52[3:].mean(axis=0)) / 2
    u, v = (x - middle[0]) / eye, (y - middle[1]) / eye
    round2 = (u / HEAD_HALF_WIDTH) ** 2 + (v / HEAD_HALF_HEIGHT) ** 2
    on_head = np.clip((1.35 - np.sqrt(round2)) / 0.35, 0, 1)  # fades out behind the head
    nose = (landmarks_52[2] - middle) / eye
    bump = np.exp(-((u - nose[0]) ** 2 + (v - nose[1]) ** 2) / (2 * NOSE_WIDTH**2))
    depth = HEAD_DEPTH * np.sqrt(np.clip(1 - round2, 0, None)) + NOSE_DEPTH * bump
    # Python's floats, not NumPy's: those would make float64 of all pixels.
    turns = np.sin(np.radians(rng.uniform(*TURN_DEG, 2)) * rng.choice([-1, 1], 2)).tolist()
    behind = rng.normal(0, BACKGROUND_SHIFT, 2).tolist()
    dx = depth * turns[0] + (1 - on_head) * behind[0]
    dy = depth * turns[1] * 0.7 + (1 - on_head) * behind[1]  # heads nod less than they turn
    mouth = (landmarks_52[3:].mean(axis=0) - middle) / eye
    strength = float(rng.uniform(*MOUTH) * rng.choice([-1, 1]))
    near = np.exp(-((u - mouth[0]) ** 2 / (2 * 0.4**2) + (v - mouth[1]) ** 2 / (2 * 0.3**2)))
    dy += strength * near * np.tanh((v - mouth[1]) / 0.1)  # lips part or close
    dx += 0.6 * strength * near * np.tanh((u - mouth[0]) / 0.2)
    return dx * eye, dy * eye


def stored_sideways(photo: Portrait) -> bytes:
    """Return the photo as a phone on its side stores it: turned, with an EXIF orientation of 6.

    Orientation 6: to be shown, the stored pixels are turned clockwise by 90 degrees.
    """
    stored = jpeg(cv2.rotate(photo.pixels_HWC, cv2.ROTATE_90_COUNTERCLOCKWISE))
    entry = _ORIENTATION_TAG.to_bytes(2, "big") + _SHORT.to_bytes(2, "big")
    entry += (1).to_bytes(4, "big") + (6).to_bytes(2, "big") + bytes(2)
    tiff = b"MM\x00*" + (8).to_bytes(4, "big") + (1).to_bytes(2, "big") + entry + bytes(4)
    body = b"Exif\x00\x00" + tiff
    segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    return stored[:2] + segment + stored[2:]  # behind the start of the image


def lying(photo: Portrait) -> bytes:
    """Return the photo turned clockwise by 90 degrees, with nothing that says so."""
    return jpeg(cv2.rotate(photo.pixels_HWC, cv2.ROTATE_90_CLOCKWISE))


def upside_down(photo: Portrait) -> bytes:
    """Return the photo turned by 180 degrees, with nothing that says so."""
    return jpeg(cv2.rotate(photo.pixels_HWC, cv2.ROTATE_180))


def tiny(photo: Portrait, eye_distance_px: float) -> bytes:
    """Return the photo so small that the eyes are so far apart."""
    apart = float(np.hypot(*(photo.landmarks_52[1] - photo.landmarks_52[0])))
    return jpeg(_scaled(photo.pixels_HWC, eye_distance_px / apart))


def nearly_black(photo: Portrait) -> bytes:
    """Return the photo at a twentieth of its light."""
    return jpeg(photo.pixels_HWC * 0.05)


def cut_short(data: bytes, share: float) -> bytes:
    """Return the first part of a file, as a broken download leaves it."""
    return data[: max(1, int(len(data) * share))]
