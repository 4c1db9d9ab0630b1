"""The losses of bench_losses.py: their settings, and the few values that each may choose among.

Every family has as many tries, all on people who do not count in the end: two learning rates by
two values of the one setting that matters most to it, the first of which is the paper's; where
there is no such setting, four learning rates. The paper's scale of 64 is made for tens of
thousands of people; AdaCos (arXiv:1905.00292, eq. 12) derives sqrt(2) ln(C - 1), 9.5 for 840, as
the least that can fit C people, so that 16 is on its safe side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Terms = Mapping[str, Any]  # of `head`, `metric` and `center`: the settings of each part

RATES = (1e-3, 3e-3)
FOUR_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
SCALES = (64.0, 16.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A loss: what it is made of at a value of its setting, and what is tried."""

    name: str
    group: str  # in which panel of the figure
    title: str
    terms: Callable[[float], Terms]
    setting: str = ""
    values: tuple[float, ...] = (0.0,)
    rates: tuple[float, ...] = RATES

    @property
    def pairs(self) -> bool:
        """Return whether a batch must hold several faces of a person."""
        return "head" not in self.terms(self.values[0])

    def tries(self) -> list[tuple[float, float]]:
        """Return the (learning rate, value) that are tried."""
        return [(rate, value) for value in self.values for rate in self.rates]


def head(name: str, *, setting: str = "scale", **others: Any) -> Callable[[float], Terms]:
    """Return the terms of a class loss at a value of one setting of its margin."""
    outside = {key: others.pop(key) for key in ("sub_centers", "label_smoothing") if key in others}
    return lambda value: {"head": {"margin": {"name": name, setting: value, **others}, **outside}}


def plain(**others: Any) -> Callable[[float], Terms]:
    """Return the terms of softmax, which has no setting."""
    return lambda _: {"head": {"margin": {"name": "softmax"}, **others}}


def metric(name: str, setting: str, **others: Any) -> Callable[[float], Terms]:
    """Return the terms of a loss on pairs or triplets at a value of one setting."""
    return lambda value: {"metric": {"name": name, setting: value, **others}}


def with_center(value: float) -> Terms:
    """Return the terms of softmax and the center loss."""
    return {"head": {"margin": {"name": "softmax"}}, "center": {"weight": value}}


def _scaled(name: str, title: str, loss: str, **others: Any) -> Family:
    return Family(
        name=name,
        group="margins",
        title=title,
        terms=head(loss, **others),
        setting="s",
        values=SCALES,
    )


# gamma 0.12 is SphereFace's code, for 28,000 steps; at ten times that lambda reaches its floor of
# 5 within these runs.
GAMMAS = (0.12, 1.2)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(name="softmax", group="softmax", title="softmax", terms=plain(), rates=FOUR_RATES),
        Family(
            name="softmax_smoothed",
            group="softmax",
            title="softmax, label smoothing 0.1",
            terms=plain(label_smoothing=0.1),
            rates=FOUR_RATES,
        ),
        Family(
            name="center",
            group="softmax",
            title="softmax + center loss",
            terms=with_center,
            setting="weight",
            values=(0.003, 0.03),
        ),
        Family(
            name="normface",
            group="softmax",
            title="NormFace",
            terms=head("normface"),
            setting="s",
            values=SCALES,
        ),
        Family(
            name="lsoftmax",
            group="softmax",
            title="L-Softmax, m 4",
            terms=head("lsoftmax", setting="lambda_gamma"),
            setting="gamma",
            values=GAMMAS,
        ),
        Family(
            name="sphereface",
            group="softmax",
            title="SphereFace, m 4",
            terms=head("sphereface", setting="lambda_gamma"),
            setting="gamma",
            values=GAMMAS,
        ),
        _scaled("cosface", "CosFace, m 0.35", "cosface", margin=0.35),
        _scaled("arcface", "ArcFace, m 0.5", "arcface"),
        _scaled("arcface_detached", "ArcFace, detached", "arcface", gradient="detached"),
        _scaled("combined", "combined 1, 0.3, 0.2", "combined"),
        _scaled("subcenter", "sub-center ArcFace, K 3", "arcface", sub_centers=3),
        _scaled("dynamic", "dynamic margin", "dynamic"),
        _scaled("adaface", "AdaFace", "adaface"),
        _scaled("magface", "MagFace", "magface"),
        _scaled("curricularface", "CurricularFace", "curricularface"),
        _scaled("elasticface", "ElasticFace-Arc", "elasticface"),
        Family(
            name="contrastive",
            group="pairs",
            title="contrastive",
            terms=metric("contrastive", "margin"),
            setting="margin",
            values=(1.0, 1.3),
        ),
        Family(
            name="triplet",
            group="pairs",
            title="triplet, semi-hard",
            terms=metric("triplet", "margin"),
            setting="margin",
            values=(0.2, 0.5),
        ),
        Family(
            name="angular_triplet",
            group="pairs",
            title="angular triplet, semi-hard",
            terms=metric("angular_triplet", "margin_rad"),
            setting="margin",
            values=(0.2, 0.5),
        ),
    )
}
REFERENCE = "arcface"
