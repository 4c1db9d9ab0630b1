"""How good and how fast is the detector that comes with facepipe, beside those of other packs?

    python benchmarks/bench_builtin_detector.py YUNET_PACK SCRFD_PACK --labelled WIDER \\
        --without-faces SKIMAGE_DATA MESSY [--own PACK] [--draw FOLDER]

Every figure is of the product's own detector code at its default settings, unless a column says
otherwise. AP50 is of the half of a labelled folder (photos, labels.csv) that no training step saw,
at 640 and at the photos' own size; its intervals resample photos. Photos without a face are those
of --without-faces (scikit-image's data, test pictures of Pillow, libvips and others) but for those
that hold one, every second of them, folder after folder, by path: by the others the scores were
calibrated. --draw writes those that fire, to be looked at. How good landmarks are shows in the
accuracy that they allow: `bench_builtin_recogniser.py LFW/images LFW/pairs.txt --detectors PACK..`.

Legend: F photos, N detections.
"""

from __future__ import annotations

import argparse
import fnmatch
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from facepipe.bootstrap import Interval, intervals
from facepipe.decode import DecodeSettings, decode
from facepipe.detect import Detector, DetectSettings, Faces
from facepipe.detection_score import average_precision
from facepipe.models import ModelSettings, open_model
from facepipe.packs import Pack, find_pack
from training.detector_photos import SUFFIXES, labelled_half

Float = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

