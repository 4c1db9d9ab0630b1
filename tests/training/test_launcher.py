"""What every rank is told; Ray Train where it is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from facepipe.errors import UsageError
from tests.training.made_crops import rec_of
from tests.training.train_runs import metrics_of, run_settings
from training.launcher import Launch, train_on_ray, train_rank

ROOT = Path(__file__).parents[2]
HAS_RAY_TRAIN = all(
    importlib.util.find_spec(name) for name in ("ray", "torch", "pandas", "fsspec", "requests")
)


def launch(tmp_path: Path) -> Launch:
    rec = rec_of(tmp_path / "rec", [n // 3 for n in range(12)]) / "train.rec"
    settings = run_settings(steps=3)
    return Launch(sources=(str(rec),), out=tmp_path / "run", settings=settings, track=False)


def test_a_launch_goes_through_json(tmp_path: Path) -> None:
    made = launch(tmp_path)
    assert Launch.of_json(json.loads(json.dumps(made.as_json()))) == made


def test_a_rank_alone_opens_its_samples_and_trains(tmp_path: Path) -> None:
    result = train_rank(launch(tmp_path))
    assert result.step == 3 and len(metrics_of(tmp_path / "run")) == 3
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["lineage"] == {"sources": "photos"}


@pytest.mark.skipif(HAS_RAY_TRAIN, reason="Ray Train is installed")
def test_without_ray_train_its_name_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs Ray Train"):
        train_on_ray(launch(tmp_path), 2)


RAY = """
import json, sys
from facepipe.errors import UsageError
from training.launcher import Launch, train_on_ray
launch = json.loads(sys.argv[1])
print(json.dumps(train_on_ray(Launch.of_json(launch), 2).as_json()))
launch["settings"]["seed"] = 1
try:
    train_on_ray(Launch.of_json(launch), 2)
except UsageError as error:
    print(error)
"""


@pytest.mark.skipif(not HAS_RAY_TRAIN, reason="ray[train] or torch is not installed")
def test_ray_s_workers_are_the_ranks(tmp_path: Path) -> None:
    made = launch(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", RAY, json.dumps(made.as_json())],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    result, refusal = ran.stdout.splitlines()[-2:]
    assert json.loads(result)["step"] == 3 and "seed was 0, is 1" in refusal
    starts = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert [start["ranks"] for start in starts] == [2]
