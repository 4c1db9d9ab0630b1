"""Photos in memory with what is learned of them; what a teacher said is kept in a file.

Legend: F photos, N faces; H, W pixels; 4 box corners x1 y1 x2 y2; 5 landmarks x, y.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import ids
from facepipe.packs import Pack
from training.detector_labels import Taught, Teacher
from training.detector_photos import Pixels, Source, halved, read_photo

_VERSION = 1  # of how photos are taught: another number teaches them anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A photo, whole and at half sizes, and its faces."""

    levels: list[Pixels]  # H x W x 3 BGR: full size, 1/2, 1/4, ...
    taught: Taught
    folder: str  # where it lies: photos of small folders are drawn more often


def album_of(
    sources: Sequence[Source],
    teacher: Pack,
    looks: tuple[float, ...],
    cache: Path,
    on_photo: Callable[[int, int], None] | None = None,
) -> list[Photo]:
    """Return the photos that decode, taught; ``cache`` keeps what the teacher said.

    ``on_photo`` is told how many of how many are done. A cache of other photos, another teacher
    or other looks is written anew.
    """
    key = _key(sources, teacher, looks)
    kept = _read(cache, key)
    asked = None if kept is not None else Teacher(teacher, looks)
    album: list[Photo] = []
    for number, source in enumerate(sources):
        read = read_photo(source)
        if read is None:
            continue
        pixels, labels = read
        if kept is not None:
            taught = kept[len(album)]
        else:
            assert asked is not None
            taught = asked.teach(pixels, labels)
        album.append(Photo(levels=halved(pixels), taught=taught, folder=str(source.root)))
        if on_photo is not None:
            on_photo(number + 1, len(sources))
    if kept is None:
        _write(cache, key, [photo.taught for photo in album])
    return album


def _key(sources: Sequence[Source], teacher: Pack, looks: tuple[float, ...]) -> str:
    photos: list[Any] = [[source.path.name, source.path.stat().st_size] for source in sources]
    labels = [None if s.labels_N4 is None else s.labels_N4.tolist() for s in sources]
    digest = teacher.digest(teacher.need_detector())
    return ids.digest([_VERSION, photos, labels, digest, list(looks)])


def _write(cache: Path, key: str, taught: Sequence[Taught]) -> None:
    """Write all faces of all photos in a row, whole or not at all."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(f".{cache.name}.partial")
    with partial.open("wb") as stream:
        np.savez(
            stream,
            key=np.array(key),
            faces_F=np.array([len(t.boxes_N4) for t in taught], np.int64),
            boxes=_joined([t.boxes_N4 for t in taught], (0, 4)),
            landmarks=_joined([t.landmarks_N52 for t in taught], (0, 5, 2)),
            has_landmarks=_joined([t.has_landmarks_N for t in taught], (0,)).astype(bool),
            ignored=_joined([t.ignored_N for t in taught], (0,)).astype(bool),
        )
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(cache)


def _joined(parts: Sequence[NDArray[Any]], empty: tuple[int, ...]) -> NDArray[Any]:
    return np.concatenate([np.zeros(empty, np.float32), *parts])


def _read(cache: Path, key: str) -> list[Taught] | None:
    if not cache.is_file():
        return None
    with np.load(cache) as file:
        if str(file["key"]) != key:
            return None
        stored = {name: file[name] for name in file.files}
    ends = np.cumsum(stored["faces_F"])
    return [
        Taught(
            boxes_N4=stored["boxes"][start:end].astype(np.float32),
            landmarks_N52=stored["landmarks"][start:end].astype(np.float32),
            has_landmarks_N=stored["has_landmarks"][start:end],
            ignored_N=stored["ignored"][start:end],
        )
        for start, end in zip(ends - stored["faces_F"], ends, strict=True)
    ]
