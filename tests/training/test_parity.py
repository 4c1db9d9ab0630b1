"""When two answers count as alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from facepipe.embed import crop_blob
from facepipe.packs import RecogniserSpec
from training.parity import LEAST_COSINE, as_input, compare, made_crops, plain_copy

RNG = np.random.default_rng(0)
ONE = RNG.normal(size=(6, 32)).astype(np.float32)


def test_the_same_answers_hold() -> None:
    parity = compare(ONE, ONE)
    assert parity.holds
    assert parity.cosine == pytest.approx(1, abs=1e-12)
    assert parity.centred_cosine == pytest.approx(1, abs=1e-12)
    assert parity.difference == 0


def test_one_wrong_row_is_enough() -> None:
    other = ONE.copy()
    other[3] = RNG.normal(size=32)
    assert not compare(ONE, other).holds


@pytest.mark.parametrize(("angle", "holds"), [(0.004, True), (0.005, False)])
def test_the_limit_is_on_the_angle(angle: float, holds: bool) -> None:
    """cos .004 is .999992, cos .005 is .9999875."""
    unit = np.eye(4, dtype=np.float32)[:2]
    turned = np.cos(angle) * unit + np.sin(angle) * np.eye(4, dtype=np.float32)[2:]
    parity = compare(unit, turned.astype(np.float32))
    assert parity.cosine == pytest.approx(np.cos(angle), abs=1e-7)
    assert (parity.cosine >= LEAST_COSINE) is holds


def test_a_common_part_hides_nothing() -> None:
    constant = np.full(32, 1000, np.float32)
    other = ONE[::-1] + constant
    parity = compare(ONE + constant, other)
    assert parity.cosine > LEAST_COSINE
    assert parity.centred_cosine < 0.9
    assert not parity.holds


def test_a_net_that_tells_nothing_apart_is_asked_for_the_same_numbers() -> None:
    flat = np.ones((4, 8), np.float32)
    rounding = flat + RNG.choice([-1e-7, 1e-7], flat.shape).astype(np.float32)
    assert compare(flat, rounding).holds


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_holds(bad: float) -> None:
    other = ONE.copy()
    other[0, 0] = bad
    assert not compare(ONE, other).holds
    assert not compare(other, other).holds


def test_input_is_what_facepipe_embed_makes() -> None:
    crops = made_crops()
    blob = crop_blob(crops, RecogniserSpec(file="x", mean=(127.5,) * 3, std=(127.5,) * 3))
    np.testing.assert_allclose(as_input(crops), blob, rtol=0, atol=1e-6)
    assert as_input(crops).min() >= -1
    assert as_input(crops).max() <= 1
    assert all(np.array_equal(a, b) for a, b in zip(crops, made_crops(), strict=True))


def test_the_copy_is_plain_and_the_net_stays() -> None:
    net = nn.Linear(2, 2).to(torch.bfloat16)
    copy = plain_copy(net)
    assert not copy.training
    assert next(copy.parameters()).dtype == torch.float32
    assert net.training
    assert net.weight.dtype == torch.bfloat16
