"""Measures, each against a second, slower way of working it out."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.errors import SourceNotFound, UsageError
from facepipe.evaluate import (
    average_precision,
    bcubed,
    best_threshold,
    box_iou,
    fold_accuracy,
    pairwise,
    parse_pairs,
    picture_name,
    read_pairs,
    read_people,
    roc,
    tar_at_far,
    wilson_interval,
)

ASSETS = Path(
    os.environ.get("FACEPIPE_ASSETS", Path(__file__).resolve().parents[3] / "shared" / "assets")
)
NAN = math.nan
SMALL = "2\t1\nAda\t1\t4\nAda\t2\tBob Ray\t3\nCy\t1\t2\nCy\t1\tDee\t1\n"

pair_lists = st.lists(
    st.tuples(st.sampled_from([-0.5, 0.0, 0.1, 0.2, 0.3, 0.9, NAN]), st.booleans()),
    min_size=2,
    max_size=30,
).filter(lambda pairs: len({same for _, same in pairs}) == 2)


# --- pairs files


def test_pairs_are_read_with_their_folds() -> None:
    pairs = parse_pairs(SMALL)
    assert pairs.left == (("Ada", 1), ("Ada", 2), ("Cy", 1), ("Cy", 1))
    assert pairs.right == (("Ada", 4), ("Bob Ray", 3), ("Cy", 2), ("Dee", 1))
    assert pairs.same_P.tolist() == [True, False, True, False]
    assert pairs.fold_P.tolist() == [0, 0, 1, 1]
    assert picture_name(*pairs.right[1]) == "Bob Ray_0003"


def test_one_number_in_the_header_is_one_fold() -> None:
    assert parse_pairs("1\nAda 1 4\nAda 2 Bob 3\n").fold_P.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "first line"),
        ("two\t1\n", "first line"),
        ("2\t1\t1\n", "first line"),
        ("2\t1\nAda\t1\t4\n", "4 lines"),
        ("0\t300\n", "0 lines"),
        (SMALL.replace("Ada\t1\t4", "Ada\t1"), "pair 1"),
        (SMALL.replace("Ada\t1\t4", "Ada\tone\t4"), "pair 1"),
        (SMALL.replace("Ada\t1\t4", "Ada\t1\tBob\t4"), "pair 1"),
        (SMALL.replace("Cy\t1\tDee\t1", "Cy\t1\t2"), "pair 4"),
    ],
)
def test_a_broken_pairs_file_is_refused_naming_the_place(text: str, names: str) -> None:
    with pytest.raises(UsageError, match=names):
        parse_pairs(text, name="my.txt")


def test_a_pairs_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"none\.txt"):
        read_pairs(tmp_path / "none.txt")
    (tmp_path / "set.bin").write_bytes(b"\x80\x03\xff\xfe")
    with pytest.raises(UsageError, match=r"set\.bin"):
        read_pairs(tmp_path / "set.bin")


def test_the_shared_lfw_pairs() -> None:
    path = ASSETS / "faces" / "lfw" / "pairs.txt"
    if not path.exists():
        pytest.skip(f"{path.parent} is missing")
    pairs = read_pairs(path)
    assert np.bincount(pairs.fold_P).tolist() == [600] * 7
    assert pairs.same_P.reshape(7, 2, 300).all(axis=2).tolist() == [[True, False]] * 7
    people = [
        {who for side in (pairs.left, pairs.right) for who, _ in itertools.compress(side, fold)}
        for fold in (pairs.fold_P == f for f in range(7))
    ]
    assert sum(map(len, people)) == len(set().union(*people))


# --- verification


def accuracy_at(pairs: list[tuple[float, bool]], threshold: float) -> float:
    """A missing similarity is right for no threshold; otherwise accepted from it on."""
    right = [not math.isnan(s) and (s >= threshold) == same for s, same in pairs]
    return sum(right) / len(right)


@given(pair_lists)
def test_no_threshold_beats_the_best(pairs: list[tuple[float, bool]]) -> None:
    best = best_threshold(*zip(*pairs, strict=True))
    grid = [x / 40 for x in range(-60, 60)]
    assert accuracy_at(pairs, best) == pytest.approx(max(accuracy_at(pairs, t) for t in grid))


@pytest.mark.parametrize(
    ("similarities", "same", "expected"),
    [
        ([0.1, 0.3, 0.5], [False, True, True], 0.2),  # half way
        ([0.1, 0.3, 0.5, 0.7], [False, True, False, True], 0.2),  # ties: 0.2, 0.6; lower middle
        ([0.0, 0.1, 0.3, 0.2], [False, True, True, False], 0.05),  # .05 and .25 tie
        ([0.4, 0.6], [True, True], 0.4),  # accept all
        ([NAN], [True], 0.0),
    ],
)
def test_the_middle_of_equally_good_thresholds(
    similarities: list[float], same: list[bool], expected: float
) -> None:
    assert best_threshold(similarities, same) == pytest.approx(expected)


def test_each_fold_is_judged_by_the_others() -> None:
    rng = np.random.default_rng(5)
    same = np.tile([True, False], 30)
    folds = np.repeat([4, 2, 9], 20)
    similarity = np.where(same, 0.5, 0.2) + rng.normal(0, 0.15, 60)
    similarity[7] = NAN
    result = fold_accuracy(similarity, same, folds)
    assert result.folds.tolist() == [2, 4, 9]
    for fold, accuracy, threshold in zip(
        result.folds, result.accuracy, result.threshold, strict=True
    ):
        rest = folds != fold
        assert threshold == best_threshold(similarity[rest], same[rest])
        held = list(zip(similarity[~rest], same[~rest], strict=True))
        assert accuracy == pytest.approx(accuracy_at(held, threshold))
    mean = sum(result.accuracy) / 3
    deviations = [(a - mean) ** 2 for a in result.accuracy]
    assert result.mean == pytest.approx(mean)
    assert result.std == pytest.approx(math.sqrt(sum(deviations) / 3))
    assert result.standard_error == pytest.approx(math.sqrt(sum(deviations) / 2 / 3))


def test_a_pair_without_a_face_is_wrong_whatever_its_kind() -> None:
    same, folds = [True, False, True, False], [0, 0, 1, 1]
    assert fold_accuracy([0.9, 0.1, 0.9, 0.1], same, folds).accuracy.tolist() == [1, 1]
    assert fold_accuracy([NAN, 0.1, 0.9, NAN], same, folds).accuracy.tolist() == [0.5, 0.5]
    assert fold_accuracy([NAN] * 4, same, folds).mean == 0.0


def test_one_fold_has_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="two folds"):
        fold_accuracy([0.1, 0.2], [True, False], [0, 0])


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) similarities for \(3,\) pairs"):
        best_threshold([0.1, 0.2], [True, False, True])


@given(pair_lists)
def test_roc_points_are_what_their_thresholds_give(pairs: list[tuple[float, bool]]) -> None:
    curve = roc(*zip(*pairs, strict=True))
    assert (np.diff(curve.far) >= 0).all() and (np.diff(curve.tar) >= 0).all()
    for threshold, far, tar in zip(curve.threshold, curve.far, curve.tar, strict=True):
        accepted = [s >= threshold or (math.isnan(s) and not same) for s, same in pairs]
        for kind, share in ((False, far), (True, tar)):
            of_kind = [a for a, (_, same) in zip(accepted, pairs, strict=True) if same is kind]
            assert share == pytest.approx(sum(of_kind) / len(of_kind))


@given(pair_lists, st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))
def test_tar_at_far_is_the_best_that_keeps_the_promise(
    pairs: list[tuple[float, bool]], far: float
) -> None:
    similarities, same = zip(*pairs, strict=True)
    point, curve = tar_at_far(similarities, same, far), roc(similarities, same)
    kept = curve.tar[curve.far <= far]
    assert point.tar == (kept.max() if len(kept) else 0.0)
    assert point.far <= far or (point.tar == 0.0 and math.isinf(point.threshold))
    assert point.impostors == same.count(False)


def test_tar_at_far_reads_the_staircase() -> None:
    similarities = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    same = [True, False, True, True, False, True]
    assert tar_at_far(similarities, same, 0.49).tar == 0.25  # not 0.745, the straight line
    assert tar_at_far(similarities, same, 0.5).tar == 0.75
    assert tar_at_far(similarities, same, 0.5).threshold == 0.6


def test_a_roc_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="matched and mismatched"):
        roc([0.1, 0.2], [True, True])


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # Newcombe 1998, table I: 0/10, 5/10 by the same formula
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval_of_the_literature(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)


# --- detection

FACE, OTHER, TINY = [0.0, 0, 40, 40], [100.0, 0, 140, 40], [200.0, 0, 206, 9]
NOWHERE = [300.0, 300, 340, 340]


def test_box_iou() -> None:
    found = box_iou([[0, 0, 2, 2], [5, 5, 5, 5]], [[1, 0, 3, 2], [0, 0, 2, 2], [9, 9, 10, 10]])
    np.testing.assert_allclose(found, [[1 / 3, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("boxes", "scores", "truth", "ap"),
    [
        ([FACE, OTHER], [0.9, 0.8], [FACE, OTHER], 1.0),
        ([FACE], [0.9], [FACE, OTHER], 0.5),
        ([NOWHERE, FACE], [0.9, 0.8], [FACE], 0.5),
        ([FACE, NOWHERE], [0.9, 0.8], [FACE], 1.0),  # a false alarm after all hits
        ([FACE, FACE, OTHER], [0.9, 0.8, 0.7], [FACE, OTHER], 0.5 + 0.5 * 2 / 3),  # twice
        ([[0, 0, 40, 19.9]], [0.9], [FACE], 0.0),  # IoU just under a half
        ([[0, 0, 40, 20.0]], [0.9], [FACE], 1.0),
        ([NOWHERE, FACE], [0.5, 0.5], [FACE], 0.5),  # a tie keeps the order given
        ([], [], [FACE], 0.0),
    ],
)
def test_average_precision_worked_by_hand(
    boxes: list[list[float]], scores: list[float], truth: list[list[float]], ap: float
) -> None:
    assert average_precision([boxes], [scores], [truth]).ap == pytest.approx(ap)


def test_small_faces_are_neither_hits_nor_misses() -> None:
    truth, stray = [[FACE, TINY]], [400.0, 400, 406, 406]
    seen = average_precision(
        [[FACE, TINY, TINY, stray]], [[0.5, 0.9, 0.8, 0.7]], truth, min_size_px=10
    )
    unseen = average_precision([[FACE]], [[0.5]], truth, min_size_px=10)
    assert seen.ap == unseen.ap == 1.0
    assert (seen.faces, seen.ignored, len(seen.precision)) == (1, 1, 1)
    counted = average_precision([[FACE, stray]], [[0.5, 0.9]], truth, min_size_px=6)
    assert (counted.ap, counted.faces, counted.ignored) == (0.25, 2, 0)


def test_a_small_box_on_a_face_that_counts_is_a_hit() -> None:
    face, box = [0.0, 0, 12, 12], [0.0, 0, 12, 8]
    assert average_precision([[box]], [[0.5]], [[face]], min_size_px=11).ap == 1.0


def test_photos_are_ranked_together() -> None:
    score = average_precision([[FACE], [NOWHERE], []], [[0.5], [0.9], []], [[FACE], [], [FACE]])
    assert score.ap == pytest.approx(0.25)  # false alarm first, then one of two faces
    assert score.score.tolist() == [0.9, 0.5]
    assert score.recall.tolist() == [0.0, 0.5]


def test_without_a_face_there_is_no_average_precision() -> None:
    assert math.isnan(average_precision([[FACE]], [[0.5]], [[]]).ap)


# --- clusterings

clusterings = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), min_size=1, max_size=25)


@given(clusterings)
def test_clusterings_by_counting_pairs_and_points(points: list[tuple[int, int]]) -> None:
    found = [c if c >= 0 else 100 + n for n, (_, c) in enumerate(points)]  # noise stands alone
    true = [t for t, _ in points]
    size = range(len(points))
    pairs = list(itertools.combinations(size, 2))
    together = [(a, b) for a, b in pairs if found[a] == found[b]]
    kin = [(a, b) for a, b in pairs if true[a] == true[b]]
    both = len(set(together) & set(kin))
    measured = pairwise(true, [c for _, c in points])
    assert measured.precision == pytest.approx(both / len(together) if together else 1)
    assert measured.recall == pytest.approx(both / len(kin) if kin else 1)

    def share(own: list[int], other: list[int]) -> float:
        mates = [[j for j in size if own[j] == own[i]] for i in size]
        return sum(sum(other[j] == other[i] for j in mates[i]) / len(mates[i]) for i in size)

    measured = bcubed(true, [c for _, c in points])
    assert measured.precision == pytest.approx(share(found, true) / len(points))
    assert measured.recall == pytest.approx(share(true, found) / len(points))
    harmonic = 2 / (1 / measured.precision + 1 / measured.recall)
    assert measured.f == pytest.approx(harmonic)


def test_names_of_clusters_do_not_matter() -> None:
    truth = ["ada", "ada", "bob"]
    for measure in (pairwise, bcubed):
        assert measure(truth, [7, 7, 3]).f == 1.0
        with pytest.raises(ValueError, match="points"):
            measure(truth, [1, 2])


def test_people_are_read_by_fold(tmp_path: Path) -> None:
    path = tmp_path / "people.txt"
    path.write_text("2\n2\nAnn_Lee\t2\nBo_Ek\t1\n1\nCy_Om\t4\n")
    assert read_people(path) == [{"Ann_Lee", "Bo_Ek"}, {"Cy_Om"}]
    for text in ("", "people", "1\n3\nAnn_Lee\t2\n", "2\n1\nAnn_Lee\t2\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match="list of people"):
            read_people(path)
    with pytest.raises(SourceNotFound):
        read_people(tmp_path / "none.txt")
