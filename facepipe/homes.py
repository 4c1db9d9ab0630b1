"""Whom each label means, when faces of several people lie under it and a person under several.

A person is found under many labels: rightly under their own (or own two), wrongly elsewhere.
The noise of a collection may scatter a person's wrong faces over all labels, or send them all
to one, that of a look-alike, where they can outnumber its own person. So the largest group
of a label is not always whom it means. Labels are given so that what is seen is most likely:

- a face is right, or wrong and of somebody who has a label, or of somebody who has none, with
  three probabilities;
- wrong faces of a person fall to labels as drawn from a Polya urn (Dirichlet-multinomial)
  over all labels with concentration alpha: small, where they go together. All are fitted;
- a person with two labels has faces in both in unknown proportion: the flat Dirichlet prior.

Legend: E pairs (person, label) with faces, P people, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt

from facepipe.urn import PRIOR_NONE, PRIOR_SECOND, PRIOR_WRONG, Spread, Urn

Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

FIT_ROUNDS = 3
LARGEST_BLOCK = 3000  # people or labels in one exact assignment: a second; else the greedy one
TOGETHER_ALPHA = 1.0  # of two wrong faces of a person, every other pair is under one label
CLEAR_LOG_ODDS = 4.6  # 99 to 1
ALPHAS = 10.0 ** np.arange(-1, 7)  # of the urn
PRIOR_FACES, PRIOR_PEOPLE = 20.0, 20.0  # what the priors of facepipe.urn are worth
PRIOR_EMPTY = 0.02  # share of labels without a face of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many faces of each person lie under each label, as a sparse table without zeros."""

    person_E: Int64
    label_E: Int64
    count_E: Int64
    people: int
    labels: int
    nobody: int  # faces that are of no person found

    @classmethod
    def of(cls, person_N: Int64, label_N: Int64, people: int, labels: int) -> Counts:
        """Count faces; those of nobody (-1) do not count."""
        known = person_N >= 0
        key, count = np.unique(person_N[known] * labels + label_N[known], return_counts=True)
        return cls(
            person_E=key // max(labels, 1),
            label_E=key % max(labels, 1),
            count_E=count,
            people=people,
            labels=labels,
            nobody=int((~known).sum()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """The person each label means, -1 where nobody is found, and how sure a second label is.

    log_odds_L: how much likelier it is that a person who has another label has this one too;
    infinite for a person's only label. together: wrong faces of a person are under one label
    rather than anywhere, so that many faces of somebody do not make a label theirs.
    """

    person_L: Int64
    log_odds_L: Float
    together: bool

    @property
    def clear_L(self) -> npt.NDArray[np.bool_]:
        """Return whose second labels are beyond doubt, and first ones."""
        clear_L: npt.NDArray[np.bool_] = self.log_odds_L >= (CLEAR_LOG_ODDS if self.together else 0)
        return clear_L


def find_owners(counts: Counts) -> Owners:
    """Find whom each label means.

    First every person gets at most one label, each label one person, so that most faces are
    right. Then a label may go to somebody who has one already, where that is likelier.
    """
    owner_L, odds_L = np.full(counts.labels, -1), np.full(counts.labels, np.inf)
    if not len(counts.count_E):
        return Owners(person_L=owner_L, log_odds_L=odds_L, together=False)
    urn = Urn(labels=counts.labels)
    first_L = _assign(counts, counts.count_E.astype(np.float64))
    for _ in range(FIT_ROUNDS):
        owner_L = first_L.copy()
        odds_L = _second_labels(counts, owner_L, urn)
        _refit(counts, owner_L, urn)
    together = urn.alpha <= TOGETHER_ALPHA
    return Owners(person_L=owner_L, log_odds_L=odds_L, together=together)


def _spreads(counts: Counts, wanted: Int64, owner_L: Int64, urn: Urn) -> dict[int, Spread]:
    """Return how the faces of some people fall to their homes and to other labels."""
    per = urn.alpha / urn.labels
    found: dict[int, Spread] = {}
    for person in wanted.tolist():
        start, end = np.searchsorted(counts.person_E, (person, person + 1))
        spread = found[person] = Spread(per)
        homes = (owner_L[counts.label_E[start:end]] == person).tolist()
        for count, home in zip(counts.count_E[start:end].tolist(), homes, strict=True):
            spread.put(count, home=home)
    return found


def _assign(counts: Counts, gain_E: Float) -> Int64:
    """Give each person at most one label and each label one person: the highest sum of gains.

    A pair that has more to gain than the next best of its person and the next best of its label
    together is in every best assignment. Those are taken, again and again; what is left falls
    into blocks that share neither person nor label.
    """
    owner_L = np.full(counts.labels, -1)
    left = np.arange(len(gain_E))
    while True:
        person, label, gain = counts.person_E[left], counts.label_E[left], gain_E[left]
        rest = _next_best(person, gain, counts.people) + _next_best(label, gain, counts.labels)
        sure = gain > rest
        if not sure.any():
            break
        owner_L[label[sure]] = person[sure]
        taken_P = np.zeros(counts.people, dtype=bool)
        taken_P[person[sure]] = True
        left = left[~taken_P[person] & (owner_L[label] < 0)]
    for block in _blocks(counts, left):
        _assign_block(counts, gain_E, block, owner_L)
    return owner_L


def _next_best(group_E: Int64, gain_E: Float, groups: int) -> Float:
    """Return for each pair the highest gain of the *other* pairs of its group; 0 for none."""
    order = np.lexsort((-gain_E, group_E))
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.diff(group_E[order]) > 0
    best, second = np.zeros(groups), np.zeros(groups)
    best[group_E[order[first]]] = gain_E[order[first]]
    runner = np.flatnonzero(np.append(False, first[:-1]) & ~first)
    second[group_E[order[runner]]] = gain_E[order[runner]]
    other_E = best[group_E]
    other_E[order[first]] = second[group_E[order[first]]]
    return other_E


def _blocks(counts: Counts, left: Int64) -> list[Int64]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(left):
        return []
    nodes = counts.people + counts.labels
    ends = (counts.person_E[left], counts.people + counts.label_E[left])
    graph = coo_array((np.ones(len(left)), ends), shape=(nodes, nodes))
    block_E = connected_components(graph, directed=False)[1][ends[0]]
    order = np.argsort(block_E, kind="stable")
    cuts = np.flatnonzero(np.diff(block_E[order])) + 1
    return [left[rows] for rows in np.split(order, cuts)]


def _assign_block(counts: Counts, gain_E: Float, block: Int64, owner_L: Int64) -> None:
    from scipy.optimize import linear_sum_assignment

    person, place = np.unique(counts.person_E[block], return_inverse=True)
    label, column = np.unique(counts.label_E[block], return_inverse=True)
    if max(len(person), len(label)) > LARGEST_BLOCK:
        taken = set()
        for row in block[np.argsort(-gain_E[block], kind="stable")]:
            if owner_L[counts.label_E[row]] < 0 and counts.person_E[row] not in taken:
                owner_L[counts.label_E[row]] = counts.person_E[row]
                taken.add(counts.person_E[row])
        return
    table = np.zeros((len(person), len(label)))
    table[place, column] = gain_E[block]
    rows, columns = linear_sum_assignment(table, maximize=True)
    good = table[rows, columns] > 0
    owner_L[label[columns[good]]] = person[rows[good]]


def _second_labels(counts: Counts, owner_L: Int64, urn: Urn) -> Float:
    """Give labels to people who have another one already, where that is more likely.

    To the largest group in a label, from nobody or from a smaller group, the largest first.
    """
    odds_L = np.full(counts.labels, np.inf)
    largest_L, held_L = np.zeros(counts.labels, np.int64), np.zeros(counts.labels, np.int64)
    np.maximum.at(largest_L, counts.label_E, counts.count_E)
    own_E = owner_L[counts.label_E] == counts.person_E
    held_L[counts.label_E[own_E]] = counts.count_E[own_E]
    wanted_E = (counts.count_E == largest_L[counts.label_E]) & (counts.count_E > 1)
    row_E = np.flatnonzero(wanted_E & (counts.count_E > held_L[counts.label_E]))
    order = np.lexsort((counts.person_E[row_E], counts.label_E[row_E], -counts.count_E[row_E]))
    asked = np.unique(np.append(counts.person_E[row_E], owner_L[counts.label_E[row_E]]))
    people = _spreads(counts, asked[asked >= 0], owner_L, urn)
    for row in row_E[order]:
        person, label = int(counts.person_E[row]), int(counts.label_E[row])
        loser, count = int(owner_L[label]), int(counts.count_E[row])
        if np.isfinite(odds_L[label]):
            continue  # has gone to one as large
        gains = people[person].changed(count, home=True)
        odds = log(1 / PRIOR_EMPTY)
        loses = None if loser < 0 else people[loser].changed(int(held_L[label]), home=False)
        if loses is not None:
            odds = urn.log_likelihood(loses) - urn.log_likelihood(people[loser])
        odds += urn.log_likelihood(gains) - urn.log_likelihood(people[person])
        if odds > 0:
            owner_L[label], odds_L[label] = person, odds if people[person].homes else np.inf
            held_L[label], people[person] = count, gains
            if loses is not None:
                people[loser] = loses
    return odds_L


def _refit(counts: Counts, owner_L: Int64, urn: Urn) -> None:
    """Fit the noise to people who have a label, and how many have two or none."""
    own_E = owner_L[counts.label_E] == counts.person_E
    homes_P = np.bincount(counts.person_E, own_E, minlength=counts.people)
    known_E = homes_P[counts.person_E] > 0
    right = float(counts.count_E[own_E].sum())
    away = float(counts.count_E[known_E & ~own_E].sum())
    total = counts.nobody + float(counts.count_E.sum()) + PRIOR_FACES
    urn.right = (right + (1 - PRIOR_WRONG) * PRIOR_FACES) / total
    urn.away = (away + PRIOR_WRONG / 2 * PRIOR_FACES) / total
    found = len(np.unique(counts.person_E))
    urn.none = (found - float((homes_P > 0).sum()) + PRIOR_NONE * PRIOR_PEOPLE) / (
        found + PRIOR_PEOPLE
    )
    homed = float((homes_P > 0).sum()) + PRIOR_PEOPLE
    urn.second = (float((homes_P > 1).sum()) + PRIOR_SECOND * PRIOR_PEOPLE) / homed
    own_P, other_P = np.zeros(counts.people), np.zeros(counts.people)
    np.maximum.at(own_P, counts.person_E[own_E], counts.count_E[own_E])
    np.maximum.at(other_P, counts.person_E[~own_E], counts.count_E[~own_E])
    # Of who has more elsewhere than at home, that may be the home.
    clear_E = (own_P > other_P)[counts.person_E] & ~own_E
    urn.alpha = float(ALPHAS[int(np.argmax(_urn_fit(counts, clear_E, urn.second)))])


def _urn_fit(counts: Counts, away_E: npt.NDArray[np.bool_], second: float) -> Float:
    """Return the log likelihood of the wrong faces for each of ALPHAS.

    A person may have a second label that is not known as such yet: with that probability any
    concentration is as good as the best.
    """
    from scipy.special import gammaln

    count_E, person_E = counts.count_E[away_E], counts.person_E[away_E]
    total_P = np.bincount(person_E, count_E, minlength=counts.people)
    per = ALPHAS[:, None] / counts.labels
    each_AE = gammaln(count_E + per) - gammaln(per)
    value_AP = np.stack(
        [np.bincount(person_E, each_E, counts.people).astype(np.float64) for each_E in each_AE]
    )
    value_AP += gammaln(ALPHAS[:, None]) - gammaln(total_P + ALPHAS[:, None])
    best_P = value_AP.max(axis=0) + log(second)
    fitted: Float = np.logaddexp(value_AP, best_P).sum(axis=1)
    return fitted
