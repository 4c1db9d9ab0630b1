"""The vectors that are evaluated: a dataset's own, or the same crops through one or more packs.

Pictures are embedded a block at a time, so that memory grows with the vectors alone.

Legend: N pictures, D dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from facepipe.align import CROP_PX, aligned_crop, decode_crop
from facepipe.config import Settings
from facepipe.decode import decode
from facepipe.detect import Detector
from facepipe.embed import Recogniser, model_id
from facepipe.errors import UsageError
from facepipe.neighbors import vector_matrix
from facepipe.packs import Pack
from facepipe.quality import labelled_face
from facepipe.schema import EmbeddingStatus
from facepipe.shards import Dataset
from pipelines.evaluate_sources import Source, ordered_faces
from pipelines.progress import Progress

Pixels = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

BLOCK = 512  # pictures read before they are embedded
SHARE = 32  # of them given to a worker at a time: a fixed cut, so that batches are always the same


@dataclass(frozen=True, slots=True)
class Faces:
    """One raw vector a picture; NaN where there is no face."""

    source: Source
    raw_ND: Float32
    digests: tuple[bytes, ...]  # of the pictures' bytes: equal ones are one picture
    model_id: str
    stored: bool = False  # the vectors are unit ones, as a dataset keeps them

    def unit_ND(self) -> npt.NDArray[np.float64]:
        """Return the vectors brought to length 1, float64; NaN where there is none."""
        raw = self.raw_ND.astype(np.float64)
        if self.stored:
            return raw
        raw[~np.isfinite(raw).all(axis=1)] = np.nan
        length_N = np.sqrt(np.sum(np.square(raw), axis=1))
        length_N[length_N == 0] = np.nan
        unit: npt.NDArray[np.float64] = raw / length_N[:, None]
        return unit


@dataclass(slots=True)
class Embedding:
    """Embeds a source with several packs, on threads that hold a session of each."""

    packs: Sequence[Pack]
    settings: Settings
    workers: int
    crops: bool  # the pictures are aligned crops
    _open: list[tuple[list[Recogniser], Detector | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open all sessions, so that a bad model fails before the first picture."""
        finder = next((p for p in self.packs if p.detector is not None), None)
        for _ in range(self.workers):
            nets = [Recogniser(p, self.settings.embed, self.settings.models) for p in self.packs]
            found = None
            if finder is not None and not self.crops:
                found = Detector(finder, self.settings.detect, self.settings.models)
            self._open.append((nets, found))

    def run(
        self, source: Source, advance: Callable[[int], None]
    ) -> tuple[list[Float32], tuple[bytes, ...]]:
        """Return raw vectors, N x D a pack, and the pictures' digests, in the source's order.

        Raises UsageError for photos without a detector to find faces with.
        """
        parts: list[list[Float32]] = [[] for _ in self.packs]
        digests: list[bytes] = []
        with ThreadPoolExecutor(self.workers) as pool:
            for block in _blocks(source.read()):
                digests += [hashlib.sha256(data).digest() for data in block]
                shares = [block[i : i + SHARE] for i in range(0, len(block), SHARE)]
                free = list(self._open)

                def task(share: list[bytes], free: Any = free) -> list[Float32]:
                    opened = free.pop()  # a list's pop is atomic; a thread has one at a time
                    try:
                        return self._embed(share, *opened)
                    finally:
                        free.append(opened)

                for vectors in pool.map(task, shares):
                    for part, raw in zip(parts, vectors, strict=True):
                        part.append(raw)
                advance(len(block))
        return [np.concatenate(part) for part in parts], tuple(digests)

    def _embed(
        self, pictures: list[bytes], nets: list[Recogniser], detector: Detector | None
    ) -> list[Float32]:
        crops = [self._crop(data, detector) for data in pictures]
        good = [i for i, crop in enumerate(crops) if crop is not None]
        found = []
        for net in nets:
            raw = net.embed([c for c in crops if c is not None])
            whole = np.full((len(crops), raw.shape[1]), np.nan, dtype=np.float32)
            whole[good] = raw
            found.append(whole)
        return found

    def _crop(self, data: bytes, detector: Detector | None) -> Pixels | None:
        """Return a picture's aligned crop: itself at 112 x 112, else its large, central face."""
        if not data:
            return None
        if self.crops:
            return decode_crop(data)
        pixels = decode(data, self.settings.decode).pixels_HWC
        if pixels is None or pixels.shape[:2] == (CROP_PX, CROP_PX):
            return pixels
        if detector is None:
            raise UsageError(
                f"a picture is {pixels.shape[1]} x {pixels.shape[0]} px, no aligned crop of "
                f"{CROP_PX} x {CROP_PX}, and no pack has a detector to find its face with: give "
                "aligned crops, a dataset, or a pack with a detector"
            )
        faces = detector.find([pixels])[0]
        best = labelled_face(faces.boxes_N4, pixels.shape[1], pixels.shape[0])
        if best is None:
            return None
        try:
            return aligned_crop(pixels, faces.landmarks_N52[best])
        except ValueError:
            return None


def _blocks(pictures: Iterator[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for data in pictures:
        block.append(data)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def embed_source(
    source: Source,
    packs: Sequence[Pack],
    settings: Settings,
    workers: int,
    progress: Progress,
) -> list[Faces]:
    """Return the vectors of every pack, of the same crops. Raises as `Embedding`."""
    embedding = Embedding(packs, settings, workers, source.crops)
    progress.begin("embed", len(source.pictures), 0)
    raws, digests = embedding.run(source, progress.advance)
    missing = int(np.isnan(raws[0]).any(axis=1).sum())
    progress.end(f"{len(source.pictures)} pictures, {missing} of them without a face")
    return [
        Faces(source, raw, digests, model_id(pack, settings.embed))
        for pack, raw in zip(packs, raws, strict=True)
    ]


def own_faces(dataset: Dataset, source: Source) -> Faces:
    """Return a dataset's own vectors of its source's pictures."""
    model = dataset.current_model()
    dataset.require_embeddings(model)
    rows = ordered_faces(dataset)
    places: dict[str, list[int]] = {}  # the same bytes may be there under several names
    for n, row in enumerate(rows):
        if row["face_id"] is not None:
            places.setdefault(row["face_id"], []).append(n)
    raw_ND: Float32 | None = None
    for file in dataset.files("embeddings", model):
        table = dataset.read(file, ["face_id", "vector", "status"])
        vectors = vector_matrix(table).astype(np.float32)
        if raw_ND is None:
            raw_ND = np.full((len(rows), vectors.shape[1]), np.nan, dtype=np.float32)
        columns = (table[c].to_pylist() for c in ("face_id", "status"))
        for n, (face, status) in enumerate(zip(*columns, strict=True)):
            if status == EmbeddingStatus.OK:
                raw_ND[places.get(face, [])] = vectors[n]
    if raw_ND is None:
        raw_ND = np.full((len(rows), 1), np.nan, dtype=np.float32)
    return Faces(source, raw_ND, (), model, stored=True)
