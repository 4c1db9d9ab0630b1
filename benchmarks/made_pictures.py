"""Makes copies and bursts of real photos: what is one picture, and what only looks like one.

A copy is a file anyone could have made from the photo: another size, compression, colour or
frame, mirrored, cropped. A frame of a burst is another exposure of the same moment: the head
turns a few degrees, the mouth or the lids move, the background shifts against the head, the
light changes a little, and the sensor's noise is drawn anew. Both are then stored as JPEG, so
that nothing but the picture tells them apart.

Legend: H height, W width, 5 landmarks; lengths in the eye distance where nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]
Rng = np.random.Generator

DEPTH = 0.9  # of a head's front before its outline; a head is about 2.4 eye distances wide
NOSE_DEPTH = 0.35
BURST_TURN_DEG = (2.0, 7.0)
BURST_EXPRESSION = (0.04, 0.12)  # of the mouth or the lids: 1.4 to 4 px of a 112 px crop
BACKGROUND_THING, BACKGROUND_MOTION = 0.8, 0.07  # bystanders move their heads, too
BURST_NOISE = (2.0, 5.0)  # grey levels


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and the landmarks of the face that the changes are made around."""

    data: bytes  # as it is stored
    pixels_HWC: Picture
    landmarks_xy: Float  # 5 x 2
    box_xyxy: Float


Change = Callable[[Photo, Rng], bytes]


def jpeg(picture: npt.NDArray[np.floating] | Picture, quality: int = 92) -> bytes:
    """Return a picture as JPEG bytes."""
    return _stored(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _stored(picture: npt.NDArray[np.floating] | Picture, suffix: str, how: list[int]) -> bytes:
    pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(suffix, pixels, how)[1].tobytes())


def _scaled(picture: Picture, x: float, y: float | None = None) -> Picture:
    how = cv2.INTER_AREA if x < 1 else cv2.INTER_CUBIC
    return np.asarray(
        cv2.resize(picture, None, fx=x, fy=x if y is None else y, interpolation=how), np.uint8
    )


def _crop(photo: Photo, rng: Rng, kept: float) -> Picture:
    """Return a part of the photo, of so much of each side, that has the whole face."""
    height, width = photo.pixels_HWC.shape[:2]
    cut = []
    for low, high, side in zip(
        photo.box_xyxy[:2], photo.box_xyxy[2:], (width, height), strict=True
    ):
        low, high = max(0.0, low), min(float(side), high)
        span = max(kept * side, high - low)
        start = rng.uniform(max(0.0, high - span), max(0.0, min(low, side - span)) + 1e-9)
        cut.append(slice(int(start), int(np.ceil(start + span))))
    return np.ascontiguousarray(photo.pixels_HWC[cut[1], cut[0]])


def _head(photo: Photo, rng: Rng) -> Picture:
    """Return the face with a sixth of its size around it."""
    height, width = photo.pixels_HWC.shape[:2]
    x1, y1, x2, y2 = photo.box_xyxy
    m = (x2 - x1) / 6
    rows = slice(int(max(0, y1 - m)), int(min(height, y2 + m)))
    return np.ascontiguousarray(
        photo.pixels_HWC[rows, int(max(0, x1 - m)) : int(min(width, x2 + m))]
    )


def _levels(picture: Picture, rng: Rng) -> Float:
    """Return other brightness, contrast and gamma."""
    grey = 255.0 * (picture / 255.0) ** np.exp(rng.uniform(-0.35, 0.35))
    return (grey - 128) * rng.uniform(0.75, 1.2) + 128 + rng.uniform(-20, 20)


def _tinted(picture: Picture, rng: Rng) -> Float:
    return picture * rng.uniform(0.78, 1.15, 3)


def _saturated(picture: Picture, rng: Rng) -> Float:
    grey = picture @ np.array([0.114, 0.587, 0.299])
    return np.asarray(grey[..., None] + (picture - grey[..., None]) * rng.choice([0.3, 1.6]))


def _grey(picture: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)[..., None].repeat(3, 2)


def _mirrored(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[:, ::-1])


def _blurred(picture: Picture, rng: Rng) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 1.6)), np.uint8)


def _sharpened(picture: Picture) -> Float:
    soft = cv2.GaussianBlur(picture, (0, 0), 1.5).astype(np.float64)
    return picture + 0.8 * (picture - soft)


