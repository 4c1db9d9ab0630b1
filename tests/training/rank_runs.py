"""Ten steps of a small model with a head, alone or as one of several gloo ranks on loopback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from tests.training.head_cases import MARGINS, settings
from training.centre_sgd import CentreSGD
from training.head_state import read_head, write_head
from training.heads import Head
from training.metric_losses import (
    CenterLoss,
    CenterLossSettings,
    Contrastive,
    MetricLoss,
    Triplet,
)
from training.partial_fc import PartialFC
from training.shard_group import ShardGroup

CLASSES, DIM, INPUTS, ROWS, STEPS = 23, 6, 5, 8, 10
RATE = 0.3
# name of the case: loss, more settings, dtype
CASES: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    **{name: (name, {}, torch.float64) for name in MARGINS},
    "sub-centres": ("arcface", {"sub_centers": 3}, torch.float64),
    "smoothing": ("cosface", {"label_smoothing": 0.1}, torch.float64),
    "float32 cosface": ("cosface", {}, torch.float32),
    "float32 arcface": ("arcface", {}, torch.float32),
}
SAMPLED: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    "sampled arcface": ("arcface", {"sample_rate": RATE}, torch.float64),
    "sampled curricularface": ("curricularface", {"sample_rate": RATE}, torch.float64),
    "sampled smoothing": (
        "cosface",
        {"sample_rate": RATE, "label_smoothing": 0.1, "sub_centers": 2},
        torch.float64,
    ),
}

METRIC: dict[str, Callable[[ShardGroup], nn.Module]] = {
    "contrastive": lambda group: MetricLoss(Contrastive(), group),
    "triplet": lambda group: MetricLoss(Triplet(mining="all", margin=1.0), group),
    "center": lambda group: CenterLoss(3, DIM, CenterLossSettings(weight=0.1), group).double(),
}


def batches(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Return inputs (B, INPUTS) and labels (B,) of every step; some rows have no label."""
    rng = np.random.default_rng(11)
    result = []
    for _ in range(STEPS):
        labels = rng.integers(0, CLASSES, ROWS)
        labels[rng.integers(0, ROWS)] = -1
        inputs = torch.from_numpy(rng.normal(size=(ROWS, INPUTS))).to(dtype)
        result.append((inputs, torch.from_numpy(labels)))
    return result


def run(
    kind: type[Head],
    case: str,
    group: ShardGroup | None = None,
    begin: Path | None = None,
    leave: Path | None = None,
    steps: tuple[int, int] = (0, STEPS),
) -> dict[str, np.ndarray]:
    """Train for some steps; return their losses, the backbone's weights, this shard's centres.

    With a folder to `begin` from, from the state that another run was told to `leave` there.
    """
    name, more, dtype = {**CASES, **SAMPLED}[case]
    arguments: dict[str, Any] = {} if group is None else {"group": group}
    group = group or ShardGroup()
    head = kind(CLASSES, DIM, settings(name, **more), **arguments).to(dtype)
    with torch.no_grad():  # first centres are tiny, so that steps would turn them far
        head.centres.mul_(100)
    backbone = torch.from_numpy(np.random.default_rng(3).normal(size=(INPUTS, DIM))).to(dtype)
    backbone = (backbone * 3).requires_grad_()
    optimizer: torch.optim.Optimizer = CentreSGD([head.centres], lr=0.02, weight_decay=5e-4)
    if kind is Head:
        optimizer = torch.optim.SGD([head.centres], lr=0.02, momentum=0.9, weight_decay=5e-4)
    if begin is not None:
        read_head(begin, head, optimizer)
        backbone.data.copy_(torch.from_numpy(np.load(begin / "backbone.npy")))
    share = slice(group.rank * ROWS // group.size, (group.rank + 1) * ROWS // group.size)
    losses = []
    for inputs, labels in batches(dtype)[slice(*steps)]:
        loss = head(inputs[share] @ backbone, labels[share])
        optimizer.zero_grad()
        backbone.grad = None
        loss.backward()
        assert backbone.grad is not None
        if group.size > 1:  # what DDP does
            dist.all_reduce(backbone.grad)
            backbone.grad /= group.size
        optimizer.step()
        with torch.no_grad():
            backbone -= 0.002 * backbone.grad
        losses.append(loss.item())
    if leave is not None:
        write_head(leave, head, optimizer)
        if group.rank == 0:
            np.save(leave / "backbone.npy", backbone.detach().numpy())
    return {
        "losses": np.array(losses),
        "backbone": backbone.detach().numpy(),
        "centres": head.centres.detach().numpy(),
    }


def run_metric(case: str, group: ShardGroup | None = None) -> dict[str, np.ndarray]:
    """Train with one of METRIC; return losses, the backbone's weights and the centres if any."""
    group = group or ShardGroup()
    loss_of = METRIC[case](group)
    backbone = torch.from_numpy(np.random.default_rng(3).normal(size=(INPUTS, DIM)))
    backbone.requires_grad_()
    share = slice(group.rank * ROWS // group.size, (group.rank + 1) * ROWS // group.size)
    losses = []
    for inputs, labels in batches(torch.float64):
        people = torch.where(labels == -1, -1, labels % 3)
        loss = loss_of(inputs[share] @ backbone, people[share])
        backbone.grad = None
        loss.backward()
        assert backbone.grad is not None
        if group.size > 1:  # what DDP does
            dist.all_reduce(backbone.grad)
            backbone.grad /= group.size
        with torch.no_grad():
            backbone -= 0.1 * backbone.grad
        losses.append(loss.item())
    centres = next(loss_of.buffers(), torch.zeros(0))
    return {
        "losses": np.array(losses),
        "backbone": backbone.detach().numpy(),
        "centres": np.array_split(centres.numpy(), group.size)[group.rank],
    }


def _rank(rank: int, size: int, folder: Path, runs: list[dict[str, Any]]) -> None:
    if size > 1:  # a process of its own
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder / f'meeting-{size}'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    for number, arguments in enumerate(runs):
        group = ShardGroup.current()
        if arguments["case"] in METRIC:
            results = run_metric(arguments["case"], group)
        else:
            results = run(PartialFC, group=group, **arguments)
        dist.barrier()
        for name, values in results.items():
            np.save(folder / f"{size}-{number}-{name}-{rank}.npy", values)
    dist.destroy_process_group()


def run_ranks(size: int, folder: Path, runs: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """Return, for each of several runs, what `run` gives, with the centres of all ranks."""
    if size == 1:
        _rank(0, 1, folder, runs)
    else:
        mp.spawn(_rank, (size, folder, runs), nprocs=size)
    gathered = []
    for number in range(len(runs)):
        parts = [
            {
                name: np.load(folder / f"{size}-{number}-{name}-{rank}.npy")
                for name in ("losses", "backbone", "centres")
            }
            for rank in range(size)
        ]
        for part in parts[1:]:
            assert np.array_equal(part["losses"], parts[0]["losses"])  # the same bits
            assert np.array_equal(part["backbone"], parts[0]["backbone"])
        centres = np.concatenate([part["centres"] for part in parts])
        gathered.append({**parts[0], "centres": centres})
    return gathered
