"""Where runs are tracked by default, what is refused, and that nothing else is talked to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facepipe.errors import UsageError
from tests import made
from tests.mlflow_places import OWN_WARNINGS
from training import tracking_server
from training.tracking_server import artifact_folder, server_uri, shown

ROOT = Path(__file__).parents[2]
pytestmark = OWN_WARNINGS


def test_the_default_is_the_users_own_from_every_folder(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = server_uri()
    monkeypatch.chdir(own_folders)
    assert server_uri() == first == f"sqlite:///{own_folders}/xdg_data_home/facepipe/mlflow.db"
    assert artifact_folder(first) == own_folders / "xdg_data_home" / "facepipe" / "mlartifacts"


def test_the_variable_and_what_is_given_come_first(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com/")
    assert server_uri() == "https://mlflow.example.com"
    monkeypatch.chdir(own_folders)
    assert server_uri("sqlite:///runs.db") == f"sqlite:///{own_folders}/runs.db"
    assert artifact_folder("https://mlflow.example.com") is None


@pytest.mark.parametrize(
    "uri",
    [
        *("file:///runs", "./mlruns", "/runs", "databricks", "sqlite://", "sqlite:///:memory:"),
        "postgresql://who:secret@db.example.com/mlflow",
    ],
)
def test_another_address_is_refused_with_a_remedy(uri: str) -> None:
    with pytest.raises(UsageError, match=r"sqlite:///FILE\.db.*mlflow server") as refused:
        server_uri(uri)
    assert "secret" not in str(refused.value)


def test_a_password_is_not_shown() -> None:
    assert shown("https://me:secret@mlflow.example.com/x") == "https://mlflow.example.com/x"


# Everything that a training and a command do with MLflow, with every call of the network and every
# unpickled object written down.
TALK = """
import json, os, sys
hosts, loads = set(), []
def audit(event, given):
    if event == "socket.connect" and isinstance(given[1], tuple):
        hosts.add(str(given[1][0]))
    if event == "socket.getaddrinfo":
        hosts.add(str(given[0]))
    if event == "pickle.find_class":
        loads.append(given)
sys.addaudithook(audit)
before = None
if sys.argv[1] == "before":
    import mlflow.telemetry
    before = mlflow.telemetry.get_telemetry_client() is not None
from pathlib import Path
from training import registry, tracker
run = tracker.MLflowTracker()
run_id = run.start(tracker.RunFacts(name="run", parameters={"a": 1}, dataset_digest="00"))
run.metrics({"loss": 1.0}, 1)
run.end("finished")
registry.register(Path(sys.argv[2]), run_id, "face")
folder = registry.fetch("models:/face/1")
import mlflow.telemetry
from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION as allowed
print(json.dumps({
    "before": before,
    "telemetry": mlflow.telemetry.get_telemetry_client() is not None,
    "pickle": allowed.get(),
    "hosts": sorted(hosts),
    "loads": len(loads),
    "files": sorted(os.listdir(folder)),
}))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_told_to_anybody(
    when: str, own_folders: Path, empty_database: Path, tmp_path: Path
) -> None:
    """In an environment that does not ask for it; MLflow imported by others first, too."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    home = {"HOME": str(tmp_path), "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", TALK, when, str(made.pack(tmp_path / "pack"))],
        env={"PATH": os.environ["PATH"], **home},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "before": True if when == "before" else None,  # there is something to be turned off
        "telemetry": False,
        "pickle": False,
        "hosts": [],
        "loads": 0,
        "files": ["SHA256SUMS", "det_made.onnx", "made_recogniser.onnx", "pack.yaml"],
    }
    said = [line for line in ran.stderr.splitlines() if "is fetched from" not in line]
    assert said == []
    left = {path.name for path in tmp_path.iterdir()}
    own = {".config"} if when == "before" else set()  # what MLflow notes for its telemetry
    assert left == {"mlflow.db", "mlartifacts", "pack", ".cache"} | own


def test_every_switch_is_one_that_mlflow_knows() -> None:
    variables = pytest.importorskip("mlflow.environment_variables")
    for name in {**tracking_server.FORCED, **tracking_server.DEFAULTS}:
        if name.startswith("MLFLOW_"):
            assert getattr(variables, name).name == name
