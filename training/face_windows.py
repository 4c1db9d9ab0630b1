"""Real faces to learn from: of each photo the labelled face, aligned, with surroundings.

People are told by their folder. Those who are to be held out are left out by name, and whoever
looks like one of them to the teacher too: under another name, or on a photo without one.

Legend: N faces, D dimensions of the teacher.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from facepipe.align import TEMPLATE_XY_PX, similarity_transform
from facepipe.decode import DecodeSettings, decode
from facepipe.detect import Detector, DetectSettings, Faces
from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import SourceNotFound
from facepipe.models import ModelSettings
from facepipe.packs import Pack
from facepipe.quality import labelled_face
from training.face_mixes import MARGIN_PX, WINDOW_PX

Pixels = npt.NDArray[np.uint8]

NOBODY = -1  # of a face without a name
PHOTOS = (".jpg", ".jpeg", ".png")
LOOK_PX = 640  # side of the detector's look
LEAST_SCORE = 0.6  # YuNet's own operating point in libfacedetection's demo
LEAST_FACE_PX = 36  # height of a face in a photo without a name
SAME_PERSON = 0.6  # cosine: people of two names whom the teacher cannot tell apart
PERHAPS_SAME = 0.4  # cosine: enough to leave out a face without a name
BATCH = 32  # crops the teacher sees at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceWindows:
    """Faces with their surroundings, in the order of their photos' names."""

    pixels_NHWC: npt.NDArray[np.uint8]  # 160 x 160, BGR
    person_N: npt.NDArray[np.int64]  # a number a folder, or NOBODY
    names: tuple[str, ...]  # of the photos: folder and file

    def only(self, keep_N: npt.NDArray[np.bool_]) -> FaceWindows:
        """Return some of them."""
        return FaceWindows(
            pixels_NHWC=self.pixels_NHWC[keep_N],
            person_N=self.person_N[keep_N],
            names=tuple(n for n, keep in zip(self.names, keep_N, strict=True) if keep),
        )


def named_faces(folder: Path, pack: Pack, people: Collection[str]) -> FaceWindows:
    """Return the large, central face of each photo of some people, one folder each.

    Raises SourceNotFound where there is none.
    """
    photos = [path for path in _photos(folder) if path.parent.name in people]
    detector, windows, names = _detector(pack), [], []
    for path in photos:
        pixels, faces = _look(detector, path)
        if pixels is None or faces is None:
            continue
        height, width = pixels.shape[:2]
        face = labelled_face(faces.boxes_N4, width, height)
        if face is not None:
            windows.append(window(pixels, faces.landmarks_N52[face]))
            names.append(f"{path.parent.name}/{path.name}")
    if not windows:
        raise SourceNotFound(
            f"{folder} has no face of the people asked for: give a folder with one folder of "
            "photos per person, named as in people.txt"
        )
    _, person_N = np.unique([name.split("/")[0] for name in names], return_inverse=True)
    return FaceWindows(pixels_NHWC=np.stack(windows), person_N=person_N, names=tuple(names))


def unnamed_faces(folder: Path, pack: Pack) -> FaceWindows:
    """Return every face of a folder's photos that is large enough."""
    detector, windows, names = _detector(pack), [], []
    for path in _photos(folder):
        pixels, faces = _look(detector, path)
        if pixels is None or faces is None:
            continue
        tall = faces.boxes_N4[:, 3] - faces.boxes_N4[:, 1] >= LEAST_FACE_PX
        windows += [window(pixels, points) for points in faces.landmarks_N52[tall]]
        names += [f"{path.parent.name}/{path.name}"] * int(tall.sum())
    return FaceWindows(
        pixels_NHWC=np.array(windows, np.uint8).reshape(-1, WINDOW_PX, WINDOW_PX, 3),
        person_N=np.full(len(windows), NOBODY),
        names=tuple(names),
    )


def window(photo_HWC: npt.NDArray[np.uint8], landmarks_52: npt.NDArray[np.floating]) -> Pixels:
    """Return an aligned face with `MARGIN_PX` around, (160, 160, 3) uint8."""
    matrix = similarity_transform(landmarks_52, TEMPLATE_XY_PX + np.float32(MARGIN_PX))
    return np.asarray(
        cv2.warpAffine(
            photo_HWC,
            matrix,
            (WINDOW_PX, WINDOW_PX),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        ),
        np.uint8,
    )


def crops(faces: FaceWindows) -> npt.NDArray[np.uint8]:
    """Return the aligned crops, (N, 112, 112, 3)."""
    return faces.pixels_NHWC[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]


def embeddings(faces: FaceWindows, pack: Pack) -> npt.NDArray[np.float32]:
    """Return the teacher's unit embeddings of crops and their mirror images, (N, D)."""
    recogniser = Recogniser(pack, EmbedSettings(flip="sum", batch=BATCH), ModelSettings())
    found = recogniser.embed(list(crops(faces))).astype(np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def without(
    own_ND: npt.NDArray[np.float32],
    person_N: npt.NDArray[np.int64],
    held_out_MD: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_]:
    """Return which faces look like nobody who is held out, (N,) bool.

    A face with a name may look a little like somebody, one without must not.
    """
    if not len(held_out_MD):
        return np.ones(len(own_ND), bool)
    nearest_N = (own_ND @ held_out_MD.T).max(axis=1)
    limit_N = np.where(person_N == NOBODY, PERHAPS_SAME, SAME_PERSON)
    return np.asarray(nearest_N <= limit_N)


def joined(parts: Sequence[FaceWindows]) -> FaceWindows:
    """Return several sets as one; people are numbered through."""
    people, before = [], 0
    for part in parts:
        people.append(np.where(part.person_N == NOBODY, NOBODY, part.person_N + before))
        before += int(part.person_N.max(initial=NOBODY)) + 1
    return FaceWindows(
        pixels_NHWC=np.concatenate([part.pixels_NHWC for part in parts]),
        person_N=np.concatenate(people),
        names=tuple(name for part in parts for name in part.names),
    )


def _photos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTOS)


def _detector(pack: Pack) -> Detector:
    settings = DetectSettings(size_px=LOOK_PX, threshold=LEAST_SCORE)
    return Detector(pack, settings, ModelSettings())


def _look(detector: Detector, path: Path) -> tuple[Pixels | None, Faces | None]:
    pixels = decode(path.read_bytes(), DecodeSettings()).pixels_HWC
    return (None, None) if pixels is None else (pixels, detector.find([pixels])[0])
