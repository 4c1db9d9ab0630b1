"""Label noise with its truth: flips, strangers, split and merged people, near copies.

Put into faces whose people are known, in this order: some people are split into two labels,
some come under the label of somebody with twice their faces; then a share of all faces gets a
wrong label (or is replaced by a stranger's face); then near copies of some faces are added,
under the same label.

Legend: N faces, L labels, P people, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float16]

KINDS = ("uniform", "nearest", "strangers")
SMALLEST_LABEL = 5  # a person with fewer faces is a stranger; halves of a split have as many
COPY_COSINE = 0.98  # of a near copy to its original


@dataclass(frozen=True, slots=True)
class NoisySet:
    """Faces under labels, and who is who.

    person_N may name nobody who owns a label (a stranger, or a person merged into another's).
    """

    vectors_ND: Vectors
    label_N: Int64
    person_N: Int64
    copy_N: npt.NDArray[np.bool_]  # near copies of other faces here
    owner_L: Int64  # the person that each label means
    splits: tuple[tuple[int, int], ...]  # pairs of labels of one person

    @property
    def wrong_N(self) -> npt.NDArray[np.bool_]:
        """Return which faces are not of their label's person."""
        return self.owner_L[self.label_N] != self.person_N

    @property
    def names_N(self) -> list[str]:
        """Return the label of each face as text."""
        return [f"label-{label:06d}" for label in self.label_N.tolist()]


def make_noisy(
    vectors_ND: Vectors,
    person_N: Int64,
    *,
    noise: float,
    kind: str,
    seed: int,
    split: float = 0.05,
    merged: float = 0.05,
    copies: float = 0.10,
    smallest: int = SMALLEST_LABEL,
) -> NoisySet:
    """Return the faces of people with ``smallest`` faces or more, with noise put in.

    noise: share of these faces that gets a wrong label. kind: ``uniform``, any label of
    somebody else; ``nearest``, the label of the most similar person by true centre;
    ``strangers``, the face is replaced by one of the people who have too few.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), round(1000 * noise)])
    size_P = np.bincount(person_N)
    known = size_P[person_N] >= smallest
    pool_ND = vectors_ND[~known]
    pool_person = person_N[~known]
    vectors_ND, person_N = vectors_ND[known].copy(), person_N[known].copy()
    people = np.unique(person_N)
    label_N, owner_L, splits = _first_labels(person_N, people, split, merged, smallest, rng)
    flip = rng.permutation(len(label_N))[: round(noise * len(label_N))]
    if kind == "strangers":
        flip = flip[: len(pool_ND)]
        take = rng.permutation(len(pool_ND))[: len(flip)]
        vectors_ND[flip], person_N[flip] = pool_ND[take], pool_person[take]
    elif kind == "uniform":
        label_N[flip] = _other_labels(label_N, person_N, owner_L, flip, rng)
    else:
        label_N[flip] = _nearest_labels(vectors_ND, label_N, person_N, owner_L, flip, rng)
    copied = rng.permutation(len(label_N))[: round(copies * len(label_N))]
    vectors_ND = np.concatenate([vectors_ND, _near_copies(vectors_ND[copied], rng)])
    label_N = np.concatenate([label_N, label_N[copied]])
    person_N = np.concatenate([person_N, person_N[copied]])
    copy_N = np.arange(len(label_N)) >= len(label_N) - len(copied)
    mixed = rng.permutation(len(label_N))
    return NoisySet(
        vectors_ND[mixed], label_N[mixed], person_N[mixed], copy_N[mixed], owner_L, splits
    )


def _first_labels(
    person_N: Int64,
    people: Int64,
    split: float,
    merged: float,
    smallest: int,
    rng: np.random.Generator,
) -> tuple[Int64, Int64, tuple[tuple[int, int], ...]]:
    """Return a label for each face, each label's person, and the labels of split people."""
    size_P = np.bincount(person_N)
    large = people[size_P[people] >= 2 * smallest]
    halved = np.sort(rng.permutation(large)[: round(split * len(people))])
    rest = np.setdiff1d(people, halved)
    guests, hosts = _guests(rest[rng.permutation(len(rest))], size_P, round(merged * len(people)))
    owners = np.setdiff1d(people, guests)
    label_of = np.full(int(people.max()) + 1, -1)
    label_of[owners] = np.arange(len(owners))
    label_of[guests] = label_of[hosts]
    label_N = label_of[person_N]
    splits = []
    owner_L = list(owners)
    for person in halved:
        rows = rng.permutation(np.flatnonzero(person_N == person))
        label_N[rows[: len(rows) // 2]] = len(owner_L)
        splits.append((int(label_of[person]), len(owner_L)))
        owner_L.append(person)
    return label_N, np.array(owner_L), tuple(splits)


def _guests(people: Int64, size_P: Int64, count: int) -> tuple[Int64, Int64]:
    """Return people who come under another's label, and whose: one with twice their faces."""
    guests: list[int] = []
    hosts: list[int] = []
    for person in people.tolist():
        larger = (p for p in people.tolist() if size_P[p] >= 2 * size_P[person])
        host = next((p for p in larger if p not in hosts and p not in guests), None)
        if host is not None and person not in hosts and len(guests) < count:
            guests.append(person)
            hosts.append(host)
    return np.array(guests, np.int64), np.array(hosts, np.int64)


def _other_labels(
    label_N: Int64, person_N: Int64, owner_L: Int64, flip: Int64, rng: np.random.Generator
) -> Int64:
    """Return a label of somebody else for each face, drawn evenly."""
    new = rng.integers(0, len(owner_L), len(flip))
    while True:
        same = (owner_L[new] == person_N[flip]) | (new == label_N[flip])
        if not same.any():
            return new
        new[same] = rng.integers(0, len(owner_L), int(same.sum()))


def _nearest_labels(
    vectors_ND: Vectors,
    label_N: Int64,
    person_N: Int64,
    owner_L: Int64,
    flip: Int64,
    rng: np.random.Generator,
) -> Int64:
    """Return the label of the most similar other person; of a split one, either half."""
    people, place_N = np.unique(person_N, return_inverse=True)
    centres_PD = unit(_sums(vectors_ND, place_N, len(people)))
    cosine_PP = centres_PD @ centres_PD.T
    np.fill_diagonal(cosine_PP, -1)
    cosine_PP[:, ~np.isin(people, owner_L)] = -1  # who owns no label
    new = np.empty(len(flip), np.int64)
    for at, row in enumerate(flip):
        for other in np.argsort(-cosine_PP[place_N[row]])[:2]:
            labels = np.flatnonzero(owner_L == people[other])
            new[at] = rng.choice(labels)
            if new[at] != label_N[row]:
                break
    return new


def _near_copies(vectors_ND: Vectors, rng: np.random.Generator) -> Vectors:
    aside = unit(rng.standard_normal(vectors_ND.shape, np.float32))
    tangent = float(np.sqrt(1 / COPY_COSINE**2 - 1))
    return unit(vectors_ND.astype(np.float32) + tangent * aside).astype(np.float16)


def _sums(vectors_ND: Vectors, group_N: Int64, groups: int) -> npt.NDArray[np.float32]:
    order = np.argsort(group_N, kind="stable")
    starts = np.searchsorted(group_N[order], np.arange(groups))
    return np.add.reduceat(vectors_ND[order].astype(np.float32), starts)


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows of length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def read_known_faces(where: Path) -> tuple[Vectors, Int64]:
    """Return vectors and people of a dataset of facepipe (its labels are the truth) or an npz.

    An npz has ``vectors``, ``label`` and ``status``, as made of a dataset's tables. Faces whose
    status is not ok, bystanders for instance, are left out.
    """
    if where.suffix == ".npz":
        with np.load(where) as stored:
            fit = stored["status"] == "ok"
            label, vectors = stored["label"][fit], stored["vectors"][fit]
    else:
        label, vectors = _read_dataset(where)
    return vectors.astype(np.float16), np.unique(label, return_inverse=True)[1].astype(np.int64)


def _read_dataset(where: Path) -> tuple[npt.NDArray[np.str_], Vectors]:
    import pyarrow.compute as pc

    import facepipe
    from facepipe.neighbors import vector_matrix, vector_rows

    dataset = facepipe.open_dataset(str(where))
    faces = dataset.table("faces", columns=["face_id", "source_label", "status"])
    faces = faces.filter((pc.field("status") == "ok") & pc.field("source_label").is_valid())
    embeddings = dataset.table("embeddings", columns=["face_id", "vector", "status"])
    row = vector_rows(faces["face_id"], embeddings)
    label = np.array(faces["source_label"].to_pylist())
    return label[row >= 0], vector_matrix(embeddings)[row[row >= 0]]
