"""Pooling against insightface's loops written out anew; the lists in every form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from facepipe import templates
from facepipe.errors import SourceNotFound, UsageError
from facepipe.templates import (
    Pooled,
    TemplatePairs,
    pair_similarities,
    pool,
    read_template_faces,
    read_template_pairs,
    subjects,
)

Float = npt.NDArray[np.float64]


def reference(vectors: Float, template: list[int], medium: list[int]) -> dict[int, Float]:
    """Return each template's unit vector: means of its media, added, normalised."""
    pooled = {}
    for name in set(template):
        total = np.zeros(vectors.shape[1])
        for m in {k for t, k in zip(template, medium, strict=True) if t == name}:
            rows = [
                v for v, t, k in zip(vectors, template, medium, strict=True) if (t, k) == (name, m)
            ]
            total = total + sum(rows) / len(rows)
        pooled[name] = total / np.sqrt((total**2).sum())
    return pooled


@pytest.mark.parametrize("block", [1, 4, 1 << 14])
def test_media_are_averaged_and_then_added(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "BLOCK_FACES", block)
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 6))
    template, medium = rng.integers(20, 28, 40).tolist(), rng.integers(3, size=40).tolist()
    found = pool(vectors, template, medium)
    expected = reference(vectors, template, medium)
    assert found.template_T.tolist() == sorted(expected)
    for name, unit in zip(found.template_T.tolist(), found.unit_TD, strict=True):
        np.testing.assert_allclose(unit, expected[name], atol=1e-12)


def test_a_long_video_weighs_no_more_than_a_still() -> None:
    still, frame = [1.0, 0.0], [0.0, 1.0]
    found = pool(np.array([still, *[frame] * 9]), [5] * 10, [0, *[1] * 9])
    np.testing.assert_allclose(found.unit_TD, [[np.sqrt(0.5)] * 2])


def test_faces_that_were_not_found_are_left_out() -> None:
    vectors = np.array([[np.nan, np.nan], [3.0, 4.0], [np.nan, np.nan]])
    found = pool(vectors, [1, 1, 2], [0, 0, 0])
    np.testing.assert_allclose(found.unit_TD[0], [0.6, 0.8])
    assert np.isnan(found.unit_TD[1]).all()
    opposite = pool(np.array([[1.0, 0.0], [-1.0, 0.0]]), [1, 1], [0, 1])
    assert np.isnan(opposite.unit_TD).all()  # nothing is left to compare


@pytest.mark.parametrize("block", [2, 1 << 15])
def test_pairs_are_cosines(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "BLOCK_PAIRS", block)
    unit = np.array([[1.0, 0.0], [0.6, 0.8], [np.nan, np.nan]])
    pooled = Pooled(template_T=np.array([3, 7, 9]), unit_TD=unit)
    found = pair_similarities(pooled, [3, 7, 3, 9, 7], [7, 7, 3, 3, 3])
    np.testing.assert_allclose(found, [0.6, 1.0, 1.0, np.nan, 0.6])
    with pytest.raises(UsageError, match="template 8 is compared"):
        pair_similarities(pooled, [3, 8], [7, 7])
    with pytest.raises(UsageError, match="template 11 is compared"):
        pair_similarities(pooled, [11], [3])


def test_templates_joined_by_matched_pairs_are_one_subject() -> None:
    pooled = Pooled(template_T=np.array([1, 2, 3, 4, 5]), unit_TD=np.ones((5, 1)))
    pairs = TemplatePairs(
        first_P=np.array([1, 3, 1]), second_P=np.array([2, 2, 4]), same_P=np.array([1, 1, 0], bool)
    )
    assert subjects(pooled, pairs).tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("a/1.jpg 10 1\nb 2.jpg 11 2\n".replace("b 2", "b2"), None),
        ("a/1.jpg\t10\t1\nb2.jpg\t11\t2\n", None),
        ("name,template,medium\na/1.jpg,10,1\n\nb2.jpg,11,2\n", None),
        ("a/1.jpg,10,1,5\nb2.jpg,11,2,6\n", [5, 6]),
    ],
)
def test_lists_of_faces(tmp_path: Path, text: str, subject: list[int] | None) -> None:
    path = tmp_path / "faces.txt"
    path.write_text(text)
    found = read_template_faces(path)
    assert found.names == ("a/1.jpg", "b2.jpg")
    assert (found.template_F.tolist(), found.medium_F.tolist()) == ([10, 11], [1, 2])
    assert (None if found.subject_F is None else found.subject_F.tolist()) == subject


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a 1\n", "line 1"),
        ("a 1 2\nb 1 x\n", "line 2"),
        ("a 1 2\nb 1 2 3\n", "some lines have a subject"),
        ("a,1,2,7\nb,1,3,8\n", "two subjects"),
        ("", "holds no line"),
    ],
)
def test_a_broken_list_of_faces_is_refused(tmp_path: Path, text: str, names: str) -> None:
    path = tmp_path / "faces.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=names):
        read_template_faces(path)


def test_lists_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("1 2 1\n1 30 0\n")
    found = read_template_pairs(path)
    assert found.first_P.tolist() == [1, 1] and found.second_P.tolist() == [2, 30]
    assert found.same_P.tolist() == [True, False]
    path.write_text("1 2 2\n")
    with pytest.raises(UsageError, match="third field"):
        read_template_pairs(path)
    with pytest.raises(SourceNotFound, match="none"):
        read_template_pairs(tmp_path / "none")
    path.write_bytes(b"\xff\xfe1 2 1")
    with pytest.raises(UsageError, match="no list"):
        read_template_pairs(path)
