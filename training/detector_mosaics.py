"""Training pictures of a detector: mosaics of views of photos, with the faces that they show.

Picture k of an epoch is a pure function of (seed, epoch, k) and of the photos. A canvas is cut
into a grid of tiles; each shows a photo moved, scaled, turned, stretched and mirrored, or made
texture without a face. Many small tiles give the small faces that photos of one person lack
(mosaics: Bochkovskiy, Wang and Liao 2020, arXiv:2004.10934).

Legend: N faces; H, W pixels; 4 box corners x1 y1 x2 y2; 5 landmarks x, y.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from training.detector_album import Photo
from training.detector_labels import MIRRORED
from training.detector_looks import Draws, look, made_texture, occluded

Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]

GRIDS = (1, 2, 3, 4, 6, 9)  # tiles a side
VISIBLE_SHARE, DOUBTFUL_SHARE = 0.6, 0.25  # of a face in its tile: learned; ignored; neither
MOST_SCALE = 3.0  # of a photo: beyond it there is nothing but blur
COVER_SHARE = 0.7  # the least share of its tile's side that a photo fills
_BLOCK = 64  # numbers drawn at a time for a tile


class MosaicSettings(BaseModel):
    """What training pictures are made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    canvas_px: int = Field(416, ge=64, le=1280, multiple_of=32, description="side of a picture")
    grid_weights: tuple[float, ...] = Field(
        (0.34, 0.3, 0.16, 0.1, 0.07, 0.03), description=f"of {GRIDS} tiles a side"
    )
    texture_share: float = Field(0.08, ge=0, le=1, description="of tiles that show no photo")
    least_face_px: float = Field(7.0, ge=1, description="smaller faces are ignored")
    folder_power: float = Field(
        0.25, ge=0, le=1, description="a folder is drawn in proportion to its photos to this power"
    )
    turn_deg: float = Field(15.0, ge=0, le=180, description="of most views, either way")
    far_turn_deg: float = Field(50.0, ge=0, le=180, description="of the others")
    far_turn_share: float = Field(0.2, ge=0, le=1, description="of views turned so far")
    stretch: float = Field(1.35, ge=1, le=3, description="most that a side is stretched by")
    occluded_share: float = Field(0.15, ge=0, le=1, description="of faces that get a cover")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A training picture and its faces, in its pixels."""

    pixels_HWC: Pixels  # BGR
    boxes_N4: Floats
    landmarks_N52: Floats
    has_landmarks_N: NDArray[np.bool_]
    ignored_N: NDArray[np.bool_]


class Mosaics:
    """Pictures of an album by their number."""

    def __init__(self, album: Sequence[Photo], settings: MosaicSettings, seed: int) -> None:
        """Weigh the photos. Raises ValueError for an album without photos."""
        if not album:
            raise ValueError("no photo to learn from")
        self.album, self.settings, self.seed = album, settings, seed
        size = Counter(photo.folder for photo in album)
        weights = np.array([size[p.folder] ** (settings.folder_power - 1) for p in album])
        self._photo_at = np.cumsum(weights) / weights.sum()
        grids = np.array(settings.grid_weights)
        self._grid_at = np.cumsum(grids) / grids.sum()

    def picture(self, epoch: int, k: int) -> Picture:
        """Return picture k of an epoch."""
        draws = Draws(self.seed, epoch, k)
        side = self.settings.canvas_px
        canvas = np.zeros((side, side, 3), np.uint8)
        shown = [self._tile(canvas, box, draws.split(_BLOCK)) for box in self._tiles(side, draws)]
        boxes = np.concatenate([s[0] for s in shown])
        points = np.concatenate([s[1] for s in shown])
        known = np.concatenate([s[2] for s in shown])
        ignored = np.concatenate([s[3] for s in shown])
        for row in np.flatnonzero(known & ~ignored):
            if draws.unit() < self.settings.occluded_share:
                occluded(canvas, boxes[row], points[row], draws.split(_BLOCK))
        return Picture(
            pixels_HWC=look(canvas, draws),
            boxes_N4=boxes.astype(np.float32),
            landmarks_N52=points.astype(np.float32),
            has_landmarks_N=known,
            ignored_N=ignored,
        )

    def _tiles(self, side: int, draws: Draws) -> list[Box]:
        """Cut the canvas into a grid whose lines are moved by up to a quarter of a tile."""
        n = GRIDS[int(np.searchsorted(self._grid_at, draws.unit(), side="right"))]
        xs, ys = (_lines(side, n, draws) for _ in range(2))
        return [(xs[i], ys[j], xs[i + 1], ys[j + 1]) for j in range(n) for i in range(n)]

    def _tile(
        self, canvas: Pixels, box: Box, draws: Draws
    ) -> tuple[Floats64, Floats64, NDArray[np.bool_], NDArray[np.bool_]]:
        """Fill a tile; return its faces' boxes, landmarks, which have these, which to ignore."""
        x1, y1, x2, y2 = box
        inside = canvas[y1:y2, x1:x2]
        if draws.unit() < self.settings.texture_share:
            inside[:] = made_texture(y2 - y1, x2 - x1, draws)
            return _no_faces()
        at = int(np.searchsorted(self._photo_at, draws.unit(), side="right"))
        photo = self.album[min(at, len(self.album) - 1)]
        matrix, mirror = self._view(photo, x2 - x1, y2 - y1, draws)
        fill = draws.colour() if draws.unit() < 0.5 else (0, 0, 0)
        inside[:] = warped(photo.levels, matrix, x2 - x1, y2 - y1, fill)
        return self._faces_in(photo, matrix, mirror, box)

    def _view(self, photo: Photo, width: int, height: int, draws: Draws) -> tuple[Floats64, bool]:
        """Draw the 2 x 3 matrix that takes a photo's points to a tile, and whether it mirrors."""
        s, taught = self.settings, photo.taught
        photo_h, photo_w = photo.levels[0].shape[:2]
        cover = COVER_SHARE * max(width / photo_w, height / photo_h)
        sure = np.flatnonzero(~taught.ignored_N)
        focus = (photo_w * draws.unit(), photo_h * draws.unit())
        most = max(2 * cover, 1.5)
        if len(sure) and draws.unit() < 0.85:
            x1, y1, x2, y2 = taught.boxes_N4[sure[draws.below(len(sure))]].tolist()
            focus = ((x1 + x2) / 2, (y1 + y2) / 2)
            face = max(math.sqrt(max(x2 - x1, 1) * max(y2 - y1, 1)), 1.0)
            most = max(0.9 * min(width, height) / face, cover)
        most = max(min(most, MOST_SCALE), cover)
        scale = cover * (most / cover) ** draws.unit()
        stretch = math.exp((2 * draws.unit() - 1) * math.log(s.stretch) / 2)
        far = draws.unit() < s.far_turn_share
        angle = math.radians((2 * draws.unit() - 1) * (s.far_turn_deg if far else s.turn_deg))
        mirror = draws.unit() < 0.5
        cos, sin = math.cos(angle), math.sin(angle)
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag(
            [scale * stretch * (-1 if mirror else 1), scale / stretch]
        )
        target = _target(focus, (photo_w, photo_h), linear, (width, height), draws)
        return np.hstack([linear, (target - linear @ np.array(focus))[:, None]]), mirror

    def _faces_in(
        self, photo: Photo, matrix: Floats64, mirror: bool, tile: Box
    ) -> tuple[Floats64, Floats64, NDArray[np.bool_], NDArray[np.bool_]]:
        """Return a photo's faces as a tile shows them, in pixels of the canvas."""
        taught = photo.taught
        if not len(taught.boxes_N4):
            return _no_faces()
        corner = np.array(tile[:2], np.float64)
        boxes = moved_boxes(taught.boxes_N4, matrix) + np.tile(corner, 2)
        points = taught.landmarks_N52 @ matrix[:, :2].T + matrix[:, 2] + corner
        if mirror:
            points = points[:, MIRRORED]
        low, high = np.tile(tile[:2], 2), np.tile(tile[2:], 2)
        cut = np.clip(boxes, low, high)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        left = np.prod(cut[:, 2:] - cut[:, :2], axis=1)
        share = left / np.maximum(area, 1e-9)
        within = ((points >= tile[:2]) & (points <= tile[2:])).all(axis=(1, 2))
        ignored = (
            taught.ignored_N
            | (share < VISIBLE_SHARE)
            | (np.sqrt(left) < self.settings.least_face_px)
        )
        seen = share >= DOUBTFUL_SHARE
        known = taught.has_landmarks_N & within
        return cut[seen], points[seen], known[seen], ignored[seen]


