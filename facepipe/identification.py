"""Who is it: probes searched in a gallery, rank-k with distractors and FNIR at a FPIR.

Closed set: of the searches whose person is enrolled, the share that finds them among the
first k people (Moon and Phillips 2001; with distractors as in MegaFace, Kemelmacher-Shlizerman
et al. 2016). Open set, as NIST's FRVT 1:N has it (NISTIR 8271, and ISO/IEC 19795-1):
    FPIR(T)    non-mated searches with any candidate at or above T, of all non-mated ones
    FNIR(T, R) mated searches whose person is not among the first R, or is below T
A search whose probe has no face finds nothing: a miss where mated, no alarm where not.

People are ranked, each by the best of their enrolled faces. A tie counts against the mate.
Scores are rounded to 1e-9, far above what the order of sums can move in float64, so that
ranks do not hang on block sizes or threads. Legend: N probes, G enrolled faces, X distractors,
D dimensions, B probes of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facepipe.bootstrap import CONFIDENCE, SAMPLES, Interval, share_interval
from facepipe.det import TarBand, require_supported, tars_at_fars

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max  # the rank of a mate that no list can hold
SCORE_DECIMALS = 9
BLOCK_PROBES = 256
BLOCK_FACES = 1 << 15  # with 256 probes: 64 MiB of scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Searches:
    """What each of N searches found."""

    person_N: Int
    mated_N: npt.NDArray[np.bool_]  # the person is enrolled
    mate_N: Float  # best cosine to a face of the own person; -inf where there is none
    rank_N: Int  # of the own person among all people, from 1; NEVER where there is none
    other_N: Float  # best cosine to anybody else; -inf without a face


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSetPoint:
    """FNIR at the lowest threshold whose measured FPIR does not pass the one asked for."""

    fpir: float  # asked for
    fnir: Interval
    measured_fpir: float
    threshold: float


def search(
    probes_ND: npt.ArrayLike,
    person_N: npt.ArrayLike,
    enrolled_GD: npt.ArrayLike,
    person_G: npt.ArrayLike,
    distractors_XD: npt.ArrayLike | None = None,
) -> Searches:
    """Search every probe among the enrolled people and the distractors, each its own person.

    Rows are unit vectors (any float; NaN: no face, which finds nothing and, enrolled, is never
    found); people are whole numbers. Exhaustive, in blocks: memory grows with the vectors
    alone. Raises ValueError for shapes that do not fit and for an empty gallery.
    """
    probe_ND, own_N = np.asarray(probes_ND), np.asarray(person_N, np.int64)
    order = np.argsort(np.asarray(person_G, np.int64), kind="stable")
    face_GD, owner_G = np.asarray(enrolled_GD)[order], np.asarray(person_G, np.int64)[order]
    if len(probe_ND) != len(own_N) or not len(face_GD):
        raise ValueError(f"{len(probe_ND)} probes of {len(own_N)} people, {len(face_GD)} enrolled")
    mated_N = np.isin(own_N, owner_G)
    seen_N = ~np.isnan(probe_ND).any(axis=1)
    mate_N = _mates(probe_ND, own_N, mated_N & seen_N, face_GD, owner_G)
    ahead_N, other_N = np.zeros(len(own_N), np.int64), np.full(len(own_N), -np.inf)
    for faces, owners in _blocks(face_GD, owner_G, distractors_XD):
        start_of_person = np.flatnonzero(np.diff(owners, prepend=owners[0] - 1))
        people = owners[start_of_person]
        wide, absent = _columns(faces)
        for start in range(0, len(own_N), BLOCK_PROBES):
            rows = np.flatnonzero(seen_N[start : start + BLOCK_PROBES]) + start
            scores = _rounded(np.asarray(probe_ND[rows], np.float64) @ wide)
            scores[:, absent] = -np.inf
            best = np.maximum.reduceat(scores, start_of_person, axis=1)
            best[own_N[rows, None] == people[None, :]] = -np.inf
            ahead_N[rows] += (best >= mate_N[rows, None]).sum(axis=1)
            other_N[rows] = np.maximum(other_N[rows], best.max(axis=1))
    found_N = mated_N & np.isfinite(mate_N)
    return Searches(
        person_N=own_N,
        mated_N=mated_N,
        mate_N=mate_N,
        rank_N=np.where(found_N, ahead_N + 1, NEVER),
        other_N=other_N,
    )


def _rounded(scores: Float) -> Float:
    return np.round(scores, SCORE_DECIMALS)


def _columns(faces: npt.NDArray[np.floating]) -> tuple[Float, npt.NDArray[np.bool_]]:
    """Return faces as columns, float64, and which of them are none: those are 0."""
    absent = np.isnan(faces).any(axis=1)
    return np.where(absent[:, None], 0.0, faces.astype(np.float64)).T, absent


def _mates(
    probe_ND: npt.NDArray[np.floating],
    own_N: Int,
    wanted_N: npt.NDArray[np.bool_],
    face_GD: npt.NDArray[np.floating],
    owner_G: Int,
) -> Float:
    """Return the best cosine of each wanted probe to its own person's faces, (N,)."""
    mate_N = np.full(len(own_N), -np.inf)
    rows = np.flatnonzero(wanted_N)
    rows = rows[np.argsort(own_N[rows], kind="stable")]
    own = own_N[rows]
    starts = np.flatnonzero(np.diff(own, prepend=own[:1] - 1))
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        mine = rows[start:stop]
        low, high = np.searchsorted(owner_G, [own[start], own[start] + 1])
        wide, absent = _columns(face_GD[low:high])
        scores = _rounded(np.asarray(probe_ND[mine], np.float64) @ wide)
        scores[:, absent] = -np.inf
        mate_N[mine] = scores.max(axis=1)
    return mate_N


