"""Are copies of a picture found, and bursts left alone, better than by hashes of pictures?

    python benchmarks/bench_duplicates.py --faces LFW --pack PACK --cache FOLDER
    python benchmarks/bench_duplicates.py --faces LFW --pack PACK --cache OTHER --seed 1 --fit

--faces: a folder of photos for each person, several of some. The set: photos as they are, copies
of some of them with every change of made_pictures.py, and frames of bursts around them; other
photos of the same people are among it. facepipe runs detect, embed and dedup with its defaults on
all (--cache keeps the pictures and the tables); a pair is found where two photos have faces in
one star. A photo in which no face is found counts as missed.

imagehash and pdqhash compare all photos with all, mirrored too, at the threshold that the truth
says is best: the highest recall at a precision of .999, and the best F1. "of crops": of facepipe's
aligned crop of the labelled face, which is no use of theirs that is common.

--fit: fit the constants of facepipe.crop_match to the pairs of this set, at equal odds, and print
them; take another seed than the set they are then judged on. Peers are found on PYTHONPATH; a
missing one is said to be so.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
from made_pictures import Made, Photo, variants

from facepipe import open_dataset
from facepipe.crop_match import match_probability, unexplained_motion
from facepipe.crop_rows import fixed_rows
from facepipe.decode import DecodeSettings, decode
from facepipe.dedup import DedupSettings
from facepipe.detect import Detector, DetectSettings
from facepipe.models import ModelSettings
from facepipe.neighbors import unit_rows, vector_matrix, vector_rows
from facepipe.packs import find_pack
from facepipe.quality import labelled_face
from facepipe.schema import CROP_GREY_PX
from facepipe.shards import Dataset

PRECISION = 0.999
PDQ_LEAST_QUALITY = 50  # the authors: discard 49 and less
# Pairs of photos of LFW that are one picture in themselves, as looking at them shows: start of
# the SHA-256 of their two names, sorted, with a blank between.
SAME_IN_LFW = frozenset({"2bad527eceeb", "25669e74037e"})

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


def main() -> None:
    """Make the set, run facepipe and the peers on it, print what each has found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--pack", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--people", type=int, default=250)
    parser.add_argument("--photos", type=int, default=6, help="of a person, at most")
    parser.add_argument("--sources", type=int, default=2, help="photos with copies and frames")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--fit", action="store_true")
    args, extra = parser.parse_known_args()
    made = make_set(args)
    dataset, seconds = run_facepipe(args, extra)
    if args.fit:
        fit(dataset, made, args.cache / "photos")
        return
    truth = Truth(made)
    print(
        f"{len(made)} photos, {args.people} people, {len(truth.first)} pairs of copies, "
        f"{sum(m.change == 'burst' for m in made)} burst frames"
    )
    found = facepipe_pairs(dataset, truth, args.cache / "photos")
    print(f"facepipe dedup: {seconds:.1f} s")
    truth.report("facepipe, as it comes", found)
    truth.by_change(found)
    for name, hashed in peers(args.cache / "photos", made, dataset):
        truth.best_of(name, hashed)


def make_set(args: argparse.Namespace) -> list[Made]:
    """Write the set where it is not there yet, and return what is in it."""
    listed, folder = args.cache / "truth.csv", args.cache / "photos"
    if not listed.exists():
        detector = Detector(find_pack(args.pack), DetectSettings(), ModelSettings())
        people = sorted(p for p in args.faces.iterdir() if len(list(p.glob("*.jpg"))) >= 2)
        order = np.random.default_rng(args.seed).permutation(len(people))[: args.people]
        rows: list[Made] = []
        for person in sorted(people[i] for i in order):
            (folder / person.name).mkdir(parents=True, exist_ok=True)
            for rank, path in enumerate(sorted(person.glob("*.jpg"))[: args.photos]):
                made = [(Made(f"{person.name}/{path.name}", path.stem, ""), path.read_bytes())]
                if rank < args.sources:
                    made += _variants(detector, path, args)
                for item, content in made:
                    (folder / item.name).write_bytes(content)
                    rows.append(item)
        with listed.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([(m.name, m.picture, m.change) for m in rows])
    with listed.open(newline="", encoding="utf-8") as stream:
        return [Made(*row) for row in csv.reader(stream)]


