"""Labels that are one person: groups, the identity each keeps, and the pairs to look at.

Legend: N faces (rows sorted by label), L labels, C pairs of labels, D dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facepipe.centres import Float, Float32, Int64, LabelledFaces
from facepipe.identities import Identified, Pairs
from facepipe.merges import DOUBTFUL_SHARE, NEIGHBOURS, LabelRules
from facepipe.mixture import logistic
from facepipe.near_centres import NearCentres
from facepipe.neighbors import unit_rows
from facepipe.people import gather
from facepipe.schema import LABEL_PAIRS, PairVerdict

SUPPORT_FACES = 8  # of each label whose pairs are compared, evenly spread
MIN_SUPPORT = 0.5  # share of face pairs that match by themselves, for labels that may be one


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelGroups:
    """Labels that are one person.

    survivor_L: the label that the faces of each label go to, itself for most. identity_L: the
    name of its identity. similarity_L: cosine of the centres of label and survivor, NaN for the
    survivor itself. pairs: schema.LABEL_PAIRS.
    """

    survivor_L: Int64
    similarity_L: Float
    identity_L: list[str]
    pairs: pa.Table


def label_pairs_of(rules: LabelRules | None, names: list[str]) -> tuple[Pairs, Pairs]:
    """Return the pairs of labels that a person says are apart, and together, by their place."""
    place = {name: label for label, name in enumerate(names)}

    def known(pairs: tuple[tuple[str, str], ...]) -> Pairs:
        found = [sorted((place[a], place[b])) for a, b in pairs if a in place and b in place]
        return tuple(sorted({(a, b) for a, b in found if a != b}))

    rules = LabelRules() if rules is None else rules
    return known(rules.different), known(rules.same)


def group_labels(found: Identified, names: list[str], rules: LabelRules | None) -> LabelGroups:
    """Group the labels whose person is one, as far as the evidence is clear, and name them."""
    faces = found.faces
    apart, together = label_pairs_of(rules, names)
    members_L = np.bincount(faces.label_N[found.own_N], minlength=faces.labels).astype(np.int64)
    looked = _looked_at(found, members_L, apart)
    keys = np.array(sorted({*looked, *apart, *together}), np.int64).reshape(-1, 2)
    evidence = _Evidence.of(found, members_L, keys)
    parent, foes = list(range(faces.labels)), _Foes(apart)
    rows = []
    said = {pair: True for pair in together} | {pair: False for pair in apart}
    by_person = [(int(a), int(b)) in together for a, b in keys]
    first = sorted(range(len(keys)), key=lambda c: (not by_person[c], -evidence.sure_C[c], c))
    for c in first:
        pair = (int(keys[c, 0]), int(keys[c, 1]))
        one_person = looked.get(pair, False) and evidence.support_C[c] >= MIN_SUPPORT
        roots = (_root(parent, pair[0]), _root(parent, pair[1]))
        merged = said.get(pair, one_person) and not foes.are(*roots)
        verdict = PairVerdict.MERGED if merged else PairVerdict.AMBIGUOUS
        if not merged and (one_person or said.get(pair) is False):
            verdict = PairVerdict.REFUSED
        if merged:
            a, b = sorted(roots)
            parent[b] = a
            foes.join(a, b)
        if verdict == PairVerdict.AMBIGUOUS and evidence.support_C[c] < MIN_SUPPORT:
            continue  # as near as the nearest of so many strangers are
        rows.append((pair, verdict, 1.0 if pair in said else float(evidence.sure_C[c]), c))
    root_L = np.array([_root(parent, label) for label in range(faces.labels)], np.int64)
    survivor_L = _survivors(root_L, members_L, names, rules)
    return LabelGroups(
        survivor_L=survivor_L,
        similarity_L=_similarities(found, members_L, survivor_L),
        identity_L=_identities(survivor_L, members_L, names, rules),
        pairs=_table(sorted(rows), evidence, names),
    )


def _looked_at(found: Identified, members_L: Int64, apart: Pairs) -> dict[tuple[int, int], bool]:
    """Return pairs of labels that may be one person, and whether they are taken to be."""
    owner_L, pairs = found.owners.person_L, {}
    labels_of: dict[int, list[int]] = defaultdict(list)
    for label in np.flatnonzero(owner_L >= 0).tolist():
        labels_of[int(owner_L[label])].append(label)
    for labels in labels_of.values():
        main = max(labels, key=lambda label: (members_L[label], -label))
        for label in labels:
            if label != main:
                clear = bool(found.owners.clear_L[[main, label]].all())
                pairs[min(main, label), max(main, label)] = clear
    links = found.links
    near = (links.false_C <= DOUBTFUL_SHARE) & ~links.joined_C
    ends = (links.person_M[links.first_C[near]], links.person_M[links.second_C[near]])
    for a, b in zip(ends[0].tolist(), ends[1].tolist(), strict=True):
        for one in labels_of.get(a, [])[:1]:
            for two in labels_of.get(b, [])[:1]:
                pairs.setdefault((min(one, two), max(one, two)), False)
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """What the pairs of labels show."""

    cosine_C: Float
    support_C: Float
    rank_C: Int64
    sure_C: Float

    @classmethod
    def of(cls, found: Identified, members_L: Int64, keys: Int64) -> _Evidence:
        faces, owner_L = found.faces, found.owners.person_L
        if not len(keys):
            none = np.empty(0)
            return cls(cosine_C=none, support_C=none, rank_C=np.empty(0, np.int64), sure_C=none)
        label_N, centres_LD = _label_centres(found, members_L)
        one, two = keys[:, 0], keys[:, 1]
        cosine_C = np.einsum("cd,cd->c", centres_LD[one], centres_LD[two]).astype(np.float64)
        same_C = (owner_L[one] == owner_L[two]) & (owner_L[one] >= 0)
        odds_C = np.minimum(found.owners.log_odds_L[one], found.owners.log_odds_L[two])
        return cls(
            cosine_C=cosine_C,
            support_C=_support(faces, label_N, found.floors.pair, keys),
            rank_C=_ranks(centres_LD, one, two),
            sure_C=np.where(same_C, logistic(odds_C), _link_confidence(found, one, two)),
        )


def _label_centres(found: Identified, members_L: Int64) -> tuple[Int64, Float32]:
    """Return the label each face stands for (-1: none) and the centres of labels, (L, D).

    Of a label whose person is not found all faces stand for it.
    """
    faces, own_N = found.faces, found.own_N
    label_N = np.where(own_N | (members_L[faces.label_N] == 0), faces.label_N, -1)
    sums_LD = gather(faces, label_N, np.where(own_N, found.people.weight_N, 1.0)).sums_PD
    return label_N, unit_rows(np.pad(sums_LD, ((0, faces.labels - len(sums_LD)), (0, 0))))


def _similarities(found: Identified, members_L: Int64, survivor_L: Int64) -> Float:
    """Return the cosine of each label's centre and its survivor's."""
    similarity_L = np.full(len(survivor_L), np.nan)
    gone = np.flatnonzero(survivor_L != np.arange(len(survivor_L)))
    if len(gone):
        _, centres_LD = _label_centres(found, members_L)
        similarity_L[gone] = np.einsum("cd,cd->c", centres_LD[gone], centres_LD[survivor_L[gone]])
    return similarity_L


def _link_confidence(found: Identified, one: Int64, two: Int64) -> Float:
    links, owner_L = found.links, found.owners.person_L
    first_C, second_C = links.person_M[links.first_C], links.person_M[links.second_C]
    false: dict[tuple[int, int], float] = {}
    for a, b, share in zip(first_C.tolist(), second_C.tolist(), links.false_C, strict=True):
        false[min(a, b), max(a, b)] = min(float(share), false.get((min(a, b), max(a, b)), 1.0))
    people = [sorted((int(owner_L[a]), int(owner_L[b]))) for a, b in zip(one, two, strict=True)]
    return np.array([1 - false.get((a, b), 1.0) for a, b in people])


def _support(faces: LabelledFaces, label_N: Int64, floor: float, keys: Int64) -> Float:
    """Return the share of pairs of faces, one of each label, that reach the floor."""
    rows_of: dict[int, Int64] = {}
    for label in np.unique(keys).tolist():
        low, high = np.searchsorted(faces.label_N, (label, label + 1))
        rows = low + np.flatnonzero(label_N[low:high] == label)
        rows_of[label] = rows[:: max(1, -(-len(rows) // SUPPORT_FACES))]
    support = []
    for a, b in keys.tolist():
        one, two = (unit_rows(faces.vectors_ND[faces.vector_N[rows_of[x]]]) for x in (a, b))
        cosine = np.einsum("ad,bd->ab", one, two)
        support.append(float((cosine >= floor).mean()) if cosine.size else 0.0)
    return np.array(support)


def _ranks(centres_LD: Float32, one: Int64, two: Int64) -> Int64:
    """Return the worse of the ranks that the labels of a pair have for each other."""
    asked = np.unique(np.concatenate([one, two]))
    near_QK = NearCentres(centres_LD, len(asked)).find(centres_LD[asked], NEIGHBOURS + 1)
    rank = np.full((2, len(one)), NEIGHBOURS + 1)
    for side, (a, b) in enumerate(((one, two), (two, one))):
        near_CK = near_QK[np.searchsorted(asked, a)]
        others_CK = np.where(near_CK == a[:, None], -1, near_CK)
        hit = others_CK == b[:, None]
        place = np.cumsum(others_CK >= 0, axis=1)
        found = hit.any(axis=1)
        rank[side, found] = place[found, hit.argmax(axis=1)[found]]
    worse: Int64 = rank.max(axis=0)
    return worse


def _root(parent: list[int], label: int) -> int:
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


class _Foes:
    """Which groups of labels are said to be apart, by their roots."""

    def __init__(self, apart: Pairs) -> None:
        """Start with each label as a group of its own."""
        self._of: dict[int, set[int]] = defaultdict(set)
        for one, two in apart:
            self._of[one].add(two)
            self._of[two].add(one)

    def are(self, one: int, two: int) -> bool:
        """Return whether two roots are said to be apart."""
        return two in self._of.get(one, ())

    def join(self, root: int, other: int) -> None:
        """Let a root stand for another one too."""
        if root == other:
            return
        self._of[root].discard(other)
        theirs = self._of.pop(other, set()) - {root}
        for foe in theirs:
            self._of[foe].discard(other)
            self._of[foe].add(root)
        self._of[root] |= theirs


def _survivors(
    root_L: Int64, members_L: Int64, names: list[str], rules: LabelRules | None
) -> Int64:
    """Return the label of each group whose name it keeps: an earlier identity, or the largest."""
    earlier = {} if rules is None else rules.survivors
    best: dict[int, int] = {}
    for label in range(len(names)):
        root = int(root_L[label])
        rank = (earlier.get(names[label]) == names[label], members_L[label])
        other = best.get(root)
        if other is None or rank > (earlier.get(names[other]) == names[other], members_L[other]):
            best[root] = label
    return np.array([best[int(root)] for root in root_L], np.int64)


def _identities(
    survivor_L: Int64, members_L: Int64, names: list[str], rules: LabelRules | None
) -> list[str]:
    """Return the identity of each label: what most of its group's faces had before, if anything.

    An identity goes to one group: the one that has most of its faces.
    """
    votes: dict[tuple[int, str], int] = defaultdict(int)
    for label, name in enumerate(names):
        earlier = None if rules is None else rules.survivors.get(name)
        if earlier is not None:
            votes[int(survivor_L[label]), earlier] += int(members_L[label])
    given: dict[int, str] = {}
    taken = set()
    own = {names[label]: int(label) for label in np.unique(survivor_L)}
    for (group, earlier), _ in sorted(votes.items(), key=lambda v: (-v[1], v[0])):
        if group in given or earlier in taken or own.get(earlier, group) != group:
            continue
        given[group] = earlier
        taken.add(earlier)
    return [given.get(int(group), names[group]) for group in survivor_L]


def _table(
    rows: list[tuple[tuple[int, int], PairVerdict, float, int]],
    evidence: _Evidence,
    names: list[str],
) -> pa.Table:
    columns = {
        "label_a": [names[pair[0]] for pair, *_ in rows],
        "label_b": [names[pair[1]] for pair, *_ in rows],
        "verdict": [verdict.value for _, verdict, *_ in rows],
        "confidence": [sure for *_, sure, _ in rows],
        "similarity": [evidence.cosine_C[c] for *_, c in rows],
        "support": [evidence.support_C[c] for *_, c in rows],
        "rank": [evidence.rank_C[c] for *_, c in rows],
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in LABEL_PAIRS], schema=LABEL_PAIRS)
