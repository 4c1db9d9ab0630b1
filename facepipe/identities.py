"""People among labelled faces, and whom each label means.

Modes of labels are joined to people, each label is given the person it means, and every face
is judged. Then people are gathered anew from the faces that are theirs, until nothing changes.

Legend: N faces (rows sorted by label), L labels, P people, M sizes of a centre.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from facepipe.centres import Float, Int64, LabelledFaces, face_impostors
from facepipe.contest import contest
from facepipe.homes import Counts, Owners, find_owners
from facepipe.impostors import Impostors
from facepipe.label_cosines import Floors, weights
from facepipe.merges import Links, link
from facepipe.mixture import CosineMixture
from facepipe.modes import Modes, find_modes, main_modes, subset
from facepipe.people import People, cosines, gather
from facepipe.posterior import Judged, fit_faces, judge

Pairs = tuple[tuple[int, int], ...]
Bool = npt.NDArray[np.bool_]

ROUNDS = 3
CONTESTS, FEW_LOST = 3, 0.01  # of all faces: the floors stay as they are
FLOOR_STDS = 3.3  # one impostor in 2,000 is above: no face joins a centre under it
FAR_STDS = 4.0  # one right face in 200 is further off (Student's t), and may found a second mode
FLOOR_ROUNDS = 3  # the spread of faces settles to a tenth
CENTRE_FACES = 16  # a centre of more is hardly better
SAMPLE_FACES = 1 << 16
STRETCH_FACES = 1 << 19  # the centres of so many are 150 MB with 40 % of the labels wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """What was found about labelled faces."""

    faces: LabelledFaces
    mixture: CosineMixture
    impostors: Impostors
    floors: Floors
    people: People
    owners: Owners
    judged: Judged
    links: Links  # of people, as the last round compared them
    rounds: int

    @property
    def own_N(self) -> Bool:
        """Return which faces are in the centre of their label's person."""
        owner_N = self.owners.person_L[self.faces.label_N]
        own_N: Bool = (self.people.person_N == owner_N) & (owner_N >= 0)
        return own_N


def identify(faces: LabelledFaces, apart: Pairs = (), together: Pairs = ()) -> Identified:
    """Find people, whom each label means, and who is on each face.

    apart, together: pairs of labels that a person has decided on.
    """
    impostors = face_impostors(faces)
    floors, modes = _contested(faces, impostors)
    groups = gather(faces, modes.mode_N, modes.weight_N)
    main_L = main_modes(modes, faces.labels)
    said = (_between(main_L, apart), _between(main_L, together))
    linked = partial(link, prior=impostors, threads=faces.threads)
    links = linked(groups.sums_PD, groups.size_P, modes.label_M, apart=said[0], together=said[1])
    people = gather(faces, _joined(links, modes.mode_N), modes.weight_N)
    owners = _owners(faces, people)
    rounds, stable = 0, False
    while rounds < ROUNDS and not stable:
        mixture, judged = judge(faces, people, owners.person_L, impostors)
        person_N, weight_N = _belongs(faces, people, owners.person_L, judged, mixture)
        again = gather(faces, person_N, weight_N)
        now_L = _owners(faces, again).person_L
        said = (_between(now_L, apart), _between(now_L, together))
        alone_P = np.arange(again.total)
        links = linked(again.sums_PD, again.size_P, alone_P, apart=said[0], together=said[1])
        before_N, before_L = people.person_N, owners.person_L
        people = gather(faces, _joined(links, person_N), weight_N)
        owners = _owners(faces, people)
        stable = _same_groups(before_N, people.person_N)
        stable &= np.array_equal(before_L < 0, owners.person_L < 0)
        rounds += 1
    mixture, judged = judge(faces, people, owners.person_L, impostors)
    return Identified(
        faces=faces,
        mixture=mixture,
        impostors=impostors,
        floors=floors,
        people=people,
        owners=owners,
        judged=judged,
        links=links,
        rounds=rounds,
    )


def _contested(faces: LabelledFaces, impostors: Impostors) -> tuple[Floors, Modes]:
    """Return the floors, and the modes when labels have contested their faces.

    Where many lose some, the floors were too low: right faces seemed to be spread as far as
    look-alikes are. Then there are new ones, from what is left.
    """
    floors = find_floors(faces, impostors)
    found = contest(faces, find_modes(faces, floors), impostors)
    for _ in range(CONTESTS - 1):
        if np.count_nonzero(found.lost_N) <= FEW_LOST * len(found.lost_N):
            break
        rows = _sample(faces)
        own = replace(
            found.modes, mode_N=found.modes.mode_N[rows], weight_N=found.modes.weight_N[rows]
        )
        floors = _next_floors(subset(faces, rows), impostors, own)
        found = contest(faces, find_modes(faces, floors), impostors)
    return floors, found.modes


