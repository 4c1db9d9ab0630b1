"""One run of bench_losses.py: a small net trained with one loss, and what it tells apart.

The net is `tiny` (training/iresnet.py) from fresh weights, through training.train as any other run:
the same number of steps, the same crops and the same changes to them for every loss. Losses on
pairs get batches of 16 people with 4 faces each, where people have so many; the others get the
same people as often, in an order of single faces.

Legend: N samples, P pairs, C crops, B crops at a time, D dimensions.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lfw_split import TestPairs
from loss_families import FAMILIES
from torch import nn

from facepipe.errors import FacepipeError, StoreError, UsageError
from facepipe.evaluate import fold_accuracy, tar_at_far
from training.backbone import BackboneSettings, build_backbone
from training.checkpoint import checkpoints, read_net
from training.samples import Samples
from training.settings import TrainSettings
from training.train import train

Float64 = npt.NDArray[np.float64]

BATCH = 64
FACES_OF_A_PERSON = 4  # in a batch of losses on pairs
DIM = 512  # norms near 22, which AdaFace's and MagFace's constants are made for
WARM_UP = 0.1  # of a run
POINTS = 5  # of a curve
FAR = 0.01  # 600 pairs of strangers resolve it
EMBED_BATCH = 128
UNTRAINED = "untrained"
NET = BackboneSettings(name="tiny", dim=DIM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run is; ``loss`` is a family, or UNTRAINED for the net as it is drawn."""

    stage: str  # "tune": on people who are tried on; "final": on those who count
    loss: str
    seed: int
    rate: float
    value: float  # of the family's setting
    steps: int

    @property
    def key(self) -> str:
        """Return what tells runs apart."""
        parts = (self.stage, self.loss, self.seed, f"{self.rate:g}", f"{self.value:g}", self.steps)
        return "-".join(map(str, parts))


def settings_of(run: Run, samples: Samples) -> TrainSettings:
    """Return the settings of a run."""
    family = FAMILIES[run.loss]
    every = -(-run.steps // POINTS)
    return TrainSettings.model_validate(
        {
            "seed": run.seed,
            "steps": run.steps,
            "data": {
                "order": {"run_samples": FACES_OF_A_PERSON if family.pairs else 1},
                "balance": {
                    "power": 0.5
                },  # a person with 100 faces comes 7 times as often as with 2
                "augment": {"flip": 0.5, "affine": 0.5, "colour": 0.3},
                "loader": {"batch_samples": BATCH, "workers": 1},
            },
            "backbone": NET.model_dump(),
            "head": None,
            "optimizer": {"name": "adamw", "lr": run.rate, "weight_decay": 0.05},
            "schedule": {
                "name": "cosine",
                "warmup_epochs": WARM_UP * run.steps * BATCH / len(samples),
            },
            "precision": "bfloat16",
            "device": "cpu",
            "checkpoint": {"every_steps": every, "keep": 1},
            **_seeded(family.terms(run.value), run.seed),
        }
    )


def _seeded(terms: Any, seed: int) -> dict[str, Any]:
    """Return a family's terms with the run's seed for its first centres."""
    return {
        part: {**settings, "seed": seed} if part == "head" else settings
        for part, settings in terms.items()
    }


def result_of(run: Run, samples: Samples, pairs: TestPairs, folder: Path) -> dict[str, Any]:
    """Return all that is known of a run, as JSON; a run that was cut off goes on from FOLDER.

    A run that came to nothing, its loss being no number, tells no pair from another.
    """
    found: dict[str, Any] = {"curve": [], "seconds": 0.0, "failed": None}
    scores_P = np.zeros(len(pairs.same_P))
    try:
        net, trained = _net(run, samples, pairs, folder / run.key)
        scores_P, found = similarities(net, pairs), {**found, **trained}
    except (UsageError, StoreError):
        raise  # says nothing about the loss: another process at this run, a full disk
    except FacepipeError as error:
        found["failed"] = str(error)
    shutil.rmtree(folder / run.key, ignore_errors=True)
    return {
        "key": run.key,
        **{name: getattr(run, name) for name in Run.__slots__},
        **measures(scores_P, pairs),
        **found,
        "people": len(samples.people),
        "samples": len(samples),
        "similarities": [round(float(score), 5) for score in scores_P],
    }


def _net(
    run: Run, samples: Samples, pairs: TestPairs, out: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained net in evaluation mode, its curve, and the seconds that it took."""
    if run.loss == UNTRAINED:
        torch.manual_seed(run.seed)
        return build_backbone(NET).eval(), {}

    def tested(net: nn.Module, step: int) -> dict[str, float]:
        with torch.autocast("cpu", torch.bfloat16):  # twice as quick, the same to the third digit
            return measures(similarities(net, pairs), pairs)

    settings = settings_of(run, samples)
    seconds = train(settings, samples, out, on_checkpoint=tested).seconds
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    curve = [[line["step"], line["auc"], line["accuracy"]] for line in lines if "auc" in line]
    net = build_backbone(settings.backbone).eval()
    read_net(checkpoints(out / "checkpoints")[-1], net)
    return net, {"curve": curve, "seconds": round(seconds, 1)}


def similarities(net: nn.Module, pairs: TestPairs) -> Float64:
    """Return the cosine of each pair (P,), of crop and mirrored crop added; NaN without a face.

    The net is in evaluation mode.
    """
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(pairs.crops_CHWC), EMBED_BATCH):
            pixels = torch.from_numpy(pairs.crops_CHWC[start : start + EMBED_BATCH])
            images = ((pixels.permute(0, 3, 1, 2).float() - 127.5) / 127.5).contiguous(
                memory_format=torch.channels_last
            )
            vectors.append(net(images) + net(images.flip(3)))
    vectors_CD = nn.functional.normalize(torch.cat(vectors).double()).numpy()
    cosines_P = np.einsum("pd,pd->p", vectors_CD[pairs.left_P], vectors_CD[pairs.right_P])
    cosines_P[(pairs.left_P < 0) | (pairs.right_P < 0)] = np.nan
    return np.asarray(cosines_P, np.float64)


def measures(scores_P: Float64, pairs: TestPairs) -> dict[str, float]:
    """Return accuracy (each fold by the threshold of the others), AUC and TAR at FAR."""
    folds = np.unique(pairs.fold_P)
    fold_P = pairs.fold_P
    if len(folds) < 2:  # halves of one fold: both kinds of pairs in each
        fold_P = np.arange(len(scores_P)) % 2
    return {
        "accuracy": fold_accuracy(scores_P, pairs.same_P, fold_P).mean,
        "auc": auc(scores_P, pairs.same_P),
        "tar": tar_at_far(scores_P, pairs.same_P, FAR).tar,
    }


def auc(scores_P: Float64, same_P: npt.NDArray[np.bool_]) -> float:
    """Return the share of (matched, mismatched) couples of pairs in the right order."""
    known_P = np.where(np.isnan(scores_P), np.where(same_P, -2.0, 2.0), scores_P)
    gap = known_P[same_P][:, None] - known_P[~same_P][None]
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())
