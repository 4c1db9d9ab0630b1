"""A recipe from faces to an ONNX file: who is left out, what is resumed, what is measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import ConfigError, ModelMismatch, SourceNotFound
from facepipe.models import ModelSettings, open_model
from facepipe.packs import Pack
from tests.training.made_nets import made_net
from tests.training.taught_faces import TEACHER_DIM, made_faces, made_teacher
from training import recogniser_run
from training.face_windows import NOBODY, crops, embeddings, joined, without
from training.gathered_faces import FACES as FACES_FILE
from training.gathered_faces import Gathered, Sources, gather, save_faces
from training.parity import as_input, compare, made_crops, plain_copy
from training.recogniser_run import run_recipe
from training.recogniser_settings import RECIPE, RecogniserSettings, read_recipe
from training.taught_check import HeldOut, embedded

FACES = made_faces(people=6, pictures=3)
FOLDS = [["person_0", "person_1"], ["person_2", "person_3"], ["person_4", "person_5"]]


def settings(**changes: Any) -> RecogniserSettings:
    return RecogniserSettings.model_validate(
        {
            "held_out": [2, 3],
            "test": [2, 3],
            "backbone": {"name": "plain_s", "dim": TEACHER_DIM},
            "pool": {"files": 1, "pictures": 32},
            "epochs": 2,
            "batch": 16,
            "check_every": 3,
        }
        | changes
    )


@pytest.fixture
def teacher(tmp_path: Path) -> Pack:
    return made_teacher(tmp_path / "teacher")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    people = [str(len(FOLDS))]
    pairs = [f"{len(FOLDS)}\t2"]
    for one, other in FOLDS:
        people += ["2", f"{one}\t3", f"{other}\t3"]
        pairs += [f"{one}\t1\t2", f"{other}\t1\t3"]
        pairs += [f"{one}\t{n}\t{other}\t{n}" for n in (1, 2)]
    for name, lines in (("people.txt", people), ("pairs.txt", pairs)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return Sources(tmp_path / "photos", tmp_path / "people.txt", tmp_path / "pairs.txt", [])


def with_faces(run: Path) -> Path:
    """Return a run's folder whose photos have been looked at: nobody looks like another."""
    run.mkdir()
    taught = np.eye(TEACHER_DIM, dtype=np.float32)[FACES.person_N]
    save_faces(run / FACES_FILE, Gathered(faces=FACES, taught_ND=taught))
    return run


def test_nobody_held_out_is_learned(tmp_path: Path, teacher: Pack, sources: Sources) -> None:
    run = with_faces(tmp_path / "run")
    learnt, test = gather(run, sources, settings(), teacher, lambda text: None)
    assert {name.split("/")[0] for name in learnt.faces.names} == set(FOLDS[0])
    assert {name.split("/")[0] for name in test.faces.names} == {*FOLDS[1], *FOLDS[2]}
    learnt, test = gather(run, sources, settings(held_out=[]), teacher, lambda text: None)
    assert len(learnt.faces.names) == len(FACES.names)
    assert len(test.faces.names) == 12


def test_who_looks_like_somebody_held_out_is_left_out() -> None:
    held = np.eye(3, dtype=np.float32)[:1]
    cosines = np.array([0.39, 0.41, 0.59, 0.61], np.float32)
    own = np.stack([cosines, np.sqrt(1 - cosines**2), 0 * cosines], axis=1)
    named, nameless = np.zeros(4, np.int64), np.full(4, NOBODY)
    assert without(own, named, held).tolist() == [True, True, True, False]
    assert without(own, nameless, held).tolist() == [True, False, False, False]
    assert without(own, named, held[:0]).all()


def test_people_of_several_sets_are_numbered_through() -> None:
    first, second = made_faces(2, 1), made_faces(3, 2)
    assert joined([first, second]).person_N.tolist() == [0, 1, 2, 2, 3, 3, 4, 4]