def _turned(picture: Picture, rng: Rng) -> Picture:
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D(
        (width / 2, height / 2), rng.choice([-1, 1]) * rng.uniform(3, 9), 1
    )
    return np.asarray(
        cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=1),
        np.uint8,
    )


def _framed(picture: Picture, rng: Rng) -> Picture:
    sides = [int(s) for s in rng.integers(8, 60, 4)]
    return np.asarray(
        cv2.copyMakeBorder(
            picture, *sides, cv2.BORDER_CONSTANT, value=rng.uniform(0, 255, 3).tolist()
        )
    )


def _beside(picture: Picture, rng: Rng) -> Picture:
    """Return a page with the photo on it, beside others without a face."""
    height, width = picture.shape[:2]
    cells = rng.uniform(0, 255, (6, 6, 3)).astype(np.uint8)
    other = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    row = [picture, other] if rng.random() < 0.5 else [other, picture]
    return np.concatenate([np.concatenate(row, axis=1), np.concatenate([other, other], axis=1)])


def _captioned(picture: Picture, rng: Rng) -> Picture:
    """Return the photo with a line of text over its foot."""
    marked, height = picture.copy(), picture.shape[0]
    place = (4, int(height * rng.uniform(0.9, 0.97)))
    cv2.putText(marked, "photo agency 2026", place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255,) * 3, 2)
    return marked


COPIES: dict[str, Change] = {
    "same bytes": lambda p, r: p.data,
    "half": lambda p, r: jpeg(_scaled(p.pixels_HWC, 0.5)),
    "third": lambda p, r: jpeg(_scaled(p.pixels_HWC, 0.34)),
    "double": lambda p, r: jpeg(_scaled(p.pixels_HWC, 2.0)),
    "stretched": lambda p, r: jpeg(_scaled(p.pixels_HWC, *r.uniform(0.9, 1.12, 2))),
    "jpeg 60": lambda p, r: jpeg(p.pixels_HWC, 60),
    "jpeg 25": lambda p, r: jpeg(p.pixels_HWC, 25),
    "webp 50": lambda p, r: _stored(p.pixels_HWC, ".webp", [cv2.IMWRITE_WEBP_QUALITY, 50]),
    "png": lambda p, r: _stored(p.pixels_HWC, ".png", []),
    "flipped": lambda p, r: jpeg(_mirrored(p.pixels_HWC)),
    "cropped a little": lambda p, r: jpeg(_crop(p, r, 0.88)),
    "cropped by half": lambda p, r: jpeg(_crop(p, r, 0.7)),
    "head only": lambda p, r: jpeg(_head(p, r)),
    "levels": lambda p, r: jpeg(_levels(p.pixels_HWC, r)),
    "tinted": lambda p, r: jpeg(_tinted(p.pixels_HWC, r)),
    "saturation": lambda p, r: jpeg(_saturated(p.pixels_HWC, r)),
    "grey": lambda p, r: jpeg(_grey(p.pixels_HWC)),
    "blurred": lambda p, r: jpeg(_blurred(p.pixels_HWC, r)),
    "sharpened": lambda p, r: jpeg(_sharpened(p.pixels_HWC)),
    "turned": lambda p, r: jpeg(_turned(p.pixels_HWC, r)),
    "framed": lambda p, r: jpeg(_framed(p.pixels_HWC, r)),
    "collage": lambda p, r: jpeg(_beside(p.pixels_HWC, r)),
    "captioned": lambda p, r: jpeg(_captioned(p.pixels_HWC, r)),
    "flipped, cropped, jpeg 60": lambda p, r: jpeg(_mirrored(_crop(p, r, 0.75)), 60),
    "half, levels, jpeg 50": lambda p, r: jpeg(_levels(_scaled(p.pixels_HWC, 0.5), r), 50),
    "head, flipped, grey": lambda p, r: jpeg(_grey(_mirrored(_head(p, r)))),
    "cropped, tinted, half": lambda p, r: jpeg(_tinted(_scaled(_crop(p, r, 0.7), 0.6), r)),
}


def burst_frame(photo: Photo, rng: Rng) -> bytes:
    """Return another exposure of the same moment, as JPEG."""
    height, width = photo.pixels_HWC.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    shift_x, shift_y = _motion(photo.landmarks_xy.astype(np.float64), x, y, rng)
    moved = cv2.remap(
        photo.pixels_HWC,
        (x + shift_x).astype(np.float32),
        (y + shift_y).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    ).astype(np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5))[..., None]
    lit = moved * (rng.uniform(0.92, 1.08) + rng.uniform(-0.12, 0.12) * ramp)
    noise = rng.normal(0, rng.uniform(*BURST_NOISE), lit.shape)
    return jpeg(lit + noise)