def _sample(faces: LabelledFaces) -> Int64:
    """Return the faces of evenly spread labels, some SAMPLE_FACES."""
    step = max(1, len(faces.label_N) // SAMPLE_FACES)
    return np.flatnonzero(faces.label_N % step == 0)


def find_floors(faces: LabelledFaces, impostors: Impostors) -> Floors:
    """Return the cosines under which a face does not join others of its label.

    First the one that hardly any impostor reaches. With the groups that it gives in a sample
    of the labels, the mixture says more: where people are hard to tell apart that would cut off
    many right faces; where they are not, a look-alike can be far above it.
    """
    rows = _sample(faces)
    faces = faces if len(rows) == len(faces.label_N) else subset(faces, rows)
    faces = faces.in_memory()  # three passes a round
    floors = Floors(floor_M=np.array([impostors.mean + FLOOR_STDS * impostors.std]))
    for _ in range(FLOOR_ROUNDS):
        floors = _next_floors(faces, impostors, find_modes(faces, floors))
    return floors


def _next_floors(faces: LabelledFaces, impostors: Impostors, modes: Modes) -> Floors:
    """Return the floors that follow from the spread of faces around their label's first mode."""
    main_N = main_modes(modes, faces.labels)[faces.label_N]
    cosine_N, others_N = own_cosines(faces, modes)
    mixture = fit_faces(faces, modes.mode_N, main_N, cosine_N, others_N, impostors)
    others_M = np.arange(1.0, CENTRE_FACES + 1)
    far_M = FAR_STDS * mixture.face_std * np.sqrt(1 + 1 / others_M)
    even_M = np.array([mixture.threshold(others) for others in others_M])
    return Floors(floor_M=np.maximum(even_M, mixture.genuine_mean(others_M) - far_M))


def own_cosines(faces: LabelledFaces, modes: Modes) -> tuple[Float, Float]:
    """Compare each face with the other faces of its label's first mode, as `cosines` does.

    A stretch of labels at a time: no more centres are held than those of one.
    """
    main_L = main_modes(modes, faces.labels)
    cosine_N, others_N = np.zeros(len(faces.label_N)), np.zeros(len(faces.label_N))
    for rows in _stretches(faces):
        part = subset(faces, np.arange(rows.start, rows.stop))
        # Numbers of their own; -1, for none, is always first.
        known, place = np.unique(np.append(modes.mode_N[rows], -1), return_inverse=True)
        centres = gather(part, place[:-1] - 1, modes.weight_N[rows])
        main_n = np.searchsorted(known, main_L[part.label_N]) - 1
        cosine_N[rows], others_N[rows] = cosines(part, centres, main_n)
    return cosine_N, others_N


def _stretches(faces: LabelledFaces) -> Iterator[slice]:
    """Yield the rows of whole labels, STRETCH_FACES at most where no label has more."""
    ends_L, start = np.cumsum(faces.size_L), 0
    while start < len(faces.label_N):
        fit = ends_L[np.searchsorted(ends_L, start + STRETCH_FACES, side="right") - 1]
        own = ends_L[faces.label_N[start]]  # of the first label: it goes in whatever its size
        stop = int(max(fit, own))
        yield slice(start, stop)
        start = stop


def _between(group_L: Int64, pairs: Pairs) -> Pairs:
    """Return pairs of labels as pairs of the groups they mean, where those are known and two."""
    found = {(int(min(g)), int(max(g))) for a, b in pairs for g in [(group_L[a], group_L[b])]}
    return tuple(sorted((a, b) for a, b in found if 0 <= a < b))


def _joined(links: Links, group_N: Int64) -> Int64:
    """Return the person of each face from its group, -1 for none."""
    return np.append(links.person_M, -1)[group_N]


def _same_groups(one_N: Int64, two_N: Int64) -> bool:
    """Return whether two numberings name the same groups."""
    pairs = np.unique(one_N * (int(two_N.max(initial=0)) + 2) + two_N)
    return len(pairs) == len(np.unique(one_N)) == len(np.unique(two_N))


def _owners(faces: LabelledFaces, people: People) -> Owners:
    return find_owners(Counts.of(people.person_N, faces.label_N, people.total, faces.labels))


def _belongs(
    faces: LabelledFaces,
    people: People,
    owner_L: Int64,
    judged: Judged,
    mixture: CosineMixture,
) -> tuple[Int64, Float]:
    """Return the person each face is more probably of than not, and its weight in the centre."""
    owner_N = owner_L[faces.label_N]
    own_N = (judged.right_N >= 0.5) & (owner_N >= 0)
    other_N = ~own_N & (judged.other_right_N >= 0.5)
    person_N = np.where(own_N, owner_N, np.where(other_N, judged.other_N, -1))
    cosine_N = np.where(own_N, judged.own_cosine_N, judged.other_cosine_N)
    sure_N = np.where(own_N, judged.right_N, judged.other_right_N)
    weight_N = sure_N * weights(np.nan_to_num(cosine_N), mixture.threshold(1))
    person_N[weight_N <= 0] = -1
    several_P = np.bincount(person_N[person_N >= 0], minlength=people.total) > 1
    number_P = np.where(several_P, np.cumsum(several_P) - 1, -1)
    person_N = np.where(person_N >= 0, np.append(number_P, -1)[person_N], -1)
    return person_N, np.where(person_N >= 0, weight_N, 0.0)
