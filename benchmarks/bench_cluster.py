"""Are people found without labels as well as by the best peer, whose settings the truth chose?

    python benchmarks/bench_cluster.py --faces lfw.npz --made 30000 50000
    python benchmarks/bench_cluster.py --made 30000 --dimensions 32 --kinder --peers Leiden

--faces: an .npz with `vectors` (N, D), `label` (N,) and, where there is one, `status` (rows that
are not "ok" are left out). --made: so many faces of synthetic_faces.py. facepipe has no setting
that is tuned. A peer is run with each of its settings on the faces of a tenth of the people, and
with the best one (BCubed F + pairwise F) on the faces of all others, which facepipe gets too.
--kinder: a second row for each peer, its setting chosen by clustering *everything* and scoring the
tenth, so that it also fits the number of faces. Everything runs on one thread; the time of the
graph is part of a method's time. Start it with OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
from peer_cluster import PEERS, Array, Data, Peer, data
from synthetic_faces import make_faces

from facepipe.cluster import ClusterSettings, find_people
from facepipe.cluster_score import ClusterScore, score_people


def main() -> None:
    """Print a table for each set of faces."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, nargs="*", default=[])
    parser.add_argument("--made", type=int, nargs="*", default=[])
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", nargs="*", help="only peers whose names begin like that")
    parser.add_argument("--kinder", action="store_true")
    args = parser.parse_args()
    chosen = [p for p in PEERS if args.peers is None or p.name.startswith(tuple(args.peers))]
    for title, vectors, truth in _sets(args):
        _table(title, vectors, truth, chosen, args.kinder)


def _sets(args: argparse.Namespace) -> Iterator[tuple[str, Array, Array]]:
    for path in args.faces:
        with np.load(path) as stored:
            names = stored["label"].astype(str)
            fit = np.ones(len(names), bool)
            if "status" in stored:
                fit = stored["status"].astype(str) == "ok"
            truth = np.unique(names[fit], return_inverse=True)[1].astype(np.int64)
            yield path.stem, stored["vectors"][fit], truth
    for faces in args.made:
        made = make_faces(faces, dimensions=args.dimensions, seed=args.seed)
        yield f"{faces} made faces, {args.dimensions} dimensions", made.vectors_ND, made.identity_N


def _table(title: str, vectors: Array, truth: Array, peers: list[Peer], kinder: bool) -> None:
    people = np.random.default_rng(0).permutation(int(truth.max()) + 1)
    tenth = np.isin(truth, people[: len(people) // 10])
    test = data(vectors[~tenth])
    print(
        f"\n{title}: {np.count_nonzero(~tenth)} faces of {len(people) - len(people) // 10} people"
    )
    print(
        f"{'':24} BCubed F (P, R)          pairwise F (P, R)        people    s  s less graph"
        "  setting"
    )
    started = time.perf_counter()
    found = find_people(vectors[~tenth], ClusterSettings())
    seconds = time.perf_counter() - started
    _row("facepipe", score_people(found.person_N, truth[~tenth]), seconds, seconds, "")
    small = data(vectors[tenth])
    everything = data(vectors) if kinder else None
    for peer in peers:
        missing = peer.missing()
        if missing:
            print(f"{peer.name:24} missing: pip install {' '.join(missing)}")
            continue
        best = max(peer.settings(), key=lambda s: _sum(peer.cluster(small, *s), truth[tenth]))
        _run(peer.name, peer, best, test, truth[~tenth])
        if everything is not None:
            best = _best_on_all(peer, everything, truth, tenth)
            _run(f"{peer.name}, kinder", peer, best, test, truth[~tenth])


def _best_on_all(
    peer: Peer, everything: Data, truth: Array, tenth: npt.NDArray[np.bool_]
) -> tuple[Any, ...]:
    return max(
        peer.settings(),
        key=lambda s: _sum(peer.cluster(everything, *s)[tenth], truth[tenth]),
    )


def _sum(label: Array, truth: Array) -> float:
    score = score_people(label, truth)
    return score.bcubed_f + score.pair_f


def _run(name: str, peer: Peer, setting: tuple[Any, ...], of: Data, truth: Array) -> None:
    started = time.perf_counter()
    label = peer.cluster(of, *setting)
    own_s = time.perf_counter() - started
    total_s = own_s + (of.graph_s if peer.graph else 0.0)
    _row(name, score_people(label, truth), total_s, own_s, str(setting))


def _row(name: str, score: ClusterScore, total_s: float, own_s: float, setting: str) -> None:
    print(
        f"{name:24} {score.bcubed_f:.4f} ({score.bcubed_precision:.4f}, {score.bcubed_recall:.4f})"
        f"  {score.pair_f:.4f} ({score.pair_precision:.4f}, {score.pair_recall:.4f})"
        f"  {score.people:6} {total_s:7.1f} {own_s:7.1f}  {setting}",
        flush=True,
    )


if __name__ == "__main__":
    main()
