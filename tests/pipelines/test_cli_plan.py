"""facepipe plan as a person meets it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def facepipe(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )


def test_help_teaches() -> None:
    result = facepipe("plan", "--help")
    assert result.returncode == 0 and result.stderr == ""
    for option in ("--sample", "--hours", "--workers", "--simulate", "--out"):
        assert option in result.stdout


def test_a_plan_is_a_table(photos: Path, made_pack: Path) -> None:
    args = ("plan", photos, "--labels", "folder", "--models", made_pack, "--sample", 12)
    result = facepipe(*args, "--simulate", "--workers", 3, "--hours", 2)
    assert result.returncode == 0, result.stderr
    table = result.stdout.partition("\n\n")[0].splitlines()
    rows = {re.split(" {3,}|  (?=[0-9])", line)[0]: line for line in table[1:]}
    assert "33" in rows["photos"] and "exactly" in rows["photos"]
    for name in ("faces", "dropped", "duplicates", "kept", "hours of work", "stored"):
        assert " to " in rows[name], name
    assert "the fewest for 2 h" in rows["hours, 1 worker"]
    assert "memory, worker" in rows and "memory, driver" in rows
    simulated = [line.split()[:2] for line in result.stdout.splitlines() if line[:1].isdigit()]
    assert ["1,000,000", "16"] in simulated and ["1,000,000,000", "4,096"] in simulated
    assert "does not fit in" in result.stdout
    assert "sampling 12 of 33 photos" in result.stderr


def test_json_has_intervals_and_quiet_is_quiet(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    out = tmp_path / "ds"
    args = ("plan", photos, "--models", made_pack, "--sample", 6, "--out", out, "--json", "-q")
    result = facepipe(*args, "--simulate", "--set", "run.shard_photos=2", "--workers", 2)
    assert result.returncode == 0 and result.stderr == ""
    plan = json.loads(result.stdout)
    value, low, high = plan["faces"]
    assert low <= value <= high and plan["workers"] == 2 and plan["shard_photos"] == 2
    runs = plan.pop("simulation")
    assert {r["photos"] for r in runs} == {10**6, 10**8, 10**9}
    assert {r["workers"] for r in runs} == {2, 16, 256, 4096}
    assert all(set(r["steps_s"]) >= {"detect", "embed", "dedup", "clean", "index"} for r in runs)
    assert json.loads((out / "_plan" / "forecast.json").read_text()) == plan


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sample", "1"), "--sample"),
        (("--workers", "0"), "--workers"),
        (("--set", "detect.sise=3"), "is not a setting"),
        (("--models", "/nowhere"), "not a folder"),
        (("--out", "{photos}"), "holds other things"),
    ],
)
def test_errors_name_the_thing(
    photos: Path, made_pack: Path, more: tuple[str, ...], message: str
) -> None:
    given = [part.format(photos=photos) for part in more]
    result = facepipe("plan", photos, "--models", made_pack, *given)
    assert result.returncode == 2 and message in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""


def test_a_source_that_is_not_there_is_named(made_pack: Path) -> None:
    result = facepipe("plan", "/nowhere/photos", "--models", made_pack)
    assert result.returncode == 2 and "/nowhere/photos does not exist" in result.stderr
