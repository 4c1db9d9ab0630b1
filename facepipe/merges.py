"""Which groups of faces are one person: centres that come nearer than different people's do.

How near centres of different people come is measured on the data at hand. Of all pairs that
are compared, so many are taken that no more than FALSE_SHARE of them are expected to be two
people (Benjamini and Hochberg 1995). The most alike come first, and a group grows only by
what is as near to the centre of all of it and like each of its members: no chains.

Legend: M groups (modes of labels, or people), D dimensions, K neighbours, C pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from facepipe.centres import Float, Float32, Int64
from facepipe.impostors import Impostors
from facepipe.near_centres import NearCentres
from facepipe.neighbors import unit_rows

FALSE_SHARE = 0.001  # of joined pairs, expected to be two people: one takes many faces along
DOUBTFUL_SHARE = 0.5  # pairs up to here are ambiguous
ROUNDING = 1e-3  # of a rate, from that of cosines in float32
NEIGHBOURS = 8  # a pair is compared if each is among so many nearest of the other
TAIL_PAIRS = 1 << 17  # of centres, to measure how near those of different people come
TAIL_SHARE = 0.01  # the tail begins at the cosine that one impostor pair in a hundred has
# What is known beforehand counts as so many pairs; of fewer, those of one person are the tail.
TAIL_PRIOR_PAIRS = 2000.0
TAIL_SEED = 1
# From the middle, in standard deviations below it: beyond are pairs of one person. The nearest
# strangers of a hundred million pairs are at 6 by the tail above.
TAIL_END_STDS = 6.0
# A normal distribution's tail, from 2.33 standard deviations on.
LOW_SHARE = 0.16  # of a normal distribution, one standard deviation below its middle
PRIOR_BASE_STDS, PRIOR_SCALE_STDS = 2.326, 0.375
SIZE_STEPS = (1.0, 3.0, 6.0)  # effective faces of the smaller of two centres


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRules:
    """What a person has said, or an earlier run found, about labels.

    same, different: pairs of source labels that are, or are not, one person. survivors: the
    identity that a label had in an earlier run, so that names stay with people.
    """

    same: tuple[tuple[str, str], ...] = ()
    different: tuple[tuple[str, str], ...] = ()
    survivors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """How often centres of different people are as near as that, by the size of the smaller.

    The share of pairs over cosine c is TAIL_SHARE * exp((base - c) / scale): on LFW that holds
    from one pair in a hundred to the nearest of all 43,000.
    """

    base_S: Float
    scale_S: Float

    def rate(self, cosine_C: Float, size_C: Float) -> Float:
        """Return the share of impostor pairs that are at least so near."""
        step_C = np.searchsorted(SIZE_STEPS[1:], size_C, side="right")
        over_C = (cosine_C - self.base_S[step_C]) / self.scale_S[step_C]
        rate_C: Float = np.where(over_C > 0, TAIL_SHARE * np.exp(-np.clip(over_C, 0.0, 700.0)), 1.0)
        return rate_C


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Groups of M that are one person, and the pairs that were looked at.

    person_M: rising from 0, by first member. Of each pair: its two ends (first < second), the
    cosine of their centres, the worse mutual rank, the expected share of false ones among
    pairs as near as this, and whether they are joined.
    """

    person_M: Int64
    first_C: Int64
    second_C: Int64
    cosine_C: Float
    rank_C: Int64
    false_C: Float
    joined_C: npt.NDArray[np.bool_]


def measure_tail(centres_MD: Float32, size_M: Float, label_M: Int64, prior: Impostors) -> Tail:
    """Measure cosines of centres of different labels, drawn evenly from all pairs.

    Pairs of one person, be they many, lie beyond TAIL_END_STDS and are left out.
    """
    cosine, size = [np.empty(0, np.float32)], [np.empty(0)]
    for other_M in _partners(len(centres_MD)):
        fit = label_M != label_M[other_M]
        cosine.append(np.einsum("md,md->m", centres_MD[fit], centres_MD[other_M[fit]]))
        size.append(np.minimum(size_M, size_M[other_M])[fit])
    cosine_C, size_C = np.concatenate(cosine).astype(np.float64), np.concatenate(size)
    step_C = np.searchsorted(SIZE_STEPS[1:], size_C, side="right")
    base = prior.mean + PRIOR_BASE_STDS * prior.std
    every = _tail(cosine_C, base, PRIOR_SCALE_STDS * prior.std)
    steps = [_tail(cosine_C[step_C == step], *every) for step in range(len(SIZE_STEPS))]
    bases, scales = zip(*steps, strict=True)
    return Tail(base_S=np.array(bases), scale_S=np.array(scales))


