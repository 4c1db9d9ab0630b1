"""Runs in a real MLflow: what is logged, going on, and a server that goes away meanwhile."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facepipe import __version__
from facepipe.errors import StoreError
from tests.mlflow_places import OWN_WARNINGS, Gate, free_port
from training.tracker import MLflowTracker, NoTracker, RunFacts, Tracker

pytest.importorskip("mlflow", reason="mlflow, of [train], is missing")
pytestmark = OWN_WARNINGS

DIGEST = "0123456789abcdef" * 4
WAIT_S = 60.0


@pytest.fixture(params=["database", "server"])
def uri(request: pytest.FixtureRequest, own_folders: Path) -> Iterator[str]:
    yield request.getfixturevalue(request.param)


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def facts(**more: Any) -> RunFacts:
    return RunFacts(
        name="tiny",
        parameters={"seed": 0, "head.margin": 0.5, "ema": "null"},
        tags={"recipe": "tiny"},
        dataset_digest=DIGEST,
        lineage={"plans": {"clean": "ab12"}, "decisions": ["cd34"]},
        **more,
    )


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client(uri).get_metric_history(run_id, key)]


def artifacts(uri: str, run_id: str, folder: str | None = None) -> set[str]:
    return {file.path for file in client(uri).list_artifacts(run_id, folder)}


def test_a_run_is_told_whole(uri: str, tmp_path: Path) -> None:
    tracker = MLflowTracker(uri)
    run_id = tracker.start(facts())
    for step in (10, 20):
        tracker.metrics({"loss": 1 / step, "lr": 0.1}, step)
    (tmp_path / "settings.yaml").write_text("seed: 0\n")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "loss.svg").write_text("<svg/>")
    tracker.artifact(tmp_path / "settings.yaml")
    tracker.artifact(tmp_path / "plots", "plots")
    tracker.end("finished")

    run = client(uri).get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert run.data.params == {"seed": "0", "head.margin": "0.5", "ema": "null"}
    assert (
        run.data.tags.items()
        >= {
            "recipe": "tiny",
            "facepipe.version": __version__,
            "facepipe.dataset_digest": DIGEST,
            "facepipe.last_step": "20",
        }.items()
    )
    assert not any("user" in name for name in run.data.tags)  # nobody's name
    assert history(uri, run_id, "loss") == [(10, 0.1), (20, 0.05)]
    assert history(uri, run_id, "lr") == [(10, 0.1), (20, 0.1)]
    (given,) = run.inputs.dataset_inputs
    assert DIGEST.startswith(given.dataset.digest)
    assert json.loads(given.dataset.source) == dict(facts().lineage)
    assert {tag.key: tag.value for tag in given.tags}["facepipe.dataset_digest"] == DIGEST
    names = {"environment.json", "lineage.json", "settings.yaml", "plots"}
    assert artifacts(uri, run_id) == names
    assert artifacts(uri, run_id, "plots") == {"plots/loss.svg"}
    kept = Path(client(uri).download_artifacts(run_id, "environment.json", str(tmp_path)))
    environment = json.loads(kept.read_text())
    assert environment["code"]["facepipe"] == __version__
    assert environment["packages"]["numpy"]


def test_a_run_goes_on_as_the_same_run_and_no_step_is_there_twice(uri: str, tmp_path: Path) -> None:
    """Killed at 30, its checkpoint is of 20: 25 and 30 are taken again, and are known."""
    killed = MLflowTracker(uri)
    run_id = killed.start(facts())
    for step in (5, 10, 15, 20, 25, 30):
        killed.metrics({"loss": float(step)}, step)
    killed.end("stopped")
    assert client(uri).get_run(run_id).info.status == "KILLED"

    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(f'{{"step": {step}, "loss": {step}.0}}\n' for step in (5, 10, 15, 20)))
    again = MLflowTracker(uri)
    more = facts(earlier_run_id=run_id, metrics_file=log)
    assert again.start(more) == run_id
    assert client(uri).get_run(run_id).info.status == "RUNNING"
    for step in (25, 30, 35):
        again.metrics({"loss": float(step)}, step)
    again.end("finished")
    assert history(uri, run_id, "loss") == [(s, float(s)) for s in (5, 10, 15, 20, 25, 30, 35)]
    assert client(uri).get_run(run_id).info.status == "FINISHED"
    assert len(client(uri).get_run(run_id).inputs.dataset_inputs) == 1


def test_a_run_that_the_server_does_not_know_is_told_from_its_start(
    database: str, tmp_path: Path
) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n')
    said: list[str] = []
    tracker = MLflowTracker(database, say=said.append)
    run_id = tracker.start(facts(earlier_run_id="0" * 32, metrics_file=log))
    tracker.metrics({"loss": 1.0}, 3)
    tracker.end("failed")
    assert history(database, run_id, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    run = client(database).get_run(run_id)
    assert run.data.tags["facepipe.earlier_run"] == "0" * 32
    assert run.info.status == "FAILED"
    assert len(said) == 1 and "0" * 32 in said[0]


def test_many_values_and_odd_ones_arrive(database: str) -> None:
    tracker = MLflowTracker(database)
    run_id = tracker.start(facts())
    for step in range(1, 31):
        tracker.metrics({f"v{n:02d}": float(n * step) for n in range(60)}, step)
    tracker.metrics({"loss": math.nan, "norm": math.inf}, 31)
    tracker.end("finished")
    for n in (0, 59):
        assert history(database, run_id, f"v{n:02d}") == [(s, n * s) for s in range(1, 31)]
    assert math.isnan(history(database, run_id, "loss")[0][1])


def test_the_training_goes_on_while_the_server_is_away(gate: Gate) -> None:
    said: list[str] = []
    heard = threading.Event()
    tracker = MLflowTracker(gate.address, say=lambda text: (said.append(text), heard.set())[0])
    run_id = tracker.start(facts())
    gate.shut = True
    tracker.metrics({"loss": 1.0}, 1)
    assert heard.wait(WAIT_S)
    tracker.metrics({"loss": 2.0}, 2)
    gate.shut = False
    tracker.metrics({"loss": 3.0}, 3)
    tracker.end("finished")
    assert history(gate.address, run_id, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert client(gate.address).get_run(run_id).info.status == "FINISHED"
    assert len(said) == 1 and gate.address in said[0]


def test_what_never_arrived_is_sent_when_the_run_goes_on(gate: Gate, tmp_path: Path) -> None:
    said: list[str] = []
    tracker = MLflowTracker(gate.address, say=said.append)
    run_id = tracker.start(facts())
    gate.shut = True
    for step in (1, 2):
        tracker.metrics({"loss": float(step)}, step)
    tracker.end("finished")  # no error: the training itself is over, and well
    assert "2 logged steps" in said[-1] and "again" in said[-1]

    gate.shut = False
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n')
    later = MLflowTracker(gate.address)
    assert later.start(facts(earlier_run_id=run_id, metrics_file=log)) == run_id
    later.end("finished")
    assert history(gate.address, run_id, "loss") == [(1, 1.0), (2, 2.0)]


def test_no_server_at_the_start_is_an_error_with_a_remedy(own_folders: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreError, match=f"{address}.*MLFLOW_TRACKING_URI"):
        MLflowTracker(address).start(facts())


def test_a_long_lineage_goes_into_a_file(database: str, tmp_path: Path) -> None:
    shards = [f"{n:064x}" for n in range(2000)]
    tracker = MLflowTracker(database)
    run_id = tracker.start(
        RunFacts(name="big", parameters={}, dataset_digest=DIGEST, lineage={"decisions": shards})
    )
    tracker.end("finished")
    (given,) = client(database).get_run(run_id).inputs.dataset_inputs
    assert json.loads(given.dataset.source)["in"] == "lineage.json"
    kept = Path(client(database).download_artifacts(run_id, "lineage.json", str(tmp_path)))
    assert json.loads(kept.read_text()) == {"decisions": shards}


def test_to_tell_nobody_is_a_tracker_too(tmp_path: Path) -> None:
    tracker: Tracker = NoTracker()
    assert tracker.start(facts()) == ""
    tracker.metrics({"loss": 1.0}, 1)
    tracker.artifact(tmp_path / "x")
    tracker.end("finished")
    assert list(tmp_path.iterdir()) == []