def test_a_run_ends_with_the_student_and_is_done_once(
    tmp_path: Path, teacher: Pack, sources: Sources
) -> None:
    run, said = with_faces(tmp_path / "run"), list[str]()
    call = (run, sources, settings(), str(teacher.folder), 1)
    path = run_recipe(*call, said.append)
    data = path.read_bytes()
    checks = [json.loads(line) for line in (run / "checks.jsonl").read_text().splitlines()]
    assert [check["step"] for check in checks] == [3, 4]
    assert all(len(check["folds"]) == 2 for check in checks)
    answer = open_model(data, "student", ModelSettings())(np.zeros((2, 3, 112, 112), np.float32))
    assert answer[0].shape == (2, TEACHER_DIM)
    twin = open_model((run / recogniser_run.TWIN).read_bytes(), "twin", ModelSettings())
    pictures = as_input(made_crops())
    whole = open_model(data, "student", ModelSettings())
    assert compare(whole(pictures)[0], twin(pictures)[0]).cosine > 0.9  # hardly trained
    notes = {p.key: p.value for p in onnx.load_model_from_string(data).metadata_props}
    assert RecogniserSettings.model_validate_json(notes["recipe"]) == settings()
    files = [p for p in (run / "pool").iterdir() if p.suffix == ".safetensors"]
    before = {p: p.stat().st_mtime_ns for p in files}
    assert run_recipe(*call, said.append).read_bytes() == data
    assert {p: p.stat().st_mtime_ns for p in files} == before
    with pytest.raises(ModelMismatch, match="another recipe"):
        run_recipe(run, sources, settings(batch=8), str(teacher.folder), 1, said.append)


def test_a_recipe_may_begin_as_a_smaller_net(
    tmp_path: Path, teacher: Pack, sources: Sources
) -> None:
    first = {"backbone": {"name": "plain_s", "dim": TEACHER_DIM}, "files": 1, "epochs": 1}
    larger = {"name": "plain_sm", "dim": TEACHER_DIM}
    recipe = settings(backbone=larger, first=first, pool={"files": 2, "pictures": 32}, epochs=1)
    run, said = with_faces(tmp_path / "run"), list[str]()
    call = (run, sources, recipe, str(teacher.folder), 1)
    data = run_recipe(*call, said.append).read_bytes()
    before = (run / "first" / recogniser_run.RECOGNISER).read_bytes()
    steps = [
        [json.loads(line)["step"] for line in (folder / "checks.jsonl").read_text().splitlines()]
        for folder in (run / "first", run)
    ]
    assert steps == [[2], [3, 4]]
    notes = {p.key: p.value for p in onnx.load_model_from_string(before).metadata_props}
    of_first = RecogniserSettings.model_validate_json(notes["recipe"])
    assert (of_first.backbone.name, of_first.pool.files, of_first.first) == ("plain_s", 1, None)
    assert len(data) > len(before)
    # Begun anew it comes out the same; the smaller net is not trained again.
    for name in ("checkpoints", "recogniser.onnx"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / "recogniser.onnx").unlink(missing_ok=True)
    assert run_recipe(*call, said.append).read_bytes() == data
    assert (run / "first" / recogniser_run.RECOGNISER).read_bytes() == before
    for wrong in ({"files": 3}, {"backbone": {"name": "plain_sd", "dim": TEACHER_DIM}}):
        with pytest.raises(ValidationError):
            settings(backbone=larger, first=first | wrong, pool={"files": 2, "pictures": 32})


def test_the_check_is_that_of_the_folds_pairs(teacher: Pack, sources: Sources) -> None:
    held = HeldOut(FACES, embeddings(FACES, teacher), sources.pairs, [1, 2])
    net = plain_copy(made_net("tiny", TEACHER_DIM))  # the teacher itself
    found = held.check(net)
    assert found.cosine == pytest.approx(1, abs=1e-4)
    assert found.folds == (1.0, 1.0)  # it tells the made people apart
    assert found.accuracy == 1.0
    with pytest.raises(SourceNotFound, match="no face"):
        HeldOut(made_faces(0 + 1, 1).only(np.array([False])), np.zeros((0, 24)), sources.pairs, [0])


def test_embeddings_are_those_of_the_product(teacher: Pack) -> None:
    recogniser = Recogniser(teacher, EmbedSettings(flip="sum"), ModelSettings())
    expected = recogniser.embed(list(crops(FACES))).astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    own = embedded(plain_copy(made_net("tiny", TEACHER_DIM)), crops(FACES))
    assert (own * expected).sum(axis=1).min() > 0.99999
    assert torch.is_grad_enabled()


def test_the_shipped_recipe_is_one_and_others_are_refused(tmp_path: Path) -> None:
    assert set(read_recipe(RECIPE).held_out) == {6, 7}
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(RECIPE.read_text() + "colour: blue\n")
    with pytest.raises(ConfigError, match="colour"):
        read_recipe(wrong)