def _partners(total: int) -> Iterator[Int64]:
    """Yield a partner for each centre, again and again: all pairs, or TAIL_PAIRS of them.

    Drawn, and not at a distance: centres are by name, and neighbours by name may be one person.
    """
    count = max(1, TAIL_PAIRS // max(total, 1))
    if count >= total - 1:
        yield from (np.roll(np.arange(total), -stride) for stride in range(1, total))
        return
    rng = np.random.default_rng(TAIL_SEED)
    yield from (rng.permutation(total) for _ in range(count))


def _tail(cosine_C: Float, base: float, scale: float) -> tuple[float, float]:
    """Return where the tail begins and its scale, leaning on those given."""
    if len(cosine_C):
        low, middle = np.quantile(cosine_C, (LOW_SHARE, 0.5))
        cosine_C = cosine_C[cosine_C <= middle + TAIL_END_STDS * (middle - low)]
    if len(cosine_C) < TAIL_PRIOR_PAIRS:
        return base, scale
    trust = len(cosine_C) / (len(cosine_C) + TAIL_PRIOR_PAIRS)
    measured = float(np.quantile(cosine_C, 1 - TAIL_SHARE))
    over = cosine_C[cosine_C > measured] - measured
    median = float(np.median(over) / np.log(2)) if len(over) else scale
    return trust * measured + (1 - trust) * base, trust * median + (1 - trust) * scale


def link(
    sums_MD: Float32,
    size_M: Float,
    label_M: Int64,
    prior: Impostors,
    apart: tuple[tuple[int, int], ...] = (),
    together: tuple[tuple[int, int], ...] = (),
    *,
    threads: int = 1,
) -> Links:
    """Find the groups of M that are one person.

    apart, together: pairs (first < second) of M that a person has decided on.
    """
    centres_MD = unit_rows(sums_MD)
    tail = measure_tail(centres_MD, size_M, label_M, prior)
    first_C, second_C, rank_C = _pairs(centres_MD, label_M, threads)
    cosine_C = np.einsum("cd,cd->c", centres_MD[first_C], centres_MD[second_C]).astype(np.float64)
    smaller_C = np.minimum(size_M[first_C], size_M[second_C])
    rate_C = tail.rate(cosine_C, smaller_C)
    inside_C = label_M[first_C] == label_M[second_C]
    false_C, limit_C = np.ones(len(rate_C)), np.zeros(len(rate_C))
    total = len(sums_MD) * (len(sums_MD) - 1) / 2
    for which, compared in ((inside_C, float(inside_C.sum())), (~inside_C, total)):
        false_C[which] = false_share(rate_C[which], compared)
        taken = rate_C[which & (false_C <= FALSE_SHARE)].max(initial=0.0)
        # The centre of a group is a little elsewhere than those of its pairs.
        limit_C[which] = max(taken, FALSE_SHARE / max(compared, 1.0))
    groups = _Groups(sums_MD.astype(np.float64), size_M, tail, apart)
    for pair in together:
        groups.join(*pair)
    joined_C = np.zeros(len(rate_C), dtype=bool)
    good = np.flatnonzero(false_C <= FALSE_SHARE)
    for pair in good[np.lexsort((second_C[good], first_C[good], rate_C[good]))]:
        joined_C[pair] = groups.try_join(int(first_C[pair]), int(second_C[pair]), limit_C[pair])
    root_M = np.array([groups.root(m) for m in range(len(sums_MD))], np.int64)
    return Links(
        person_M=np.unique(root_M, return_inverse=True)[1].astype(np.int64),
        first_C=first_C,
        second_C=second_C,
        cosine_C=cosine_C,
        rank_C=rank_C,
        false_C=false_C,
        joined_C=joined_C,
    )


def false_share(rate_C: Float, compared: float) -> Float:
    """Return for each pair the expected share of false ones among those as near (q-value)."""
    order = np.argsort(rate_C, kind="stable")
    share = compared * rate_C[order] / np.arange(1, len(order) + 1)
    share_C = np.empty(len(order))
    share_C[order] = np.minimum.accumulate(share[::-1])[::-1]
    return np.minimum(share_C, 1.0)


def _pairs(centres_MD: Float32, label_M: Int64, threads: int) -> tuple[Int64, Int64, Int64]:
    """Return pairs that are among each other's NEIGHBOURS, or of one label, and their rank."""
    near = NearCentres(centres_MD, len(centres_MD), threads)
    near_MK = near.find(centres_MD, NEIGHBOURS + 1)
    total, kept = near_MK.shape if near_MK.size else (0, 0)
    one_E, rank_E = np.repeat(np.arange(total), kept), np.tile(np.arange(kept), total)
    two_E = near_MK.ravel()
    # A copy of oneself may come before oneself: ranks count the others only.
    other = one_E != two_E
    one_E, two_E, rank_E = one_E[other], two_E[other], np.maximum(rank_E[other], 1)
    key_E = np.minimum(one_E, two_E) * total + np.maximum(one_E, two_E)
    key_C, place_E, seen_C = np.unique(key_E, return_inverse=True, return_counts=True)
    rank_C = np.zeros(len(key_C), np.int64)
    np.maximum.at(rank_C, place_E, rank_E)
    same = _same_label(label_M)
    key_all = np.union1d(key_C[seen_C == 2], same)
    rank_all = np.full(len(key_all), NEIGHBOURS + 1)
    rank_all[np.searchsorted(key_all, key_C[seen_C == 2])] = rank_C[seen_C == 2]
    return key_all // max(total, 1), key_all % max(total, 1), rank_all


def _same_label(label_M: Int64) -> Int64:
    """Return the keys of pairs of one label."""
    order = np.argsort(label_M, kind="stable")
    keys = [np.empty(0, np.int64)]
    for apart in range(1, len(order)):
        one, two = order[:-apart], order[apart:]
        fit = (label_M[one] == label_M[two]) & (label_M[one] >= 0)
        if not fit.any():
            break
        keys.append(np.minimum(one, two)[fit] * len(order) + np.maximum(one, two)[fit])
    return np.concatenate(keys)


class _Groups:
    """Groups that grow by pairs, with the centre of all of each."""

    def __init__(
        self, sums_MD: Float, size_M: Float, tail: Tail, apart: tuple[tuple[int, int], ...]
    ) -> None:
        self.parent = np.arange(len(sums_MD))
        self.sums: dict[int, Float] = {}
        self.members: dict[int, list[int]] = {}
        self.first_MD, self.first_size_M, self.tail = sums_MD, size_M, tail
        self.size_M = size_M.copy()
        self.foes: dict[int, set[int]] = {}
        for a, b in apart:
            self.foes.setdefault(a, set()).add(b)
            self.foes.setdefault(b, set()).add(a)

    def root(self, member: int) -> int:
        while self.parent[member] != member:
            self.parent[member] = self.parent[self.parent[member]]
            member = int(self.parent[member])
        return member

    def _sum(self, root: int) -> Float:
        found: Float = self.sums.get(root, self.first_MD[root])
        return found

    def join(self, a: int, b: int) -> None:
        a, b = sorted((self.root(a), self.root(b)))
        if a == b:
            return
        self.sums[a] = self._sum(a) + self._sum(b)
        self.members[a] = self._members(a) + self._members(b)
        self.members.pop(b, None)
        self.sums.pop(b, None)
        self.parent[b] = a
        self.size_M[a] += self.size_M[b]
        foes = self.foes.get(a, set()) | self.foes.pop(b, set())
        if foes:
            self.foes[a] = foes

    def try_join(self, a: int, b: int, limit: float) -> bool:
        """Join two groups whose centres are as near as the limit asks; True if they are one."""
        a, b = self.root(a), self.root(b)
        if a == b:
            return True
        if any(self.root(foe) == b for foe in self.foes.get(a, ())):
            return False
        one, two = self._sum(a), self._sum(b)
        length = np.sqrt(float(one @ one) * float(two @ two))
        cosine = np.array([float(one @ two) / max(length, 1e-12)])
        rate = float(self.tail.rate(cosine, np.minimum(self.size_M[[a]], self.size_M[[b]]))[0])
        if rate > limit * (1 + ROUNDING) or not self._all_alike(a, b):
            return False
        self.join(a, b)
        return True

    def _members(self, root: int) -> list[int]:
        return self.members.get(root, [root])

    def _all_alike(self, a: int, b: int) -> bool:
        """Return whether no member of one group is as far from one of the other as strangers are.

        The centre of a group moves with what joins it: that alone would let a chain grow.
        """
        one, two = (unit_rows(self.first_MD[self._members(x)]) for x in (a, b))
        least = np.array([float(np.einsum("ad,bd->ab", one, two).min())])
        largest = np.array([max(self.first_size_M[self._members(a) + self._members(b)])])
        return bool(self.tail.rate(least, largest)[0] < TAIL_SHARE)
