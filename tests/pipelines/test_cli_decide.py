"""`facepipe undo` as a person meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from facepipe.shards import Dataset, open_dataset
from pipelines import cli_decide


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    cli_decide.register(app)
    app.command()(lambda: None)  # a second one, so that undo is named as in facepipe
    return app


@pytest.fixture
def copy(tmp_path: Path, dataset: Dataset) -> Path:
    shutil.copytree(dataset.uri, tmp_path / "ds")
    return tmp_path / "ds"


def undo(app: typer.Typer, *args: object) -> str:
    result = CliRunner().invoke(app, ["undo", *map(str, args)])
    assert result.exit_code == 0, result.output
    return result.stdout


def moved(dataset: Dataset) -> str:
    rows = dataset.table("decisions", ["face_id", "reason"]).to_pylist()
    return next(str(r["face_id"]) for r in rows if r["reason"] == "other_identity")


def decision_of(folder: Path, face: str) -> tuple[str, str]:
    table = open_dataset(folder).table("decisions", ["face_id", "decision", "reason"])
    return next((r["decision"], r["reason"]) for r in table.to_pylist() if r["face_id"] == face)


def test_a_decision_of_ones_own_is_taken_back_by_the_data(
    app: typer.Typer, copy: Path, dataset: Dataset
) -> None:
    face = moved(dataset)
    before = open_dataset(copy).table("decisions")
    undo(app, copy, face, "--quiet")
    assert not open_dataset(copy).table("decisions").equals(before)
    undo(app, copy, face, "--quiet")
    assert open_dataset(copy).table("decisions").equals(before)


def test_dry_run_counts_and_writes_nothing(app: typer.Typer, copy: Path, dataset: Dataset) -> None:
    before = sorted(copy.rglob("*"))
    text = undo(app, copy, "--reason", "other_identity", "--dry-run")
    assert "taken back: 1 relabel other identity" in text and "nothing was written" in text
    assert sorted(copy.rglob("*")) == before


def test_undo_keeps_a_face_and_runs_clean(app: typer.Typer, copy: Path, dataset: Dataset) -> None:
    face = moved(dataset)
    made = json.loads(undo(app, copy, face[:20], "--json", "--quiet"))
    assert made["added"] == [f"keep,{face}"] and made["lines"] == 1
    assert made["steps"][-1]["step"] == "clean"
    assert decision_of(copy, face) == ("keep", "said")
    assert undo(app, copy, "--list") == f"kind,a,b\nkeep,{face},\n"
    assert json.loads(undo(app, copy, "--list", "--json")) == [{"kind": "keep", "a": face, "b": ""}]
    forgotten = undo(app, copy, face, "--said", "--no-clean")
    assert "0 lines more, 1 fewer, 0 in all" in forgotten and "facepipe clean --out" in forgotten
    assert undo(app, copy, "--list") == "kind,a,b\n"
    assert decision_of(copy, face) == ("keep", "said"), "until clean runs"


def test_a_mistake_is_one_line_and_exit_code_2(app: typer.Typer, copy: Path) -> None:
    result = CliRunner().invoke(app, ["undo", str(copy)])
    assert result.exit_code == 2 and "say what to take back" in result.stderr
    assert not (copy / "_plan" / "constraints.csv").exists()


def test_a_run_is_the_photos_that_it_brought(app: typer.Typer, copy: Path) -> None:
    every = json.loads(undo(app, copy, "--run", 0, "--dry-run", "--json"))
    some = json.loads(undo(app, copy, "--run", 0, "--reason", "quality", "--dry-run", "--json"))
    assert {"drop quality": some["taken_back"]["drop quality"]} == some["taken_back"]
    assert every["taken_back"].items() > some["taken_back"].items()
    assert len(every["added"]) == sum(every["taken_back"].values())
    assert every["left"]["kept already"] > 0 and every["steps"] == []
