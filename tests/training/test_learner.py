"""One step: which gradients it takes, and that ranks skip it together."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.training.train_runs import PEOPLE, run_settings, use_plain_net
from training.learner import Learner
from training.loader import Batch
from training.ranks import Ranks

CPU = torch.device("cpu")


def batch(rows: int, seed: int = 0) -> Batch:
    """Return made pixels; the last row has no crop."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, PEOPLE, rows)
    labels[-1] = -1
    weights = rng.uniform(0.2, 1.0, rows)
    weights[-1] = 0
    return Batch(
        position=0,
        epoch=0,
        pixels_BHWC=torch.from_numpy(rng.integers(0, 256, (rows, 112, 112, 3), dtype=np.uint8)),
        label_B=torch.from_numpy(labels),
        weight_B=torch.from_numpy(weights).float(),
        sample_B=np.arange(rows),
        bad={},
    )


def learner(**more: Any) -> Learner:
    with torch.random.fork_rng():
        return Learner(run_settings(**more), PEOPLE, Ranks.current(CPU))


def weights(made: Learner) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in made.net.parameters()])


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_net(monkeypatch.setattr)


def test_a_gradient_is_cut_at_its_norm() -> None:
    free, cut = learner(clip_norm=None), learner(clip_norm=1e-3)
    before = weights(cut)
    for made in (free, cut):
        found = made.step([batch(6)], 0, 1.0)
    norm = float(found.grad_norm)
    assert norm > 1e-3  # as it was before
    own = [p.grad for p in free.net.parameters() if p.grad is not None]
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in own]).norm()))
    moved = (weights(cut) - before) + 0.05 * 5e-4 * before  # less the decay
    assert float(moved.norm()) == pytest.approx(0.05 * 1e-3, rel=1e-3)
    assert free.head is not None and cut.head is not None  # centres are not cut
    torch.testing.assert_close(free.head.centres, cut.head.centres)


def test_micro_batches_count_by_their_weights() -> None:
    parts = [batch(6, seed=1), batch(6, seed=2)]
    parts[1].weight_B.mul_(0.25)
    whole = Batch(
        position=0,
        epoch=0,
        pixels_BHWC=torch.cat([part.pixels_BHWC for part in parts]),
        label_B=torch.cat([part.label_B for part in parts]),
        weight_B=torch.cat([part.weight_B for part in parts]),
        sample_B=np.arange(12),
        bad={},
    )
    one, two = learner(), learner()
    first, second = one.step([whole], 0, 1.0), two.step(parts, 0, 1.0)
    assert float(first.losses["head"]) == pytest.approx(float(second.losses["head"]), rel=1e-6)
    torch.testing.assert_close(weights(one), weights(two), rtol=1e-5, atol=1e-7)


def test_a_step_with_no_crop_at_all_changes_nothing_but_by_decay() -> None:
    made = learner(optimizer={"name": "sgd", "weight_decay": 0.0})
    empty = batch(2)
    empty.label_B.fill_(-1)
    empty.weight_B.zero_()
    before = weights(made)
    found = made.step([empty, empty], 0, 1.0)
    assert float(found.losses["head"]) == 0
    assert torch.equal(weights(made), before)


@pytest.mark.parametrize("compiled", [False])
def test_what_is_drawn_hangs_on_the_step_alone(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    settings = {"backbone": {"name": "tiny", "dim": 8, "dropout": 0.5}, "compile": compiled}
    one, two = learner(**settings), learner(**settings)
    torch.manual_seed(1)
    first = one.step([batch(4)], 5, 1.0)
    torch.manual_seed(2)
    second = two.step([batch(4)], 5, 1.0)
    assert torch.equal(first.losses["head"], second.losses["head"])
    third = learner(**settings).step([batch(4)], 6, 1.0)
    assert not torch.equal(first.losses["head"], third.losses["head"])


def _overflows(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    use_plain_net()
    made = learner(precision="float16")
    assert made.scale is not None and made.head is not None
    if rank == 1:  # in the shard of one rank alone
        made.head.centres.register_hook(lambda gradient: gradient * torch.inf)
    before, scale = weights(made), made.scale.scale
    centres = made.head.centres.detach().clone()
    found = made.step([batch(4, seed=rank)], 0, 1.0)
    assert found.overflowed and made.scale.scale == scale / 2
    assert torch.equal(weights(made), before) and torch.equal(made.head.centres, centres)
    made.head.centres._backward_hooks = None  # the next step is well
    for number in range(1, 20):  # until the scale is low enough
        found = made.step([batch(4, seed=rank)], number, 1.0)
        if not found.overflowed:
            break
    assert not found.overflowed and not torch.equal(weights(made), before)
    dist.destroy_process_group()


def test_ranks_skip_a_step_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    children = [context.Process(target=_overflows, args=(rank, tmp_path)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
