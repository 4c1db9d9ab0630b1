"""The mixture against its densities written out, and its fit against what was put in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facepipe.mixture import CosineMixture, fit_mixture

MIXTURE = CosineMixture(
    impostor_mean=0.02, impostor_std=0.07, pair_cosine=0.6, face_std=0.06, clean_share=0.7
)


def t_density(x: float, mean: float, scale: float) -> float:
    """Student's t with 5 degrees of freedom, 8 / (3 pi sqrt 5) (1 + z^2 / 5)^-3."""
    z = (x - mean) / scale
    return 8 / (3 * math.pi * math.sqrt(5)) * (1 + z * z / 5) ** -3 / scale


def normal_density(x: float, mean: float, std: float) -> float:
    return math.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("others", [1, 2, 5, 100])
@pytest.mark.parametrize("cosine", [0.05, 0.2, 0.35, 0.5])
def test_posterior_is_bayes_over_the_two_densities(others: int, cosine: float) -> None:
    mean = 0.6 * math.sqrt(others / (1 + (others - 1) * 0.6))
    right = t_density(cosine, mean, 0.06 * math.sqrt(1 + 1 / others))
    wrong = normal_density(cosine, 0.02, 0.07)
    expected = 0.7 * right / (0.7 * right + 0.3 * wrong)
    assert MIXTURE.p_clean(cosine, others, 0.7) == pytest.approx(expected, rel=1e-9)
    assert MIXTURE.log_ratio(cosine, others) == pytest.approx(math.log(right / wrong), rel=1e-9)


def test_mean_cosine_to_a_centre_is_what_vectors_show() -> None:
    """Vectors whose pairs have cosine rho, and the mean of M of them."""
    rng = np.random.default_rng(0)
    rho, dim, trials = 0.6, 400, 300
    for others in (1, 3, 10):
        shared = np.zeros(dim)
        shared[0] = math.sqrt(rho)
        errors = rng.normal(size=(trials, others + 1, dim))
        errors *= math.sqrt(1 - rho) / np.linalg.norm(errors, axis=2, keepdims=True)
        vectors = shared + errors
        centres = vectors[:, 1:].mean(axis=1)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        cosines = (vectors[:, 0] * centres).sum(axis=1)
        assert cosines.mean() == pytest.approx(float(MIXTURE.genuine_mean(others)), abs=0.01)


@pytest.mark.parametrize("others", [1, 4, 50])
@pytest.mark.parametrize("face_std", [0.03, 0.12, 0.3])
def test_a_higher_cosine_is_never_worse(others: int, face_std: float) -> None:
    mixture = CosineMixture(
        impostor_mean=0.02, impostor_std=0.07, pair_cosine=0.6, face_std=face_std, clean_share=0.5
    )
    grid = np.linspace(-1, 1, 401)
    posterior = mixture.p_clean(grid, np.full(401, others), np.full(401, 0.5))
    assert (np.diff(posterior) >= 0).all()
    assert 0 <= posterior[0] < 0.5 < posterior[-1] <= 1


@pytest.mark.parametrize("others", [1, 10, 1000])
def test_threshold_is_where_the_odds_are_even(others: int) -> None:
    threshold = MIXTURE.threshold(others)
    assert MIXTURE.p_clean(threshold, others, 0.7) == pytest.approx(0.5, abs=1e-6)
    assert 0.02 < threshold < float(MIXTURE.genuine_mean(others))


def made(rng: np.random.Generator, faces: int, share: float, rho: float, std: float):  # type: ignore[no-untyped-def]
    others = rng.integers(1, 40, faces).astype(np.float64)
    mean = rho * np.sqrt(others / (1 + (others - 1) * rho))
    right = mean + std * np.sqrt(1 + 1 / others) * rng.standard_t(5, faces)
    wrong = rng.normal(0.02, 0.07, faces)
    clean = rng.random(faces) < share
    return np.where(clean, right, wrong), others, clean


@pytest.mark.parametrize("share", [0.5, 0.7, 0.97, 1.0])
@pytest.mark.parametrize(("rho", "std"), [(0.6, 0.05), (0.4, 0.08), (0.3, 0.05), (0.8, 0.04)])
def test_fit_finds_what_was_put_in(share: float, rho: float, std: float) -> None:
    cosine, others, clean = made(np.random.default_rng(1), 6000, share, rho, std)
    fit = fit_mixture(cosine, others, 0.02, 0.07)
    assert fit.clean_share == pytest.approx(clean.mean(), abs=0.02)
    assert fit.pair_cosine == pytest.approx(rho, abs=0.02)
    assert fit.face_std == pytest.approx(std, rel=0.12)


def test_a_clean_set_keeps_its_lower_tail() -> None:
    cosine, others, _ = made(np.random.default_rng(2), 5000, 1.0, 0.6, 0.06)
    fit = fit_mixture(cosine, others, 0.02, 0.07)
    posterior = fit.p_clean(cosine, others, np.full(5000, fit.clean_share))
    assert (posterior < 0.5).mean() < 0.002


def test_without_data_it_is_the_prior() -> None:
    fit = fit_mixture(np.empty(0), np.empty(0), 0.01, 0.05)
    assert (fit.impostor_mean, fit.impostor_std) == (0.01, 0.05)
    assert fit.clean_share == pytest.approx(0.9)
    assert fit.pair_cosine == pytest.approx(0.5)


def test_a_sample_of_many_faces_is_fitted_like_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cosine, others, _ = made(np.random.default_rng(3), 8000, 0.6, 0.5, 0.06)
    whole = fit_mixture(cosine, others, 0.02, 0.07)
    monkeypatch.setattr("facepipe.mixture.FIT_FACES", 4000)
    sample = fit_mixture(cosine, others, 0.02, 0.07)
    assert sample != whole
    assert sample.pair_cosine == pytest.approx(whole.pair_cosine, abs=0.01)
