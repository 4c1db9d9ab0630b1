"""`facepipe promote` and `models:/` as a person meets them, with real packs on real pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipelines import cli
from tests import made
from tests.mlflow_places import OWN_WARNINGS, database, empty_database, own_folders  # noqa: F401
from tests.pipelines.made_pairs import coarse_pack, made_crops, made_pairs

pytest.importorskip("mlflow", reason="mlflow, of [train], is missing")
pytestmark = OWN_WARNINGS

PEOPLE = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("promote")
    made_crops(root / "crops", PEOPLE)
    made_pairs(root / "pairs.txt", PEOPLE)
    made.pack(root / "fine")
    coarse_pack(root / "coarse")
    return root


def facepipe(*args: object) -> Result:
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def promote(data: Path, *args: object) -> Result:
    crops, pairs = data / "crops", data / "pairs.txt"
    return facepipe("promote", "face", "--data", crops, "--pairs", pairs, "--quiet", *args)


def told(result: Result) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(result.stdout)
    return value


@pytest.mark.usefixtures("database")
def test_the_better_of_two_packs_becomes_champion_and_serves(data: Path) -> None:
    first = promote(data, "--candidate", data / "coarse", "--first", "--json")
    assert first.exit_code == 0, first.stderr
    assert (told(first)["version"], told(first)["moved"]) == (1, True)

    tried = promote(data, "--candidate", data / "fine", "--dry-run")
    assert tried.exit_code == 0
    assert "stays version 1" in tried.stdout and "--dry-run" in tried.stdout
    won = promote(data, "--candidate", data / "fine")
    assert won.exit_code == 0
    assert "face@champion is version 2 now" in won.stdout
    assert "better beyond chance" in won.stdout

    lost = promote(data, "--candidate", "1", "--json")
    assert lost.exit_code == 4
    assert "models:/face/1 is not promoted" in lost.stderr
    outcome = told(lost)
    assert (outcome["version"], outcome["moved"]) == (2, False)
    accuracy = outcome["checks"][0]
    assert accuracy["candidate"] < accuracy["champion"]
    assert accuracy["difference"]["high"] < 0

    doctor = facepipe("doctor", "--models", "models:/face@champion", "--json")
    (models,) = (check for check in json.loads(doctor.stdout) if check["name"] == "models")
    assert models["ok"] and "made_recogniser.onnx" in models["detail"]

    back = facepipe("promote", "face", "--rollback")
    assert back.exit_code == 0
    assert "face@champion is version 1 now" in back.stdout


@pytest.mark.usefixtures("database")
def test_a_registered_model_is_a_pack_for_every_command(data: Path) -> None:
    assert promote(data, "--candidate", data / "fine", "--at-least", ".6").exit_code == 0
    pairs = ("--pairs", data / "pairs.txt", "--json")
    by_name = facepipe("evaluate", data / "crops", "models:/face@champion", *pairs)
    by_folder = facepipe("evaluate", data / "crops", data / "fine", *pairs)
    assert (by_name.exit_code, by_folder.exit_code) == (0, 0), by_name.stderr
    one, other = (told(result)["models"][0] for result in (by_name, by_folder))
    assert one.pop("model") != other.pop("model")
    assert one == other


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("args", "code", "remedy"),
    [
        ((), 2, "--at-least"),
        (("--first", "--rollback"), 2, "--rollback"),
        (("--at-least", "1", "--candidate", "{data}/coarse"), 4, "not promoted"),
        (("--first", "--candidate", "{data}/nowhere/pack"), 2, "not a folder"),
        (("--first", "--candidate", "models:/nose@champion"), 2, "no model 'nose'"),
        (("--first", "--mlflow", "file:///runs"), 2, "sqlite:///"),
    ],
)
def test_what_cannot_be_done_is_told_with_a_remedy(
    data: Path, args: tuple[str, ...], code: int, remedy: str
) -> None:
    result = promote(data, *(arg.format(data=data) for arg in args))
    assert result.exit_code == code
    assert remedy in result.stderr


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", ["curate", "detect", "embed", "plan", "index", "evaluate"])
def test_a_model_that_is_not_registered_is_told_by_every_command(
    command: str, data: Path, tmp_path: Path
) -> None:
    model = ("--models", "models:/face@champion")
    out = ("--out", tmp_path / "ds")
    arguments: dict[str, tuple[object, ...]] = {
        "curate": ("curate", data / "crops", *out, *model),
        "detect": ("detect", data / "crops", *out, *model),
        "embed": ("embed", *out, *model),
        "plan": ("plan", data / "crops", *model),
        "index": ("index", "search", tmp_path / "none", data / "crops", *model),
        "evaluate": ("evaluate", data / "crops", model[1], "--pairs", data / "pairs.txt"),
    }
    result = facepipe(*arguments[command])
    assert result.exit_code == 2
    assert "no model 'face'" in result.stderr
    assert not (tmp_path / "ds").exists()


@pytest.mark.usefixtures("database")
def test_from_a_training_to_the_champion(data: Path, tmp_path: Path) -> None:
    """Trained, tracked, registered, promoted, used: nothing but the command line."""
    pytest.importorskip("torch", reason="torch, of [train], is missing")
    settings = {
        "steps": 4,
        "data.loader.batch_samples": 4,
        "device": "cpu",
        "backbone.dim": 8,
        "log_every_steps": 1,
        "data.samples.min_faces": 1,
    }
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    trained = facepipe(
        *("train", data / "crops", "--out", tmp_path / "run", "--register", "face", "--quiet"),
        *("--json", "--detector", data / "fine", *sets),
    )
    assert trained.exit_code == 0, trained.stderr
    told_by = told(trained)
    assert told_by["registered"] == {"name": "face", "version": 1}
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_run(told_by["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["backbone.dim"] == "8"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == [1, 2, 3, 4]
    files = {file.path for folder in ("", "pack", "plots") for file in client.list_artifacts(
        run.info.run_id, folder or None)}  # fmt: skip
    assert files >= {"environment.json", "pack/recogniser.onnx", "plots/curves.svg"}
    version = client.get_model_version("face", "1")
    assert version.run_id == run.info.run_id
    assert version.tags["facepipe.dataset_digest"] == run.data.tags["facepipe.dataset_digest"]

    promoted = promote(data, "--candidate", run.info.run_id, "--first")
    assert promoted.exit_code == 0, promoted.stderr
    pairs = ("--pairs", data / "pairs.txt", "--json")
    used = facepipe("evaluate", data / "crops", "models:/face@champion", *pairs)
    assert told(used)["models"][0]["model_id"], used.stderr
