"""Files by class id; that a run goes on from them on other ranks is in test_partial_fc."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from facepipe.errors import CorruptData, ModelMismatch
from tests.training.head_cases import MARGINS, settings
from training.centre_sgd import CentreSGD
from training.head_state import read_head, read_rows, write_head
from training.heads import Head
from training.partial_fc import PartialFC
from training.shard_group import ShardGroup

CLASSES, DIM = 11, 4


def trained(name: str, group: ShardGroup, adam: bool = False) -> tuple[PartialFC, Any]:
    """Return a shard after an update with a gradient that depends on the class alone."""
    head = PartialFC(CLASSES, DIM, settings(name), group)
    optimizer = torch.optim.AdamW([head.centres]) if adam else CentreSGD([head.centres], lr=0.1)
    classes = torch.arange(head.first, head.last, dtype=torch.float32)
    head.centres.grad = classes[:, None, None].expand_as(head.centres).clone()
    optimizer.step()
    head.steps = 7
    return head, optimizer


def whole(heads: list[Any], pick: Any) -> torch.Tensor:
    return torch.cat([pick(head, optimizer) for head, optimizer in heads])


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adamw"])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 4), (4, 2), (3, 8), (8, 16)])
def test_rows_move_between_numbers_of_ranks(
    tmp_path: Path, before: int, after: int, adam: bool
) -> None:
    written = [trained("arcface", ShardGroup(rank, before), adam) for rank in range(before)]
    for head, optimizer in written:
        write_head(tmp_path, head, optimizer)
    read = []
    for rank in range(after):
        head = PartialFC(CLASSES, DIM, settings("arcface", seed=5), ShardGroup(rank, after))
        optimizer: Any = (
            torch.optim.AdamW([head.centres]) if adam else CentreSGD([head.centres], lr=0.1)
        )
        read_head(tmp_path, head, optimizer)
        assert head.steps == 7
        read.append((head, optimizer))
    names = ["exp_avg", "exp_avg_sq"] if adam else ["momentum_buffer"]
    assert torch.equal(*(whole(heads, lambda h, _: h.centres) for heads in (written, read)))
    for name in names:
        first, second = (
            whole(heads, lambda h, o, name=name: o.state[h.centres][name])
            for heads in (written, read)
        )
        assert torch.equal(first, second)
    if adam:
        assert all(o.state[h.centres]["step"] == 1 for h, o in read)


@pytest.mark.parametrize("name", MARGINS)
def test_a_loss_s_statistics_are_kept(tmp_path: Path, name: str) -> None:
    head = Head(CLASSES, DIM, settings(name))
    batch, labels = torch.randn(6, DIM), torch.tensor([0, 1, 2, 3, 4, 10])
    head(batch, labels)
    write_head(tmp_path, head)
    twin = Head(CLASSES, DIM, settings(name, seed=9))
    read_head(tmp_path, twin)
    assert torch.equal(head(batch, labels), twin(batch, labels))


def written(folder: Path) -> None:
    for rank in range(2):
        write_head(folder, *trained("arcface", ShardGroup(rank, 2)))


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "momentum_buffer.5-11.npy").unlink()
    assert len(read_rows(tmp_path, "momentum_buffer", 0, 5)) == 5
    with pytest.raises(CorruptData, match="has momentum_buffer of class 5"):
        read_rows(tmp_path, "momentum_buffer", 3, 7)


def test_two_saves_in_one_folder_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    write_head(tmp_path, *trained("arcface", ShardGroup()))
    with pytest.raises(CorruptData, match="two saves lie in one folder"):
        read_rows(tmp_path, "centres", 0, 11)


def test_a_file_with_other_rows_than_its_name_says(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "centres.5-11.npy").rename(tmp_path / "centres.5-10.npy")
    with pytest.raises(CorruptData, match="holds 6 rows"):
        read_rows(tmp_path, "centres", 4, 8)


@pytest.mark.parametrize(
    "other",
    [
        Head(CLASSES + 1, DIM, settings("arcface")),
        Head(CLASSES, DIM + 1, settings("arcface")),
        Head(CLASSES, DIM, settings("arcface", sub_centers=2)),
        PartialFC(CLASSES, DIM, settings("adaface")),
    ],
    ids=["classes", "dim", "sub-centres", "loss"],
)
def test_the_state_of_another_head_is_refused(tmp_path: Path, other: Head) -> None:
    written(tmp_path)
    with pytest.raises(ModelMismatch, match="resume with the settings of that run"):
        read_head(tmp_path, other)


@pytest.mark.parametrize("content", [None, "", "[]", json.dumps({"num_classes": 11})])
def test_an_unreadable_state_is_refused(tmp_path: Path, content: str | None) -> None:
    written(tmp_path)
    path = tmp_path / "head.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CorruptData, match="take another checkpoint"):
        read_head(tmp_path, PartialFC(CLASSES, DIM, settings("arcface")))
