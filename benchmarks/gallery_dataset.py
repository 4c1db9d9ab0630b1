"""A dataset of gallery_vectors.py on disk, as detect and embed would have committed it.

    python benchmarks/gallery_dataset.py FOLDER --vectors 500000 [--order sorted]

Written shard by shard, so that memory does not grow with the number of faces. In sorted order the
shards hold whole people, one after the other, as an archive sorted by person has them; shuffled
takes 2 D bytes of memory a face. Beside it FOLDER.truth.npz says whose each face is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from gallery_vectors import Faces, GalleryVectors
from made_dataset import SHARD_FACES, finish, write_faces

from facepipe import ids
from facepipe.shards import Dataset
from facepipe.store import open_store

Order = Literal["sorted", "shuffled"]


def main() -> None:
    """Write a dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--order", choices=("sorted", "shuffled"), default="shuffled")
    args = parser.parse_args()
    write_gallery(args.folder, GalleryVectors(args.vectors, args.dim, args.seed), args.order)


def write_gallery(folder: Path, made: GalleryVectors, order: Order) -> Dataset:
    """Write all faces, and FOLDER.truth.npz: face_id (N,) and person (N,) in order of arrival."""
    dataset = Dataset(open_store(str(folder)))
    keys: dict[str, str] = {}
    truth: list[tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64]]] = []
    for part in _parts(made, order):
        shard = f"{len(keys):06d}"
        keys[shard] = ids.digest([made.seed, order, shard])
        truth.append((_write(dataset, shard, keys[shard], part), part.person_N))
    finish(dataset, keys)
    np.savez(
        truth_file(folder),
        face_id=np.concatenate([face_id for face_id, _ in truth]),
        person=np.concatenate([person for _, person in truth]),
    )
    return dataset


def truth_file(folder: Path) -> Path:
    """Return where a dataset's truth is."""
    return folder.with_name(f"{folder.name}.truth.npz")


def _parts(made: GalleryVectors, order: Order) -> Iterator[Faces]:
    pieces = iter([made.shuffled()]) if order == "shuffled" else made.pieces()
    vectors_ND, person_N = np.empty((0, made.dim), np.float16), np.empty(0, np.int64)
    for piece in pieces:
        vectors_ND = np.concatenate([vectors_ND, piece.vectors_ND])
        person_N = np.concatenate([person_N, piece.person_N])
        whole = len(person_N) - len(person_N) % SHARD_FACES
        for start in range(0, whole, SHARD_FACES):
            rows = slice(start, start + SHARD_FACES)
            yield Faces(vectors_ND[rows], person_N[rows])
        vectors_ND, person_N = vectors_ND[whole:], person_N[whole:]
    if len(person_N):
        yield Faces(vectors_ND, person_N)


def _write(dataset: Dataset, shard: str, key: str, part: Faces) -> npt.NDArray[np.bytes_]:
    """Write a shard of PHOTOS, FACES and EMBEDDINGS, and return its face ids."""
    count = len(part.vectors_ND)
    photo = [ids.photo_id(f"{key}-{i}".encode()) for i in range(count)]
    face_id = [ids.face_id(p, 0) for p in photo]
    names = [f"person-{person:08d}" for person in part.person_N]
    shared = {
        "photo_id": photo,
        "uri": [f"{names[i]}/{shard}-{i:04d}.jpg" for i in range(count)],
        "source_label": names,
        "status": ["ok"] * count,
    }
    faces = {**shared, "face_id": face_id, "box_xyxy_px": [[80.0, 80.0, 170.0, 170.0]] * count}
    write_faces(dataset, shard, key, shared, faces, part.vectors_ND)
    return np.array(face_id, np.bytes_)


if __name__ == "__main__":
    main()
