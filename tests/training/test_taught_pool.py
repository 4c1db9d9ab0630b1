"""What the teacher said of a pool's pictures, and the batches that are learned of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import CorruptData, ModelMismatch
from facepipe.models import ModelSettings
from facepipe.packs import Pack
from tests.training.taught_faces import TEACHER_DIM, made_faces, made_teacher
from training.face_mixes import NO_SOURCE, MixSettings
from training.face_windows import NOBODY
from training.taught_batches import TaughtBatches
from training.taught_pool import Maker, PoolSettings, file_of, open_pool, read_file

FACES = made_faces(people=4, pictures=2)
SETTINGS = PoolSettings(files=2, pictures=40, mixes=MixSettings(real=0.6, bent_real=0.0))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return made_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def pool(teacher: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pool"
    open_pool(folder, FACES, teacher, SETTINGS, 5)
    maker = Maker(folder, FACES, teacher, SETTINGS, 5)
    for number in (1, 0):
        maker.make(number)
    return folder


def test_targets_are_what_the_teacher_says_of_the_kept_picture(pool: Path, teacher: Pack) -> None:
    recogniser = Recogniser(teacher, EmbedSettings(batch=7), ModelSettings())
    file = read_file(pool, 1)
    shown = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in file.jpeg]
    expected = recogniser.embed([np.asarray(picture, np.uint8) for picture in shown])
    assert file.embedding_PD.shape == (40, TEACHER_DIM)
    np.testing.assert_allclose(file.embedding_PD, expected, rtol=2e-3, atol=2e-3)  # float16


def test_files_do_not_hang_on_who_makes_them(pool: Path, teacher: Pack, tmp_path: Path) -> None:
    open_pool(tmp_path / "again", FACES, teacher, SETTINGS, 5)
    Maker(tmp_path / "again", FACES, teacher, SETTINGS, 5).make(0)
    assert file_of(tmp_path / "again", 0).read_bytes() == file_of(pool, 0).read_bytes()
    assert file_of(pool, 0).read_bytes() != file_of(pool, 1).read_bytes()


def test_more_files_are_the_same_pool_and_other_settings_are_not(pool: Path, teacher: Pack) -> None:
    open_pool(pool, FACES, teacher, SETTINGS.model_copy(update={"files": 9}), 5)
    with pytest.raises(ModelMismatch, match="another teacher"):
        open_pool(pool, FACES, teacher, SETTINGS, 6)
    with pytest.raises(ModelMismatch):
        open_pool(pool, FACES, teacher, SETTINGS.model_copy(update={"pictures": 41}), 5)


def test_a_file_cut_short_is_refused(pool: Path, tmp_path: Path) -> None:
    whole = file_of(pool, 0).read_bytes()
    file_of(tmp_path, 0).write_bytes(whole[:-10])
    with pytest.raises(CorruptData):
        read_file(tmp_path, 0)


def test_an_epoch_shows_every_picture_once_in_an_order_of_its_own(pool: Path) -> None:
    batches = TaughtBatches(pool, 2)
    assert (len(batches), batches.dim) == (80, TEACHER_DIM)
    epochs = []
    for epoch in range(2):
        shown = [batches.batch(epoch * 5 + place, 16, seed=1) for place in range(5)]
        epochs.append(np.concatenate([targets.numpy() for _, targets in shown]))
        assert len({row.tobytes() for row in epochs[-1]}) == 80
    assert {row.tobytes() for row in epochs[0]} == {row.tobytes() for row in epochs[1]}
    assert not np.array_equal(epochs[0], epochs[1])
    images, targets = batches.batch(3, 16, seed=1)  # asked again, out of turn
    assert np.array_equal(targets.numpy(), epochs[0][48:64])
    assert tuple(images.shape) == (16, 3, 112, 112)
    assert images.min() >= -1
    assert images.max() <= 1


def test_targets_lean_on_the_mean_of_who_is_shown(pool: Path) -> None:
    plain, leaned = TaughtBatches(pool, 2), TaughtBatches(pool, 2)
    rng = np.random.default_rng(0)
    taught = rng.normal(size=(8, TEACHER_DIM)).astype(np.float32)
    taught /= np.linalg.norm(taught, axis=1, keepdims=True)
    person = np.array([0, 0, 1, 1, NOBODY, NOBODY, 2, 2])
    leaned.lean_on_people(person, taught, 0.5)
    source = np.concatenate([read_file(pool, n).source_P for n in range(2)])
    before, after = plain._target_ND, leaned._target_ND
    counts = {"leaned": 0, "as they were": 0}
    for n, face in enumerate(source.tolist()):
        if face == NO_SOURCE or person[face] == NOBODY:
            assert np.array_equal(before[n], after[n])
            counts["as they were"] += 1
            continue
        mean = taught[person == person[face]].sum(axis=0)
        expected = before[n] + 0.5 * mean / np.linalg.norm(mean)
        np.testing.assert_allclose(after[n], expected / np.linalg.norm(expected), atol=1e-6)
        counts["leaned"] += 1
    assert min(counts.values()) > 10
