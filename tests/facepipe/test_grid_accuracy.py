"""insightface's accuracy, against its arithmetic written out anew from its description.

The reference follows recognition/arcface_torch/eval/verification.py step by step, thresholds
in a loop and folds as index lists; it shares no line with the module.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from facepipe.evaluate import fold_accuracy, picture_name, read_pairs
from facepipe.grid_accuracy import folds_in_order, grid_accuracy, squared_distances

ROOT = Path(__file__).resolve().parents[2]
LFW = Path(os.environ.get("FACEPIPE_ASSETS", ROOT.parent / "shared" / "assets")) / "faces" / "lfw"

Float = npt.NDArray[np.float64]


def reference(embeddings: Float, issame: list[bool], folds: int) -> list[float]:
    """Return each fold's accuracy; embeddings 2i and 2i + 1 are unit vectors of pair i."""
    first, second = embeddings[0::2], embeddings[1::2]
    dist = [math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in
            zip(first.tolist(), second.tolist(), strict=True)]  # fmt: skip
    base, extra = divmod(len(issame), folds)  # KFold without shuffling
    start, tests = 0, []
    for fold in range(folds):
        stop = start + base + (fold < extra)
        tests.append(range(start, stop))
        start = stop

    def correct(threshold: float, rows: list[int]) -> int:
        return sum((dist[r] < threshold) == issame[r] for r in rows)

    accuracies = []
    for test in tests:
        train = [r for r in range(len(issame)) if r not in test]
        best, best_correct = 0.0, -1
        for threshold in np.arange(0, 4, 0.01).tolist():
            right = correct(threshold, train)
            if right > best_correct:  # argmax: the first of equals
                best, best_correct = threshold, right
        accuracies.append(correct(best, list(test)) / len(test))
    return accuracies


def unit(vectors: npt.ArrayLike) -> Float:
    rows = np.asarray(vectors, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("pairs", "folds", "noise"), [(60, 10, 0.9), (47, 7, 1.3), (21, 2, 0.2)])
def test_every_fold_is_insightfaces(pairs: int, folds: int, noise: float) -> None:
    rng = np.random.default_rng(pairs)
    same = (rng.random(pairs) < 0.5).tolist()
    left = rng.normal(size=(pairs, 16))
    right = np.where(np.array(same)[:, None], left, rng.normal(size=(pairs, 16)))
    embeddings = unit(
        np.stack([left, right + noise * rng.normal(size=left.shape)], 1).reshape(-1, 16)
    )
    expected = reference(embeddings, same, folds)
    found = grid_accuracy(
        squared_distances(embeddings[0::2], embeddings[1::2]), same, folds_in_order(pairs, folds)
    )
    assert found.accuracy.tolist() == pytest.approx(expected, abs=1e-12)
    assert found.mean == pytest.approx(sum(expected) / folds, abs=1e-12)
    spread = math.sqrt(sum((a - sum(expected) / folds) ** 2 for a in expected) / folds)
    assert found.std == pytest.approx(spread, abs=1e-12)
    sizes = np.bincount(folds_in_order(pairs, folds))
    assert found.right_P.sum() == pytest.approx((np.array(expected) * sizes).sum())


def grey(person: str, number: int) -> npt.NDArray[np.float64]:
    """Return the middle of a photo as a few grey levels: a poor embedding of a real face."""
    path = LFW / "images" / person / f"{picture_name(person, number)}.jpg"
    small = cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    assert small is not None
    return np.asarray(small[8:24, 8:24], np.float64).ravel()


def test_the_seven_folds_of_lfw_are_insightfaces() -> None:
    if not (LFW / "images").is_dir():
        pytest.skip(f"{LFW}/images is missing")
    pairs = read_pairs(LFW / "pairs.txt")
    known = {who: grey(*who) for who in {*pairs.left, *pairs.right}}
    centre = np.mean(list(known.values()), axis=0)
    listed = zip(pairs.left, pairs.right, strict=True)
    embeddings = unit([known[who] - centre for pair in listed for who in pair])
    same, folds = pairs.same_P, pairs.fold_P
    distances = squared_distances(embeddings[0::2], embeddings[1::2])
    found = grid_accuracy(distances, same, folds)
    expected = reference(embeddings, same.tolist(), 7)
    assert folds.tolist() == folds_in_order(4200, 7).tolist()  # the file's folds are KFold's
    assert found.accuracy.tolist() == pytest.approx(expected, abs=1e-12)
    assert 0.5 < found.mean < 0.8  # grey levels know a little
    fine = fold_accuracy(1 - distances / 2, same, folds)
    assert abs(fine.mean - found.mean) < 0.03  # all cuts against the grid's


def test_a_pair_at_the_threshold_is_refused_and_the_first_best_threshold_wins() -> None:
    # Elsewhere all is right from 0.51 to 1.00: the first of them, and 0.51 is not under it.
    distances = [0.505, 1.0, 0.505, 1.0, 0.51, 1.0]
    same = [True, False] * 3
    found = grid_accuracy(distances, same, [0, 0, 1, 1, 2, 2])
    assert found.threshold[2] == pytest.approx(0.51)
    assert found.accuracy.tolist() == [1.0, 1.0, 0.5]


def test_a_pair_without_a_face_is_wrong_whatever_its_kind() -> None:
    same, folds = [True, False, True, False, True, False], [0, 0, 0, 1, 1, 1]
    found = grid_accuracy([math.nan, 3.0, 0.5, math.nan, 0.5, 3.0], same, folds)
    assert found.accuracy.tolist() == pytest.approx([2 / 3, 2 / 3])
    assert found.right_P.tolist() == [False, True, True, False, True, True]


@pytest.mark.parametrize(
    ("pairs", "folds", "sizes"), [(10, 10, [1] * 10), (23, 5, [5, 5, 5, 4, 4]), (3, 2, [2, 1])]
)
def test_folds_by_order(pairs: int, folds: int, sizes: list[int]) -> None:
    fold = folds_in_order(pairs, folds)
    assert np.bincount(fold).tolist() == sizes and (np.diff(fold) >= 0).all()


@pytest.mark.parametrize(("pairs", "folds"), [(9, 10), (5, 1)])
def test_too_few_pairs_or_folds_are_refused(pairs: int, folds: int) -> None:
    with pytest.raises(ValueError, match=f"{pairs} pairs cannot be cut in {folds} folds"):
        folds_in_order(pairs, folds)


def test_one_fold_and_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="two folds"):
        grid_accuracy([0.1, 0.2], [True, False], [0, 0])
    with pytest.raises(ValueError, match=r"\(2,\) distances"):
        grid_accuracy([0.1, 0.2], [True], [0, 1])
