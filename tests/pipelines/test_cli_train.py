"""facepipe train as a person meets it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines import cli

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("torch"), reason="torch is not installed"
)

ROOT = Path(__file__).parents[2]
SMALL = (
    *("--set", "steps=4", "--set", "data.loader.batch_samples=4", "--set", "device=cpu"),
    *("--set", "backbone.dim=8", "--set", "log_every_steps=1", "--set", "checkpoint.every_steps=2"),
    "--no-mlflow",
)
ENV = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "COLUMNS": "100",
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
}


def facepipe(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, args)],
        capture_output=True,
        text=True,
        env=ENV,
    )


def here(*args: object) -> Any:
    """Run a command in this process, which has torch already."""
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.made_crops import rec_of

    labels = [n // 4 for n in range(16)]
    return rec_of(tmp_path_factory.mktemp("train") / "rec", labels) / "train.rec"


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_help_teaches() -> None:
    from training.settings import recipes

    result = facepipe("train", "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert all(name in result.stdout for name in recipes())
    for option in ("--recipe", "--out", "--mlflow", "--launcher", "--register", "torchrun"):
        assert option in result.stdout


def test_a_dry_run_looks_for_the_weights(tmp_path: Path, rec: Path) -> None:
    args = ("train", rec, "--out", tmp_path / "run", *SMALL, "--dry-run")
    ran = here(*args, "--set", f"weights={tmp_path / 'none.pt'}")
    assert ran.exit_code == 2 and "none.pt cannot be read" in ran.stderr


def test_a_dry_run_writes_nothing(tmp_path: Path, rec: Path) -> None:
    args = ("train", rec, "--out", tmp_path / "run", *SMALL, "--dry-run")
    result = here(*args)
    assert result.exit_code == 0, result.stderr
    assert "4 of 4 samples" in result.stdout and "16; left out: none" in result.stdout
    plan = json.loads(here(*args, "--json").stdout)
    assert plan["people"] == 4 and plan["steps"] == 4
    assert not (tmp_path / "run").exists()


def test_a_run_its_end_and_its_pack(tmp_path: Path, rec: Path) -> None:
    run = tmp_path / "run"
    result = facepipe("train", rec, "--out", run, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "4 steps, 1.00 epochs" in result.stdout and "train: step 4" in result.stderr
    told = json.loads(here("train", rec, "--out", run, *SMALL, "--json", "-q").stdout)
    assert told["step"] == 4 and told["pack"] == str(run / "pack")
    exported = here("export", run, "--to", "pack", "--out", tmp_path / "pack", "--json")
    assert json.loads(exported.stdout)["model_id"] == told["model_id"], exported.stderr
    other = here("train", rec, "--out", run, *SMALL, "--set", "seed=1")
    assert other.exit_code == 2 and "seed was 0, is 1" in other.stderr


def test_sigterm_ends_with_a_checkpoint(tmp_path: Path, rec: Path) -> None:
    run = tmp_path / "run"
    args = ("train", rec, "--out", run, *SMALL, "--set", "steps=100000", "-q")
    child: Any = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, args)],
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
    )
    with child:
        metrics = run / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended by itself with {child.wait(timeout=0.05)}")
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "run the same command again" in said
    step = len(losses(run))
    assert (run / "checkpoints" / f"step-{step:08d}" / "state.json").exists()


def test_torchrun_starts_ranks_of_which_one_speaks(tmp_path: Path, rec: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    args = ("train", rec, "--out", tmp_path / "run", *SMALL, "--json")
    ran = subprocess.run(
        [*command, *rendezvous, "-m", "pipelines.cli", *map(str, args)],
        capture_output=True,
        text=True,
        env=ENV,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["step"] == 4
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [start["ranks"] for start in record["starts"]] == [2]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--recipe", "huge"), "--recipe 'huge' is none of"),
        (("--set", "optimiser.lr=1"), "did you mean optimizer?"),
        (("--register", "faces"), "leave out --no-mlflow"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, rec: Path, args: tuple[str, ...], said: str) -> None:
    result = here("train", rec, "--out", tmp_path / "run", *SMALL, *args)
    assert result.exit_code == 2 and said in result.stderr
