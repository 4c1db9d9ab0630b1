"""How likely it is that a person's faces fall to labels as they do: a Polya urn and its fit.

The model is that of `facepipe.homes`, which says what it is for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lgamma, log

PRIOR_WRONG = 0.1  # share of wrong faces
PRIOR_SECOND, PRIOR_NONE = 0.02, 0.1  # share of people with two labels, and with none


@dataclass(slots=True)
class Urn:
    """What is known of the noise: see the module."""

    labels: int
    right: float = 1 - PRIOR_WRONG  # share of all faces
    away: float = PRIOR_WRONG / 2  # wrong, and of a person who has a label
    none: float = PRIOR_NONE
    alpha: float = 1.0
    second: float = PRIOR_SECOND

    def log_likelihood(self, faces: Spread) -> float:
        """Return how likely a person's faces are, given which of the labels are theirs."""
        value = lgamma(self.alpha) - lgamma(faces.away + self.alpha) + faces.away_terms
        if not faces.homes:
            return value + faces.away * log(1 - self.right) + log(self.none)
        value += faces.right * log(self.right) + faces.away * log(self.away)
        value += log(1 - self.none)
        # Uniform over the proportions of several homes; nothing for one.
        value += lgamma(faces.homes) - lgamma(faces.right + faces.homes) + faces.right_terms
        return value + (faces.homes - 1) * log(self.second) - faces.homes * log(self.labels)


@dataclass(slots=True)
class Spread:
    """How a person's faces fall to homes and to other labels: what the likelihood hangs on.

    One label more or less is one term: somebody may be in very many.
    """

    per: float  # of the urn: its concentration for one label
    homes: int = 0
    right: int = 0
    away: int = 0
    right_terms: float = 0.0
    away_terms: float = 0.0

    def put(self, count: int, *, home: bool, times: int = 1) -> None:
        """Add the faces of a label; ``times`` -1: take them out."""
        if home:
            self.homes += times
            self.right += times * count
            self.right_terms += times * lgamma(count + 1)
        else:
            self.away += times * count
            self.away_terms += times * (lgamma(count + self.per) - lgamma(self.per))

    def changed(self, count: int, *, home: bool) -> Spread:
        """Return the same with a label that is a home now, or is none any more."""
        found = replace(self)
        found.put(count, home=not home, times=-1)
        found.put(count, home=home)
        return found
