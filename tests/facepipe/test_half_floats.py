"""Every finite float16 value, and rows of length one against the same done plainly."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe.half_floats import WIDEN_ITEMS, widened
from facepipe.neighbors import unit_rows


def test_every_finite_value_is_itself() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 8)
    assert finite.size == (1 << 16) - 2 * 1024
    wide = widened(finite)
    assert (wide.view(np.int32) == finite.astype(np.float32).view(np.int32)).all()
    into = np.empty_like(wide)
    assert widened(finite, into) is into and (into == wide).all()
    assert widened(np.empty((0, 512), np.float16)).shape == (0, 512)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dim", [3, 512])
def test_unit_rows_of_any_number_of_blocks(dtype: type, dim: int) -> None:
    rows = 2 * WIDEN_ITEMS // dim + 5
    vectors = np.random.default_rng(dim).standard_normal((rows, dim)).astype(dtype)
    vectors[7] = 0
    wide = vectors.astype(np.float32)
    lengths = np.sqrt((wide.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    lengths[7] = 1
    found = unit_rows(vectors)
    assert found.dtype == np.float32 and not found[7].any()
    np.testing.assert_allclose(found, wide / lengths, rtol=1e-6, atol=1e-7)
    assert (unit_rows(vectors[11:12])[0] == found[11]).all()  # whatever lies around it
    assert unit_rows(vectors[:0]).shape == (0, dim)
