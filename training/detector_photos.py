"""The photos a detector learns from: which ones, their labels, and copies at half sizes.

Half of the labelled photos and all photos of left-out people are kept away from training, by
rules that need nothing but file names. Legend: N faces; H, W pixels; 4 box corners x1 y1 x2 y2.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.decode import DecodeSettings, decode
from facepipe.errors import SourceNotFound, UsageError
from facepipe.evaluate import read_people

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

LABELS = "labels.csv"  # beside labelled photos: file, x1, y1, x2, y2 in pixels, a row a face
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MAX_SIDE_PX = 1280  # of a photo in memory: twice the side that the product looks at
LEAST_HALF_PX = 24  # a smaller copy than this holds no face that is learned


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A photo to learn from."""

    path: Path
    root: Path  # the folder that was named
    labels_N4: Floats | None  # boxes that people drew; None where the teacher alone says


def labelled_half(folder: Path, *, training: bool) -> list[Source]:
    """Return the training half of a labelled folder, or the half that is kept out.

    The first, third, fifth ... photo by sorted name is trained on, every second one is not.
    Raises SourceNotFound where the folder has no labels.
    """
    table = folder / LABELS
    if not table.is_file():
        raise SourceNotFound(f"{table} does not exist: give --wider a folder of labelled photos")
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    with table.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            boxes[row["file"]].append([float(row[key]) for key in ("x1", "y1", "x2", "y2")])
    photos = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    return [
        Source(
            path=path, root=folder, labels_N4=np.array(boxes[path.name], np.float32).reshape(-1, 4)
        )
        for path in photos[0 if training else 1 :: 2]
    ]


def people_of_folds(path: Path, folds: Collection[int]) -> set[str]:
    """Return who is in some folds (from 1) of a people.txt in LFW's format.

    Raises UsageError for a fold that it has not, and as `read_people`.
    """
    people = read_people(path)
    if not set(folds) <= set(range(1, len(people) + 1)):
        raise UsageError(f"{path} has folds 1 to {len(people)}, not {sorted(folds)}")
    return set().union(*(people[fold - 1] for fold in folds))


def photos_in(folders: Sequence[Path], left_out: Collection[str]) -> list[Source]:
    """Return the photos of folders, by path, but for those named after a left-out person.

    A photo is, where its folder has the person's name or its file name holds it. Raises
    SourceNotFound for a folder that is not there.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise SourceNotFound(f"{folder} is not a folder of photos: correct --photos")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not _is_of(path, left_out):
                found.append(Source(path=path, root=folder, labels_N4=None))
    return found


def _is_of(path: Path, left_out: Collection[str]) -> bool:
    return path.parent.name in left_out or any(name in path.stem for name in left_out)


def read_photo(source: Source) -> tuple[Pixels, Floats | None] | None:
    """Return a photo (H x W x 3, BGR, upright) and its labels; None where it does not decode.

    One with a side over `MAX_SIDE_PX` is shrunk, its labels with it.
    """
    pixels = decode(source.path.read_bytes(), DecodeSettings()).pixels_HWC
    if pixels is None:
        return None
    scale = min(1.0, MAX_SIDE_PX / max(pixels.shape[:2]))
    if scale < 1:
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    labels = None if source.labels_N4 is None else source.labels_N4 * np.float32(scale)
    return pixels, labels


def halved(pixels_HWC: Pixels) -> list[Pixels]:
    """Return the photo and its copies at 1/2, 1/4, ... of its size, averaged over 2 x 2.

    A view that shrinks takes the copy next above its size: bilinear sampling of the full photo
    would skip pixels.
    """
    levels = [pixels_HWC]
    while min(levels[-1].shape[:2]) >= 2 * LEAST_HALF_PX:
        height, width = levels[-1].shape[:2]
        even = levels[-1][: height // 2 * 2, : width // 2 * 2]
        size = (width // 2, height // 2)
        levels.append(np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.uint8))
    return levels
