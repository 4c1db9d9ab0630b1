"""A dataset of made crops on disk, as detect and clean would have committed it.

Crops are smooth colours with grain: about 8 KB a JPEG, half as long again as real ones, and 20 KB a
PNG. Or they are real ones, of a dataset. PICTURES different ones are repeated, which decoding and
reading do not notice.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from made_dataset import filled

from facepipe import ids, schema
from facepipe.align import CROP_PX
from facepipe.commits import Plan, write_shard
from facepipe.schema import FaceStatus
from facepipe.shards import Dataset
from facepipe.store import open_store

SHARD_FACES = 256
PICTURES = 512
GRAIN = {"jpeg": 9.0, "png": 2.0}  # grey levels, for about 8 and 20 KB


def pictures(form: str, seed: int = 0) -> list[bytes]:
    """Return encoded crops."""
    rng = np.random.default_rng([seed, 17])
    return [_encoded(_picture(rng, GRAIN[form]), form) for _ in range(PICTURES)]


def real_pictures(dataset: Dataset, form: str) -> list[bytes]:
    """Return crops of a dataset's whole faces, spread over it, encoded anew."""
    faces = dataset.table("faces", ["status"])
    whole = np.flatnonzero(pc.equal(faces.column("status"), FaceStatus.OK.value).to_numpy())
    chosen = whole[np.linspace(0, len(whole) - 1, PICTURES).astype(np.int64)]
    crops = dataset.table("faces", ["crop"]).column("crop").take(pa.array(chosen)).to_pylist()
    return [_encoded(cv2.imdecode(np.frombuffer(crop, np.uint8), 1), form) for crop in crops]


def _picture(rng: np.random.Generator, grain: float) -> npt.NDArray[np.uint8]:
    low = rng.uniform(40, 215, (7, 7, 3)).astype(np.float32)
    smooth = cv2.resize(low, (CROP_PX, CROP_PX), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, grain, smooth.shape), 0, 255).astype(np.uint8)


def _encoded(picture: npt.NDArray[np.uint8], form: str) -> bytes:
    settings = {"jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95], "png": [cv2.IMWRITE_PNG_COMPRESSION, 1]}
    suffix = ".jpg" if form == "jpeg" else ".png"
    return bytes(cv2.imencode(suffix, picture, settings[form])[1].tobytes())


def write_crops(
    folder: Path, faces: int, encoded: list[bytes], faces_of_person: int = 60
) -> Dataset:
    """Write FACES and DECISIONS that keep every face, of PICTURES encoded crops."""
    dataset = Dataset(open_store(str(folder)))
    keys: dict[str, str] = {}
    decisions = []
    for start in range(0, faces, SHARD_FACES):
        count = min(SHARD_FACES, faces - start)
        shard = f"{len(keys):06d}"
        keys[shard] = ids.digest([shard])
        photo = [ids.photo_id(f"{shard}-{i}".encode()) for i in range(count)]
        shared = {
            "face_id": [ids.face_id(p, 0) for p in photo],
            "uri": [f"{shard}-{i:04d}" for i in range(count)],
            "source_label": [f"p{(start + i) // faces_of_person:07d}" for i in range(count)],
        }
        crops = [encoded[(start + i) % PICTURES] for i in range(count)]
        given = {**shared, "photo_id": photo, "crop": crops, "status": ["ok"] * count}
        # As long as those of real faces: they lie between the crops, and are passed over.
        rng = np.random.default_rng([start, 3])
        given["crop_grey"] = [rng.bytes(schema.CROP_GREY_PX**2) for _ in range(count)]
        table = filled(schema.FACES, given, count)
        write_shard(
            dataset.store,
            step="detect",
            shard=shard,
            key=keys[shard],
            tables=[("faces", "faces", table, schema.FACES)],
            counts={"faces": {"ok": count}},
        )
        kept = {**shared, "identity_id": shared["source_label"], "decision": ["keep"] * count}
        kept["weight"] = [1.0] * count
        decisions.append(filled(schema.DECISIONS, kept, count))
    write_shard(
        dataset.store,
        step="clean",
        shard="000000",
        key="0" * 64,
        tables=[("decisions", "decisions", pa.concat_tables(decisions), schema.DECISIONS)],
        counts={"decisions": {"keep": faces}},
    )
    dataset.write_plan(Plan(step="detect", shards=keys, basis={}))
    dataset.write_plan(Plan(step="clean", shards={"000000": "0" * 64}, basis={}))
    dataset.pack("detect")
    dataset.write_manifest()
    return dataset
