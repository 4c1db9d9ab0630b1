"""The hash against its definition, and near hashes against comparing all with all."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from facepipe import picture_hash
from facepipe.picture_hash import candidate_pairs, featureless, hash_words, perceptual_hash
from facepipe.schema import PHASH_BYTES

Picture = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]


def scene(seed: int, height: int = 240, width: int = 320) -> Picture:
    """Return a smooth, colourful picture: random blobs at several scales."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells, strength in ((4, 90), (9, 50), (30, 20)):
        blobs = rng.normal(0, strength, (cells, cells, 3))
        total += cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total + 128, 0, 255).astype(np.uint8)


def distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def recompressed(picture: Picture, quality: int) -> Picture:
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def test_hash_is_the_definition_of_phash() -> None:
    """Grey, 32 x 32, DCT-II by its sum, lowest 8 x 8, over the median; DC first."""
    small = scene(1, 32, 32)  # no resize: what is left is the formula
    grey = small.astype(np.float64) @ [0.114, 0.587, 0.299]
    n = np.arange(32)
    basis = np.array([np.cos(np.pi * (n + 0.5) * k / 32) for k in range(8)])
    coefficients = [[(grey * np.outer(u, v)).sum() for v in basis] for u in basis]
    median = sorted(np.ravel(coefficients))[31:33]
    expected = "".join(str(int(c > sum(median) / 2)) for c in np.ravel(coefficients))
    assert f"{int.from_bytes(perceptual_hash(small), 'big'):064b}" == expected
    assert expected[0] == "1" and expected.count("1") == 32


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda p: p.copy(), 0),
        (lambda p: recompressed(p, 90), 2),
        (lambda p: recompressed(p, 30), 4),
        (lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 4),
        (lambda p: cv2.resize(p, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), 4),
        (lambda p: cv2.cvtColor(cv2.cvtColor(p, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), 2),
        (lambda p: np.clip(p * 0.9 + 12, 0, 255).astype(np.uint8), 4),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_copy_has_a_near_hash(change: object, most: int, seed: int) -> None:
    picture = scene(seed)
    assert distance(perceptual_hash(picture), perceptual_hash(change(picture))) <= most  # type: ignore[operator]


def test_other_pictures_have_far_hashes() -> None:
    hashes = [perceptual_hash(scene(seed)) for seed in range(30)]
    far = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(far) > 10 and 28 < np.mean(far) < 36


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (31, 33), (32, 32), (33, 31), (700, 40)]
)
def test_every_size_has_a_hash(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert len(perceptual_hash(picture)) == PHASH_BYTES
    assert perceptual_hash(picture) == perceptual_hash(np.asfortranarray(picture))


@pytest.mark.parametrize("level", [0, 1, 77, 128, 255])
def test_flat_pictures_are_featureless_and_alike(level: int) -> None:
    hashes = {
        perceptual_hash(np.full((*shape, 3), level, np.uint8)) for shape in ((9, 9), (99, 50))
    }
    assert len(hashes) == 1
    assert featureless(hash_words(list(hashes))).tolist() == [True]


def test_stripes_and_gradients_are_featureless_but_scenes_are_not() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (100, 256, 3))
    stripes = np.where(np.arange(128)[:, None, None] % 64 < 32, 40, 200) * np.ones((1, 90, 3))
    words = hash_words([perceptual_hash(ramp), perceptual_hash(stripes.astype(np.uint8))])
    assert featureless(words).all()
    assert not featureless(hash_words([perceptual_hash(scene(s)) for s in range(20)])).any()


def test_words_keep_the_order_of_the_bits() -> None:
    assert hash_words([bytes([1, 2, 3, 4, 5, 6, 7, 8])]).tolist() == [0x0102030405060708]
    assert len(hash_words([])) == 0


def all_with_all(words: UInt64, most: int) -> list[tuple[int, int]]:
    told = [not f for f in featureless(words).tolist()]
    values = words.tolist()
    return [
        (i, j)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if told[i] and told[j] and (values[i] ^ values[j]).bit_count() <= most
    ]


def crowded_words(seed: int, count: int = 300) -> UInt64:
    """Return words of which half are a few bits from another, with equal and empty ones."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**64, count, dtype=np.uint64)
    for row in range(count // 2):
        word = int(words[rng.integers(count)])
        for bit in rng.choice(64, rng.integers(0, 20), replace=False):
            word ^= 1 << int(bit)
        words[row] = word
    words[:10], words[10:20] = words[10], 0
    return words


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 6, 8, 11, 16])
@pytest.mark.parametrize("block", [7, 1 << 21])
def test_near_hashes_are_all_found_once(
    monkeypatch: pytest.MonkeyPatch, most: int, block: int
) -> None:
    monkeypatch.setattr(picture_hash, "PAIR_BLOCK", block)
    words = crowded_words(most)
    pairs = candidate_pairs(words, most)
    assert [tuple(p) for p in pairs.tolist()] == all_with_all(words, most)
    assert len(pairs) > 10


@pytest.mark.parametrize("bands", [3, 5, 8, 16])
def test_any_cut_in_bands_finds_the_same(monkeypatch: pytest.MonkeyPatch, bands: int) -> None:
    words = crowded_words(99)
    expected = candidate_pairs(words, 9)
    monkeypatch.setattr(picture_hash, "MIN_BANDS", bands)
    np.testing.assert_array_equal(candidate_pairs(words, 9), expected)


def test_featureless_hashes_meet_nobody() -> None:
    words = np.zeros(100_000, np.uint64)  # 5e9 pairs, if they did
    assert candidate_pairs(words, 6).shape == (0, 2)


@pytest.mark.parametrize("count", [0, 1])
def test_few_hashes_have_no_pairs(count: int) -> None:
    assert candidate_pairs(np.full(count, 0x0F0F0F0FF0F0F0F0, np.uint64), 6).shape == (0, 2)


@pytest.mark.parametrize("most", [-1, 64])
def test_an_impossible_distance_is_refused(most: int) -> None:
    with pytest.raises(ValueError, match="max_distance_bits"):
        candidate_pairs(np.zeros(2, np.uint64), most)
