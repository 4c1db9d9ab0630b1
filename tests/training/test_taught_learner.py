"""A student learns, and goes on from a checkpoint as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from facepipe.errors import CorruptData, ModelMismatch
from training.backbone import BackboneSettings
from training.checkpoint import checkpoints
from training.muon_adamw import MuonAdamW
from training.taught_learner import LossSettings, Precision, TaughtLearner

BACKBONE = BackboneSettings(name="plain_s", dim=24)


def made_learner(
    backbone: BackboneSettings = BACKBONE, precision: Precision = "bfloat16"
) -> TaughtLearner:
    return TaughtLearner(
        backbone,
        LossSettings(),
        MuonAdamW(),
        clip_norm=5.0,
        ema_decay=0.9,
        seed=3,
        precision=precision,
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return eight pictures of a colour each, and a target that follows from it."""
    colours = torch.rand(8, 3, generator=torch.Generator().manual_seed(step)) * 2 - 1
    images = colours[:, :, None, None].expand(8, 3, 112, 112)
    wide = torch.cat([colours, colours.abs(), torch.ones(8, 1)], dim=1)
    mixer = torch.randn(7, 24, generator=torch.Generator().manual_seed(99))
    targets = torch.nn.functional.normalize(wide @ mixer)
    return images.contiguous(memory_format=torch.channels_last), targets


def state_of(learner: TaughtLearner) -> dict[str, Tensor]:
    return {
        **learner.student.state_dict(),
        **{f"ema.{k}": v for k, v in learner.average.state.items()},
    }


def test_it_learns() -> None:
    learner = made_learner()
    losses = [learner.learn(*batch(step), 1.0)["embedding"] for step in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])  # .45 to .55, by how a CPU rounds


def test_float32_maps_give_almost_the_same() -> None:
    exact, halves = made_learner(precision="float32"), made_learner()
    losses = [learner.learn(*batch(0), 1.0)["embedding"] for learner in (exact, halves)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_it_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    straight, begun = made_learner(), made_learner()
    for step in range(5):
        straight.learn(*batch(step), 1.0)
    for step in range(3):
        begun.learn(*batch(step), 1.0)
        begun.save(tmp_path)
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [
        "step-00000002",
        "step-00000003",
    ]
    resumed = made_learner()
    resumed.load(tmp_path)
    for step in range(resumed.step, 5):
        resumed.learn(*batch(step), 1.0)
    expected, found = state_of(straight), state_of(resumed)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    learner = made_learner()
    learner.learn(*batch(0), 1.0)
    learner.save(tmp_path)
    path = checkpoints(tmp_path / "checkpoints")[-1]
    with pytest.raises(ModelMismatch):
        made_learner(BackboneSettings(name="plain_s", dim=16)).load(tmp_path)
    file = path / "net.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CorruptData):
        made_learner().load(tmp_path)
