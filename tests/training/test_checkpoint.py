"""Checkpoints that are damaged, cut short or in the way; that runs go on is in test_train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from facepipe.errors import CorruptData, ModelMismatch, StoreFull
from tests.training.train_runs import PEOPLE, run_settings, use_plain_net
from training import checkpoint as module
from training.checkpoint import checkpoints, read_checkpoint, read_net, write_checkpoint
from training.learner import Learner
from training.ranks import Ranks
from training.tensor_file import read_tensors

RANKS = Ranks.current(torch.device("cpu"))


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_net(monkeypatch.setattr)


def learner(**more: Any) -> Learner:
    with torch.random.fork_rng():
        return Learner(run_settings(**more), PEOPLE, RANKS)


def write(folder: Path, step: int, keep: int = 2, made: Learner | None = None) -> Path:
    return write_checkpoint(folder, step, made or learner(), {"step": step}, RANKS, keep=keep)


def test_the_newest_stay_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.partial" / "head").mkdir(parents=True)  # a kill left it
    for step in (1, 2, 3, 100_000_000):
        write(tmp_path, step, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-100000000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-100000000"]
    assert checkpoints(tmp_path / "none") == []


def test_files_are_what_the_docstring_says(tmp_path: Path) -> None:
    path = write(tmp_path, 1, made=learner(ema_decay=0.5, center={}))
    names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    assert names == [
        "backbone.safetensors",
        "ema.safetensors",
        f"head/centres.0-{PEOPLE}.npy",
        "head/head.json",
        "optimizer.safetensors",
        "state.json",
        "terms.safetensors",
    ]


def test_a_step_that_is_written_again_replaces_the_first(tmp_path: Path) -> None:
    first, second = learner(), learner(seed=1)
    write(tmp_path, 1, made=first)
    path = write(tmp_path, 1, made=second)
    stored = read_tensors((path / "backbone.safetensors").read_bytes(), "")
    assert torch.equal(stored["end.weight"], second.backbone.state_dict()["end.weight"])
    assert not torch.equal(stored["end.weight"], first.backbone.state_dict()["end.weight"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimiser_s_state_lies_in_memory_as_its_parameters(
    tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # a net with convolutions, whose order in memory is channels last
    made = learner(optimizer={"name": optimizer})
    for parameter in made.net.parameters():
        parameter.grad = torch.randn_like(parameter)
    made.optimizer.step()
    path = write(tmp_path, 1, made=made)
    twin = learner(optimizer={"name": optimizer})
    read_checkpoint(path, twin)
    pairs = zip(made.net.parameters(), twin.net.parameters(), strict=True)
    for one, other in pairs:
        assert one.stride() == other.stride() and torch.equal(one, other)
        before, after = made.optimizer.state.get(one, {}), twin.optimizer.state.get(other, {})
        assert before.keys() == after.keys() and bool(before) == one.requires_grad
        for key, value in before.items():
            assert torch.equal(value, after[key])
            if one.ndim == 4 and one.shape[-1] > 1:  # of a 1 x 1 kernel every order is the same
                assert value.stride() == after[key].stride()
    for parameter in (*made.net.parameters(), *twin.net.parameters()):
        parameter.grad = torch.ones_like(parameter)
    made.optimizer.step()
    twin.optimizer.step()
    pairs = zip(made.net.parameters(), twin.net.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", None),
        ("state.json", b"{"),
        ("backbone.safetensors", None),
        ("backbone.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
        ("optimizer.safetensors", b""),
        ("head/head.json", None),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = write(tmp_path, 1)
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)
    with pytest.raises(CorruptData, match=name.replace(".", r"\.")):
        read_checkpoint(path, learner())


def test_another_net_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    other = learner(backbone={"name": "tiny", "dim": 9})
    with pytest.raises(ModelMismatch, match="settings of that run"):
        read_checkpoint(path, other)
    with pytest.raises(ModelMismatch, match="of another net"):
        read_net(path, other.backbone)


def test_a_full_disk_leaves_the_checkpoints_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_sync", full)
    with pytest.raises(StoreFull, match=r"step-00000002 cannot be written \(No space left"):
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_state_is_json(tmp_path: Path) -> None:
    assert json.loads((write(tmp_path, 7) / "state.json").read_text()) == {"step": 7}
