"""How good and how fast is the recogniser that comes with facepipe, beside those of other packs?

    python benchmarks/bench_builtin_recogniser.py LFW/images LFW/pairs.txt PACK.. \\
        [--detectors PACK..] [--held-out 6 7] [--flip sum] [--workers 2]

Every recogniser embeds the same crops, of the large, central face that a detector finds on each
picture: builtin's, and those of --detectors. Accuracy is LFW's view 2, each fold judged with the
threshold best on the others, and its interval resamples people. Held-out folds hold people that
no training step of builtin saw; they are judged by one another's thresholds, so that no pair of
people who were trained on has a say. Milliseconds are of a face on one thread, in float32 but for
builtin-int8, the packs by turns, the best of several rounds.

Legend: N pictures, P pairs, D dimensions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facepipe.align import CROP_PX
from facepipe.bootstrap import Interval, share_interval
from facepipe.builtin_pack import BUILTIN, BUILTIN_INT8
from facepipe.config import Settings, load
from facepipe.embed import Recogniser
from facepipe.evaluate import FoldAccuracy, fold_accuracy
from facepipe.packs import Pack, find_pack
from pipelines.evaluate_faces import Faces, embed_source
from pipelines.evaluate_pairs import PairList, narrowed, read_pair_list, similarities
from pipelines.evaluate_sources import Source, open_source
from pipelines.progress import Progress

ROUNDS, TIMED_CROPS = 15, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A pack and what it is called in the table."""

    name: str
    pack: Pack

    @property
    def megabytes(self) -> float:
        """Return the size of the file."""
        return len(self.pack.read(self.pack.need_recogniser())) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the vectors of one pack make of some folds."""

    folds: FoldAccuracy
    accuracy: Interval
    missing: int  # pairs with a picture without a face, counted as wrong


def opened(names: Sequence[str]) -> list[Named]:
    """Return builtin, its twin, and the packs that were asked for."""
    own = [Named(name=name, pack=find_pack(name)) for name in (BUILTIN, BUILTIN_INT8)]
    return own + [Named(name=Path(name).name, pack=find_pack(name)) for name in names]


def milliseconds(packs: Sequence[Named], settings: Settings, batch: int) -> list[float]:
    """Return the least time a face of each pack, by turns, in batches of a size."""
    embed = settings.embed.model_copy(update={"batch": batch, "flip": "none"})
    nets = [Recogniser(each.pack, embed, settings.models) for each in packs]
    rng = np.random.default_rng(0)
    crops = list(rng.integers(0, 256, (TIMED_CROPS, CROP_PX, CROP_PX, 3), dtype=np.uint8))
    best = [float("inf")] * len(nets)
    for _ in range(ROUNDS):
        for n, net in enumerate(nets):
            started = time.perf_counter()
            net.embed(crops)
            best[n] = min(best[n], (time.perf_counter() - started) / TIMED_CROPS)
    return [1000 * seconds for seconds in best]


def vectors(
    source: Source, finder: Named, packs: Sequence[Named], settings: Settings, workers: int
) -> list[Faces]:
    """Return what every recogniser makes of the faces that one detector finds."""
    seeing = [
        each.pack
        if each.pack.folder == finder.pack.folder
        else each.pack.model_copy(update={"detector": None})
        for each in packs
    ]
    if finder.pack not in seeing:
        seeing.append(finder.pack)  # the only one with a detector; its vectors are left out
    with Progress() as progress:
        return embed_source(source, seeing, settings, workers, progress)[: len(packs)]


def judged(faces: Faces, pairs: PairList, folds: Sequence[int] | None) -> Judged:
    """Return the accuracy on some folds of the pairs, from 1; None for all."""
    assert pairs.fold_P is not None
    chosen = np.full(len(pairs.same_P), True)
    if folds is not None:
        chosen = np.isin(pairs.fold_P + 1, list(folds))
    cosine_P = similarities(faces.unit_ND(), pairs)[0][chosen]
    found = fold_accuracy(cosine_P, pairs.same_P[chosen], pairs.fold_P[chosen])
    return Judged(
        folds=found,
        accuracy=share_interval(found.right_P, pairs.people_P2[chosen]),
        missing=int(np.isnan(cosine_P).sum()),
    )


def agreement(one: Faces, other: Faces) -> npt.NDArray[np.float64]:
    """Return the cosine of what two recognisers make of each crop that has a face."""
    cosine_N = np.sum(one.unit_ND() * other.unit_ND(), axis=1)
    return cosine_N[~np.isnan(cosine_N)]


def share(interval: Interval) -> str:
    """Return a share with its interval in percent."""
    return f"{interval.value:.2%} [{interval.low:.2%}, {interval.high:.2%}]"


def print_accuracy(
    finder: Named,
    packs: Sequence[Named],
    faces: Sequence[Faces],
    pairs: PairList,
    held_out: Sequence[int],
) -> None:
    """Print a row a pack: all folds, each fold, and the held-out ones by themselves."""
    rows = [(judged(each, pairs, None), judged(each, pairs, held_out)) for each in faces]
    numbers = [int(fold) + 1 for fold in rows[0][0].folds.folds]
    print(
        f"\nfaces found by {finder.name}: {len(pairs.same_P):,} pairs, {rows[0][0].missing} with a "
        "picture without a face (counted as wrong)\n"
    )
    heads = ["recogniser", f"all {len(numbers)} folds", f"held out: {held_out}"]
    print("| " + " | ".join([*heads, *(f"fold {n}" for n in numbers)]) + " |")
    print("|" + "---|" * (len(heads) + len(numbers)))
    for named, (every, held) in zip(packs, rows, strict=True):
        cells = [named.name, share(every.accuracy), share(held.accuracy)]
        cells += [f"{accuracy:.2%}" for accuracy in every.folds.accuracy]
        print("| " + " | ".join(cells) + " |")
    cosine_N = agreement(faces[0], faces[1])
    print(
        f"\n{packs[1].name} against float32: cosine {cosine_N.mean():.5f}, at least "
        f"{cosine_N.min():.5f}"
    )


def print_costs(packs: Sequence[Named], settings: Settings) -> None:
    """Print a row a pack: size and time."""
    one, four = (milliseconds(packs, settings, batch) for batch in (1, 4))
    print("\n| recogniser | file | dimensions | ms a face, one at a time | in batches of 4 |")
    print("|---|---|---|---|---|")
    for named, alone, together in zip(packs, one, four, strict=True):
        dimensions = Recogniser(named.pack, settings.embed, settings.models).dim
        size = f"{named.megabytes:.1f} MB"
        print(f"| {named.name} | {size} | {dimensions} | {alone:.1f} | {together:.1f} |")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", help="a folder per person")
    parser.add_argument("pairs", help="pairs in LFW's format")
    parser.add_argument("packs", nargs="*", metavar="PACK")
    parser.add_argument("--detectors", nargs="*", default=[], metavar="PACK")
    parser.add_argument("--held-out", type=int, nargs="+", default=[6, 7], metavar="FOLD")
    parser.add_argument("--flip", choices=("none", "sum"), default="none")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    settings = load(None, [f"embed.flip={given.flip}"])
    packs = opened(given.packs)
    print_costs(packs, settings)
    whole = open_source(given.pictures)
    source, pairs = narrowed(whole, read_pair_list(Path(given.pairs), whole))
    for finder in [
        packs[0],
        *(Named(name=Path(d).name, pack=find_pack(d)) for d in given.detectors),
    ]:
        faces = vectors(source, finder, packs, settings, given.workers)
        print_accuracy(finder, packs, faces, pairs, given.held_out)


if __name__ == "__main__":
    main()
