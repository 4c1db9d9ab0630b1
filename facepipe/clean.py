"""Cleaning of labels: one decision for every face, with its reason, evidence and weight.

Legend: R rows of FACES, N usable, labelled faces sorted by label, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from facepipe.centres import LabelledFaces, OneReader, VectorRows
from facepipe.decisions import ROW_KEY, Columns, row_order, take_rows
from facepipe.errors import CorruptData
from facepipe.further_labels import NO_ROW, Entries
from facepipe.homes import Counts
from facepipe.identities import Identified, identify
from facepipe.label_groups import LabelGroups, group_labels, label_pairs_of
from facepipe.merges import LabelRules
from facepipe.mixture import CosineMixture
from facepipe.modes import dominant_centre, near_copies, subset
from facepipe.neighbors import vector_matrix, vector_rows
from facepipe.schema import Decision, Reason

__all__ = ["CleanFit", "CleanSettings", "LabelRules", "clean_faces", "dominant_centre"]

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

REPORT_OTHERS = 10  # faces in the centre for which the report states the threshold
# An identity with a smaller share of its label does not dominate it: of a folder of strangers
# a few look alike.
MIN_DOMINANT_SHARE = 0.1
MIN_SCENE = 3  # near copies that are a scene


class CleanSettings(BaseModel):
    """When a face is moved to another label; what is dropped follows from the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    relabel_confidence: float = Field(
        0.95, ge=0.5, lt=1.0, description="probability of another label that moves a face there"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanFit:
    """What the cleaning learned from the data, for the report."""

    mixture: CosineMixture
    threshold: float  # cosine to a centre of ten others at which a face is as good as not
    impostor_quantiles: tuple[tuple[float, float], ...]  # (share below, cosine) of two faces
    stranger_share: float  # of wrong faces, whose person has no label
    labels: int  # with a usable face
    labels_single: int  # with just one
    labels_without_dominant: tuple[str, ...]
    rounds: int
    counts: tuple[tuple[str, str, int], ...]  # (decision, reason, rows), sorted
    pairs: pa.Table  # schema.LABEL_PAIRS: labels looked at as one person


def clean_faces(
    faces: pa.Table,
    duplicates: pa.Table,
    embeddings: pa.Table,
    settings: CleanSettings,
    vectors: VectorRows | None = None,
    *,
    rules: LabelRules | None = None,
    threads: int = 1,
) -> tuple[pa.Table, CleanFit]:
    """Return one row of schema.DECISIONS for each row of faces, and what was learned.

    faces: schema.FACES, of which these columns are read: face_id, uri, member,
    eye_distance_px, source_label, status. duplicates: what ``find_duplicates`` made of the
    same faces. embeddings: schema.embeddings of any dimension; with ``vectors``, which holds
    the rows of embeddings, its column vector need only be null where there is none. rules:
    what a person or an earlier run says about labels. threads: any number gives the same bits.
    Rows by (face_id, uri, member). Raises CorruptData where duplicates is of other faces.

    The first that applies: status not ok, drop/quality. A duplicate stays one, with the
    identity of the face kept for it. No vector, drop/no_vector. No label, keep/unlabelled.
    Else by the probabilities of the label's person, any other person, and a stranger:

    - The label's person: keep/same_person; merge/merged where another label, the survivor, is
      the same person. Not: relabel/other_identity where another person with a label makes
      ``relabel_confidence`` of the probability or more, by a clear margin; else drop/outlier.
    - The only usable face of a label, the only one that is not explained, or more than half of
      its faces where those are near copies of one, three at least: keep/single.
    - A label in which no two faces agree, or fewer than a tenth, or in which a second
      identity is as large as the first, has no dominant one: its faces are drop/no_dominant.
      But of just two nobody can say which is wrong: both stay, keep/no_dominant, with their
      probability as weight.
    - A near copy of another face of its label counts once, and is decided as that one.
    - A face whose copies came under other labels is judged under those too: one that is not its
      label's person is relabel/other_identity to one of them whose person it is as probably.

    confidence is the probability of the decision. weight is that of the identity, times
    the share of the crop's resolution that the photo had (eye distance over the
    template's); of an unlabelled face that share alone; 0 where dropped or a duplicate.
    """
    faces, duplicates = _aligned(faces, duplicates)
    vector_R = vector_rows(faces.column("face_id"), embeddings)
    columns = Columns.of(faces, duplicates, vector_R)
    stored = vector_matrix(embeddings) if vectors is None else OneReader(vectors)
    entries = Entries.of(faces, duplicates, np.flatnonzero(columns.decision_R < 0))
    everyone = _labelled(entries, vector_R, stored, threads)
    original_N = near_copies(everyone)
    own = np.flatnonzero(original_N == np.arange(len(original_N)))
    text = entries.names.to_pylist()
    found = identify(subset(everyone, own), *label_pairs_of(rules, text))
    groups = group_labels(found, text, rules)
    moves = _moves(found, settings.relabel_confidence, *entries.claims(original_N, own))
    row_n, copies_n = entries.decided(original_N, own)
    _decide(columns, row_n, found, groups, moves, copies_n)
    home_N = np.flatnonzero(~entries.further_N)
    columns.repeat(entries.row_N[home_N], entries.row_N[original_N[home_N]])
    identities = pa.array(groups.identity_L, pa.string())
    table = columns.table(faces, duplicates, entries.names, identities)
    size_L = np.bincount(found.faces.label_N[row_n >= 0], minlength=found.faces.labels)
    return table, _report(table, found, groups, moves.dominant_L, size_L, entries.names)


def _labelled(
    entries: Entries, vector_R: Int64, vectors: VectorRows, threads: int
) -> LabelledFaces:
    return LabelledFaces(
        label_N=entries.label_N,
        vector_N=vector_R[entries.row_N],
        vectors_ND=vectors,
        labels=len(entries.names),
        threads=threads,
    )


def _aligned(faces: pa.Table, duplicates: pa.Table) -> tuple[pa.Table, pa.Table]:
    faces = take_rows(faces, row_order(faces))
    duplicates = take_rows(duplicates, row_order(duplicates))
    if any(not faces.column(n).equals(duplicates.column(n)) for n in ROW_KEY):
        raise CorruptData(
            f"the duplicates table ({len(duplicates)} rows) is not of these {len(faces)} "
            "faces: run dedup again"
        )
    return faces, duplicates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moves:
    """Where faces go: the label, or -1, with its probability and cosine; the dominated labels."""

    target_N: Int64
    right_N: Float
    cosine_N: Float
    dominant_L: Bool


def _decide(
    columns: Columns,
    row_N: Int64,
    found: Identified,
    groups: LabelGroups,
    moves: _Moves,
    copies_N: Int64,
) -> None:
    """Fill in the rows of labelled faces; an entry with NO_ROW is not decided, only heard.

    copies_N: how many faces are decided as each, itself included.
    """
    label_N, judged = found.faces.label_N, found.judged
    right_N = judged.right_N >= 0.5
    heard_N = row_N == NO_ROW
    moved_N = (moves.target_N >= 0) & ~heard_N
    left_N = np.bincount(label_N[~moved_N & ~heard_N], minlength=found.faces.labels)[label_N]
    dominant_N = moves.dominant_L[label_N]
    merged_N = groups.survivor_L[label_N] != label_N
    unknown_N = found.owners.person_L[label_N] < 0
    # One scene, of which a label is full, is one witness, and yet not to be lost to two others.
    faces_L = np.bincount(label_N, copies_N, minlength=found.faces.labels)
    scene_N = (copies_N >= MIN_SCENE) & (2 * copies_N > faces_L[label_N])
    cases = [  # which faces, decision, reason, confidence; the first that applies
        (moved_N, Decision.RELABEL, Reason.OTHER_IDENTITY, moves.right_N),
        (dominant_N & right_N & merged_N, Decision.MERGE, Reason.MERGED, judged.right_N),
        (dominant_N & right_N, Decision.KEEP, Reason.SAME_PERSON, judged.right_N),
        (dominant_N, Decision.DROP, Reason.OUTLIER, 1 - judged.right_N),
        (left_N == 1, Decision.KEEP, Reason.SINGLE, judged.right_N),
        (unknown_N & (right_N | scene_N), Decision.KEEP, Reason.SINGLE, judged.right_N),
        (left_N == 2, Decision.KEEP, Reason.NO_DOMINANT, judged.right_N),
        (left_N > 2, Decision.DROP, Reason.NO_DOMINANT, 1 - judged.right_N),
    ]
    open_N = ~heard_N
    for which_N, decision, reason, confidence_N in cases:
        now = np.flatnonzero(open_N & which_N)
        open_N[now] = False
        columns.put(row_N[now], decision, reason)
        columns.confidence_R[row_N[now]] = confidence_N[now]
        if decision != Decision.DROP:
            columns.identity_R[row_N[now]] = groups.survivor_L[label_N[now]]
        if reason != Reason.SINGLE:
            columns.label_R[row_N[now]] = label_N[now]
            columns.similarity_R[row_N[now]] = judged.own_cosine_N[now]
        if decision == Decision.MERGE:
            columns.label_R[row_N[now]] = groups.survivor_L[label_N[now]]
            columns.similarity_R[row_N[now]] = groups.similarity_L[label_N[now]]
    to = row_N[moved_N]
    columns.identity_R[to] = columns.label_R[to] = groups.survivor_L[moves.target_N[moved_N]]
    columns.similarity_R[to] = moves.cosine_N[moved_N]


def _moves(found: Identified, confidence: float, claimed_C: Int64, by_C: Int64) -> _Moves:
    """Return the label each face is moved to, and which labels have a dominant identity.

    A face is moved where another person is likely enough, nobody else would do as well, and
    that person dominates a label: the one with most of their faces. And, where it is not its
    label's person, to a label that it came under too and whose dominant person it is as surely.
    """
    label_N, judged, people = found.faces.label_N, found.judged, found.people
    owner_L = found.owners.person_L
    own_N = (judged.right_N >= 0.5) & (owner_L[label_N] >= 0)
    sure_N = (judged.other_right_N >= confidence) & judged.clear_N & (judged.right_N < 0.5)
    members_L = np.bincount(label_N, own_N, minlength=found.faces.labels)
    home_P = np.full(people.total + 1, -1)
    order = np.argsort(members_L, kind="stable")
    order = order[owner_L[order] >= 0]
    home_P[owner_L[order]] = order  # the largest is written last
    sure_N &= home_P[judged.other_N] >= 0
    staying_L = np.bincount(label_N, ~sure_N, minlength=found.faces.labels)
    dominant_L = (members_L > np.maximum(_rivals(found), 0)) & (
        members_L >= MIN_DOMINANT_SHARE * staying_L
    )
    target_N = np.where(sure_N, home_P[judged.other_N], -1)
    target_N[(target_N >= 0) & ~dominant_L[target_N]] = -1
    right_N, cosine_N = judged.other_right_N.copy(), judged.other_cosine_N.copy()
    fit_C = own_N[by_C] & dominant_L[label_N[by_C]] & ~own_N[claimed_C]
    fit_C &= (target_N[claimed_C] < 0) & (judged.right_N[by_C] >= confidence)
    claimed, by = claimed_C[fit_C], by_C[fit_C]
    last = np.lexsort((-label_N[by], judged.right_N[by]))  # the surest label is written last
    target_N[claimed[last]] = label_N[by[last]]
    right_N[claimed[last]] = judged.right_N[by[last]]
    cosine_N[claimed[last]] = judged.own_cosine_N[by[last]]
    return _Moves(target_N=target_N, right_N=right_N, cosine_N=cosine_N, dominant_L=dominant_L)


def _rivals(found: Identified) -> Int64:
    """Return for each label how many faces the largest person has there who has no label."""
    people, label_N = found.people, found.faces.label_N
    homeless_P = np.ones(people.total + 1, dtype=bool)
    homeless_P[found.owners.person_L] = False
    homeless_P[-1] = False
    person_N = np.where(homeless_P[people.person_N], people.person_N, -1)
    counts = Counts.of(person_N, label_N, people.total, found.faces.labels)
    rival_L = np.zeros(found.faces.labels, np.int64)
    np.maximum.at(rival_L, counts.label_E, counts.count_E)
    return rival_L


def _report(
    table: pa.Table,
    found: Identified,
    groups: LabelGroups,
    dominant_L: Bool,
    size_L: Int64,
    names: pa.Array,
) -> CleanFit:
    counted = table.group_by(["decision", "reason"]).aggregate([([], "count_all")]).to_pylist()
    without = np.flatnonzero(~dominant_L & (size_L > 1))
    return CleanFit(
        mixture=found.mixture,
        threshold=found.mixture.threshold(REPORT_OTHERS),
        impostor_quantiles=found.impostors.quantiles,
        stranger_share=found.judged.stranger_share,
        labels=len(names),
        labels_single=int((size_L == 1).sum()),
        labels_without_dominant=tuple(names.take(pa.array(without)).to_pylist()),
        rounds=found.rounds,
        counts=tuple(sorted((c["decision"], c["reason"], c["count_all"]) for c in counted)),
        pairs=groups.pairs,
    )
