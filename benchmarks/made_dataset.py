"""A dataset of synthetic faces on disk, as detect and embed would have committed it.

    python benchmarks/made_dataset.py FOLDER --faces 1000000 [--wrong 0.4] [--seed 0]

One face a photo, labelled with its person's name but for a share of wrong labels. Vectors as
in synthetic_faces.py, crops of no bytes, hashes at random. Written shard by shard: memory does
not grow with the number of faces beyond their labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from synthetic_faces import BLOCK_FACES, make_faces

from facepipe import ids, schema
from facepipe.commits import Plan, write_shard
from facepipe.shards import Dataset
from facepipe.store import open_store

MODEL = ids.digest("synthetic faces")
SHARD_FACES = 4096
NORM = 20.0  # length before normalising, which nothing here reads


def main() -> None:
    """Write a dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faces", type=int, default=100_000)
    parser.add_argument("--wrong", type=float, default=0.4, help="share of wrong labels")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_dataset(args.folder, args.faces, args.wrong, args.dimensions, args.seed)


def make_dataset(folder: Path, faces: int, wrong: float, dimensions: int, seed: int) -> Dataset:
    """Write a dataset in pieces of BLOCK_FACES with people of their own."""
    dataset = Dataset(open_store(str(folder)))
    keys: dict[str, str] = {}
    for piece, start in enumerate(range(0, faces, BLOCK_FACES)):
        count = min(BLOCK_FACES, faces - start)
        made = make_faces(count, dimensions=dimensions, seed=seed * 100_003 + piece)
        label_N = mislabelled(made.identity_N, wrong, seed * 100_003 + piece)
        for first in range(0, count, SHARD_FACES):
            rows = slice(first, min(first + SHARD_FACES, count))
            shard = f"{len(keys):06d}"
            keys[shard] = ids.digest([seed, shard])
            names = [f"p{piece:04d}-{person:06d}" for person in label_N[rows]]
            _write(dataset, shard, keys[shard], names, made.vectors_ND[rows])
    finish(dataset, keys)
    return dataset


def finish(dataset: Dataset, keys: dict[str, str]) -> None:
    """Write the plans of detect and embed for shards by name and key, and the manifest."""
    for step in ("detect", f"embed-{MODEL[:12]}"):
        basis = {"model_id": MODEL} if step != "detect" else {}
        dataset.write_plan(Plan(step=step, shards=keys, basis=basis))
        dataset.pack(step)
    dataset.set_current_model(MODEL)
    dataset.write_manifest()


def mislabelled(
    identity_N: npt.NDArray[np.int64], wrong: float, seed: int
) -> npt.NDArray[np.int64]:
    """Return labels of which a share is another person's."""
    rng = np.random.default_rng([seed, 5])
    flipped = rng.random(len(identity_N)) < wrong
    people = int(identity_N.max()) + 1
    away = rng.integers(1, people, len(identity_N))
    return np.where(flipped, (identity_N + away) % people, identity_N)


def _write(
    dataset: Dataset, shard: str, key: str, names: list[str], vectors_ND: npt.NDArray[np.float16]
) -> None:
    rng = np.random.default_rng([int(shard), 3])
    count = len(vectors_ND)
    photo = [ids.photo_id(f"{shard}-{i}".encode()) for i in range(count)]
    face_id = [ids.face_id(p, 0) for p in photo]
    shared = {
        "photo_id": photo,
        "uri": [f"{names[i]}/{shard}-{i:04d}.jpg" for i in range(count)],
        "member": [None] * count,
        "source_label": names,
        "status": ["ok"] * count,
    }
    words = rng.integers(0, 1 << 63, count, dtype=np.uint64)
    photos = {
        **shared,
        "phash": [int(w).to_bytes(8, "big") for w in words],
        "width_px": [250] * count,
        "height_px": [250] * count,
        "faces": [1] * count,
    }
    faces = {
        **shared,
        "face_id": face_id,
        "box_xyxy_px": [[80.0, 80.0, 170.0, 170.0]] * count,
        "det_score": rng.uniform(0.6, 0.9, count),
        "eye_distance_px": rng.uniform(20, 60, count),
        "sharpness": rng.uniform(50, 500, count),
        "crop_hash": [rng.bytes(schema.CROP_HASH_BYTES) for _ in range(count)],
    }
    write_faces(dataset, shard, key, photos, faces, vectors_ND)


def write_faces(
    dataset: Dataset,
    shard: str,
    key: str,
    photos: dict[str, Any],
    faces: dict[str, Any],
    vectors_ND: npt.NDArray[np.float16],
) -> None:
    """Write a shard of PHOTOS, FACES (columns by name, face_id among them) and EMBEDDINGS."""
    count, dim = vectors_ND.shape
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel(), pa.float16()), dim)
    embeddings = pa.table(
        [
            pa.array(faces["face_id"]),
            column,
            pa.array(np.full(count, NORM, np.float32)),
            ["ok"] * count,
        ],
        schema=schema.embeddings(dim, MODEL),
    )
    detected = write_shard(
        dataset.store,
        step="detect",
        shard=shard,
        key=key,
        tables=[
            ("photos", "photos", filled(schema.PHOTOS, photos, count), schema.PHOTOS),
            ("faces", "faces", filled(schema.FACES, faces, count), schema.FACES),
        ],
        counts={"photos": {"ok": count}, "faces": {"ok": count}},
    )
    write_shard(
        dataset.store,
        step=f"embed-{MODEL[:12]}",
        shard=shard,
        key=key,
        tables=[("embeddings", f"embeddings/{MODEL[:12]}", embeddings, embeddings.schema)],
        counts={"embeddings": {"ok": count}},
        facts={"faces": detected.files[1].sha256},
    )


def filled(like: pa.Schema, given: dict[str, Any], count: int) -> pa.Table:
    """Return rows with the columns given; the others, which cleaning does not read, say nothing."""
    columns = []
    for field in like:
        kind = field.type
        if field.name in given:
            columns.append(pa.array(given[field.name], kind))
        elif field.nullable:
            columns.append(pa.nulls(count, kind))
        elif pa.types.is_fixed_size_list(kind):
            values = pa.array(np.zeros(count * kind.list_size, np.float32), kind.value_type)
            columns.append(pa.FixedSizeListArray.from_arrays(values, kind.list_size))
        else:
            zero: Any = "" if pa.types.is_string(kind) else b"" if pa.types.is_binary(kind) else 0
            columns.append(pa.array([zero] * count).cast(kind))
    return pa.Table.from_arrays(columns, schema=like)


if __name__ == "__main__":
    main()
