"""Webdataset's tar files, written so that the same samples are the same bytes.

A sample is KEY.cls, KEY.jpg (or .png) and KEY.json, next to each other: the number of the person,
the picture, and what else is known. See facepipe/source_webdataset.py for how they are read.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

_FILE_MODE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One face: its key has no dot and no slash."""

    key: str
    image: bytes
    suffix: str  # jpg or png
    label: int
    identity: str
    weight: float


def write_samples(samples: Iterable[Sample], stream: BinaryIO) -> int:
    """Write samples to a tar in the order given; return how many. No time, owner or path of here.

    Raises ValueError for a key that would be no sample of its own.
    """
    count = 0
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            if not sample.key or set(sample.key) & set("./\0"):
                raise ValueError(f"the key {sample.key!r} has a dot, a slash or nothing in it")
            known = {
                "face_id": sample.key,
                "identity": sample.identity,
                "label": sample.label,
                "weight": sample.weight,
            }
            files = {
                "cls": str(sample.label).encode(),
                "json": json.dumps(known, sort_keys=True).encode(),
                sample.suffix: sample.image,
            }
            for suffix, data in sorted(files.items()):
                entry = tarfile.TarInfo(f"{sample.key}.{suffix}")
                entry.size, entry.mode = len(data), _FILE_MODE
                tar.addfile(entry, io.BytesIO(data))
            count += 1
    return count
