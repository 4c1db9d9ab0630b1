"""What a candidate has to show to become champion: compared on the same pairs, beyond chance.

Legend: P pairs, M models (the candidate, then the champion where there is one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from facepipe.bootstrap import CONFIDENCE, SAMPLES, Interval, paired_difference
from facepipe.det import supported, tar_differences
from facepipe.errors import UsageError
from facepipe.evaluate import tar_at_far


class PromotionSettings(BaseModel):
    """How sure a promotion has to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(CONFIDENCE, gt=0, lt=1)
    samples: int = Field(SAMPLES, ge=100, description="resamples of the bootstrap")
    seed: int = 0
    at_least: float | None = Field(None, ge=0, le=1, description="accuracy asked of a champion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What models made of the same pairs."""

    digest: str  # of crops, pairs and how they are embedded
    about: Mapping[str, object]  # the same for people, as JSON
    same_P: npt.NDArray[np.bool_]
    people_P2: npt.NDArray[np.int64]
    similarity_MP: npt.NDArray[np.float64]  # NaN: no face, which is wrong at every threshold
    right_MP: npt.NDArray[np.bool_]  # judged with the threshold of the other folds

    def evaluation(self) -> dict[str, object]:
        """Return what was evaluated on, as JSON."""
        return {"digest": self.digest, **self.about}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition of a promotion, and whether it holds."""

    name: str
    rule: str
    holds: bool
    candidate: float
    champion: float | None = None
    difference: Interval | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        gain = None if self.difference is None else self.difference._asdict()
        return asdict(self) | {"difference": gain}


def compare(scores: Scores, settings: PromotionSettings) -> tuple[Check, ...]:
    """Return the checks of a candidate, against the champion where there is one.

    It is better where the interval of the paired difference of accuracy, over people
    (`facepipe.bootstrap`), lies above 0; and not worse where that of TAR, at the lowest FAR that
    the pairs can show, does not lie below 0. Raises UsageError where they cannot show 0.1.
    """
    accuracy_M = scores.right_MP.mean(axis=1).tolist()
    checks = []
    if settings.at_least is not None:
        checks.append(
            Check(
                name="accuracy",
                rule=f"at least {settings.at_least:.2%}",
                holds=accuracy_M[0] >= settings.at_least,
                candidate=accuracy_M[0],
            )
        )
    if len(accuracy_M) == 1:
        return tuple(checks) or (_measured(accuracy_M[0]),)
    return (*checks, _accuracy(scores, accuracy_M, settings), _accepted(scores, settings))


def _measured(accuracy: float) -> Check:
    return Check(name="accuracy", rule="the first one", holds=True, candidate=accuracy)


def _accuracy(scores: Scores, accuracy_M: list[float], settings: PromotionSettings) -> Check:
    gain = paired_difference(
        scores.right_MP[0],
        scores.right_MP[1],
        scores.people_P2,
        samples=settings.samples,
        seed=settings.seed,
        confidence=settings.confidence,
    )
    return Check(
        name="accuracy",
        rule="better beyond chance",
        holds=gain.low > 0,
        candidate=accuracy_M[0],
        champion=accuracy_M[1],
        difference=gain,
    )


def _accepted(scores: Scores, settings: PromotionSettings) -> Check:
    impostors = int((~scores.same_P).sum())
    fars = supported(impostors)
    if not fars:
        raise UsageError(f"{impostors} mismatched pairs cannot show a FAR of 0.1: give 10 or more")
    far = fars[-1]
    change = tar_differences(
        scores.similarity_MP[0],
        scores.similarity_MP[1],
        scores.same_P,
        [far],
        scores.people_P2,
        samples=settings.samples,
        seed=settings.seed,
        confidence=settings.confidence,
    )[0]
    tar_M = [tar_at_far(one_P, scores.same_P, far).tar for one_P in scores.similarity_MP]
    return Check(
        name=f"TAR at FAR {far:g}",
        rule="not worse beyond chance",
        holds=change.high >= 0,
        candidate=tar_M[0],
        champion=tar_M[1],
        difference=change,
    )
