"""The folder of a training run: what was trained on what, with what, and how it went.

RUN/
  run.json         settings, samples, lineage, environment, starts, result
  labels.parquet   who each class is
  metrics.jsonl    a line a logged step
  checkpoints/     see checkpoint.py
  pack/            the model, once the run has finished
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from facepipe.errors import CorruptData, StoreFull, UsageError
from facepipe.settings_tree import validated
from facepipe.store import locked, open_store
from training.checkpoint import checkpoints
from training.ranks import Ranks
from training.run_environment import environment
from training.samples import Samples
from training.settings import TrainSettings, differences

FORMAT = 1  # of run.json
TEACHER = "teacher"  # of the lineage: the digest of the model that taught

_environment = cache(environment)  # of a process: reading it takes half a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Where a run stands when it starts, or starts again."""

    checkpoint: Path | None  # to go on from
    total_samples: int  # of the whole run, as its first start counted them
    mlflow_run_id: str | None
    result: dict[str, Any] | None  # of a run that has finished


class RunFolder:
    """A run's folder; rank 0 alone writes to it, but for checkpoints."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is made yet."""
        self.path = path.absolute()
        self.checkpoints, self.pack = self.path / "checkpoints", self.path / "pack"
        self.record_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self._record: dict[str, Any] = {}

    @contextmanager
    def held(self, ranks: Ranks) -> Iterator[None]:
        """Keep other runs out of the folder. Raises StoreError, on all ranks, if one is in it."""
        with ExitStack() as stack:

            def hold() -> None:
                stack.enter_context(locked(open_store(self.path)))

            ranks.agreed(hold)
            yield

    def settings(self) -> TrainSettings:
        """Return the settings of the run. Raises UsageError where the folder holds none."""
        record = self._read()
        if not record:
            raise UsageError(f"{self.path} is no training run: give the --out of facepipe train")
        self._record = record
        return validated(TrainSettings, record["settings"])

    @property
    def samples_digest(self) -> str:
        """Return the digest of what the run is trained on, once it has begun."""
        return str(self._record["samples"]["digest"])

    def begin(
        self,
        settings: TrainSettings,
        samples: Samples,
        lineage: Mapping[str, object] | None,
        total_samples: int,
        epoch_samples: int,
    ) -> dict[str, Any]:
        """Return, as JSON, what `Begun` holds; write what the run is, at its first start.

        Raises UsageError where the folder holds something else, or a run of other settings or
        samples, naming what differs.
        """
        self._record = self._read()
        if self._record:
            self._check(settings, samples, lineage or {})
        else:
            self._refuse_strangers()
            self._record = {
                "format": FORMAT,
                "settings": settings.model_dump(mode="json"),
                "samples": {
                    "digest": samples.digest,
                    "samples": len(samples),
                    "people": len(samples.people),
                    "counts": dict(samples.counts),
                },
                "lineage": dict(lineage or {}),
                "total_samples": total_samples,
                "epoch_samples": epoch_samples,
                "environment": _environment(),
                "mlflow_run_id": None,
                "starts": [],
                "result": None,
            }
            pq.write_table(samples.labels_table(), self.path / "labels.parquet")
        found = checkpoints(self.checkpoints)
        return {
            "checkpoint": str(found[-1]) if found else None,
            "total_samples": self._record["total_samples"],
            "mlflow_run_id": self._record["mlflow_run_id"],
            "result": self._record["result"],
        }

    def note_start(self, start: Mapping[str, Any], mlflow_run_id: str | None) -> None:
        """Add a start to the record: where from, and on how many ranks."""
        self._record["starts"].append(dict(start))
        self._record["mlflow_run_id"] = mlflow_run_id
        self._write()

    def note_result(self, result: Mapping[str, Any]) -> None:
        """Add how the run ended."""
        self._record["result"] = dict(result)
        self._write()

    def cut_metrics(self, step: int) -> None:
        """Forget logged steps beyond a step: they are going to be done again."""
        if not self.metrics_file.exists():
            return
        kept = [
            line for line in _whole_lines(self.metrics_file) if json.loads(line)["step"] <= step
        ]
        self._put(self.metrics_file, "".join(kept))

    def append_metrics(self, values: Mapping[str, float | int]) -> None:
        """Add a line. It reaches the disk before the checkpoint that counts on it."""
        with self.metrics_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self) -> dict[str, Any]:
        path = self.record_file
        if not path.exists():
            return {}
        try:
            record: dict[str, Any] = json.loads(path.read_bytes())
            if record["format"] != FORMAT:
                raise UsageError(
                    f"{path} has format {record['format']}, this version knows {FORMAT}: go on "
                    "with the version that began it, or give --out another folder"
                )
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptData(f"{path} cannot be read: give --out another folder") from error
        return record

    def _check(
        self, settings: TrainSettings, samples: Samples, lineage: Mapping[str, object]
    ) -> None:
        changed = differences(self._record["settings"], settings.model_dump(mode="json"))
        if self._record["samples"]["digest"] != samples.digest:
            before, now = self._record["samples"], len(samples)
            changed.insert(
                0,
                f"its samples were others ({before['samples']} of {before['people']} people, now "
                f"{now} of {len(samples.people)})",
            )
        if self._record["lineage"].get(TEACHER) != lineage.get(TEACHER):
            changed.insert(0, "its teacher was another model")
        if changed:
            raise UsageError(
                f"{self.path} holds another run: {'; '.join(changed)}; give the same to go on "
                "with it, or give --out another folder"
            )

    def _refuse_strangers(self) -> None:
        own = {
            "_lock",
            "_lease.json",
            "_tmp",
            "labels.parquet",
            "ray",
        }  # of a run before its first step
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        strangers = sorted(names - own)
        if strangers:
            raise UsageError(
                f"{self.path} is no training run and holds {strangers[0]}: give --out a new folder"
            )

    def _write(self) -> None:
        self._put(
            self.record_file,
            json.dumps(self._record, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        )

    def _put(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name}.partial")
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError as error:
            raise StoreFull(f"{path} cannot be written: {error.strerror or error}") from error


def begun_of(answer: Mapping[str, Any]) -> Begun:
    """Return what rank 0 told as JSON."""
    place = answer["checkpoint"]
    return Begun(
        checkpoint=None if place is None else Path(place),
        total_samples=answer["total_samples"],
        mlflow_run_id=answer["mlflow_run_id"],
        result=answer["result"],
    )


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a file; one that a kill has cut is none."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
