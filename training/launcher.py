"""Starts the ranks of a run: this process, one that torchrun started, or workers of Ray Train.

Every rank opens the samples for itself and calls `train`, which finds the others through
torch.distributed. The run's folder must be one that all of them see.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepipe import errors
from facepipe.allocator import keep_freed
from facepipe.errors import FacepipeError, UsageError
from facepipe.packs import find_pack
from training.ranks import is_first, launched
from training.run_data import open_samples
from training.run_facts import Tracker
from training.run_report import StepReport, TrainResult
from training.settings import TrainSettings
from training.train import train

RESTARTS = 3  # of Ray's workers after one died; preempted ones count apart, without end
RAY_FOLDER = "ray"  # Ray Train's own notes, in the run's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What every rank is told."""

    sources: tuple[str, ...]
    out: Path
    settings: TrainSettings
    track: bool = True
    mlflow_uri: str | None = None  # None: MLFLOW_TRACKING_URI, or the user's own database
    experiment: str | None = None
    detector: str | None = None  # a pack's name or folder, whose detector goes into the result

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON, for workers elsewhere."""
        return {
            "sources": list(self.sources),
            "out": str(self.out),
            "settings": self.settings.model_dump(mode="json"),
            "track": self.track,
            "mlflow_uri": self.mlflow_uri,
            "experiment": self.experiment,
            "detector": self.detector,
        }

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Launch:
        """Return it from JSON."""
        settings = TrainSettings.model_validate(value["settings"])
        sources, out = tuple(value["sources"]), Path(value["out"])
        return cls(**{**value, "settings": settings, "sources": sources, "out": out})


def train_rank(
    launch: Launch,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Be one rank of a run: the only one, or one that torchrun or Ray started."""
    keep_freed()  # a step's maps, for the next step
    with launched():
        samples, lineage = open_samples(launch.sources, launch.settings.data.samples)
        detector = None if launch.detector is None else find_pack(launch.detector)
        try:
            return train(
                launch.settings,
                samples,
                launch.out,
                tracker=_tracker(launch),
                on_step=on_step,
                stop=stop,
                lineage=lineage,
                detector=detector,
            )
        finally:
            samples.groups.close()


def train_on_ray(launch: Launch, workers: int | None) -> TrainResult:
    """Run the ranks as workers of Ray Train, on the cluster of RAY_ADDRESS or of this machine.

    ``workers`` None: one a GPU of the cluster, or one. Workers that die are started again, and go
    on from the newest checkpoint. Raises UsageError where Ray Train is missing, what a rank
    raises, and FacepipeError where workers keep dying.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # telemetry
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise UsageError(
            f"--launcher ray needs Ray Train ({error}): pip install 'facepipe[ray,train]' "
            "'ray[train]'"
        ) from error
    outcome = _outcome(launch.out)
    outcome.unlink(missing_ok=True)
    with _cluster(ray, workers) as gpus:
        count = workers or max(gpus, 1)
        on_gpus = gpus >= count and launch.settings.device != "cpu"
        failures = FailureConfig(max_failures=RESTARTS)
        place = str(launch.out.absolute())
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config=launch.as_json(),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=on_gpus),
            run_config=RunConfig(name=RAY_FOLDER, storage_path=place, failure_config=failures),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise FacepipeError(
                f"Ray's workers died more than {RESTARTS} times: {error}; run the same command "
                "again to go on from the newest checkpoint"
            ) from error
    # Ray keeps what workers report only beside checkpoints of its own.
    told: dict[str, Any] = json.loads(outcome.read_bytes())
    if "error" in told:
        kind = getattr(errors, told["error"], FacepipeError)
        raise kind(told["message"])
    return TrainResult.of_json(told["result"])


@contextmanager
def _cluster(ray: Any, workers: int | None) -> Iterator[int]:
    """Connect to the cluster of RAY_ADDRESS, or to one of this machine; yield its GPUs."""
    if ray.is_initialized():
        yield int(ray.cluster_resources().get("GPU", 0))
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    options: dict[str, Any] = {"address": address}
    if address == "local":
        # Ray asks for a token by default, and would leave one of its own in the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # A place a worker, however few cores there are: nothing else runs here.
        options |= {"include_dashboard": False, "num_cpus": workers}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    try:
        yield int(ray.cluster_resources().get("GPU", 0))
    finally:
        ray.shutdown()


def _ray_worker(config: dict[str, Any]) -> None:
    """Be a worker: what went wrong on purpose is told, not raised, since Ray would try again."""
    launch = Launch.of_json(config)
    try:
        told: dict[str, Any] = {"result": train_rank(launch).as_json()}
    except FacepipeError as error:
        told = {"error": type(error).__name__, "message": str(error)}
    if is_first():
        _outcome(launch.out).write_text(json.dumps(told))


def _outcome(out: Path) -> Path:
    """Return where the first worker writes how the run ended."""
    return out / RAY_FOLDER / "outcome.json"


def _tracker(launch: Launch) -> Tracker | None:
    """Return where the first rank tells how it goes."""
    if not launch.track or not is_first():
        return None
    from training.tracker import EXPERIMENT, MLflowTracker

    return MLflowTracker(launch.mlflow_uri, launch.experiment or EXPERIMENT)
