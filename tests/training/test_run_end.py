"""A pack of a run that has not ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from facepipe.errors import UsageError
from facepipe.packs import find_pack
from tests.training.train_runs import Job, run_job
from training.run_end import export_from


def test_a_checkpoint_becomes_a_pack(tmp_path: Path) -> None:
    run_job(Job(out=tmp_path / "run", stop_at=2))
    exported = export_from(tmp_path / "run", tmp_path / "pack")
    pack = find_pack(str(tmp_path / "pack"))
    assert exported.parity.holds and exported.model_id == pack.digest(pack.need_recogniser())


def test_no_checkpoint_no_pack(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no training run"):
        export_from(tmp_path, tmp_path / "pack")
    run_job(Job(out=tmp_path / "run", stop_at=2))
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    with pytest.raises(UsageError, match="has no checkpoint yet"):
        export_from(tmp_path / "run", tmp_path / "pack")
