"""What packs are evaluated on: a dataset's crops, a folder of photos or crops, or a .bin set.

Pictures are read in a stated order, once, and kept by nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from facepipe.bin_spans import Refused
from facepipe.decode import DecodeSettings
from facepipe.errors import CorruptData, DatasetNotFound, SourceNotFound, UsageError
from facepipe.quality import labelled_face
from facepipe.shards import Dataset, open_dataset
from facepipe.source_bin import is_bin, open_bin, pairs
from facepipe.source_listing import list_sources
from facepipe.sources import SourceSettings, path_of, read_bytes

MAX_BYTES = DecodeSettings().max_file_bytes  # of a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture to be evaluated: its place, and who is on it if that is known."""

    path: str  # below the source, with its suffix; in a .bin its number
    label: str | None = None

    @property
    def name(self) -> str:
        """Return the file name without its suffix, as pairs files have it."""
        return PurePosixPath(self.path).stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Pictures in a stated order, and a way through their bytes in that order, once.

    ``crops``: every picture is an aligned crop. ``same_P``: of a .bin set, whose pictures 2i and
    2i + 1 are pair i.
    """

    name: str
    pictures: tuple[Picture, ...]
    read: Callable[[], Iterator[bytes]]  # empty bytes where there is no picture
    crops: bool = False
    dataset: bool = False  # it has vectors of its own
    same_P: tuple[bool, ...] | None = None


def open_source(data: str) -> Source:
    """Return what ``data`` is. Raises SourceNotFound, UsageError where it holds no picture."""
    path = Path(data)
    if path.is_file():
        return _bin_source(path)
    if "://" in data or path.is_dir():
        try:
            return _dataset_source(open_dataset(data))
        except DatasetNotFound:
            return _folder_source(data)
    raise SourceNotFound(f"{data} does not exist: give a dataset, a folder of photos or a .bin")


def _folder_source(root: str) -> Source:
    entries = [
        e
        for e in list_sources([root], SourceSettings(labels="folder", containers="leave"))
        if e.kind is None and e.problem is None
    ]
    if not entries:
        raise UsageError(f"{root} holds neither a dataset nor a photo")
    # As list_sources names local files: resolve() would follow links.
    whole = root if "://" in root else os.path.abspath(root)  # noqa: PTH100
    prefix = whole.rstrip("/") + "/"
    paths = [path_of(e.uri).removeprefix(prefix) for e in entries]

    def read() -> Iterator[bytes]:
        for entry in entries:
            try:
                yield read_bytes(entry, MAX_BYTES)
            except OSError:
                yield b""

    pictures = [Picture(path=p, label=e.source_label) for p, e in zip(paths, entries, strict=True)]
    return Source(name=root, pictures=tuple(pictures), read=read)


def _bin_source(path: Path) -> Source:
    with path.open("rb") as stream:
        if not is_bin(stream.read(64), path.name):
            raise UsageError(f"{path} is no .bin set of insightface: give one, or a folder")
        stream.seek(0)
        try:
            same = pairs(stream)
        except Refused as error:
            raise CorruptData(f"{path} cannot be read as a verification set: {error}") from error

    def read() -> Iterator[bytes]:
        container = open_bin(path.open("rb"))
        try:
            for member in container.members():
                yield b"" if member.problem is not None else container.read(member, MAX_BYTES)
        finally:
            container.close()

    pictures = tuple(Picture(path=f"{n:05d}") for n in range(2 * len(same)))
    return Source(name=str(path), pictures=pictures, read=read, crops=True, same_P=tuple(same))


def _dataset_source(dataset: Dataset) -> Source:
    """Return the large, central face of each photo of a dataset, whatever its quality."""
    order = ordered_faces(dataset)

    def read() -> Iterator[bytes]:
        name, crops = "", None
        files = {f.file: f for f in dataset.files("faces")}
        for row in order:
            if not row["file"]:
                yield b""
                continue
            if row["file"] != name:
                name = row["file"]
                crops = dataset.read(files[name], ["crop"])["crop"]
            assert crops is not None  # the first row has a file
            yield crops[row["row"]].as_py() or b""

    pictures = [Picture(path=r["path"], label=r["label"]) for r in order]
    return Source(name=dataset.uri, pictures=tuple(pictures), read=read, crops=True, dataset=True)


def ordered_faces(dataset: Dataset) -> list[dict[str, Any]]:
    """Return the large, central face of each photo: face_id, its file and row, path and label.

    In the order of files and rows, so that each file is read once; a photo without a face has
    no file (""), and comes first.
    """
    columns = ["uri", "member", "width_px", "height_px", "source_label"]
    known = {
        (r["uri"], r["member"]): (r["width_px"], r["height_px"], r["source_label"])
        for r in dataset.table("photos", columns).to_pylist()
    }
    found: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    columns = ["face_id", "uri", "member", "box_xyxy_px"]
    for file in dataset.files("faces"):
        for number, row in enumerate(dataset.read(file, columns).to_pylist()):
            place = (row["uri"], row["member"])
            found.setdefault(place, []).append(row | {"file": file.file, "row": number})
    chosen = []
    for place, (width_px, height_px, label) in known.items():
        path = place[1] if place[1] is not None else path_of(place[0])
        rows = found.get(place, [{"face_id": None, "file": "", "row": 0, "box_xyxy_px": [0.0] * 4}])
        boxes = np.array([r["box_xyxy_px"] for r in rows])
        best = labelled_face(boxes, width_px or 0, height_px or 0) or 0
        chosen.append(rows[best] | {"path": path, "label": label})
    return sorted(chosen, key=lambda r: (r["file"], r["row"], r["path"]))
