"""Every loss once more, in numpy, sample by sample, from the papers, with exact derivatives.

Nothing is shared with the code under test. Derivatives come from the complex step: f(x + ih)
has imaginary part h f'(x), without cancellation, so that h = 1e-30 gives all 16 digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Complex = np.complex128
STEP = 1e-30


def derivative(
    function: Callable[[NDArray[Any]], complex], point: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return f and its gradient at an array."""
    gradient = np.empty_like(point)
    for place in np.ndindex(*point.shape):
        moved = point.astype(Complex)
        moved[place] += 1j * STEP
        gradient[place] = function(moved).imag / STEP
    return float(function(point.astype(Complex)).real), gradient


def _norm(vector: NDArray[Any]) -> Any:
    return np.sqrt((vector * vector).sum())


def _psi(theta: Any, m1: float, m2: float = 0.0) -> Any:
    t = m1 * theta + m2
    k = math.floor(t.real / math.pi)
    return (-1) ** k * np.cos(t) - 2 * k


def _straight(c: Any, phi: Any) -> Any:
    return phi.real + 1j * c.imag


def _arc(c: Any, m: Any) -> Any:
    if c.real > math.cos(math.pi - m.real):
        return np.cos(np.arccos(c) + m)
    return c - m * np.sin(m)


def _target(name: str, c: Any, norm: Any, centre: Any, more: dict[str, Any]) -> Any:
    """The target's logit before the scale, from its cosine and the norms."""
    theta = np.arccos(c)
    lam = max(5.0, 1000 / (1 + 0.12 * more.get("step", 0)))
    match name:
        case "softmax":
            raise AssertionError("has no cosine")
        case "normface":
            return c
        case "cosface":
            return c - 0.4
        case "arcface":
            return _arc(c, np.complex128(0.5))
        case "arcface detached":
            return _straight(c, _arc(c, np.complex128(0.5)))
        case "combined":
            return _psi(theta, 1.2, 0.3) - 0.2
        case "sphereface":
            return (lam * c + _psi(theta, 4)) / (1 + lam)
        case "lsoftmax":
            return centre * (lam * c + _psi(theta, 4)) / (1 + lam)
        case "dynamic":
            return c - 0.2 * np.exp(1 - c) / 2
        case "adaface":
            clipped = min(max(norm.real, 1e-3), 100.0)
            z = min(max(0.333 * (clipped - more["mean"]) / (more["std"] + 1e-3), -1.0), 1.0)
            inner = theta - 0.4 * z
            if not 1e-3 < inner.real < math.pi - 1e-3:
                inner = min(max(inner.real, 1e-3), math.pi - 1e-3)
            return np.cos(inner) - (0.4 + 0.4 * z)
        case "magface":
            return _arc(c, 0.45 + 0.35 * (_clamped(norm) - 10) / 100)
        case "curricularface":
            return _arc(c, np.complex128(0.5))
        case "elasticface":
            return _arc(c, np.complex128(more["margin"]))
    raise AssertionError(name)


def _clamped(norm: Any) -> Any:
    return norm if 10 < norm.real < 110 else np.complex128(min(max(norm.real, 10.0), 110.0))


def _row(
    name: str, x: NDArray[Any], centres: NDArray[Any], label: int, more: dict[str, Any]
) -> list[Any]:
    """All logits of one sample."""
    if name == "softmax":
        return [(x * w[0, :-1]).sum() + w[0, -1] for w in centres]
    norm = _norm(x)
    cosines = []
    for klass in centres:
        each = [(x * w).sum() / norm / _norm(w) for w in klass]
        cosines.append(max(each, key=lambda c: c.real))
    scale = {"sphereface": norm, "lsoftmax": norm}.get(name, 64.0)
    logits = []
    for j, c in enumerate(cosines):
        length = _norm(centres[j, 0]) if name == "lsoftmax" else 1.0
        if j == label:
            logits.append(scale * _target(name, c, norm, length, more))
        elif name == "curricularface" and c.real > math.cos(math.acos(cosines[label].real) + 0.5):
            logits.append(scale * c * (more["t"] + c))
        else:
            logits.append(scale * length * c)
    return logits


def loss(
    name: str,
    embeddings: NDArray[Any],
    centres: NDArray[Any],
    labels: list[int],
    *,
    more: dict[str, Any],
    smoothing: float = 0.0,
    weights: list[float] | None = None,
) -> complex:
    """Return the weighted mean loss over rows whose label is not -1.

    `more` holds the state after the batch was observed: step, mean, std, t, and margins, one
    a sample.
    """
    total, weight_sum = 0.0 + 0j, 0.0
    for i, (x, label) in enumerate(zip(embeddings, labels, strict=True)):
        if label == -1:
            continue
        row_more = {**more, "margin": more["margins"][i]} if "margins" in more else more
        logits = _row(name, x, centres, label, row_more)
        top = max(z.real for z in logits)
        lse = top + np.log(sum(np.exp(z - top) for z in logits))
        mean = sum(logits) / len(logits)
        one = lse - (1 - smoothing) * logits[label] - smoothing * mean
        if name == "magface":
            a = _clamped(_norm(x))
            one = one + 35.0 * (a / 110.0**2 + 1 / a)
        weight = 1.0 if weights is None else weights[i]
        total, weight_sum = total + weight * one, weight_sum + weight
    return complex(total / weight_sum)
