"""The one task of clean: the cores it asks for are its threads, and change nothing."""

from __future__ import annotations

import pytest

from facepipe.config import load
from facepipe.constraints import Constraints
from facepipe.shards import Dataset
from pipelines.clean import clean_plan, earlier_of
from pipelines.stage import Stopwatch
from tests.pipelines.conftest import labelled_settings


@pytest.mark.parametrize(("cores", "threads"), [("0", 1), ("0.5", 1), ("1", 1), ("3", 3)])
def test_any_number_of_cores_decides_the_same(dataset: Dataset, cores: str, threads: int) -> None:
    settings = load(None, [f"run.resources.clean.num_cpus={cores}"])
    job, plan, (task,) = clean_plan(dataset, settings, Constraints())
    assert job.threads == threads
    assert plan.shards == clean_plan(dataset, labelled_settings(), Constraints())[1].shards
    earlier = earlier_of(dataset, task.payload.digest, Constraints())
    done = job.open().decide(Constraints(), earlier, Stopwatch())
    assert done.table.equals(dataset.table("decisions"))
    assert done.pairs.equals(dataset.table("label_pairs"))
