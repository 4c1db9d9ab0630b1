"""Made faces for the tests of taught recognisers: people as coloured blocks, and a teacher."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from facepipe.packs import Pack, find_pack
from tests.training.made_nets import made_onnx
from training.face_mixes import WINDOW_PX
from training.face_windows import FaceWindows

TEACHER_DIM = 24


def made_faces(people: int, pictures: int, seed: int = 0) -> FaceWindows:
    """Return some pictures of each person: one pattern a person, with noise."""
    rng = np.random.default_rng(seed)
    pixels, names = [], []
    for person in range(people):
        coarse = rng.integers(30, 226, (6, 6, 3)).astype(np.float32)
        pattern = cv2.resize(coarse, (WINDOW_PX, WINDOW_PX), interpolation=cv2.INTER_CUBIC)
        for number in range(pictures):
            noisy = pattern + rng.normal(0, 8, pattern.shape)
            pixels.append(np.clip(noisy, 0, 255).astype(np.uint8))
            names.append(f"person_{person}/person_{person}_{number + 1:04d}.jpg")
    return FaceWindows(
        pixels_NHWC=np.stack(pixels),
        person_N=np.repeat(np.arange(people), pictures),
        names=tuple(names),
    )


def made_teacher(folder: Path) -> Pack:
    """Return a pack with a recogniser that tells the made people apart."""
    folder.mkdir(exist_ok=True)
    (folder / "recogniser.onnx").write_bytes(made_onnx("tiny", TEACHER_DIM))
    return find_pack(str(folder))
