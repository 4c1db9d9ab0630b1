"""How many cores the one task of clean has, with and without a cluster."""

from __future__ import annotations

import pytest

from facepipe.config import load
from pipelines.engines import usable_cores, with_cores


@pytest.mark.parametrize(
    ("engine", "workers", "asked", "cores"),
    [
        ("local", 3, [], 3),
        ("local", None, [], usable_cores()),
        ("local", 3, ["run.resources.clean.num_cpus=2"], 2),
        ("ray", 3, [], 1),
        ("beam", 3, ["run.resources.clean.num_cpus=2"], 2),
    ],
)
def test_clean_has_the_cores_of_all_local_workers(
    engine: str, workers: int | None, asked: list[str], cores: int
) -> None:
    settings = load(None, asked)
    found = with_cores(settings, engine, workers)
    assert found.run.resources.clean.num_cpus == cores
    assert found.model_dump(exclude={"run"}) == settings.model_dump(exclude={"run"})
    assert found.run.resources.detect == settings.run.resources.detect
