"""Numbers by key: the published generator, and nothing that hangs on the order of asking."""

from __future__ import annotations

import numpy as np
import pytest

from training.keyed_random import hashes, key_of, permutation, uniforms

WORD = (1 << 64) - 1


def splitmix64(seed: int, count: int) -> list[int]:
    """Return the first outputs, by Python's whole numbers, as Steele et al. write it."""
    found = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & WORD
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        found.append(z ^ (z >> 31))
    return found


def test_the_known_outputs() -> None:
    # The vector that implementations of SplitMix64 are checked with.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert hashes(1234567, np.arange(3)).tolist() == known


@pytest.mark.parametrize("seed", [0, 1, 2**63, WORD])
def test_outputs_by_number_are_those_of_the_stream(seed: int) -> None:
    assert hashes(seed, np.arange(50)).tolist() == splitmix64(seed, 50)
    assert hashes(seed, np.array([49, 3])).tolist() == [splitmix64(seed, 50)[i] for i in (49, 3)]


def test_a_key_depends_on_every_word_and_their_order() -> None:
    keys = [key_of(*w) for w in [(), (0,), (0, 0), (1, 0), (0, 1), (-1,), (1,), (1 << 64,)]]
    assert len(set(keys)) == len(keys) - 1  # 2**64 wraps to 0
    assert key_of(0) == key_of(1 << 64) == splitmix64(0, 1)[0]


def test_a_row_of_uniforms_depends_on_its_index_alone() -> None:
    index = np.array([7, 0, 123456789, 7])
    together = uniforms(9, index, 5)
    for row, number in enumerate(index):
        alone = uniforms(9, np.array([number]), 8)[0, :5]
        assert (together[row] == alone).all()
    first = splitmix64(splitmix64(9, 8)[7], 2)
    assert together[0, :2].tolist() == [z / 2**53 for z in (first[0] >> 11, first[1] >> 11)]


def test_uniforms_are_uniform_and_columns_are_apart() -> None:
    drawn = uniforms(3, np.arange(20_000), 4)
    assert (drawn >= 0).all() and (drawn < 1).all()
    # Sigma of the mean of 20,000 uniforms is 0.002; of a correlation 0.007.
    assert np.abs(drawn.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(drawn.var(axis=0) - 1 / 12).max() < 0.002
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.035
    neighbours = np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]
    assert abs(neighbours) < 0.035


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_a_permutation_has_every_place_once(size: int) -> None:
    assert sorted(permutation(4, size).tolist()) == list(range(size))


def test_permutations_of_other_keys_differ() -> None:
    assert permutation(1, 50).tolist() == permutation(1, 50).tolist()
    assert permutation(1, 50).tolist() != permutation(2, 50).tolist()


def test_every_permutation_of_three_is_as_likely() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for key in range(6000):
        drawn = tuple(permutation(key_of(key), 3).tolist())
        counts[drawn] = counts.get(drawn, 0) + 1
    # Chi-square with 5 degrees of freedom: 25.7 is its 1e-4 quantile.
    assert len(counts) == 6
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 25.7
