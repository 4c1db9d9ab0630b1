"""What a candidate has to show: more pairs right than chance explains, TAR not worse."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe.errors import UsageError
from training.promotion_checks import Check, PromotionSettings, Scores, compare

PEOPLE, PAIRS = 120, 480
SETTINGS = PromotionSettings(samples=400)


def scores(*wrong_M: int, pairs: int = PAIRS) -> Scores:
    """Return models that err on the first so many pairs; matched and mismatched take turns.

    A pair that is right has the similarity 0.8 or 0.2, a wrong one the other.
    """
    same = np.arange(pairs) % 2 == 0
    first = np.arange(pairs) // 2 % PEOPLE
    people = np.stack([first, np.where(same, first, (first + 1) % PEOPLE)], axis=1)
    right = np.stack([np.arange(pairs) >= wrong for wrong in wrong_M])
    similarity = np.where(right == same, 0.8, 0.2)
    return Scores(
        digest="0" * 64,
        about={"pairs": pairs},
        same_P=same,
        people_P2=people,
        similarity_MP=similarity,
        right_MP=right,
    )


def by_name(checks: tuple[Check, ...]) -> dict[str, bool]:
    return {f"{check.name}: {check.rule}": check.holds for check in checks}


def test_a_better_model_passes_with_the_figures_counted_by_hand() -> None:
    accuracy, tar = compare(scores(0, 48), SETTINGS)
    assert (accuracy.candidate, accuracy.champion) == (1.0, 0.9)
    assert accuracy.difference is not None
    assert accuracy.difference.value == pytest.approx(0.1)
    assert 0 < accuracy.difference.low < 0.1 < accuracy.difference.high
    # The champion's 24 wrong mismatched pairs are at 0.8, where its matched ones are: at a FAR of
    # 0.01 (240 mismatched pairs) it can accept none.
    assert tar.name == "TAR at FAR 0.01"
    assert (tar.candidate, tar.champion) == (1.0, 0.0)
    assert accuracy.holds and tar.holds


@pytest.mark.parametrize(("candidate", "champion"), [(0, 0), (0, 1), (10, 10), (48, 0), (40, 41)])
def test_no_better_beyond_chance_is_not_enough(candidate: int, champion: int) -> None:
    accuracy, _ = compare(scores(candidate, champion), SETTINGS)
    assert not accuracy.holds
    assert accuracy.difference is not None
    assert accuracy.difference.value == pytest.approx((champion - candidate) / PAIRS)


def test_a_tar_that_falls_stops_a_better_accuracy() -> None:
    """Right on more pairs, but impostors reach the very top of its scale."""
    given = scores(0, 48)
    similarity = given.similarity_MP.copy()
    similarity[1] = np.where(given.same_P, 0.8, 0.2)  # the champion's order is perfect
    similarity[0, np.flatnonzero(~given.same_P)[::4]] = 0.9
    found = compare(
        Scores(
            digest=given.digest,
            about={},
            same_P=given.same_P,
            people_P2=given.people_P2,
            similarity_MP=similarity,
            right_MP=given.right_MP,
        ),
        SETTINGS,
    )
    assert [check.holds for check in found] == [True, False]
    assert (found[1].candidate, found[1].champion) == (0.0, 1.0)


@pytest.mark.parametrize(("least", "holds"), [(0.9, True), (0.91, False), (None, True)])
def test_the_first_one_has_to_reach_what_is_asked(least: float | None, holds: bool) -> None:
    (check,) = compare(scores(48), PromotionSettings(at_least=least))
    assert (check.candidate, check.champion, check.holds) == (0.9, None, holds)


def test_what_is_asked_of_the_first_may_be_asked_of_the_next() -> None:
    checks = by_name(compare(scores(10, 96), PromotionSettings(at_least=0.99, samples=400)))
    assert checks == {
        "accuracy: at least 99.00%": False,
        "accuracy: better beyond chance": True,
        "TAR at FAR 0.01: not worse beyond chance": True,
    }


def test_too_few_mismatched_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="8 mismatched pairs cannot show"):
        compare(scores(0, 4, pairs=16), SETTINGS)


def test_the_same_numbers_give_the_same_verdict() -> None:
    assert compare(scores(5, 20), SETTINGS) == compare(scores(5, 20), SETTINGS)
