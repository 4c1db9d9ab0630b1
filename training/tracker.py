"""Runs in MLflow: what a run was made of, its metrics by step, its files.

The first rank alone tracks. A run that goes on is the same run at MLflow too: it knows the last
step that it was told (a tag, sent with the metrics), and is told only later ones, since MLflow
would keep a step twice. A server that goes away does not stop a training (`MetricSender`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from facepipe import ids
from facepipe.errors import StoreError, UsageError
from training.curves import draw_curves
from training.metric_sender import LoggedStep, MetricSender
from training.run_environment import code_version, environment
from training.run_facts import NoTracker, RunFacts, Status, Tracker, flattened, logged_before
from training.tracking_server import artifact_folder, database, server_uri, set_switches, shown

__all__ = ["MLflowTracker", "NoTracker", "RunFacts", "Status", "Tracker", "flattened"]

EXPERIMENT = "facepipe"
LAST_STEP = "facepipe.last_step"
DATASET = "facepipe.dataset_digest"
# MLflow's own limits: mlflow/utils/validation.py of 3.17.
MAX_DIGEST = 36  # characters of a data set's digest
MAX_SOURCE = 65_535  # characters of where it comes from
MAX_VALUES = 1000  # metrics at once
MAX_PARAMETERS = 100  # at once

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_ABSENT, _PRESENT = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"


class MLflowTracker:
    """Tells an MLflow server, or a database of one's own."""

    def __init__(
        self,
        uri: str | None = None,
        experiment: str = EXPERIMENT,
        *,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Connect to nothing yet. Raises UsageError for an address that cannot be one."""
        self.uri, self.experiment = server_uri(uri), experiment
        self._say = say or _to_stderr
        self._client: Any = None
        self._run_id, self._told = "", -1
        self._metrics_file: Path | None = None
        self._sender: MetricSender | None = None

    def start(self, facts: RunFacts) -> str:
        """Begin or go on with a run, and tell it what it is made of.

        Steps in ``metrics_file`` that the server has not seen are sent first. Raises StoreError
        where the server does not answer, naming the remedy.
        """
        self._client = open_client(self.uri)
        self._metrics_file = facts.metrics_file
        with explained(self.uri):
            run = self._begin(facts)
            self._run_id = run.info.run_id
            self._told = int(run.data.tags.get(LAST_STEP, -1))
            self._log_facts(run, facts)
            self._log_inputs(facts)
        self._sender = MetricSender(self._send, self._send_file, self._say_away)
        for logged in logged_before(facts.metrics_file):
            self._tell(logged)
        return self._run_id

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Send what was measured at a step; one that the server has seen before is left out."""
        self._tell(LoggedStep(step, time.time_ns() // 1_000_000, dict(values)))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Send a file, or all files of a folder, when its turn comes: it has to stay till then."""
        self._opened().file(path, folder)

    def end(self, status: Status) -> None:
        """Send the rest and the curves, close the run; says on stderr what did not get there."""
        with TemporaryDirectory() as folder:  # it stays until the curves are sent
            curves = Path(folder) / "curves.svg"
            if self._metrics_file is not None and self._metrics_file.is_file():
                curves.write_text(draw_curves(logged_before(self._metrics_file)))
                self.artifact(curves, "plots")
            steps, files = self._opened().close()
        self._sender = None
        if steps or files:
            self._say(
                f"{steps} logged steps and {files} files did not reach {shown(self.uri)}: the "
                "run's folder has them; run the same facepipe train command again to send them"
            )
            return
        try:
            self._client.set_terminated(self._run_id, _STATUS[status])
        except Exception as error:  # the training itself is over, and well
            self._say(f"the run could not be closed at {shown(self.uri)} ({_reason(error)})")

    def _opened(self) -> MetricSender:
        if self._sender is None:
            raise RuntimeError("the run has not started, or has ended")
        return self._sender

    def _begin(self, facts: RunFacts) -> Any:
        """Return the earlier run, running again; a new one where it is unknown here."""
        from mlflow.exceptions import MlflowException

        earlier = facts.earlier_run_id
        if earlier:
            try:
                self._client.update_run(earlier, status="RUNNING")
                return self._client.get_run(earlier)
            except MlflowException as error:
                if error.error_code != _ABSENT:
                    raise
            self._say(f"{shown(self.uri)} has no run {earlier}: this goes on as a new one")
        tags = {"facepipe.earlier_run": earlier} if earlier else {}
        experiment = experiment_id(self._client, self.uri, self.experiment)
        return self._client.create_run(experiment, tags=tags, run_name=facts.name)

    def _log_facts(self, run: Any, facts: RunFacts) -> None:
        """Log the parameters that the run does not have; tags say what ran last."""
        from mlflow.entities import Param, RunTag

        code = code_version()
        tags = {
            **facts.tags,
            DATASET: facts.dataset_digest,
            "facepipe.version": code["facepipe"],
            "mlflow.source.name": "facepipe train",
            "mlflow.source.type": "LOCAL",
        }
        if "commit" in code:
            tags["mlflow.source.git.commit"] = code["commit"]
        known = run.data.params  # of a run that goes on: MLflow refuses to change one
        new = [Param(name, str(v)) for name, v in facts.parameters.items() if name not in known]
        for start in range(0, len(new), MAX_PARAMETERS):
            self._log(params=new[start : start + MAX_PARAMETERS])
        self._log(tags=[RunTag(k, str(v)) for k, v in tags.items()])

    def _log_inputs(self, facts: RunFacts) -> None:
        """Log the data set; the environment and the whole lineage as files."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps(dict(facts.lineage), sort_keys=True, default=str)
        if len(source) > MAX_SOURCE:
            source = json.dumps({"sha256": ids.sha256_hex(source.encode()), "in": "lineage.json"})
        dataset = Dataset(
            name=facts.dataset_name,
            digest=facts.dataset_digest[:MAX_DIGEST],
            source_type="facepipe",
            source=source,
        )
        tags = [
            InputTag("mlflow.data.context", "training"),
            InputTag(DATASET, facts.dataset_digest),
        ]
        self._client.log_inputs(self._run_id, [DatasetInput(dataset, tags)])
        files = {"environment": environment(), "lineage": dict(facts.lineage)}
        with TemporaryDirectory() as folder:
            for name, value in files.items():
                text = json.dumps(value, indent=1, sort_keys=True, default=str)
                (Path(folder) / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            self._client.log_artifacts(self._run_id, folder)

    def _tell(self, logged: LoggedStep) -> None:
        if logged.step > self._told and logged.values:
            self._opened().step(logged)

    def _send(self, steps: Sequence[LoggedStep]) -> None:
        from mlflow.entities import Metric, RunTag

        told = [RunTag(LAST_STEP, str(steps[-1].step))]
        values = [
            Metric(name, value, logged.time_ms, logged.step)
            for logged in steps
            for name, value in sorted(logged.values.items())
        ]
        # The tag goes with the last part. What did not get there whole is sent again as it was,
        # and MLflow keeps one value of the same step and time.
        for start in range(0, len(values), MAX_VALUES):
            part = values[start : start + MAX_VALUES]
            last = start + MAX_VALUES >= len(values)
            self._log(metrics=part, tags=told if last else [])

    def _log(self, **given: Any) -> None:
        # MLFLOW_ENABLE_ASYNC_LOGGING would hide whether it got there.
        self._client.log_batch(self._run_id, **given, synchronous=True)

    def _send_file(self, path: Path, folder: str) -> None:
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        send(self._run_id, str(path), folder or None)

    def _say_away(self, error: Exception) -> None:
        self._say(
            f"MLflow at {shown(self.uri)} does not take metrics ({_reason(error)}): the training "
            "goes on, they are sent when it does"
        )


def open_client(uri: str) -> Any:
    """Return a client of a tracking server, and of its registry.

    Raises UsageError where MLflow is not installed, StoreError where the server does not answer.
    """
    set_switches()
    try:
        from mlflow import MlflowClient
        from mlflow.telemetry import set_telemetry_client
    except ImportError as error:
        raise UsageError(
            f"MLflow is not installed ({error}): pip install 'facepipe[train]'; facepipe train "
            "--no-mlflow does without it"
        ) from error
    look_again: Any = set_telemetry_client
    look_again()  # at the switches, where MLflow was imported before they were set
    path = database(uri)
    with explained(uri):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def experiment_id(client: Any, uri: str, name: str) -> str:
    """Return the id of an experiment, made where there is none."""
    from mlflow.exceptions import MlflowException

    folder = artifact_folder(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        place = None if folder is None else (folder / ids.digest(name)[:12]).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != _PRESENT:
                raise
        found = client.get_experiment_by_name(name)  # another run has made it just now
    if found.lifecycle_stage != "active":
        raise UsageError(
            f"experiment {name!r} of {shown(uri)} is deleted: restore it there, or give "
            "--experiment another name"
        )
    return str(found.experiment_id)


@contextmanager
def explained(uri: str, asked: str = "do what is asked") -> Iterator[None]:
    """Turn what a server answers, or that it does not, into StoreError with a remedy."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:  # of requests, too: its errors are OSErrors
        raise StoreError(
            f"MLflow at {shown(uri)} does not {asked} ({_reason(error)}): see that the "
            "server runs and that MLFLOW_TRACKING_URI is its address"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _to_stderr(text: str) -> None:
    print(f"facepipe: {text}", file=sys.stderr)
