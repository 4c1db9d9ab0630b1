"""The hash of a whole picture against its definition, and what does not change it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from facepipe.picture_hash import featureless, hash_words, mirrored_words, perceptual_hash
from facepipe.schema import PHASH_BYTES

Picture = npt.NDArray[np.uint8]


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


@pytest.mark.parametrize("seed", range(8))
def test_the_hash_of_the_mirror_image_is_nearly_known(seed: int) -> None:
    word = hash_words([perceptual_hash(scene(seed))])
    mirrored = perceptual_hash(np.ascontiguousarray(scene(seed)[:, ::-1]))
    assert distance(int(mirrored_words(word)[0]).to_bytes(8, "big"), mirrored) <= 6
    np.testing.assert_array_equal(mirrored_words(mirrored_words(word)), word)
