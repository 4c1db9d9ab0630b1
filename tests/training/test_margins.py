"""Margins against their papers' formulas, written anew with 50 digits and an acos."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from torch import Tensor

from training import margins

ULP = 2.0**-53  # below 1.0
M = 0.5


def steps(name: str, c: mp.mpf, past: Callable[[mp.mpf], mp.mpf]) -> mp.mpf:
    """cos(acos(c) + M) up to pi, and what `past` says beyond it."""
    theta = mp.acos(c)
    return mp.cos(theta + M) if theta + M < mp.pi else past(c)


def psi(c: mp.mpf, m1: float, m2: float = 0.0, most: int | None = None) -> mp.mpf:
    t = mp.mpf(m1) * mp.acos(c) + mp.mpf(m2)
    k = int(mp.floor(t / mp.pi))
    k = k if most is None else min(k, most)
    return (-1) ** k * mp.cos(t) - 2 * k


def annealed(c: mp.mpf) -> mp.mpf:
    lam = max(mp.mpf(5), 1000 / (1 + mp.mpf(0.12) * 300))
    return (lam * c + psi(c, 4, most=3)) / (1 + lam)


def adaface(c: mp.mpf, z: float) -> mp.mpf:
    theta = mp.acos(c) - mp.mpf(0.4) * z
    theta = min(max(theta, mp.mpf(1e-3)), mp.pi - mp.mpf(1e-3))
    return mp.cos(theta) - (mp.mpf(0.4) + mp.mpf(0.4) * z)


def curricular(c: mp.mpf) -> mp.mpf:
    return c * (mp.mpf(0.25) + c) if c > mp.mpf(0.3) else c


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[mp.mpf], mp.mpf]]] = {
    "cosface": (lambda c: margins.cosface(c, 0.4), lambda c: c - mp.mpf(0.4)),
    "arcface linear": (
        lambda c: margins.arcface(c, M),
        lambda c: steps("", c, lambda c: c - mp.mpf(M) * mp.sin(mp.mpf(M))),
    ),
    "arcface a margin a sample": (
        lambda c: margins.arcface(c, torch.full_like(margins.widen(c), M)),
        lambda c: steps("", c, lambda c: c - mp.mpf(M) * mp.sin(mp.mpf(M))),
    ),
    "arcface easy": (
        lambda c: margins.arcface(c, M, "easy"),
        lambda c: mp.cos(mp.acos(c) + M) if c > 0 else c,
    ),
    "arcface wrap": (lambda c: margins.arcface(c, M, "wrap"), lambda c: mp.cos(mp.acos(c) + M)),
    "arcface piecewise": (
        lambda c: margins.arcface(c, M, "piecewise"),
        lambda c: psi(c, 1.0, M),
    ),
    "combined": (
        lambda c: margins.combined(c, 1.35, 0.3, 0.2),
        lambda c: psi(c, 1.35, 0.3) - mp.mpf(0.2),
    ),
    "combined of m1 = 1": (
        lambda c: margins.combined(c, 1.0, 0.3, 0.2),
        lambda c: psi(c, 1.0, 0.3) - mp.mpf(0.2),
    ),
    "combined wrap": (
        lambda c: margins.combined(c, 1.35, 0.3, 0.2, "wrap"),
        lambda c: mp.cos(mp.mpf(1.35) * mp.acos(c) + mp.mpf(0.3)) - mp.mpf(0.2),
    ),
    **{
        f"sphereface psi {m}": (
            lambda c, m=m: margins.sphereface_psi(c, m),
            lambda c, m=m: psi(c, m, most=m - 1),
        )
        for m in (1, 2, 3, 4, 5)
    },
    "sphereface annealed": (
        lambda c: margins.annealed(
            c, margins.sphereface_psi(c, 4), margins.sphereface_lambda(300, 1000.0, 0.12, 5.0)
        ),
        annealed,
    ),
    "dynamic": (
        lambda c: margins.dynamic(c, 0.3, 1.5),
        lambda c: c - mp.mpf(0.3) * mp.exp(1 - c) / mp.mpf(1.5),
    ),
    **{
        f"adaface z = {z}": (
            lambda c, z=z: margins.adaface(c, torch.full_like(margins.widen(c), z), 0.4),
            lambda c, z=z: adaface(c, z),
        )
        for z in (-1.0, -0.25, 0.0, 0.7, 1.0)
    },
    "curricular negatives": (
        lambda c: margins.curricular_negatives(
            c[:, None], torch.full_like(c, 0.3), torch.tensor(0.25, dtype=c.dtype)
        )[:, 0],
        curricular,
    ),
    "angle": (margins.angle, mp.acos),
}
INNER = [-0.999, -0.95, -0.8, -0.5, -0.1, 0.01, 0.05, 0.29, 0.31, 0.6, 0.9, 0.999, 1 - 1e-9]
NEAR_PI = [math.cos(math.pi - M) + gap for gap in (-1e-3, -1e-7, 1e-7, 1e-3)]
BREAKS = [math.cos((k * math.pi - m2) / m1) for m1, m2 in ((1.35, 0.3), (4, 0)) for k in (1,)]
POINTS = [*INNER, *NEAR_PI, *(c + gap for c in BREAKS for gap in (-1e-7, 1e-7)), 1 - ULP, ULP - 1]


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_the_formulas(name: str) -> None:
    ours, formula = CASES[name]
    c = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    values = ours(c)
    (slopes,) = torch.autograd.grad(values.sum(), c)
    with mp.workdps(50):
        expected = [float(formula(mp.mpf(point))) for point in POINTS]
        # A step far below an ulp: the points next to 1 stay inside, and on their side of a break.
        expected_slopes = [
            float(mp.diff(formula, mp.mpf(point), h=mp.mpf(10) ** -25)) for point in POINTS
        ]
    torch.testing.assert_close(values.tolist(), expected, rtol=0, atol=1e-12)
    # Next to |c| = 1 a slope is 1e8 and holds 16 digits.
    torch.testing.assert_close(slopes.tolist(), expected_slopes, rtol=1e-13, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in CASES if name != "angle"])
def test_gradcheck(name: str) -> None:
    # Around theta + m = pi, where both sides of it are smooth.
    around = [math.cos(math.pi - M) + gap for gap in (-2e-2, -1e-4, 1e-4, 2e-2)]
    c = torch.tensor([*around, -0.9, -0.4, 0.2, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(CASES[name][0], c)


@pytest.mark.parametrize("m1", [1.0, 1.35, 2.0, 4.0])
def test_gradcheck_at_pi_itself_where_the_margin_is_smooth(m1: float) -> None:
    # theta = (k pi - m2) / m1: the pieces meet there, and so do their slopes.
    breaks = [(k * math.pi - M) / m1 for k in range(1, int(m1) + 1)]
    c = torch.tensor([math.cos(t) for t in breaks], dtype=torch.float64, requires_grad=True)
    # The second derivative jumps there: a smaller step than gradcheck's own.
    assert torch.autograd.gradcheck(lambda c: margins.combined(c, m1, M, 0.1), c, eps=1e-8)


def test_arcface_at_pi_itself_takes_the_side_beyond() -> None:
    c = torch.tensor([-math.cos(M)], dtype=torch.float64, requires_grad=True)
    value = margins.arcface(c, M)
    (slope,) = torch.autograd.grad(value.sum(), c)
    assert value.item() == pytest.approx(-math.cos(M) - M * math.sin(M), abs=1e-15)
    assert slope.item() == 1.0


FALLING = [name for name in CASES if "wrap" not in name and name != "angle"]


@pytest.mark.parametrize("name", [n for n in FALLING if "curricular" not in n])
def test_target_margin_never_rises_with_the_angle(name: str) -> None:
    theta = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    values = CASES[name][0](theta.cos())
    allowed = 1e-12
    if name == "arcface easy":  # from c to cos(theta + m) at c = 0: a step up, as published
        assert values[10_001] > values[9_999]
        allowed = math.sin(M) + 1e-3
    assert values.diff().max() <= allowed


def test_wrap_rises_past_pi() -> None:
    low, high = margins.arcface(torch.tensor([-0.99, -0.9]), M, "wrap").tolist()
    assert low > high  # what arcface_torch has


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_finite_at_the_ends_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    ulp = torch.finfo(dtype).eps
    ends = [1.0, 1.0 - ulp / 2, 1.0 + ulp, 0.0]  # 1 + ulp: a product may round past 1
    c = torch.tensor([*ends, *(-end for end in ends)], dtype=dtype, requires_grad=True)
    values = CASES[name][0](c)
    (slopes,) = torch.autograd.grad(values.sum(), c)
    assert values.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert values.isfinite().all()
    assert slopes.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in CASES if name != "angle"])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    c = torch.linspace(-0.95, 0.95, 41).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = CASES[name][0](c)
    assert torch.equal(given, CASES[name][0](c.float()))


def arcface_torch(c: Tensor, m1: float, m2: float, m3: float) -> Tensor:
    """CombinedMarginLoss of arcface_torch on target cosines, by its two formulas."""
    if m1 == 1.0 and m3 == 0.0:
        return torch.cos(torch.arccos(c) + m2)
    return c - m3


@pytest.mark.parametrize(("m2", "m3"), [(0.5, 0.0), (0.3, 0.0), (0.0, 0.4), (0.0, 0.35)])
def test_equals_arcface_torch_in_float32(m2: float, m3: float) -> None:
    c = torch.linspace(-1, 1, 10_001).requires_grad_()
    phi = margins.straight_through(c, margins.combined(c, 1.0, m2, m3, "wrap"))
    torch.testing.assert_close(phi, arcface_torch(c, 1.0, m2, m3), rtol=0, atol=1e-6)
    (slope,) = torch.autograd.grad(phi.sum(), c)
    assert torch.equal(slope, torch.ones_like(c))  # its arccos and cos run without gradient
    alone = margins.cosface(c, m3) if m3 else margins.arcface(c, m2, "wrap")
    torch.testing.assert_close(alone, arcface_torch(c, 1.0, m2, m3), rtol=0, atol=1e-6)


STATISTICS = torch.tensor([20.0, 6.0], dtype=torch.float64)  # mean, std


def test_adaface_quality() -> None:
    norms = torch.tensor([1e-9, 12.0, 20.0, 26.0, 1e9], dtype=torch.float64, requires_grad=True)
    quality = margins.adaface_quality(norms, *STATISTICS, 0.333)
    expected = [
        max(-1.0, min(1.0, 0.333 * (min(max(n, 1e-3), 100.0) - 20.0) / (6.0 + 1e-3)))
        for n in norms.tolist()
    ]
    torch.testing.assert_close(quality.tolist(), expected, rtol=0, atol=1e-12)
    assert not quality.requires_grad


def test_magface_margin_and_penalty() -> None:
    norms = torch.tensor([1.0, 10.0, 60.0, 110.0, 500.0], dtype=torch.float64)
    inside = [10.0, 10.0, 60.0, 110.0, 110.0]
    margin = margins.magface_margin(norms, (10.0, 110.0), (0.45, 0.8))
    expected = [0.45 + 0.35 * (a - 10) / 100 for a in inside]
    torch.testing.assert_close(margin.tolist(), expected, rtol=0, atol=1e-12)
    penalty = margins.magface_penalty(norms, (10.0, 110.0))
    expected = [a / 110**2 + 1 / a for a in inside]
    torch.testing.assert_close(penalty.tolist(), expected, rtol=0, atol=1e-12)


def test_curricular_threshold_has_no_gradient() -> None:
    c = torch.tensor([0.3, -0.97], dtype=torch.float64, requires_grad=True)
    threshold = margins.curricular_threshold(c, M)
    expected = [math.cos(math.acos(x) + M) for x in c.tolist()]
    torch.testing.assert_close(threshold.tolist(), expected, rtol=0, atol=1e-12)
    assert not threshold.requires_grad


def test_elastic_margins_depend_on_seed_and_step_alone() -> None:
    drawn = margins.elastic_margins(20_000, 0.5, 0.0125, seed=3, step=7)
    torch.manual_seed(1)
    assert torch.equal(drawn, margins.elastic_margins(20_000, 0.5, 0.0125, seed=3, step=7))
    assert not torch.equal(drawn, margins.elastic_margins(20_000, 0.5, 0.0125, seed=3, step=8))
    assert not torch.equal(drawn, margins.elastic_margins(20_000, 0.5, 0.0125, seed=4, step=7))
    assert drawn.mean().item() == pytest.approx(0.5, abs=5 * 0.0125 / math.sqrt(20_000))
    assert drawn.std().item() == pytest.approx(0.0125, rel=0.03)


@pytest.mark.parametrize(("step", "expected"), [(0, 1000.0), (100, 1000 / 13), (10**6, 5.0)])
def test_sphereface_lambda(step: int, expected: float) -> None:
    assert margins.sphereface_lambda(step, 1000.0, 0.12, 5.0) == pytest.approx(expected)