def _no_faces() -> tuple[Floats64, Floats64, NDArray[np.bool_], NDArray[np.bool_]]:
    return np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0, bool), np.zeros(0, bool)


def _lines(side: int, n: int, draws: Draws) -> list[int]:
    inner = [round(side * (i + (draws.unit() - 0.5) / 2) / n) for i in range(1, n)]
    return [0, *inner, side]


def _target(
    focus: tuple[float, float],
    photo: tuple[int, int],
    linear: Floats64,
    tile: tuple[int, int],
    draws: Draws,
) -> Floats64:
    """Draw where the focus goes in the tile, such that the photo fills it as far as it can."""
    corners = np.array([[0, 0], [photo[0], 0], [0, photo[1]], photo], np.float64)
    reach = (corners - focus) @ linear.T
    low, high = reach.min(axis=0), reach.max(axis=0)
    sides = np.array(tile, np.float64)
    # The photo covers the tile while its edges lie outside; in a tenth at the rim a face is cut.
    first = np.clip(sides - high, 0.05 * sides, 0.95 * sides)
    last = np.clip(-low, 0.05 * sides, 0.95 * sides)
    first, last = np.minimum(first, last), np.maximum(first, last)
    return np.asarray(first + (last - first) * np.array([draws.unit(), draws.unit()]))


def moved_boxes(boxes_N4: Floats, matrix: Floats64) -> Floats64:
    """Return the boxes (N, 4) around the ellipses that boxes hold, moved by a 2 x 3 matrix.

    A face fills its box as an ellipse does, so that a turned face's box grows less than the box
    around the turned box: with the matrix's rows (a, b), half a side is hypot(a w / 2, b h / 2).
    """
    boxes = boxes_N4.astype(np.float64)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    reach = np.sqrt((half**2) @ (matrix[:, :2] ** 2).T)
    return np.hstack([middle - reach, middle + reach])


def warped(
    levels: Sequence[Pixels],
    matrix: Floats64,
    width: int,
    height: int,
    fill: tuple[int, int, int],
) -> Pixels:
    """Return height x width x 3 of a photo moved by a 2 x 3 matrix of its full-size points.

    Sampled from the half-size copy next above the wanted size. Point (0, 0) is the corner of the
    first pixel, whose centre is (0.5, 0.5), in the photo, its copies and the result.
    """
    scale = math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    level = min(max(0, math.floor(-math.log2(max(scale, 1e-6)))), len(levels) - 1)
    linear = matrix[:, :2] * 2**level
    # OpenCV counts from pixel centres.
    shift = matrix[:, 2] + linear @ np.array([0.5, 0.5]) - 0.5
    return np.asarray(
        cv2.warpAffine(
            levels[level],
            np.hstack([linear, shift[:, None]]),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=tuple(float(v) for v in fill),
        ),
        np.uint8,
    )