LEAST_SCORE = 0.002  # for average precision: beyond it hardly a face is found
LEAST_SIDES_PX = (20.0, 10.0)
ROUNDS = 40  # of the timing, the packs by turns
PICTURES = {*SUFFIXES, ".gif", ".mpo", ".tif", ".tiff", ".ppm", ".pbm", ".avif"}
# Pictures that hold a face, found by looking at all of them.
WITH_FACES = (
    *("hopper*", "imageops_pad_*", "broken_data_stream.png", "truncated_end_chunk.png"),
    *("astronaut.png", "camera.png", "no_time_for_that_tiny.gif"),
    *("coins.png", "truncated.gif"),  # portraits in relief; drawn faces
)
# Copies of another, patterns and a drawn head, left out before the halves were cut.
LEFT_OUT = ("chessboard_*", "motorcycle_right.png", "multipage*.tif", "phantom.png")
SEEN_LATER = ("truncated.jpg",)  # a man's face, in the judged half, seen after they were cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A pack and what it is called in the tables."""

    name: str
    pack: Pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Detections of all photos from the highest score down, and the faces of each photo."""

    photo_N: npt.NDArray[np.int64]
    score_N: Float
    hit_N: Float  # 1: on a labelled face
    faces_F: Float

    def ap(self, times_F: Float) -> float:
        """Return the average precision where each photo counts so many times."""
        weight_N = times_F[self.photo_N]
        hits_N = np.cumsum(weight_N * self.hit_N)
        precision_N = hits_N / np.maximum(np.cumsum(weight_N), 1e-9)
        envelope_N = np.maximum.accumulate(precision_N[::-1])[::-1]
        faces = float(times_F @ self.faces_F)
        return float((np.diff(hits_N, prepend=0.0) * envelope_N).sum() / faces)

    def recall(self, threshold: float) -> float:
        """Return the share of faces that are found at a threshold."""
        return float(self.hit_N[self.score_N >= threshold].sum() / self.faces_F.sum())

    def precision(self, threshold: float) -> float:
        """Return the share of detections at a threshold that are faces."""
        return float(self.hit_N[self.score_N >= threshold].mean())


def hits_of(found: Sequence[Faces], truth: Sequence[npt.ArrayLike], least_px: float) -> Hits:
    """Return which detections are faces, photo by photo, by `average_precision`."""
    parts = []
    for photo, (faces, boxes) in enumerate(zip(found, truth, strict=True)):
        one = average_precision([faces.boxes_N4], [faces.scores_N], [boxes], min_size_px=least_px)
        hits = np.round(one.precision * np.arange(1, len(one.precision) + 1))
        parts.append((np.full(len(hits), photo), one.score, np.diff(hits, prepend=0.0), one.faces))
    photo_N, score_N, hit_N = (np.concatenate([part[k] for part in parts]) for k in range(3))
    order = np.argsort(-score_N, kind="stable")
    faces_F = np.array([float(part[3]) for part in parts])
    return Hits(photo_N=photo_N[order], score_N=score_N[order], hit_N=hit_N[order], faces_F=faces_F)


def pixels_of(path: Path) -> Pixels | None:
    """Return a photo as the product decodes it."""
    return decode(path.read_bytes(), DecodeSettings()).pixels_HWC


def looked(named: Named, photos: Sequence[Pixels], settings: DetectSettings) -> list[Faces]:
    """Return what a pack finds in each photo."""
    detector = Detector(named.pack, settings, ModelSettings())
    return [detector.find([photo])[0] for photo in photos]


def print_precision(packs: Sequence[Named], folder: Path) -> None:
    """Print average precision and, at the default threshold, precision and recall."""
    sources = labelled_half(folder, training=False)
    photos = [pixels for s in sources if (pixels := pixels_of(s.path)) is not None]
    truth = [s.labels_N4 for s in sources if s.labels_N4 is not None]
    print(f"\n{len(photos)} labelled photos kept out of training; AP50 [95% interval]\n")
    print("| detector | side | faces | AP50 | less the first's | precision, recall at default |")
    print("|---|---|---|---|---|---|")
    for side in (DetectSettings().size_px, max(max(p.shape[:2]) for p in photos)):
        settings = DetectSettings(size_px=-(-side // 32) * 32, threshold=LEAST_SCORE)
        found = [looked(named, photos, settings) for named in packs]
        for least in LEAST_SIDES_PX:
            hits = [hits_of(faces, truth, least) for faces in found]
            _print_hits(packs, hits, settings.size_px, least)


def _print_hits(packs: Sequence[Named], hits: Sequence[Hits], side: int, least: float) -> None:
    def statistic(times_F: Float) -> list[float]:
        each = [one.ap(times_F) for one in hits]
        return [*each, *(ap - each[0] for ap in each)]

    photos = len(hits[0].faces_F)
    bounds = intervals(statistic, np.arange(photos))
    default = DetectSettings().threshold
    faces = int(hits[0].faces_F.sum())
    for n, (named, one) in enumerate(zip(packs, hits, strict=True)):
        apart = _three(bounds[len(packs) + n], signed=True) if n else ""
        at = f"{one.precision(default):.3f}, {one.recall(default):.3f}"
        print(
            f"| {named.name} | {side} | {faces} >= {least:g} px | {_three(bounds[n])} | "
            f"{apart} | {at} |"
        )


def _three(interval: Interval, *, signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def print_costs(packs: Sequence[Named]) -> None:
    """Print size and time at the default side on one thread, the packs by turns."""
    side = DetectSettings().size_px
    rng = np.random.default_rng(0)
    blob = rng.integers(0, 256, (1, 3, side, side)).astype(np.float32)
    photo = np.ascontiguousarray(blob[0].transpose(1, 2, 0).astype(np.uint8))
    runs = []
    for named in packs:
        spec = named.pack.need_detector()
        data = named.pack.read(spec)
        net = open_model(data, spec.file, ModelSettings(), size_px=side)
        never = DetectSettings(padded_pass="never", threshold=0.99)
        whole = Detector(named.pack, never, ModelSettings())
        runs.append((len(data), net, whole))
    seconds = np.empty((ROUNDS, len(packs), 2))
    for turn in range(ROUNDS):
        for n, (_, net, whole) in enumerate(runs):
            started = time.perf_counter()
            net(blob)
            between = time.perf_counter()
            whole.find([photo])
            seconds[turn, n] = between - started, time.perf_counter() - between
    print(f"\none photo at {side} on one thread, of {ROUNDS} turns: ms, best (median)\n")
    print("| detector | file | net | net over the first's | with letterbox and reading |")
    print("|---|---|---|---|---|")
    best, middle = 1000 * seconds.min(axis=0), 1000 * np.median(seconds, axis=0)
    ratio = np.median(seconds[:, :, 0] / seconds[:, :1, 0], axis=0)
    for n, (named, (size, _, _)) in enumerate(zip(packs, runs, strict=True)):
        net_ms, all_ms = (f"{best[n, k]:.1f} ({middle[n, k]:.1f})" for k in range(2))
        print(f"| {named.name} | {size / 1e6:.2f} MB | {net_ms} | {ratio[n]:.2f} | {all_ms} |")


def print_false(packs: Sequence[Named], folders: Sequence[Path], draw: Path | None) -> None:
    """Print what fires at the default threshold on photos without a face."""
    paths = [p for f in folders for p in sorted(f.rglob("*")) if p.suffix.lower() in PICTURES]
    out = (*WITH_FACES, *LEFT_OUT)
    chosen = [p for p in paths if not any(fnmatch.fnmatch(p.name, name) for name in out)]
    # By every other one the scores were calibrated.
    chosen = [p for p in chosen[1::2] if p.name not in SEEN_LATER]
    photos = [(p, pixels) for p in chosen if (pixels := pixels_of(p)) is not None]
    print(f"\n{len(photos)} photos without a face, at the default threshold\n")
    print("| detector | photos that fire | false detections | which, with scores |")
    print("|---|---|---|---|")
    for named in packs:
        found = looked(named, [pixels for _, pixels in photos], DetectSettings())
        fired = [(p, x, f) for (p, x), f in zip(photos, found, strict=True) if len(f)]
        which = ", ".join(
            f"{path.name} {' '.join(f'{score:.2f}' for score in faces.scores_N)}"
            for path, _, faces in fired
        )
        total = sum(len(faces) for _, _, faces in fired)
        print(f"| {named.name} | {len(fired)} | {total} | {which} |")
        for path, pixels, faces in fired if draw else []:
            assert draw is not None
            _draw(draw / f"{named.name}_{path.name}.png", pixels, faces)


def _draw(target: Path, pixels: Pixels, faces: Faces) -> None:
    canvas = pixels.copy()
    thick = max(1, max(canvas.shape) // 300)
    for x1, y1, x2, y2 in faces.boxes_N4.round().astype(int).tolist():
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 0, 255), thick)
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(target), canvas)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", nargs="*", metavar="PACK", help="whose detectors stand beside")
    parser.add_argument("--labelled", type=Path, metavar="FOLDER", help="photos and labels.csv")
    parser.add_argument("--without-faces", type=Path, nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--own", default="builtin", metavar="PACK", help="another than builtin")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="write the photos that fire")
    given = parser.parse_args()
    packs = [
        Named(name=Path(name).name, pack=find_pack(name)) for name in [given.own, *given.packs]
    ]
    print_costs(packs)
    if given.labelled is not None:
        print_precision(packs, given.labelled)
    if given.without_faces:
        print_false(packs, given.without_faces, given.draw)


if __name__ == "__main__":
    main()
