"""A window that is stopped starts nothing more, also where a child died of the same Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.runners import WorkerDied
from pipelines.runners.bundle import Outcome, Window
from tests.pipelines.runners import contract


def outcomes(folder: Path, stopped: Callable[[], bool], *payload: str) -> list[Outcome]:
    window = Window(contract.Job(str(folder)), 1, 2, stopped)
    (task,) = contract.tasks(shard=list(payload))
    done = [*window.add(task), *window.drain()]
    window.close()
    return done


def runs(folder: Path) -> int:
    path = folder / "shard"
    return path.stat().st_size if path.exists() else 0


def test_no_item_is_blamed_once_stopped(tmp_path: Path) -> None:
    (outcome,) = outcomes(tmp_path, lambda: runs(tmp_path) > 1, "whole", "once")
    assert isinstance(outcome.result, WorkerDied)
    assert runs(tmp_path) == 2  # in a child, and alone
    assert not (tmp_path / "once").exists(), "an item was tried although the run had been stopped"


@pytest.mark.parametrize("before", [0, 1])
def test_a_child_that_is_lent_while_the_run_stops_runs_nothing(tmp_path: Path, before: int) -> None:
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(len(asked) >= before)
        return asked[-1]

    (outcome,) = outcomes(tmp_path, stopped, "x")
    assert isinstance(outcome.result, WorkerDied)
    assert runs(tmp_path) == 0
