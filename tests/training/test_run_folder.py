"""The record of a run, and its lines of metrics after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from facepipe.errors import CorruptData, UsageError
from tests.training.train_runs import made_run_samples, run_settings
from training.run_folder import RunFolder


def begun(path: Path) -> RunFolder:
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    folder.begin(run_settings(), made_run_samples(), {"decisions": ["a"]}, 40, 22)
    folder.note_start({"step": 0}, "run-1")
    return folder


def test_a_record_says_what_is_trained_on_what(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["samples"] == {
        "digest": "made",
        "samples": 22,
        "people": 5,
        "counts": {"used": 22},
    }
    assert record["total_samples"] == 40 and record["lineage"] == {"decisions": ["a"]}
    assert record["environment"]["code"]["facepipe"]
    assert pq.read_table(tmp_path / "labels.parquet")["identity_id"].to_pylist()[:2] == ["p0", "p1"]
    assert folder.samples_digest == "made"


def test_a_second_start_keeps_what_the_first_counted(tmp_path: Path) -> None:
    begun(tmp_path)
    # On another number of ranks a run of so many steps would be of another length.
    told = RunFolder(tmp_path).begin(run_settings(), made_run_samples(), None, 80, 22)
    assert told["total_samples"] == 40 and told["mlflow_run_id"] == "run-1"
    assert told["checkpoint"] is None and told["result"] is None


def test_metrics_are_cut_back_to_a_step(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    for step in (2, 4, 6):
        folder.append_metrics({"step": step, "loss": step / 10})
    with folder.metrics_file.open("a") as stream:
        stream.write('{"step": 8, "lo')  # a kill
    folder.cut_metrics(4)
    assert folder.metrics_file.read_text() == (
        '{"step": 2, "loss": 0.2}\n{"step": 4, "loss": 0.4}\n'
    )
    folder.cut_metrics(0)
    assert folder.metrics_file.read_text() == ""


def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(UsageError, match="has format 99, this version knows 1"):
        folder.settings()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CorruptData, match="give --out another folder"):
        folder.settings()


def test_no_run_has_no_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no training run"):
        RunFolder(tmp_path).settings()
