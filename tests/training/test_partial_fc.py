from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.head_cases import settings
from tests.training.live_bytes import LiveBytes
from tests.training.rank_runs import CASES, METRIC, SAMPLED, run, run_metric, run_ranks
from training import centre_sgd, partial_fc
from training.centre_sgd import CentreSGD
from training.heads import Head
from training.partial_fc import PartialFC, sampled

Results = dict[str, dict[str, np.ndarray]]
SIZES = (1, 4, 2, 1)  # a run moves along them, five steps each
MOVED = {"sampled curricularface": 5, "lsoftmax": 5, "sub-centres": 5}


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Results]:
    """Return every case on 1, 2 and 4 ranks, and those that move from one to another.

    A number of ranks starts once, and does all that it is needed for: processes are slow.
    """
    cases = [*CASES, *SAMPLED, *METRIC]
    results: dict[Any, Results] = {}
    folders = [tmp_path_factory.mktemp(f"ranks-{size}") for size in SIZES]
    for place, size in enumerate(SIZES):
        runs: list[dict[str, Any]] = [] if place == 3 else [{"case": case} for case in cases]
        for case in MOVED:
            (folders[place] / case).mkdir()
            # 1 rank does steps 0 to 2, 4 ranks 3 to 5, 2 ranks 6 and 7, 1 rank 8 and 9.
            runs.append(
                {
                    "case": case,
                    "begin": folders[place - 1] / case if place else None,
                    "leave": folders[place] / case,
                    "steps": ((0, 3), (3, 6), (6, 8), (8, 10))[place],
                }
            )
        found = run_ranks(size, folders[place], runs)
        whole = len(runs) - len(MOVED)
        if whole:
            results[size] = dict(zip(cases, found[:whole], strict=True))
        results["moved", place] = dict(zip(MOVED, found[whole:], strict=True))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_ranks_at_rate_1_are_the_dense_head(
    ranks: dict[Any, Results], case: str, size: int
) -> None:
    dense, sharded = run(Head, case), ranks[size][case]
    # In float32 two orders of adding differ by a few ulps of a loss of 77.
    tolerance = {"rtol": 1e-6, "atol": 3e-6} if "float32" in case else {"rtol": 0, "atol": 1e-9}
    for name, values in dense.items():
        np.testing.assert_allclose(sharded[name], values, **tolerance, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("case", METRIC)
def test_pairs_are_made_across_ranks(ranks: dict[Any, Results], case: str, size: int) -> None:
    alone = run_metric(case)
    assert alone["losses"].min() > 0
    for name, values in alone.items():
        np.testing.assert_allclose(ranks[size][case][name], values, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", SAMPLED)
def test_what_is_sampled_does_not_depend_on_the_ranks(
    ranks: dict[Any, Results], case: str, size: int
) -> None:
    for name, values in ranks[1][case].items():
        np.testing.assert_allclose(ranks[size][case][name], values, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("case", MOVED)
def test_a_run_moves_from_1_to_4_to_2_to_1_ranks(ranks: dict[Any, Results], case: str) -> None:
    parts = [ranks["moved", place][case] for place in range(len(SIZES))]
    losses = np.concatenate([part["losses"] for part in parts])
    whole = ranks[1][case]
    np.testing.assert_allclose(losses, whole["losses"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(parts[-1]["centres"], whole["centres"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(parts[-1]["backbone"], whole["backbone"], rtol=0, atol=1e-9)


def test_sampling_makes_another_run() -> None:
    whole, part = run(PartialFC, "arcface"), run(PartialFC, "sampled arcface")
    assert abs(whole["losses"] - part["losses"]).max() > 0.1


def splitmix(value: int) -> int:
    """The finaliser of splitmix64, in Python's integers."""
    mask = (1 << 64) - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@pytest.mark.parametrize(("seed", "step"), [(0, 1), (7, 123_456), (2**63 + 5, 2**40)])
def test_sample_is_a_hash_of_seed_step_and_class(seed: int, step: int) -> None:
    first, last, rate = 10_000_000_000, 10_000_000_500, 0.3
    chosen = sampled(first, last, rate=rate, seed=seed, step=step)
    key = splitmix(splitmix(seed) ^ step)
    expected = [
        (splitmix(splitmix(klass ^ key)) & (2**53 - 1)) < round(rate * 2**53)
        for klass in range(first, last)
    ]
    assert chosen.tolist() == expected


def test_sample_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sampled(0, 1000, rate=0.2, seed=1, step=2)
    monkeypatch.setattr(partial_fc, "SAMPLE_BLOCK_CLASSES", 37)
    assert torch.equal(whole, sampled(0, 1000, rate=0.2, seed=1, step=2))
    assert torch.equal(whole[300:700], sampled(300, 700, rate=0.2, seed=1, step=2))


def test_samples_have_the_rate_and_are_independent() -> None:
    count, rate = 200_000, 0.1
    one = sampled(0, count, rate=rate, seed=0, step=1)
    two = sampled(0, count, rate=rate, seed=0, step=2)
    other = sampled(0, count, rate=rate, seed=1, step=1)
    for chosen, chance in ((one, rate), (two, rate), (one & two, rate**2), (one & other, rate**2)):
        deviation = math.sqrt(chance * (1 - chance) / count)
        assert chosen.double().mean().item() == pytest.approx(chance, abs=5 * deviation)


def test_only_the_sampled_rows_move_and_the_batch_s_are_among_them() -> None:
    torch.manual_seed(0)
    head = PartialFC(500, 8, settings("cosface", sample_rate=0.1))
    optimizer = CentreSGD([head.centres], lr=0.1, weight_decay=5e-4)
    labels = torch.tensor([3, 499, -1, 3])
    for _ in range(3):
        before = head.centres.detach().clone()
        optimizer.zero_grad()
        head(torch.randn(4, 8), labels).backward()
        optimizer.step()
        expected = sampled(0, 500, rate=0.1, seed=0, step=head.steps)
        expected[[3, 499]] = True
        moved = (head.centres.detach() != before).flatten(1).any(dim=1)
        assert torch.equal(moved, expected)
        assert head.centres.grad is not None and head.centres.grad.is_sparse


def test_evaluation_sees_every_class_and_counts_no_step() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(4, 8), torch.tensor([3, 499, -1, 3])
    head = PartialFC(500, 8, settings("cosface", sample_rate=0.1)).eval()
    dense = Head(500, 8, settings("cosface")).eval()
    assert head(embeddings, labels).item() == pytest.approx(dense(embeddings, labels).item())
    assert head.steps == 0


def test_gradients_of_several_batches_add_up() -> None:
    torch.manual_seed(0)
    head = PartialFC(50, 8, settings("cosface", sample_rate=0.3))
    parts = []
    total = torch.zeros_like(head.centres)
    for _ in range(3):
        embeddings, labels = torch.randn(4, 8), torch.randint(0, 50, (4,))
        parts.append((embeddings, labels))
        (one,) = torch.autograd.grad(head(embeddings, labels), head.centres)
        total += one.to_dense()
    head.steps = 0
    for embeddings, labels in parts:
        head(embeddings, labels).backward()
    assert head.centres.grad is not None
    torch.testing.assert_close(head.centres.grad.to_dense(), total)


@pytest.mark.parametrize(("rate", "limit"), [(0.1, 2.2), (0.3, 2.4), (1.0, 3.1)])
def test_peak_memory_with_gradient_and_update(
    monkeypatch: pytest.MonkeyPatch, rate: float, limit: float
) -> None:
    """Centres, momentum, the gradient of the sampled rows, and pieces; in units of W."""
    monkeypatch.setattr(centre_sgd, "UPDATE_BYTES", 1 << 16)
    head = PartialFC(20_000, 128, settings("arcface", sample_rate=rate, chunk_bytes=1 << 14))
    optimizer = CentreSGD([head.centres], lr=0.1, weight_decay=5e-4)
    weight_bytes = head.centres.nbytes
    with LiveBytes(head.centres) as live:
        for _ in range(3):
            optimizer.zero_grad()
            head(torch.randn(16, 128), torch.randint(0, 20_000, (16,))).backward()
            optimizer.step()
            state = head.centres.nbytes + optimizer.state[head.centres]["momentum_buffer"].nbytes
    assert state == 2 * weight_bytes
    assert 2 + rate < live.peak / weight_bytes < limit
