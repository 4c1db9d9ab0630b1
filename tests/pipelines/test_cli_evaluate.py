"""facepipe evaluate as a person meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from facepipe.builtin_pack import BUILTIN, builtin_folder
from pipelines.cli import app
from tests import made

ROOT = Path(__file__).parents[2]


def facepipe(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return crops of four people below photos/, their pairs in pairs.txt beside it."""
    folder = tmp_path_factory.mktemp("evaluate")
    for person in range(4):
        for shot in range(2):
            name = f"P{person}_{shot + 1:04d}.png"
            crop = cv2.resize(made.face_square(person, shot), (112, 112))
            made.save(folder / "photos" / f"P{person}" / name, crop)
    lines = [
        f"P{p}\t1\t2\nP{p + 1}\t1\t2\nP{p}\t1\tP{p + 1}\t1\nP{p}\t2\tP{3 - p}\t2" for p in (0, 2)
    ]
    (folder / "pairs.txt").write_text("2\t2\n" + "\n".join(lines) + "\n")
    return folder


def test_packs_side_by_side_on_a_page_and_as_json(
    crops: Path, made_pack: Path, tmp_path: Path
) -> None:
    page, plots = tmp_path / "evaluation.html", tmp_path / "plots"
    args = ("evaluate", crops / "photos", made_pack, made_pack, "--pairs", crops / "pairs.txt")
    result = facepipe(*args, "--report", page, "--plots", plots, "--far", 0.5, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [model["model"] for model in found["models"]] == [made_pack.name] * 2
    assert found["models"][1]["difference"]["tar_at_far"][0]["difference"] == 0.0
    assert found["report"] == str(page) and "<svg" in page.read_text()
    assert sorted(found["plots"]) == sorted(map(str, plots.iterdir()))
    assert "embed: 8 pictures, 0 of them without a face" in result.stderr


def test_a_table_for_people(crops: Path, made_pack: Path) -> None:
    args = ("evaluate", crops / "photos", made_pack, "--pairs", crops / "pairs.txt", "--quiet")
    result = facepipe(*args, "--alone")
    assert result.returncode == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "Pairs of pictures" and lines[1].startswith("8 pairs, 0 of them")
    assert lines[2] == "Too few mismatched pairs to show a FAR of 0.1, 0.01, 0.001."
    assert lines[3].split("  ")[0] == "model" and lines[4].startswith(made_pack.name)


@pytest.mark.parametrize(
    ("packs", "beside"),
    [
        (["{made}"], True),
        (["{made}", "--alone"], False),
        ([BUILTIN], False),
        (["{builtin}", "{made}"], False),  # by another name
    ],
)
def test_builtin_stands_beside_packs_that_it_is_not_one_of(
    crops: Path, made_pack: Path, packs: list[str], beside: bool
) -> None:
    places = {"made": str(made_pack), "builtin": str(builtin_folder())}
    args = ["evaluate", str(crops / "photos"), "--pairs", str(crops / "pairs.txt"), "--dry-run"]
    result = CliRunner().invoke(app, [*args, "--json", *(p.format(**places) for p in packs)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout).get("beside") == (BUILTIN if beside else None)


def test_a_far_that_is_too_small_is_refused_before_the_work(crops: Path, made_pack: Path) -> None:
    args = ("evaluate", crops / "photos", made_pack, "--pairs", crops / "pairs.txt")
    result = facepipe(*args, "--far", 0.01)
    assert result.returncode == 2 and result.stdout == ""
    assert "FAR 0.01 cannot be measured with 4 impostor trials" in result.stderr
    assert "embed" not in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--flip", "sum"), "--flip embeds crops anew"),
        (("--report", "page.txt"), "--report page.txt is no page"),
        (("--template-faces", "x"), "go together"),
        ((), "is no dataset: name a PACK"),
    ],
)
def test_what_cannot_be_done_is_said(crops: Path, args: tuple[str, ...], message: str) -> None:
    result = facepipe("evaluate", crops / "photos", "--pairs", crops / "pairs.txt", *args)
    assert result.returncode == 2 and result.stdout == ""
    assert message in result.stderr
