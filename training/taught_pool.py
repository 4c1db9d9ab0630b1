"""A pool of made pictures with what the teacher says of each, in files of a fixed size.

The teacher costs as much as a step of the student, and its answer never changes: it is asked once
a picture. A file is a function of the faces, the settings and its number, so that a pool that was
cut short goes on, by one process or by several.

Legend: N faces, P pictures of a file.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field

from facepipe import ids
from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import ModelMismatch
from facepipe.models import ModelSettings
from facepipe.packs import Pack
from training.face_mixes import MixSettings, make_picture
from training.face_windows import FaceWindows
from training.run_state import write_whole
from training.tensor_file import read_tensors, tensor_bytes

DESCRIPTION = "pool.json"
BATCH = 32  # pictures the teacher sees at a time
JPEG_QUALITY = 92  # the teacher sees the picture as it is kept


class PoolSettings(BaseModel):
    """How many pictures, and how they are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: int = Field(48, ge=1, description="of the pool")
    pictures: int = Field(4096, ge=BATCH, description="P of a file")
    mixes: MixSettings = MixSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtFile:
    """The pictures of a file."""

    jpeg: list[bytes]
    embedding_PD: npt.NDArray[np.float32]  # of the teacher, not normalised
    source_P: npt.NDArray[np.int64]  # the face that a picture shows, or NO_SOURCE


def open_pool(
    folder: Path, faces: FaceWindows, pack: Pack, settings: PoolSettings, seed: int
) -> None:
    """Make a pool's folder, or check that it is this pool's.

    Raises ModelMismatch where the folder holds another pool.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, digest = folder / DESCRIPTION, pool_digest(faces, pack, settings, seed)
    if not path.exists():
        path.write_text(json.dumps({"digest": digest}) + "\n", encoding="utf-8")
    elif json.loads(path.read_text(encoding="utf-8")).get("digest") != digest:
        raise ModelMismatch(
            f"{folder} is a pool of other faces, settings or another teacher: remove it, or give "
            "a folder of its own"
        )


class Maker:
    """What makes a pool's files in one process."""

    def __init__(
        self, folder: Path, faces: FaceWindows, pack: Pack, settings: PoolSettings, seed: int
    ) -> None:
        """Open the teacher."""
        cv2.setNumThreads(1)
        self._folder, self._faces, self._settings, self._seed = folder, faces, settings, seed
        self._teacher = Recogniser(pack, EmbedSettings(batch=BATCH), ModelSettings())

    def make(self, number: int) -> None:
        """Write a file of the pool."""
        made = _made(number, self._faces, self._teacher, self._settings, self._seed)
        write_whole(file_of(self._folder, number), tensor_bytes(made))


_maker: list[Maker] = []  # of a worker process


def take_job(
    folder: Path, faces: FaceWindows, pack: Pack, settings: PoolSettings, seed: int
) -> None:
    """Make a worker process ready for `make_file`; it ends with the process that started it."""
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    _maker[:] = [Maker(folder, faces, pack, settings, seed)]


def _end_with(parent: BaseProcess | None) -> None:
    """Wait for a process to end, and end this one: a killed parent cannot tell its workers."""
    if parent is not None:
        parent.join()
        os._exit(1)


def make_file(number: int) -> None:
    """Write a file of the pool that `take_job` named."""
    _maker[0].make(number)


def pool_digest(faces: FaceWindows, pack: Pack, settings: PoolSettings, seed: int) -> str:
    """Return what a pool's pictures and answers hang on; not how many files there are."""
    pixels = ids.sha256_hex(np.ascontiguousarray(faces.pixels_NHWC).tobytes())
    described = settings.model_dump(mode="json", exclude={"files"})
    return ids.digest([pixels, pack.digest(pack.need_recogniser()), described, seed])


def read_file(folder: Path, number: int) -> TaughtFile:
    """Return a file of a pool. Raises CorruptData where it is cut short."""
    path = file_of(folder, number)
    tensors = read_tensors(path.read_bytes(), str(path))
    data, ends = tensors["jpeg"].numpy(), tensors["end"].numpy()
    starts = np.concatenate([[0], ends[:-1]])
    return TaughtFile(
        jpeg=[data[a:b].tobytes() for a, b in zip(starts, ends, strict=True)],
        embedding_PD=tensors["embedding"].float().numpy(),
        source_P=tensors["source"].numpy(),
    )


def _made(
    number: int, faces: FaceWindows, teacher: Recogniser, settings: PoolSettings, seed: int
) -> dict[str, torch.Tensor]:
    first = number * settings.pictures
    made = [_encoded(faces, n, settings, seed) for n in range(first, first + settings.pictures)]
    shown = [np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8) for jpeg, _ in made]
    return {
        "jpeg": torch.from_numpy(np.concatenate([jpeg for jpeg, _ in made])),
        "end": torch.from_numpy(np.cumsum([len(jpeg) for jpeg, _ in made])),
        "embedding": torch.from_numpy(teacher.embed(shown)).half(),
        "source": torch.tensor([source for _, source in made]),
    }


def _encoded(
    faces: FaceWindows, picture: int, settings: PoolSettings, seed: int
) -> tuple[npt.NDArray[np.uint8], int]:
    pixels, source = make_picture(faces.pixels_NHWC, picture, seed, settings.mixes)
    _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(jpeg, np.uint8).ravel(), source


def file_of(folder: Path, number: int) -> Path:
    """Return where a file of a pool lies."""
    return folder / f"{number:05d}.safetensors"
