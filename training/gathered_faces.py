"""Which real faces a taught recogniser learns from, and which it is tested on.

They are looked for once and kept with the teacher's embeddings; who is held out is decided from
that file each time, so that one look serves several recipes.

Legend: N faces, D dimensions of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from facepipe.evaluate import read_people
from facepipe.packs import Pack
from training.face_windows import (
    NOBODY,
    FaceWindows,
    embeddings,
    joined,
    named_faces,
    unnamed_faces,
    without,
)
from training.recogniser_settings import RecogniserSettings
from training.run_state import write_whole
from training.tensor_file import read_tensors, tensor_bytes

FACES = "faces.safetensors"
Say = Callable[[str], None]


class Sources:
    """Where a run's faces come from."""

    def __init__(self, photos: Path, people: Path, pairs: Path, more: list[Path]) -> None:
        """Keep the places; nothing is read yet."""
        self.photos, self.people, self.pairs, self.more = photos, people, pairs, more


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Faces of a run, and the teacher's unit embedding of each, flip-summed."""

    faces: FaceWindows
    taught_ND: npt.NDArray[np.float32]

    def only(self, keep_N: npt.NDArray[np.bool_]) -> Gathered:
        """Return some of them."""
        return Gathered(faces=self.faces.only(keep_N), taught_ND=self.taught_ND[keep_N])


def gather(
    run: Path, sources: Sources, settings: RecogniserSettings, pack: Pack, say: Say
) -> tuple[Gathered, Gathered]:
    """Return the faces to learn and those to test on, from RUN where they are there already."""
    folds = read_people(sources.people)
    held_out = set().union(*(folds[n - 1] for n in settings.held_out), set())
    test_people = set().union(*(folds[n - 1] for n in settings.test))
    learn_people = set().union(*folds) - held_out
    path = run / FACES
    if not path.exists():
        say("looking for faces")
        named = named_faces(sources.photos, pack, learn_people | held_out | test_people)
        faces = joined([named, *(unnamed_faces(folder, pack) for folder in sources.more)])
        say(f"asking the teacher about {len(faces.names):,} faces")
        save_faces(path, Gathered(faces=faces, taught_ND=embeddings(faces, pack)))
    every = read_faces(path)
    person_N = every.faces.person_N
    folder_of = [name.split("/")[0] for name in every.faces.names]
    named_N = person_N != NOBODY
    held_N = named_N & _in(folder_of, held_out)
    keep_N = ~held_N & without(every.taught_ND, person_N, every.taught_ND[held_N])
    keep_N &= ~named_N | _in(folder_of, learn_people)
    return every.only(keep_N), every.only(named_N & _in(folder_of, test_people))


def save_faces(path: Path, gathered: Gathered) -> None:
    """Write faces to a file, whole or not at all."""
    faces = gathered.faces
    tensors = {
        "pixels": torch.from_numpy(faces.pixels_NHWC),
        "person": torch.from_numpy(faces.person_N),
        "names": torch.frombuffer(bytearray("\n".join(faces.names).encode()), dtype=torch.uint8),
        "taught": torch.from_numpy(gathered.taught_ND),
    }
    write_whole(path, tensor_bytes(tensors))


def read_faces(path: Path) -> Gathered:
    """Return the faces of a file. Raises CorruptData where it is cut short."""
    tensors = read_tensors(path.read_bytes(), str(path))
    faces = FaceWindows(
        pixels_NHWC=tensors["pixels"].numpy(),
        person_N=tensors["person"].numpy(),
        names=tuple(bytes(tensors["names"].numpy()).decode().split("\n")),
    )
    return Gathered(faces=faces, taught_ND=tensors["taught"].numpy())


def _in(names: list[str], people: set[str]) -> npt.NDArray[np.bool_]:
    return np.array([name in people for name in names], bool)
