"""Searches of a gallery against loops over every face, and FRVT's rates against their words."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from facepipe import identification
from facepipe.errors import UsageError
from facepipe.evaluate import wilson_interval
from facepipe.identification import NEVER, Searches, fnir_at_fpir, rank_k, search

Float = npt.NDArray[np.float64]


def made(seed: int) -> tuple[Float, list[int], Float, list[int], Float]:
    """Return probes and enrolled faces of twelve people, four of them not enrolled."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(12, 8))
    person_G = rng.integers(8, size=20).tolist()
    person_N = rng.integers(12, size=30).tolist()
    rows = [centre[p] + rng.normal(0, 0.8, 8) for p in [*person_N, *person_G]]
    rows += list(rng.normal(size=(9, 8)))
    unit = np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    unit[[3, 33, 55]] = np.nan  # a probe, an enrolled face and a distractor without a face
    return unit[:30], person_N, unit[30:50], person_G, unit[50:]


def brute(
    probes: Float, person_N: list[int], enrolled: Float, person_G: list[int], others: Float
) -> list[tuple[bool, float, int, float]]:
    """Return for each probe: mated, best mate, its rank, best other; one face at a time."""
    found = []
    for probe, person in zip(probes, person_N, strict=True):
        best: dict[object, float] = {}
        names: list[object] = [*person_G, *(f"other {n}" for n in range(len(others)))]
        for face, name in zip([*enrolled, *others], names, strict=True):
            score = round(float((probe * face).sum()), 9)
            if not math.isnan(score):
                best[name] = max(best.get(name, -math.inf), score)
        mate = best.pop(person, -math.inf)
        rank = 1 + sum(score >= mate for score in best.values()) if mate > -math.inf else NEVER
        found.append((person in person_G, mate, rank, max(best.values(), default=-math.inf)))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blocks", [(3, 2), (7, 5), (256, 1 << 15)])
def test_a_search_is_a_look_at_every_face(
    seed: int, blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identification, "BLOCK_PROBES", blocks[0])
    monkeypatch.setattr(identification, "BLOCK_FACES", blocks[1])
    probes, person_N, enrolled, person_G, others = made(seed)
    found = search(probes, person_N, enrolled, person_G, others)
    mated, mate, rank, other = zip(
        *brute(probes, person_N, enrolled, person_G, others), strict=True
    )
    assert found.mated_N.tolist() == list(mated)
    assert found.rank_N.tolist() == list(rank)
    assert found.mate_N.tolist() == pytest.approx(mate, abs=2e-9)
    assert found.other_N.tolist() == pytest.approx(other, abs=2e-9)


def test_a_tie_counts_against_the_mate() -> None:
    face = [1.0, 0.0]
    found = search([face, face], [0, 1], [face, face, [0.0, 1.0]], [0, 1, 2])
    assert found.rank_N.tolist() == [2, 2]


def test_distractors_push_the_mate_down() -> None:
    probe, mate, nearer = [1.0, 0.0], [0.8, 0.6], [0.9, math.sqrt(0.19)]
    assert search([probe], [5], [mate], [5]).rank_N.tolist() == [1]
    assert search([probe], [5], [mate], [5], [nearer, nearer]).rank_N.tolist() == [3]


def test_an_empty_gallery_is_refused() -> None:
    with pytest.raises(ValueError, match="0 enrolled"):
        search(np.ones((1, 2)), [0], np.empty((0, 2)), [])


def made_searches(seed: int, mated: int = 200, strangers: int = 150) -> Searches:
    rng = np.random.default_rng(seed)
    count = mated + strangers
    is_mated = np.arange(count) < mated
    rank = np.where(is_mated, rng.choice([1, 1, 1, 1, 2, 6, NEVER], count), NEVER)
    mate = np.where(is_mated & (rank < NEVER), rng.normal(0.5, 0.2, count).round(2), -np.inf)
    other = rng.normal(0.25, 0.1, count).round(2)
    other[-1] = -np.inf  # a stranger without a face raises no alarm
    person = np.where(is_mated, np.arange(count) // 4, np.arange(count) + 1000)
    return Searches(person_N=person, mated_N=is_mated, mate_N=mate, rank_N=rank, other_N=other)


def test_rank_k_is_a_share_of_the_mated_searches() -> None:
    found = made_searches(1)
    shares = rank_k(found, (1, 5, 10), samples=200)
    ranks = found.rank_N[found.mated_N].tolist()
    for k, share in zip((1, 5, 10), shares, strict=True):
        assert share.value == pytest.approx(sum(r <= k for r in ranks) / len(ranks))
        assert share.low < share.value < share.high
    nothing = Searches(
        person_N=found.person_N[:1],
        mated_N=np.array([False]),
        mate_N=found.mate_N[:1],
        rank_N=found.rank_N[:1],
        other_N=found.other_N[:1],
    )
    with pytest.raises(ValueError, match="enrolled"):
        rank_k(nothing)


@pytest.mark.parametrize("rank", [1, 5, None])
@pytest.mark.parametrize("fpir", [0.3, 0.05, 0.01])
def test_fnir_at_fpir_by_its_definition(rank: int | None, fpir: float) -> None:
    found = made_searches(2)
    (point,) = fnir_at_fpir(found, [fpir], rank=rank, samples=100)
    strangers = found.other_N[~found.mated_N]
    mates = list(zip(found.mate_N[found.mated_N], found.rank_N[found.mated_N], strict=True))

    def rates(threshold: float) -> tuple[float, float]:
        hit = [m >= threshold and r <= (rank or NEVER - 1) for m, r in mates]
        return float((strangers >= threshold).mean()), 1 - sum(hit) / len(hit)

    candidates = sorted({*strangers.tolist(), *(m for m, _ in mates)} - {-math.inf})
    fitting = [rates(t) for t in [*candidates, math.inf] if rates(t)[0] <= fpir]
    assert point.fnir.value == pytest.approx(min(fnir for _, fnir in fitting), abs=1e-12)
    measured, fnir = rates(point.threshold)
    assert measured == pytest.approx(point.measured_fpir) and measured <= fpir
    assert fnir == pytest.approx(point.fnir.value, abs=1e-12)
    assert point.fnir.low <= point.fnir.value <= point.fnir.high


def test_a_fpir_that_too_few_strangers_show_is_refused() -> None:
    with pytest.raises(UsageError, match=r"FPIR 0\.001 cannot be measured with 150 impostor"):
        fnir_at_fpir(made_searches(3), [0.001])


def test_no_miss_at_all_is_as_sure_as_its_people_are_many() -> None:
    found = made_searches(4)
    sure = Searches(
        person_N=found.person_N,
        mated_N=found.mated_N,
        mate_N=np.where(found.mated_N, 0.99, -np.inf),
        rank_N=np.where(found.mated_N, 1, NEVER),
        other_N=found.other_N,
    )
    (point,) = fnir_at_fpir(sure, [0.05], samples=100)
    assert point.fnir.value == point.fnir.low == 0.0
    assert point.fnir.high == pytest.approx(1 - wilson_interval(50, 50)[0])
