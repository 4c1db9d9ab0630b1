"""Keys stand for texts: equal for equal ones, different for different ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe.id_keys import (
    BLOCK_TEXTS,
    _weights,
    among,
    float_keys,
    joined,
    mixed,
    repeated,
    text_keys,
)


@given(st.lists(st.text(max_size=12) | st.none(), max_size=40), st.integers(0, 3))
def test_texts_have_the_same_key_if_and_only_if_they_are_the_same(
    texts: list[str | None], salt: int
) -> None:
    keys = text_keys(pa.array(texts, pa.string()), salt)
    assert len(set(keys.tolist())) == len(set(texts))
    assert dict(zip(texts, keys.tolist(), strict=True)) == {
        text: int(text_keys(pa.array([text], pa.string()), salt)[0]) for text in texts
    }


def test_a_key_does_not_depend_on_its_neighbours() -> None:
    texts = pa.array([f"{i:05d}" * (1 + i % 3) for i in range(BLOCK_TEXTS + 7)])
    keys = text_keys(texts)
    assert len(np.unique(keys)) == len(texts)
    np.testing.assert_array_equal(text_keys(texts[100:]), keys[100:])
    parts = pa.chunked_array([texts[:5], texts[5:]])
    np.testing.assert_array_equal(text_keys(parts), keys)
    np.testing.assert_array_equal(text_keys(texts.cast(pa.large_string())), keys)


def test_keys_are_the_published_ones() -> None:
    """Keys are compared between versions of facepipe: these are the sums, worked out again."""
    mask = 2**64 - 1

    def mix(x: int) -> int:  # splitmix64's finaliser
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    weights = [int(w) for w in _weights(8)]
    assert mix(1) == int(mixed(np.uint64(1)))
    for text in ("", "a", "face", "Ärger"):
        data = text.encode()
        linear = sum((b + 1) * w for b, w in zip(data, weights, strict=False)) & mask
        total = 0
        for part in (0, linear, len(data)):
            total = mix(((total + 0x9E3779B97F4A7C15) & mask) ^ part)
        assert int(text_keys(pa.array([text]))[0]) == total


def test_weights_are_odd_and_do_not_depend_on_the_length() -> None:
    assert (_weights(1000) & np.uint64(1)).all()
    np.testing.assert_array_equal(_weights(1000)[:64], _weights(3)[:64])


def test_salts_give_other_keys_and_order_matters() -> None:
    texts = pa.array(["a", "b", None])
    assert not (text_keys(texts, 0) == text_keys(texts, 1)).any()
    first, second = text_keys(texts), text_keys(texts, 1)
    assert not (joined(first, second) == joined(second, first)).any()


def test_numbers_have_keys_by_their_bits() -> None:
    values = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [-0.0, 1.0]], np.float32)
    keys = float_keys(values)
    assert keys[0] == keys[1]
    assert len({int(k) for k in keys}) == 3


@pytest.mark.parametrize(
    ("keys", "expected"), [([], []), ([3], []), ([3, 1, 3, 2, 1, 3], [1, 3]), ([5, 5], [5])]
)
def test_repeated_keys(keys: list[int], expected: list[int]) -> None:
    assert repeated(np.array(keys, np.uint64)).tolist() == expected


@given(st.lists(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_places_of_keys_in_a_rising_array(keys: list[int], known: set[int]) -> None:
    ordered = sorted(known)
    found = among(np.array(keys, np.uint64), np.array(ordered, np.uint64))
    assert found.tolist() == [ordered.index(k) if k in known else -1 for k in keys]
