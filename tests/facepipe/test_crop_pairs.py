"""Near hashes against comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe import crop_pairs
from facepipe.crop_hash import MIRROR, Int8, crop_hash, hash_cosines, hash_rows
from facepipe.crop_pairs import CROWD, MAX_SIGNS, MIN_HASH_COSINE, near_pairs
from tests.facepipe.small_pictures import moved, picture


def hashes(count: int = 400, copies: int = 120, seed: int = 0) -> Int8:
    """Return made hashes; of some of them copies a little off follow, every other mirrored."""
    rng = np.random.default_rng(seed)
    found = rng.normal(0, 24, (count, 64))
    found[:, 0] = 0
    copy = found[:copies] + rng.normal(0, 8, (copies, 64))
    copy[::2] *= MIRROR
    copy[:, 0] = 0
    return np.clip(np.rint(np.concatenate([found, copy])), -127, 127).astype(np.int8)


def all_with_all(rows: Int8) -> set[tuple[int, int, bool]]:
    found = set()
    for mirrored in (False, True):
        turned = rows.astype(int) * (MIRROR if mirrored else 1)
        signs = ((rows > 0)[:, None, 1:] != (turned > 0)[None, :, 1:]).sum(axis=2)
        norm = np.sqrt((rows.astype(float) ** 2).sum(axis=1))
        cosine = (rows.astype(float) @ turned.T) / np.maximum(np.outer(norm, norm), 1e-9)
        near = (signs <= MAX_SIGNS) & (cosine >= MIN_HASH_COSINE)
        found |= {(int(i), int(j), mirrored) for i, j in np.argwhere(np.triu(near, 1))}
    return found


def as_set(rows: Int8) -> set[tuple[int, int, bool]]:
    pairs, mirrored = near_pairs(rows)
    found = [(a, b, m) for (a, b), m in zip(pairs.tolist(), mirrored.tolist(), strict=True)]
    assert found == sorted(found) and len(set(found)) == len(found)
    assert all(a < b for a, b, _ in found)
    return set(found)


@pytest.mark.parametrize("seed", range(3))
def test_near_hashes_are_found(seed: int) -> None:
    rows = hashes(seed=seed)
    expected, found = all_with_all(rows), as_set(rows)
    assert found <= expected
    planted = {(i, 400 + i, i % 2 == 0) for i in range(120)}
    assert len(planted & expected) > 110
    assert len(found & expected) >= 0.99 * len(expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_real_copies_are_found(mirrored: bool) -> None:
    pictures = [picture(seed) for seed in range(60)]
    copies = [moved(p, 0.7, -0.4, 1.02, 1.5) for p in pictures]
    copies = [c[:, ::-1].copy() if mirrored else c for c in copies]
    found = as_set(hash_rows(b"".join(map(crop_hash, pictures + copies))))
    right = {(i, 60 + i, mirrored) for i in range(60)}
    assert len(right & found) >= 57
    assert len(found - right) < 10


@pytest.mark.parametrize("block", [64, 1000])
def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rows = hashes()
    whole = as_set(rows)
    monkeypatch.setattr(crop_pairs, "PAIR_BLOCK", block)
    assert as_set(rows) == whole


def test_a_crowd_of_copies_meets_its_best() -> None:
    """300 equal hashes: 44,850 pairs, of which those with the best are enough."""
    crowd = np.repeat(hashes(1, 0, seed=7), 300, axis=0)
    pairs, mirrored = near_pairs(crowd)
    straight = pairs[~mirrored]
    assert set(straight[straight[:, 0] == 0, 1].tolist()) == set(range(1, 300))
    assert len(straight) <= 300 * CROWD


def test_flat_crops_meet_nobody() -> None:
    flat = np.zeros((50_000, 64), np.int8)
    pairs, mirrored = near_pairs(flat)
    assert pairs.shape == (0, 2) and len(mirrored) == 0
    mixed = np.concatenate([flat[:3], hashes(1, 0), flat[:3], hashes(1, 0)])
    assert as_set(mixed) >= {(3, 7, False)}
    assert {p[:2] for p in as_set(mixed)} == {(3, 7)}


@pytest.mark.parametrize("count", [0, 1])
def test_few_crops_have_no_pairs(count: int) -> None:
    pairs, mirrored = near_pairs(hashes()[:count])
    assert len(pairs) == len(mirrored) == 0


def test_cosines_of_mirrored_pairs_turn_the_second() -> None:
    rows = hashes()
    turned = np.ones(120, bool)
    expected = hash_cosines(rows[:120], (rows[400:] * MIRROR).astype(np.int8), ~turned)
    np.testing.assert_allclose(hash_cosines(rows[:120], rows[400:], turned), expected)
