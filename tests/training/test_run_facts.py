"""Settings as parameters, and the logged steps of a run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.run_facts import flattened, logged_before


def test_settings_are_flattened_by_dots() -> None:
    nested = {"seed": 3, "head": {"margin": 0.5, "kind": {"name": "arc"}}, "steps": [1, 2]}
    assert flattened({**nested, "ema": None, "on": True, "empty": {}}) == {
        "seed": 3,
        "head.margin": 0.5,
        "head.kind.name": "arc",
        "steps": "[1, 2]",
        "ema": "null",
        "on": True,
        "empty": "{}",
    }


@pytest.mark.parametrize("cut", ["", '{"step": 30, "lo'])
def test_logged_steps_are_read_up_to_a_line_that_was_cut(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 10, "loss": 2.5, "bad": 0}', '{"step": 20, "loss": NaN, "note": "x"}']
    path.write_text("\n".join(lines) + "\n" + cut)
    first, second = logged_before(path)
    assert (first.step, dict(first.values)) == (10, {"loss": 2.5, "bad": 0.0})
    assert (second.step, set(second.values)) == (20, {"loss"})
    assert first.time_ms == path.stat().st_mtime_ns // 1_000_000


def test_a_new_run_has_none(tmp_path: Path) -> None:
    assert list(logged_before(None)) == []
    assert list(logged_before(tmp_path / "metrics.jsonl")) == []