def _variants(detector: Detector, path: Path, args: argparse.Namespace) -> list[tuple[Made, bytes]]:
    data = path.read_bytes()
    pixels = decode(data, DecodeSettings()).pixels_HWC
    if pixels is None:
        return []
    faces = detector.find([pixels])[0]
    which = labelled_face(faces.boxes_N4, pixels.shape[1], pixels.shape[0])
    if which is None:
        return []
    photo = Photo(data, pixels, faces.landmarks_N52[which], faces.boxes_N4[which])
    seed = int(hashlib.sha256(f"{args.seed} {path.stem}".encode()).hexdigest()[:12], 16)
    stem = f"{path.parent.name}/{path.stem}"
    return variants(photo, stem, path.stem, seed, args.copies, args.frames)


def run_facepipe(args: argparse.Namespace, extra: list[str]) -> tuple[Dataset, float]:
    """Run the steps up to dedup on the set; return the dataset, and the seconds of dedup."""
    out = str(args.cache / "dataset")
    command = [sys.executable, "-m", "pipelines.cli"]
    photos = [str(args.cache / "photos"), "--labels", "folder"]
    models = ["--models", args.pack]
    workers = ["--workers", str(args.workers)]
    for step, more in (("detect", photos + models), ("embed", models), ("dedup", [])):
        started = time.perf_counter()
        subprocess.run(
            [*command, step, *more, "--out", out, *workers, "-q", *extra],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return open_dataset(out), time.perf_counter() - started


class Truth:
    """Which pairs of photos are copies of one picture."""

    def __init__(self, made: list[Made]) -> None:
        """Number the photos, and list the pairs."""
        self.made = made
        self.number = {m.name: i for i, m in enumerate(made)}
        pictures = [m.picture for m in made]
        self.copy_NN = np.equal.outer(*[np.unique(pictures, return_inverse=True)[1]] * 2)
        stems = defaultdict(list)
        for i, m in enumerate(made):
            stems[m.name.split("/")[0]].append(i)
        for rows in stems.values():
            for i in rows:
                for j in rows:
                    names = " ".join(sorted((made[i].picture, made[j].picture)))
                    if hashlib.sha256(names.encode()).hexdigest()[:12] in SAME_IN_LFW:
                        self.copy_NN[i, j] = True
        self.first, self.second = np.nonzero(np.triu(self.copy_NN, 1))

    def report(self, name: str, found_NN: Bool) -> None:
        """Print precision and recall of pairs."""
        pairs = np.triu(found_NN, 1)
        right, said = int((pairs & self.copy_NN).sum()), int(pairs.sum())
        print(
            f"{name:42s} precision {right / max(1, said):.5f} ({said - right} of {said} wrong), "
            f"recall {right / len(self.first):.4f}"
        )

    def by_change(self, found_NN: Bool) -> None:
        """Print the recall of pairs by what was done to either photo."""
        right, all_pairs = Counter[str](), Counter[str]()
        for i, j in zip(self.first.tolist(), self.second.tolist(), strict=True):
            for change in {self.made[i].change, self.made[j].change}:
                all_pairs[change or "the photo itself"] += 1
                right[change or "the photo itself"] += bool(found_NN[i, j])
        for change, count in sorted(all_pairs.items(), key=lambda c: right[c[0]] / c[1]):
            print(f"    {change:26s} {right[change] / count:.3f} of {count}")
        wrong = np.argwhere(np.triu(found_NN & ~self.copy_NN, 1))
        kinds = Counter(
            " and ".join(sorted({self.made[i].change or "another photo" for i in pair}))
            for pair in wrong.tolist()
        )
        print(f"    wrong: {dict(kinds)}")

    def best_of(self, name: str, distance_NN: npt.NDArray[np.uint16]) -> None:
        """Print precision and recall at the thresholds that the truth says are best."""
        upper = np.triu(np.ones_like(self.copy_NN), 1)
        size = int(distance_NN.max()) + 1
        right = np.bincount(distance_NN[upper & self.copy_NN], minlength=size).cumsum()
        said = np.bincount(distance_NN[upper], minlength=size).cumsum()
        precision, recall = right / np.maximum(said, 1), right / len(self.first)
        sure = np.flatnonzero((precision >= PRECISION) & (said > 0))
        if len(sure):
            best = int(sure[-1])
            self.report(f"{name}, <= {best} bits", distance_NN <= best)
        else:
            print(f"{name:42s} never reaches a precision of {PRECISION}")
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        best = int(np.argmax(f1))
        self.report(f"{name}, <= {best} bits (best F1)", distance_NN <= best)


def facepipe_pairs(dataset: Dataset, truth: Truth, photos: Path) -> Bool:
    """Return which photos have faces in one star, (N, N)."""
    table = dataset.table("duplicates", ["face_id", "uri", "decision", "reason", "evidence"])
    rows = table.select(["decision", "reason"]).to_pylist()
    print(f"    {dict(Counter(' '.join(row.values()) for row in rows))}")
    stars: dict[str, set[int]] = defaultdict(set)
    for row in table.to_pylist():
        name = str(Path(row["uri"]).relative_to(photos.absolute()))
        stars[row["evidence"] or row["face_id"]].add(truth.number[name])
    found = np.zeros((len(truth.made), len(truth.made)), bool)
    for members in stars.values():
        rows = np.array(sorted(members))
        found[np.ix_(rows, rows)] = True
    faces = set(dataset.table("faces", ["photo_id"])["photo_id"].to_pylist())
    missing = [p for p in dataset.table("photos")["photo_id"].to_pylist() if p not in faces]
    print(f"    photos without a face: {len(missing)}")
    return found


# --- peers


def peers(
    folder: Path, made: list[Made], dataset: Dataset
) -> Iterator[tuple[str, npt.NDArray[np.uint16]]]:
    """Yield each peer's distances of all photos, the smaller of straight and mirrored."""
    pictures = {m.name: cv2.imread(str(folder / m.name)) for m in made}
    photos = [pictures[m.name] for m in made]
    crops = labelled_crops(dataset, made, folder)
    for name, hashed in hashes().items():
        for what, group in ((name, photos), (f"{name} of crops", crops)):
            started = time.perf_counter()
            straight = [None if p is None else hashed(p) for p in group]
            mirrored = [
                None if p is None else hashed(np.ascontiguousarray(p[:, ::-1])) for p in group
            ]
            per_photo = (time.perf_counter() - started) / len(group) / 2
            print(f"{what}: {1000 * per_photo:.2f} ms a picture")
            yield what, distances(straight, mirrored)


def hashes() -> dict[str, Callable[[npt.NDArray[np.uint8]], Bool | None]]:
    """Return what hashes a BGR picture to bits, of the peers that are there."""
    found: dict[str, Callable[[npt.NDArray[np.uint8]], Bool | None]] = {}
    try:
        import imagehash
        from PIL import Image

        def of(function: Callable[..., object], size: int) -> Callable[..., Bool]:
            return lambda p: np.asarray(
                function(Image.fromarray(p[:, :, ::-1]), hash_size=size).hash  # type: ignore[attr-defined]
            ).ravel()

        found["imagehash phash"] = of(imagehash.phash, 8)
        found["imagehash phash 256 bits"] = of(imagehash.phash, 16)
        found["imagehash dhash"] = of(imagehash.dhash, 8)
        found["imagehash whash"] = of(imagehash.whash, 8)
    except ImportError:
        print("imagehash is not there: pip install imagehash")
    try:
        import pdqhash

        def pdq(picture: npt.NDArray[np.uint8]) -> Bool | None:
            bits, quality = pdqhash.compute(np.ascontiguousarray(picture[:, :, ::-1]))
            return np.asarray(bits, bool) if quality >= PDQ_LEAST_QUALITY else None

        found["pdqhash"] = pdq
    except ImportError:
        print("pdqhash is not there: pip install pdqhash")
    return found


def distances(straight: list[Bool | None], mirrored: list[Bool | None]) -> npt.NDArray[np.uint16]:
    """Return the bits in which all differ from all; far away where there is no hash."""
    size = next(len(h) for h in straight if h is not None)
    there = np.array([h is not None for h in straight])

    def packed(hashes: list[Bool | None]) -> npt.NDArray[np.uint64]:
        bits = np.stack([np.zeros(size, bool) if h is None else h for h in hashes])
        return np.packbits(bits, axis=1).view(np.uint64)

    one, other = packed(straight), packed(mirrored)
    found = np.full((len(one), len(one)), 2 * size, np.uint16)
    for row in range(len(one)):
        for words in (one, other):
            differing = np.bitwise_count(one[row] ^ words).sum(axis=1)
            found[row] = np.where(there & there[row], np.minimum(found[row], differing), 2 * size)
    return np.minimum(found, found.T)


def labelled_crops(
    dataset: Dataset, made: list[Made], folder: Path
) -> list[npt.NDArray[np.uint8] | None]:
    """Return the aligned crop of each photo's labelled face."""
    table = dataset.table("faces", ["uri", "crop", "status"])
    crops = {}
    for row in table.to_pylist():
        if row["status"] != "bystander" and row["crop"]:
            name = str(Path(row["uri"]).relative_to(folder.absolute()))
            crops[name] = cv2.imdecode(np.frombuffer(row["crop"], np.uint8), cv2.IMREAD_COLOR)
    return [crops.get(m.name) for m in made]


# --- the constants of facepipe.crop_match


def fit(dataset: Dataset, made: list[Made], photos: Path) -> None:
    """Fit and print the logistic regression of copies against frames of one burst."""
    motion, eyes, copy = labelled_pairs(dataset, made, photos)
    known = np.isfinite(motion)
    columns = np.stack([np.ones(known.sum()), np.log(motion[known]), np.log(eyes[known])], axis=1)
    target = copy[known]
    weight = np.where(target, 0.5 / target.mean(), 0.5 / (1 - target.mean()))
    odds = np.zeros(3)
    for _ in range(100):  # Newton
        p = 1 / (1 + np.exp(-columns @ odds))
        gradient = columns.T @ (weight * (p - target))
        curvature = (columns * (weight * p * (1 - p))[:, None]).T @ columns
        odds -= np.linalg.solve(curvature, gradient)
    print(f"{copy.sum()} pairs of copies, {(~copy).sum()} of burst frames")
    print("ODDS, ODDS_MOTION, ODDS_EYES =", ", ".join(f"{o:.2f}" for o in odds))
    for least in (0.5, 0.8, 0.9, 0.95, 0.99):
        sure = match_probability(motion, eyes) >= least
        print(
            f"as it stands, at {least}: {sure[copy].mean():.4f} of copies, {sure[~copy].sum()} "
            f"of {(~copy).sum()} pairs with a burst frame"
        )


def labelled_pairs(dataset: Dataset, made: list[Made], photos: Path) -> tuple[Float, Float, Bool]:
    """Return motion, eye distance and truth of pairs of copies, and of frames and those."""
    change = {m.name: m for m in made}
    table = dataset.table("faces", ["face_id", "uri", "status", "eye_distance_px", "crop_grey"])
    grey = fixed_rows(table.column("crop_grey"), CROP_GREY_PX**2).reshape(
        -1, CROP_GREY_PX, CROP_GREY_PX
    )
    groups: dict[str, list[tuple[int, Made]]] = defaultdict(list)
    for row, (uri, status) in enumerate(
        zip(table["uri"].to_pylist(), table["status"].to_pylist(), strict=True)
    ):
        item = change[str(Path(uri).relative_to(photos.absolute()))]
        if status != "bystander":
            groups[item.picture.split(".burst")[0]].append((row, item))
    rows, copy, turned = [], [], []
    for group in groups.values():
        for place, (i, one) in enumerate(group):
            for j, other in group[:place]:
                if "collage" in (one.change, other.change):
                    continue  # which face is the labelled one may differ
                rows.append((i, j))
                copy.append(one.picture == other.picture)
                turned.append(("flipped" in one.change) != ("flipped" in other.change))
    eyes = table["eye_distance_px"].to_numpy().astype(np.float64)
    pairs = np.array([(i, j) if eyes[i] <= eyes[j] else (j, i) for i, j in rows])
    cosine = cosines(dataset, table.column("face_id"), pairs)
    near = cosine >= DedupSettings().min_similarity  # else not the same face was labelled
    pairs, copies, turns = pairs[near], np.array(copy)[near], np.array(turned)[near]
    better = grey[pairs[:, 1]]
    better = np.where(turns[:, None, None], better[:, :, ::-1], better)
    return unexplained_motion(grey[pairs[:, 0]], better), eyes[pairs[:, 0]], copies


def cosines(dataset: Dataset, face_ids: pa.ChunkedArray, pairs: Int64) -> npt.NDArray[np.float32]:
    """Return the cosines of the vectors of pairs of faces."""
    embeddings = dataset.table("embeddings")
    vectors = unit_rows(vector_matrix(embeddings)[vector_rows(face_ids, embeddings)])
    return np.asarray(np.einsum("pd,pd->p", vectors[pairs[:, 0]], vectors[pairs[:, 1]]))


if __name__ == "__main__":
    main()