def _blocks(
    face_GD: npt.NDArray[np.floating], owner_G: Int, distractors_XD: npt.ArrayLike | None
) -> Iterator[tuple[npt.NDArray[np.floating], Int]]:
    """Yield gallery rows and their people, whole people together; distractors are -2, -3, .."""
    start = 0
    while start < len(owner_G):
        stop = min(start + BLOCK_FACES, len(owner_G))
        stop = int(np.searchsorted(owner_G, owner_G[stop - 1], side="right"))
        yield face_GD[start:stop], owner_G[start:stop]
        start = stop
    others = np.empty((0, 0)) if distractors_XD is None else np.asarray(distractors_XD)
    lowest = min(0, int(owner_G[0])) - 2  # nobody's number
    for start in range(0, len(others), BLOCK_FACES):
        block = others[start : start + BLOCK_FACES]
        yield block, lowest - np.arange(start, start + len(block), dtype=np.int64)


def rank_k(
    searches: Searches,
    ranks: Sequence[int] = (1, 5, 10),
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[Interval]:
    """Return the share of mated searches whose person is among the first k, for each k.

    The interval resamples people. Raises ValueError where no search is mated.
    """
    mated_N = searches.mated_N
    if not mated_N.any():
        raise ValueError("no search has its person enrolled")
    options = {"samples": samples, "seed": seed}
    people, rank = searches.person_N[mated_N], searches.rank_N[mated_N]
    return [share_interval(rank <= k, people, confidence=confidence, **options) for k in ranks]


def fnir_at_fpir(
    searches: Searches,
    fpirs: Sequence[float],
    *,
    rank: int | None = 1,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[OpenSetPoint]:
    """Return FNIR at each FPIR, with an interval that resamples people, threshold and all.

    rank: R, how many candidates are looked at; None: all that reach the threshold. Raises
    UsageError for a FPIR under 1 / non-mated searches, ValueError without searches of either
    kind.
    """
    mated_N = searches.mated_N
    require_supported(fpirs, int((~mated_N).sum()), "FPIR")
    listed_N = searches.rank_N <= (NEVER - 1 if rank is None else rank)
    # A miss at any threshold is a matched pair without a face: the same staircase.
    score_N = np.where(listed_N, searches.mate_N, np.nan)
    score_N = np.where(mated_N, score_N, searches.other_N)
    options = {"samples": samples, "seed": seed}
    bands = tars_at_fars(
        score_N, mated_N, fpirs, searches.person_N, confidence=confidence, **options
    )
    return [_open_set(band) for band in bands]


def _open_set(band: TarBand) -> OpenSetPoint:
    tar = band.tar
    return OpenSetPoint(
        fpir=band.far,
        fnir=Interval(1.0 - tar.value, 1.0 - tar.high, 1.0 - tar.low),
        measured_fpir=band.measured_far,
        threshold=band.threshold,
    )