def _background(shape: tuple[int, ...], eye: float, rng: Rng) -> tuple[Float, Float]:
    """Return how what is behind the head moves: as a whole, and each thing in its own way."""
    height, width = shape
    cells = [max(2, round(side / (BACKGROUND_THING * eye))) for side in (height, width)]
    fields = []
    for _ in range(2):
        own = rng.normal(rng.normal(0, BACKGROUND_MOTION), BACKGROUND_MOTION, cells)
        fields.append(cv2.resize(own, (width, height), interpolation=cv2.INTER_CUBIC))
    return fields[0], fields[1]


def _motion(points: Float, x: Float, y: Float, rng: Rng) -> tuple[Float, Float]:
    """Return how far off each pixel of the next frame lies in this one, in px.

    The head is half an ellipsoid with a nose, turned by a few degrees under scaled
    orthography; at least one of turn, mouth and lids moves, mostly more.
    """
    eye = float(np.hypot(*(points[1] - points[0])))
    middle = (points[:2].mean(axis=0) + points[3:].mean(axis=0)) / 2
    u, v = (x - middle[0]) / eye, (y - middle[1]) / eye
    round2 = (u / 1.2) ** 2 + (v / 1.6) ** 2
    on_head = np.clip((1.35 - np.sqrt(round2)) / 0.35, 0, 1)  # fades out into the background
    nose = (points[2] - middle) / eye
    bump = np.exp(-((u - nose[0]) ** 2 + (v - nose[1]) ** 2) / (2 * 0.22**2))
    depth = DEPTH * np.sqrt(np.clip(1 - round2, 0, None)) + NOSE_DEPTH * bump
    yaw, pitch = np.radians(rng.uniform(*BURST_TURN_DEG, 2)) * rng.choice([-1, 1], 2)
    kinds = rng.choice(["turn", "nod", "mouth", "lids", "all"])
    dx = depth * np.sin(yaw) * (kinds in ("turn", "all"))
    dy = depth * np.sin(pitch) * (kinds in ("nod", "all")) * 0.7
    head, background = rng.normal(0, 0.1, 2), _background(x.shape, eye, rng)
    dx += on_head * head[0] + (1 - on_head) * background[0]
    dy += on_head * head[1] + (1 - on_head) * background[1]
    if kinds in ("mouth", "all"):
        mouth = (points[3:].mean(axis=0) - middle) / eye
        strength = rng.uniform(*BURST_EXPRESSION) * rng.choice([-1, 1])
        near = np.exp(-((u - mouth[0]) ** 2 / (2 * 0.4**2) + (v - mouth[1]) ** 2 / (2 * 0.3**2)))
        dy += strength * near * np.tanh((v - mouth[1]) / 0.1)  # lips part or close
        dx += 0.6 * strength * near * np.tanh((u - mouth[0]) / 0.2)
    if kinds in ("lids", "all"):
        strength = rng.uniform(*BURST_EXPRESSION) * rng.choice([-1, 1])
        for point in (points[:2] - middle) / eye:
            near = np.exp(-((u - point[0]) ** 2 + (v - point[1]) ** 2) / (2 * 0.18**2))
            dy += strength * near * np.tanh((v - point[1]) / 0.06)
    return dx * eye, dy * eye


@dataclass(frozen=True, slots=True)
class Made:
    """A file of the set; files of one picture are copies of one another."""

    name: str  # below the set's folder: a folder per person
    picture: str
    change: str  # "" for the photo itself


def variants(
    photo: Photo, path: str, picture: str, seed: int, copies: int, frames: int
) -> list[tuple[Made, bytes]]:
    """Return copies and burst frames of a photo, other ones for every seed.

    path: of the photo without its suffix, to which what was done is added.
    """
    rng = np.random.default_rng(seed)
    made = []
    for change in rng.choice(sorted(COPIES), copies, replace=False).tolist():
        words = change.replace(", ", "-").replace(" ", "_")
        made.append((Made(f"{path}.{words}.jpg", picture, change), COPIES[change](photo, rng)))
    for frame in range(frames):
        item = Made(f"{path}.burst{frame}.jpg", f"{picture}.burst{frame}", "burst")
        made.append((item, burst_frame(photo, rng)))
    return made
