"""Do wrong labels come out, and do split people come together?

    python benchmarks/bench_labels.py --faces DATASET [--seeds 3] [--peers]
    python benchmarks/bench_labels.py --synthetic 30000 --dimensions 32 64 128 [--peers]

DATASET is a facepipe dataset of photos in a folder per person (LFW), whose labels are taken as
the truth, or an npz of one. Noise is put in (noisy_labels.py); the product cleans, with its
automatic threshold, and each peer (peer_labels.py) with its own. Two oracles show what is
possible: ``true centres`` cuts the cosine to the mean of a person's true faces at the best
place; ``true people`` is told who is on every face, and has to find whom a label means. Means
of the seeds. Columns: noise F1, precision and recall (positive: a wrong label put in), F1 at the
threshold that is best given the truth, share of right faces kept, F1 by faces in the label
(5-9, 10-19, 20+), precision and recall of merged labels, accuracy and coverage of relabelling
(of wrong faces whose person owns a label), seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
from noisy_labels import KINDS, NoisySet, make_noisy, read_known_faces, unit
from synthetic_faces import make_faces

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
SIZES = (5, 10, 20)


@dataclass(slots=True)
class Answer:
    """What a method said: who is wrong, how sure it is, where faces go, what is one person."""

    flagged_N: Bool
    clean_N: Float | None = None  # rising with the probability that the label is right
    moved_N: Int64 | None = None  # label a face is moved to; -1 none
    merges: list[tuple[int, int]] = field(default_factory=list)
    merging: bool = False


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--synthetic", type=int)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3, 0.4, 0.5])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", action="store_true")
    args = parser.parse_args()
    if args.synthetic:
        for dimensions in args.dimensions:
            for noise in args.noise:
                for kind in args.kinds:
                    sets = [
                        synthetic_set(args.synthetic, dimensions, noise, kind, seed)
                        for seed in range(args.seeds)
                    ]
                    name = f"{args.synthetic} synthetic, {dimensions} dimensions"
                    compare(f"{name}, {noise:.0%} {kind}", sets, args.peers)
    if args.faces:
        vectors_ND, person_N = read_known_faces(args.faces)
        for kind in args.kinds:
            for noise in args.noise:
                sets = [
                    make_noisy(vectors_ND, person_N, noise=noise, kind=kind, seed=seed)
                    for seed in range(args.seeds)
                ]
                compare(f"{args.faces.name}, {noise:.0%} {kind}", sets, args.peers)


def synthetic_set(faces: int, dimensions: int, noise: float, kind: str, seed: int) -> NoisySet:
    """Return synthetic people with nothing but wrong labels put in."""
    made = make_faces(faces, dimensions=dimensions, seed=seed)
    smallest = 5 if kind == "strangers" else 1
    return make_noisy(
        made.vectors_ND,
        made.identity_N,
        noise=noise,
        kind=kind,
        seed=seed,
        split=0.0,
        merged=0.0,
        copies=0.0,
        smallest=smallest,
    )


def compare(title: str, sets: list[NoisySet], peers: bool) -> None:
    """Print one row a method."""
    faces, labels = np.mean([(len(s.label_N), len(s.owner_L)) for s in sets], axis=0)
    print(f"\n{title}: {faces:.0f} faces, {labels:.0f} labels, {len(sets)} seeds", flush=True)
    print(
        f"{'':26s} {'F1':>6s} {'prec':>6s} {'rec':>6s} {'best':>6s} {'kept':>6s} "
        f"{'5-9':>6s} {'10-19':>6s} {'20+':>6s} {'mergeP':>6s} {'mergeR':>6s} "
        f"{'moveA':>6s} {'cover':>6s} {'s':>6s}"
    )
    methods = {"facepipe": product, "oracle, true centres": true_centres}
    methods["oracle, true people"] = true_people
    if peers:
        from peer_labels import PEERS

        methods |= PEERS
    for name, method in methods.items():
        rows = []
        for noisy in sets:
            begin = time.perf_counter()
            try:
                answer = method(noisy)
            except ImportError as missing:
                print(f"{name:26s} not installed: {missing.name}")
                break
            rows.append([*measures(noisy, answer), time.perf_counter() - begin])
        if rows:
            means = [
                np.mean([v for v in c if v is not None] or [np.nan])
                for c in zip(*rows, strict=True)
            ]
            print(f"{name:26s} " + " ".join(show(v) for v in means), flush=True)


def show(value: float) -> str:
    """Return a share with four decimals, nothing for none."""
    return f"{value:6.4f}" if value == value and value < 2 else f"{value:6.1f}".replace("nan", " ")


def measures(noisy: NoisySet, answer: Answer) -> list[float | None]:
    """Return the columns of the table, None where a method has no answer."""
    wrong_N, flagged_N = noisy.wrong_N, answer.flagged_N
    size_N = np.bincount(noisy.label_N, minlength=len(noisy.owner_L))[noisy.label_N]
    hit = (wrong_N & flagged_N).sum()
    out: list[float | None] = [f1(wrong_N, flagged_N)]
    out += [hit / max(1, flagged_N.sum()), hit / max(1, wrong_N.sum())]
    out += [None if answer.clean_N is None else best_f1(wrong_N, answer.clean_N)]
    out += [(~flagged_N)[~wrong_N].mean()]
    for low, high in zip(SIZES, (*SIZES[1:], 1 << 60), strict=True):
        among = (size_N >= low) & (size_N < high)
        out.append(f1(wrong_N[among], flagged_N[among]) if among.any() else None)
    out += merge_measures(noisy, answer) if answer.merging else [None, None]
    if answer.moved_N is None:
        return [*out, None, None]
    moved = answer.moved_N >= 0
    right = noisy.owner_L[answer.moved_N] == noisy.person_N
    owned_N = np.isin(noisy.person_N, noisy.owner_L) & wrong_N
    return [
        *out,
        right[moved].mean() if moved.any() else None,
        (moved & owned_N).sum() / owned_N.sum() if owned_N.any() else None,
    ]


def merge_measures(noisy: NoisySet, answer: Answer) -> list[float | None]:
    """Return precision and recall over pairs of labels."""
    owner_L = noisy.owner_L
    right = [(a, b) for a, b in answer.merges if owner_L[a] == owner_L[b]]
    precision = len(right) / len(answer.merges) if answer.merges else None
    recall = len(right) / len(noisy.splits) if noisy.splits else None
    return [precision, recall]


def f1(wrong_N: Bool, flagged_N: Bool) -> float:
    """Return F1 of the wrong faces."""
    return float(2 * (wrong_N & flagged_N).sum() / max(1, wrong_N.sum() + flagged_N.sum()))


def best_f1(wrong_N: Bool, clean_N: Float) -> float:
    """Return the highest F1 over all thresholds on a score."""
    order = np.argsort(clean_N, kind="stable")
    hits = np.cumsum(wrong_N[order])
    ends = np.append(np.diff(clean_N[order]) > 0, True)  # equal scores go together
    return float((2 * hits / (wrong_N.sum() + np.arange(1, len(order) + 1)))[ends].max())


def tables(noisy: NoisySet) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return faces, duplicates (none) and embeddings as facepipe has them."""
    from facepipe.schema import DUPLICATES

    count = len(noisy.label_N)
    face_id = pa.array([f"{n:032x}-0000" for n in range(count)])
    faces = pa.table(
        {
            "face_id": face_id,
            "uri": face_id,
            "member": pa.nulls(count, pa.string()),
            "eye_distance_px": pa.array(np.full(count, 40.0, np.float32)),
            "source_label": pa.array(noisy.names_N),
            "status": pa.array(["ok"] * count),
        }
    )
    kept = {name: faces[name] for name in ("face_id", "uri", "member", "source_label")}
    kept |= {"decision": ["keep"] * count, "reason": ["single"] * count}
    kept |= {"confidence": np.ones(count, np.float32), "weight": np.ones(count, np.float32)}
    columns = [
        pa.array(kept[f.name], f.type)
        if f.name in kept and not isinstance(kept[f.name], pa.ChunkedArray)
        else kept.get(f.name, pa.nulls(count, f.type))
        for f in DUPLICATES
    ]
    flat = pa.array(noisy.vectors_ND.reshape(-1))
    vector = pa.FixedSizeListArray.from_arrays(flat, noisy.vectors_ND.shape[1])
    embeddings = pa.table({"face_id": face_id, "vector": vector})
    return faces, pa.table(columns, schema=DUPLICATES), embeddings


