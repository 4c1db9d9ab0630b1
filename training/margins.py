"""Margins: what each loss of the ArcFace family does to a cosine, as pure functions.

c is the cosine between an embedding and a class centre, theta = acos(c), m a margin. A
softmax over scale * c becomes a margin loss where the target's c is replaced by a smaller
phi(c); CurricularFace also makes hard negatives larger. Every function computes in float32,
or in float64 where it is given float64, whatever the autocast: the first step under a
cosine of 1 is 4.9e-4 in fp16 and 3.9e-3 in bf16. Gradients are finite everywhere: at |c| = 1,
where those of acos and sqrt are not, the term that grows without bound is left out, which
loses nothing, since there the cosine itself no longer changes with the embedding.

Legend: B samples, C classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

# What becomes of phi where theta + m passes pi and cos(theta + m) would rise again:
# "piecewise" goes on falling smoothly, -cos(theta + m) - 2 (SphereFace's psi; gradient 0 at pi);
# "linear" is the published ArcFace code, c - m sin m (falls, with a jump at pi);
# "easy" applies the margin only where c > 0 (the "easy margin" of that code);
# "wrap" lets it rise, as arcface_torch's CombinedMarginLoss does.
PastPi = Literal["piecewise", "linear", "easy", "wrap"]

ADAFACE_EDGE_RAD = 1e-3  # AdaFace keeps theta this far from 0 and pi (its code, eps)
ADAFACE_NORM_RANGE = (1e-3, 100.0)  # and norms within these


def widen(values: Tensor) -> Tensor:
    """Return values as float32, or unchanged where they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def sine(cosines: Tensor) -> Tensor:
    """Return sin(acos(c)) >= 0, with gradient 0 where it is 0; |c| > 1 counts as 1."""
    # (1 - c)(1 + c), not 1 - c*c: it keeps every digit as |c| nears 1.
    radicand = (1.0 - cosines) * (1.0 + cosines)
    inside = radicand > 0
    return torch.where(inside, radicand, 1.0).sqrt() * inside


def angle(cosines: Tensor) -> Tensor:
    """Return acos(c) in radians, with gradient 0 at |c| = 1, where acos' is infinite."""
    c = widen(cosines)
    return torch.atan2(sine(c), c)


def straight_through(cosines: Tensor, phi: Tensor) -> Tensor:
    """Return phi, whose gradient in c is taken to be 1 instead of phi'(c).

    So arcface_torch computes ArcFace, by its author's choice: the gradient of a target logit
    is then the scale, not scale * sin(theta + m) / sin(theta).
    """
    wide = widen(cosines)
    return phi.detach() + (wide - wide.detach())


def cosface(cosines: Tensor, margin: float | Tensor) -> Tensor:
    """Return phi = c - m, of CosFace (arXiv:1801.09414, eq. 4) and AM-Softmax (1801.05599)."""
    return widen(cosines) - margin


def arcface(cosines: Tensor, margin_rad: float | Tensor, past_pi: PastPi = "linear") -> Tensor:
    """Return phi = cos(theta + m), of ArcFace (arXiv:1801.07698, eq. 3), for 0 <= m <= pi.

    As c cos m - sqrt(1 - c^2) sin m, without acos; the gradient is cos m + c sin m / sin theta.
    ``margin_rad`` is one margin, or one a sample; ``past_pi`` says what holds past pi.
    """
    c = widen(cosines)
    cos_m, sin_m = _cos_sin(margin_rad)
    phi = c * cos_m - sine(c) * sin_m
    if past_pi == "wrap":
        return phi
    if past_pi == "easy":
        return torch.where(c > 0, phi, c)
    beyond = -phi - 2.0 if past_pi == "piecewise" else c - margin_rad * sin_m
    return torch.where(c > -cos_m, phi, beyond)  # cos(pi - m) = -cos m


