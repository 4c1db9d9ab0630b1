"""The end of a run: its net as a model pack. Also of a run that was stopped, from a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from facepipe.errors import UsageError
from facepipe.packs import Pack
from training.backbone import build_backbone
from training.checkpoint import checkpoints, read_net
from training.export import Exported, export_pack
from training.learner import Learner
from training.run_folder import RunFolder
from training.run_report import TrainResult
from training.settings import TrainSettings


def net_of(learner: Learner) -> nn.Module:
    """Return a copy of the net, where it is trained, in evaluation mode, with the best weights.

    Those are the averaged ones, where they are kept.
    """
    average = learner.average
    net = build_backbone(learner.settings.backbone)
    net.load_state_dict(learner.backbone.state_dict() if average is None else average.state)
    return net.to(learner.ranks.device).eval()


def export_run(
    folder: RunFolder, learner: Learner, result: TrainResult, detector: Pack | None
) -> dict[str, Any]:
    """Write the pack and note the result; return the result, with the pack's facts, as JSON.

    Raises GateFailed where the pack answers otherwise than the net.
    """
    shutil.rmtree(folder.pack, ignore_errors=True)  # of a run that was killed here
    notes = _notes(learner.settings, folder.samples_digest, result.step)
    exported = export_pack(net_of(learner), folder.pack, detector=detector, notes=notes)
    told = {
        **result.as_json(),
        "pack": str(folder.pack),
        "model_id": exported.model_id,
        "cosine": exported.parity.cosine,
    }
    folder.note_result(told)
    return told


def export_from(run: Path, out: Path, *, detector: Pack | None = None) -> Exported:
    """Write the pack of a run's newest checkpoint.

    Raises UsageError where the folder is no run or has no checkpoint yet, and as `export_pack`.
    """
    folder = RunFolder(run)
    settings = folder.settings()
    found = checkpoints(folder.checkpoints)
    if not found:
        raise UsageError(f"{run} has no checkpoint yet: let facepipe train run until it has one")
    net = build_backbone(settings.backbone)
    read_net(found[-1], net)
    step = json.loads((found[-1] / "state.json").read_bytes())["step"]
    notes = _notes(settings, folder.samples_digest, step)
    return export_pack(net, out, detector=detector, notes=notes)


def _notes(settings: TrainSettings, samples_digest: str, step: int) -> dict[str, str]:
    return {
        "facepipe.samples": samples_digest,
        "facepipe.backbone": settings.backbone.name,
        "facepipe.step": str(step),
    }
