"""Faces of a photo: letterbox to a fixed size, run the detector, bring boxes back.

Legend: N faces; H, W, C a photo's height, width and BGR; boxes x1 y1 x2 y2 and landmarks
x, y in pixels of the upright, full-size photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from facepipe.errors import ModelUnreadable
from facepipe.heads import scrfd_candidates, suppress, yunet_candidates
from facepipe.models import Model, ModelSettings, open_model
from facepipe.packs import Pack

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# The padded pass looks for faces that fill the frame, so a small canvas is enough: a photo
# takes half of its side, and a face must then cover this share of the photo's longer side.
PADDED_CANVAS = 0.5  # of detect.size_px
PADDED_PHOTO = 0.5  # of the canvas
PADDED_MIN_SHARE = 0.3
_QUARTER_TURNS = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)


class DetectSettings(BaseModel):
    """How faces are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(640, ge=64, le=4096, description="side of the letterbox")
    threshold: float = Field(0.5, gt=0, lt=1, description="least score of a face")
    nms_iou: float = Field(0.4, gt=0, lt=1, description="boxes that overlap more are one face")
    padded_pass: Literal["auto", "always", "never"] = Field(
        "auto",
        description="a second look, with a margin, for faces that fill the frame; "
        "auto: where the first look finds none",
    )
    rotations: Literal["none", "all"] = Field(
        "none",
        description="all: also look at the photo turned by 90, 180 and 270 degrees and take "
        "the turn with the best faces; four times the cost",
    )
    batch: int = Field(1, ge=1, description="photos a batch, where the detector allows it")

    @field_validator("size_px")
    @classmethod
    def _stride(cls, value: int) -> int:
        if value % 32:
            raise ValueError("must be a multiple of 32, the detectors' largest stride")
        return value


@dataclass(frozen=True, slots=True)
class Faces:
    """Faces of one photo, by falling score, then box."""

    boxes_N4: Floats
    landmarks_N52: Floats
    scores_N: Floats
    padded_N: NDArray[np.bool_]
    rotation_deg: int = 0

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.scores_N)