def _cos_sin(margin_rad: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    if isinstance(margin_rad, Tensor):
        return margin_rad.cos(), margin_rad.sin()
    return math.cos(margin_rad), math.sin(margin_rad)


def combined(
    cosines: Tensor, m1: float, m2_rad: float, m3: float, past_pi: PastPi = "piecewise"
) -> Tensor:
    """Return phi = cos(m1 theta + m2) - m3 (arXiv:1801.07698, eq. 4), for m1 >= 1, m2 >= 0.

    "piecewise": (-1)^k cos(t) - 2k - m3 with t = m1 theta + m2 and k = floor(t / pi), which
    falls all the way (arXiv:1704.08063, eq. 6, for any m1); "wrap": the bare cosine, as
    arcface_torch has it. The other two are defined for m1 = 1.
    """
    if m1 == 1.0:
        return arcface(cosines, m2_rad, past_pi) - m3
    t = m1 * angle(cosines) + m2_rad
    if past_pi == "wrap":
        return t.cos() - m3
    k = (t.detach() / math.pi).floor()
    return (1.0 - 2.0 * (k % 2)) * t.cos() - 2.0 * k - m3


def sphereface_psi(cosines: Tensor, m: int) -> Tensor:
    """Return psi = (-1)^k cos(m theta) - 2k, k = floor(m theta / pi) at most m - 1.

    Of L-Softmax (arXiv:1612.02295, eq. 5) and SphereFace (arXiv:1704.08063, eq. 6). cos(m theta)
    is Chebyshev's polynomial of c, so that neither it nor its gradient needs an acos.
    """
    c = widen(cosines)
    before, cos_m_theta = torch.ones_like(c), c
    for _ in range(m - 1):
        before, cos_m_theta = cos_m_theta, 2.0 * c * cos_m_theta - before
    k = torch.zeros_like(c)
    for step in range(1, m):
        k = k + (c.detach() <= math.cos(step * math.pi / m))
    return (1.0 - 2.0 * (k % 2)) * cos_m_theta - 2.0 * k


def annealed(cosines: Tensor, phi: Tensor, lam: float) -> Tensor:
    """Return (lambda c + phi) / (1 + lambda): SphereFace's way from softmax to its margin."""
    return (lam * widen(cosines) + phi) / (1.0 + lam)


def sphereface_lambda(step: int, base: float, gamma: float, floor: float) -> float:
    """Return lambda = max(floor, base / (1 + gamma t)) at step t (SphereFace's code)."""
    return max(floor, base / (1.0 + gamma * step))


def dynamic(cosines: Tensor, margin: float, hardness: float) -> Tensor:
    """Return phi = c - m_i with m_i = m exp(1 - c) / lambda: the harder, the larger the margin.

    DAM-Softmax (Zhou et al., "Dynamic Margin Softmax Loss for Speaker Verification",
    Interspeech 2020, doi 10.21437/Interspeech.2020-1106); ``hardness`` is lambda. The margin is
    differentiated too, so that dphi/dc = 1 + m_i.
    """
    c = widen(cosines)
    return c - margin * torch.exp(1.0 - c) / hardness


def adaface(cosines: Tensor, quality: Tensor, margin: float) -> Tensor:
    """Return cos(clip(theta - m z, eps, pi - eps)) - (m + m z), z the quality in [-1, 1].

    AdaFace (arXiv:2204.00964, eq. 9 and 10): a good picture (z = 1) gets CosFace's margin
    with a harder angle, a poor one (z = -1) ArcFace's, which spares what cannot be known.
    """
    edge = ADAFACE_EDGE_RAD
    theta = angle(cosines) - margin * quality
    return theta.clamp(edge, math.pi - edge).cos() - (margin + margin * quality)


def adaface_quality(norms: Tensor, mean: Tensor, std: Tensor, concentration: float) -> Tensor:
    """Return z = clip(h (||x|| - mean) / (std + 1e-3), -1, 1), detached (arXiv:2204.00964, eq. 8).

    ``norms`` are clipped to ADAFACE_NORM_RANGE first; ``concentration`` is h.
    """
    clipped = widen(norms.detach()).clamp(*ADAFACE_NORM_RANGE)
    return (concentration * (clipped - mean) / (std + 1e-3)).clamp(-1.0, 1.0)


def magface_margin(
    norms: Tensor, norm_range: tuple[float, float], margin_range_rad: tuple[float, float]
) -> Tensor:
    """Return m(a), which rises linearly with the norm a over ``norm_range``, as radians.

    MagFace (arXiv:2103.06627, section 3.2): l_m + (u_m - l_m)(a - l_a) / (u_a - l_a).
    """
    (low, high), (low_rad, high_rad) = norm_range, margin_range_rad
    share = (widen(norms).clamp(low, high) - low) / (high - low)
    return low_rad + (high_rad - low_rad) * share


def magface_penalty(norms: Tensor, norm_range: tuple[float, float]) -> Tensor:
    """Return g(a) = a / u_a^2 + 1 / a, which falls up to u_a (arXiv:2103.06627, section 3.2)."""
    clipped = widen(norms).clamp(*norm_range)
    return clipped / norm_range[1] ** 2 + 1.0 / clipped


def curricular_threshold(cosines: Tensor, margin_rad: float) -> Tensor:
    """Return cos(theta_y + m): a negative whose cosine is larger is a hard one. No gradient."""
    return arcface(cosines.detach(), margin_rad, "wrap")


def curricular_negatives(cosines_BC: Tensor, threshold_B: Tensor, t: Tensor) -> Tensor:
    """Return c_j, or c_j (t + c_j) where c_j > cos(theta_y + m).

    CurricularFace (arXiv:2004.00288, eq. 8); ``t`` is the running mean of target cosines.
    """
    c = widen(cosines_BC)
    return torch.where(c > threshold_B[:, None], c * (t + c), c)


def elastic_margins(count: int, mean: float, std: float, seed: int, step: int) -> Tensor:
    """Return margins drawn from N(mean, std^2), float32, a pure function of (seed, step).

    ElasticFace (arXiv:2109.09416, section 3.2). Drawn on the CPU, so that every device and
    every rank sees the same ones.
    """
    source = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return mean + std * torch.randn(count, generator=source)
