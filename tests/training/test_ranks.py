"""What ranks agree on; two and three of them in children."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from facepipe.errors import StoreFull, UsageError
from training.ranks import Ranks, device_of, is_first, launched


def _answers(ranks: Ranks) -> dict[str, Any]:
    def refuse() -> str:
        raise StoreFull("no room")

    found: dict[str, Any] = {
        "any": [ranks.any(ranks.rank == 1), ranks.any(False), ranks.any(True)],
        "sums": ranks.sums([1, ranks.rank]),
        "row_sums": ranks.row_sums([0.1 * (ranks.rank + 1)]),
        "told": ranks.told({"a": [1, "ä"]} if ranks.first else None),
        "agreed": ranks.agreed(lambda: f"of {ranks.rank}"),
    }
    with pytest.raises(StoreFull, match="no room"):
        ranks.agreed(refuse)
    ranks.check_alike("samples", "same")
    if ranks.size > 1:
        with pytest.raises(UsageError, match="not given the same samples"):
            ranks.check_alike("samples", str(ranks.rank))
    ranks.barrier()
    return found


def _child(rank: int, size: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size
    )
    assert is_first() == (rank == 0)
    found = _answers(Ranks.current(torch.device("cpu")))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_alone_everything_is_one_s_own() -> None:
    found = _answers(Ranks.current(torch.device("cpu")))
    assert found["any"] == [False, False, True] and found["sums"] == [1, 0]
    assert found["row_sums"] == [0.1] and found["agreed"] == "of 0"


def test_three_ranks_hear_the_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    children = [context.Process(target=_child, args=(rank, 3, tmp_path)) for rank in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert found[0] == found[1] == found[2]
    assert found[0] == {
        "any": [True, False, True],
        "sums": [3, 3],
        "row_sums": [0.1 + 0.2 + 0.1 * 3],
        "told": {"a": [1, "ä"]},
        "agreed": "of 0",
    }


def test_without_torchrun_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched():
        assert not dist.is_initialized()
    assert is_first()
    monkeypatch.setenv("RANK", "1")  # torchrun says so before the ranks have met
    assert not is_first()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_made_up() -> None:
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="torch finds no GPU"):
        device_of("cuda")