@dataclass(slots=True)
class Detector:
    """A detector, opened once per worker; sessions for further canvas sizes open on demand."""

    pack: Pack
    settings: DetectSettings
    models: ModelSettings
    _open: dict[int, Model] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the main session, so that a bad model fails before the first photo."""
        self._model(self.settings.size_px)

    def find(self, photos: Sequence[Pixels]) -> list[Faces]:
        """Return the faces of each photo (H x W x 3, BGR, uint8)."""
        if self.settings.rotations == "none":
            return self._upright(photos)
        return [self._best_turn(photo) for photo in photos]

    def batch(self) -> int:
        """Return how many photos one call should bring."""
        return self._model(self.settings.size_px).batch or self.settings.batch

    def _upright(self, photos: Sequence[Pixels]) -> list[Faces]:
        side = self._canvas(self.settings.size_px)
        found = self._look(photos, side, photo_px=side, margin=0)
        if self.settings.padded_pass == "never":
            return found
        again = [
            i for i, f in enumerate(found) if self.settings.padded_pass == "always" or not len(f)
        ]
        canvas = self._canvas(_multiple_of_32(side * PADDED_CANVAS))
        inner = int(canvas * PADDED_PHOTO)
        chosen = [photos[i] for i in again]
        for i, padded in zip(again, self._look(chosen, canvas, inner, inner // 2), strict=True):
            found[i] = self._merge(found[i], _only_large(padded, photos[i]))
        return found

    def _best_turn(self, photo: Pixels) -> Faces:
        """Take the quarter turn whose faces score highest in sum; upright wins a tie."""
        turns = [np.rot90(photo, -k) for k in range(4)]
        found = [self._upright([np.ascontiguousarray(t)])[0] for t in turns]
        best = max(range(4), key=lambda k: (round(float(found[k].scores_N.sum()), 4), -k))
        return turn_back(found[best], best, photo.shape[1], photo.shape[0])

    def _look(
        self, photos: Sequence[Pixels], canvas_px: int, photo_px: int, margin: int
    ) -> list[Faces]:
        model = self._model(canvas_px)
        step = model.batch or self.settings.batch
        found: list[Faces] = []
        for start in range(0, len(photos), step):
            boxed = [
                letterbox(p, canvas_px, photo_px, margin) for p in photos[start : start + step]
            ]
            outputs = model(self._blob([canvas for canvas, _ in boxed]))
            pictures = model.batch or len(boxed)
            for k, (_, scale) in enumerate(boxed):
                found.append(self._read(model, outputs, k, pictures, canvas_px, scale, margin))
        return found

    def _blob(self, canvases: Sequence[Pixels]) -> Floats:
        spec = self.pack.need_detector()
        return np.asarray(
            cv2.dnn.blobFromImages(
                canvases, 1.0 / spec.std, mean=(spec.mean,) * 3, swapRB=spec.rgb
            ),
            dtype=np.float32,
        )

    def _read(
        self,
        model: Model,
        outputs: list[Floats],
        k: int,
        pictures: int,
        side: int,
        scale: tuple[float, float],
        margin: int,
    ) -> Faces:
        threshold = self.settings.threshold
        try:
            if self.pack.need_detector().head == "yunet":
                named = dict(zip(model.output_names, outputs, strict=True))
                scores, boxes, points = yunet_candidates(named, k, side, side, threshold)
            else:
                scores, boxes, points = scrfd_candidates(
                    outputs, k, side, side, threshold, pictures
                )
        except (KeyError, IndexError, ValueError, ModelUnreadable) as error:
            raise ModelUnreadable(
                f"{model.name} does not answer as a {self.pack.need_detector().head} detector "
                f"with five landmarks does ({error}): name another file or head in pack.yaml"
            ) from error
        scale_xy = np.array(scale, dtype=np.float32)
        scale_xyxy = np.concatenate([scale_xy, scale_xy])
        boxes = np.divide(boxes - np.float32(margin), scale_xyxy, dtype=np.float32)
        points = np.divide(points - np.float32(margin), scale_xy, dtype=np.float32)
        good = np.isfinite(boxes).all(axis=1) & np.isfinite(points).all(axis=(1, 2))
        boxes, points, scores = boxes[good], points[good], scores[good]
        keep = suppress(boxes, scores, self.settings.nms_iou)
        return ranked(boxes[keep], points[keep], scores[keep], np.full(len(keep), margin > 0))

    def _merge(self, first: Faces, second: Faces) -> Faces:
        if not len(second):
            return first
        boxes = np.concatenate([first.boxes_N4, second.boxes_N4])
        points = np.concatenate([first.landmarks_N52, second.landmarks_N52])
        scores = np.concatenate([first.scores_N, second.scores_N])
        padded = np.concatenate([first.padded_N, second.padded_N])
        keep = suppress(boxes, scores, self.settings.nms_iou)
        return ranked(boxes[keep], points[keep], scores[keep], padded[keep])

    def _canvas(self, wanted_px: int) -> int:
        """Return the canvas the model takes: its own where its graph fixes one."""
        return self._model(wanted_px).size_px or wanted_px

    def _model(self, size_px: int) -> Model:
        if size_px not in self._open:
            spec = self.pack.need_detector()
            data = self.pack.read(spec)
            self._open[size_px] = open_model(data, spec.file, self.models, size_px=size_px)
        return self._open[size_px]


def letterbox(
    photo_HWC: Pixels, canvas_px: int, photo_px: int, margin: int
) -> tuple[Pixels, tuple[float, float]]:
    """Return the photo scaled to fit ``photo_px``, on a black square, and the scale of x and y.

    The photo's top left corner lies at (margin, margin). Without a margin this is
    insightface's letterbox, rounding included: it takes the scale of y for x too, though the
    shorter side was rounded down. With one, on the small canvas where that would move a
    point by up to a hundredth of the photo, each axis has its own.
    """
    height, width = photo_HWC.shape[:2]
    if height > width:
        new_height, new_width = photo_px, max(1, int(photo_px / (height / width)))
    else:
        new_height, new_width = max(1, int(photo_px * (height / width))), photo_px
    canvas = np.zeros((canvas_px, canvas_px, 3), dtype=np.uint8)
    inside = canvas[margin : margin + new_height, margin : margin + new_width]
    inside[:] = cv2.resize(photo_HWC, (new_width, new_height))
    scale_y = new_height / height
    return canvas, (new_width / width if margin else scale_y, scale_y)


def ranked(boxes: Floats, points: Floats, scores: Floats, padded: NDArray[np.bool_]) -> Faces:
    """Return faces by falling score, then box: the order of face ids."""
    order = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -scores))
    return Faces(
        boxes[order].astype(np.float32),
        points[order].astype(np.float32),
        scores[order].astype(np.float32),
        padded[order],
    )


def turn_back(faces: Faces, quarter_turns: int, width_px: int, height_px: int) -> Faces:
    """Bring faces found in a photo turned clockwise back to the photo as it was.

    ``width_px`` and ``height_px`` are the unturned photo's.
    """
    if quarter_turns == 0:
        return faces
    corners = faces.boxes_N4.reshape(-1, 2, 2)
    corners, points = (
        _unturn(xy, quarter_turns, width_px, height_px) for xy in (corners, faces.landmarks_N52)
    )
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return Faces(boxes, points, faces.scores_N, faces.padded_N, 90 * quarter_turns)


def _unturn(xy: Floats, quarter_turns: int, width_px: int, height_px: int) -> Floats:
    x, y = xy[..., 0], xy[..., 1]
    back = {
        1: (y, height_px - x),
        2: (width_px - x, height_px - y),
        3: (width_px - y, x),
    }[quarter_turns]
    return np.stack(back, axis=-1).astype(np.float32)


def _only_large(faces: Faces, photo: Pixels) -> Faces:
    """Keep the faces that the padded pass is for; it sees small ones worse than the first."""
    sides = (faces.boxes_N4[:, 2:] - faces.boxes_N4[:, :2]).max(axis=1, initial=0)
    keep = sides >= PADDED_MIN_SHARE * max(photo.shape[:2])
    return Faces(
        faces.boxes_N4[keep], faces.landmarks_N52[keep], faces.scores_N[keep], faces.padded_N[keep]
    )


def _multiple_of_32(value: float) -> int:
    return max(64, round(value / 32) * 32)