def product(noisy: NoisySet) -> Answer:
    """Clean with facepipe, at its defaults."""
    from facepipe.clean import CleanSettings, clean_faces

    table, fit = clean_faces(*tables(noisy), CleanSettings())
    decision = np.array(table["decision"].to_pylist())
    kept_N = np.isin(decision, ("keep", "merge"))
    confidence_N = table["confidence"].to_numpy().astype(np.float64)
    code = {name: int(name[-6:]) for name in set(noisy.names_N)}
    to = [code.get(name, -1) for name in table["identity_id"].to_pylist()]
    merges = [
        (code[p["label_a"]], code[p["label_b"]])
        for p in getattr(fit, "pairs", pa.table({})).to_pylist()
        if p["verdict"] == "merged"
    ]
    return Answer(
        flagged_N=~kept_N,
        clean_N=np.where(kept_N, confidence_N, 1 - confidence_N),
        moved_N=np.where(decision == "relabel", to, -1),
        merges=merges,
        merging=bool(noisy.splits),
    )


def true_centres(noisy: NoisySet) -> Answer:
    """Cut the cosine to the true centre of the label's person, without the face, at the best."""
    vectors_ND = unit(noisy.vectors_ND.astype(np.float32))
    sums_PD = np.zeros((int(noisy.person_N.max()) + 1, vectors_ND.shape[1]), np.float32)
    np.add.at(sums_PD, noisy.person_N, vectors_ND)
    others_ND = sums_PD[noisy.owner_L[noisy.label_N]]
    others_ND[~noisy.wrong_N] -= vectors_ND[~noisy.wrong_N]
    length_N = np.maximum(np.linalg.norm(others_ND, axis=1), 1e-6)
    cosine_N = np.einsum("nd,nd->n", vectors_ND, others_ND) / length_N
    best = max(
        np.quantile(cosine_N, np.linspace(0.02, 0.98, 961)),
        key=lambda cut: f1(noisy.wrong_N, cosine_N < cut),
    )
    return Answer(flagged_N=cosine_N < best, clean_N=cosine_N.astype(np.float64))


def true_people(noisy: NoisySet) -> Answer:
    """Find whom labels mean by the product's rule, from who is on every face (copies once)."""
    from facepipe.homes import Counts, find_owners

    place_N = np.unique(noisy.person_N, return_inverse=True)[1]
    once, people, labels = ~noisy.copy_N, int(place_N.max()) + 1, len(noisy.owner_L)
    together_PL = np.zeros((people, labels), np.int32)
    np.add.at(together_PL, (place_N[once], noisy.label_N[once]), 1)
    group_N = np.where(together_PL.max(axis=1)[place_N] > 1, place_N, -1)
    owners = find_owners(Counts.of(group_N[once], noisy.label_N[once], people, labels))
    owner_N = owners.person_L[noisy.label_N]
    merges = []
    for label in np.flatnonzero(np.isfinite(owners.log_odds_L)).tolist():
        others = np.flatnonzero(owners.person_L == owners.person_L[label])
        merges += [(int(other), label) for other in others if other != label][:1]
    return Answer(flagged_N=owner_N != place_N, merges=merges, merging=bool(noisy.splits))


if __name__ == "__main__":
    main()
