"""What an index says about itself: one immutable record, named by its own hash.

    INDEX/
      CURRENT                         the hash of the manifest in force; replaced last
      versions/<hash16>/manifest.json   written before CURRENT, never changed
      shards/<sha16>/index.faiss        vectors, in the order of rows.parquet
                     rows.parquet       facepipe.gallery.GALLERY

A version is a digest of its content: the same inputs give the same version and bytes. Since
CURRENT holds the manifest's hash and the manifest every file's, no byte can change unseen.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facepipe import ids
from facepipe.errors import CorruptData, DatasetNotFound
from facepipe.store import Store

INDEX_VERSION: Literal[1] = 1
CURRENT = "CURRENT"
VECTORS, ROWS = "index.faiss", "rows.parquet"
NAME_CHARS = 16  # of a hash in a folder's name; the whole hash is checked
MAX_MANIFEST_BYTES = 64 * 2**20
_HEX = r"^[0-9a-f]{64}$"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Embedding(_Record):
    """Which vectors an index holds, and so which ones can search it."""

    model_id: str
    flip: str | None = Field(description="embed.flip, which is part of the model id")
    dim: int = Field(ge=1, le=65536)
    metric: Literal["inner_product"] = "inner_product"
    normalised: Literal[True] = True


class Origin(_Record):
    """The dataset as it was: the plan ids of its steps; null where a step had not run."""

    plans: dict[str, str | None]
    include: Literal["kept", "all"]
    by: Literal["decisions", "status", "all"] = Field(
        description="status: there were no decisions yet, faces of status ok were taken"
    )


class Totals(_Record):
    """The account: expected = indexed + the sum of left_out."""

    expected: int = Field(ge=0, description="rows of FACES")
    indexed: int = Field(ge=0)
    left_out: dict[str, int]
    identities: int = Field(ge=0)


class Threshold(_Record):
    """The score from which a hit is called the same person, and what that rests on."""

    value: float
    fpir: float = Field(description="chance that a stranger's search names anybody")
    fmr: float = Field(description="the same, per face of the gallery that is compared")
    method: Literal["strangers", "impostor_pairs", "unlabelled_pairs", "prior"]
    note: str
    probes: int = Field(ge=0, description="faces searched for the calibration")
    comparisons: int = Field(ge=0, description="pairs of faces of different people, or taken so")
    impostor_mean: float
    impostor_std: float = Field(description="of pairs")
    seed: int


class IndexFile(_Record):
    """Size and hash of one file."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_HEX)


class Shard(_Record):
    """Some rows of the gallery and their vectors, under shards/<name>/."""

    name: str = Field(pattern=rf"^[0-9a-f]{{{NAME_CHARS}}}$")
    rows: int = Field(ge=0)
    files: dict[str, IndexFile]

    def key(self, file: str) -> str:
        """Return where a file of the shard is stored."""
        return f"shards/{self.name}/{file}"


class Manifest(_Record):
    """All of the above."""

    schema_version: Literal[1] = INDEX_VERSION
    inputs: str = Field(description="digest of all that the index was made from")
    embedding: Embedding
    dataset: Origin
    totals: Totals
    codes: Literal["SQfp16"] = "SQfp16"
    faiss: str = Field(description="version of the library that wrote the shards")
    threshold: Threshold
    shards: tuple[Shard, ...]

    def to_json(self) -> bytes:
        """Return the manifest as it is stored."""
        value = self.model_dump(mode="json")
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def manifest_key(version: str) -> str:
    """Return where the manifest of a version is stored."""
    return f"versions/{version[:NAME_CHARS]}/manifest.json"


def current_version(store: Store) -> str | None:
    """Return the version in force, None where there is none. Raises CorruptData."""
    if not store.exists(CURRENT):
        return None
    text = store.get(CURRENT)
    if re.fullmatch(rb"[0-9a-f]{64}\n", text) is None:
        raise CorruptData(f"{store.uri}/{CURRENT} does not name a version: {_AGAIN}")
    return text.decode().strip()


def read_manifest(store: Store) -> tuple[str, Manifest]:
    """Return the version in force and its manifest.

    Raises DatasetNotFound where there is no index, CorruptData where the manifest is missing,
    does not have the hash that CURRENT names, or is of a layout this facepipe does not know.
    """
    version = current_version(store)
    if version is None:
        raise DatasetNotFound(
            f"no index in {store.uri}: make one with facepipe index build DATASET --out {store.uri}"
        )
    key = manifest_key(version)
    try:
        if store.size(key) > MAX_MANIFEST_BYTES:
            raise CorruptData(f"{store.uri}/{key} is too large for a manifest: {_AGAIN}")
        data = store.get(key)
    except FileNotFoundError as error:
        raise CorruptData(f"{store.uri}/{key} is missing: {_AGAIN}") from error
    if ids.sha256_hex(data) != version:
        raise CorruptData(f"{store.uri}/{key} does not have the hash in {CURRENT}: {_AGAIN}")
    return version, _parse(data, f"{store.uri}/{key}")


def _parse(data: bytes, name: str) -> Manifest:
    try:
        value: Any = json.loads(data)
        written = value.get("schema_version") if isinstance(value, dict) else None
        if written != INDEX_VERSION:
            raise CorruptData(
                f"{name} is of layout {written}, this facepipe reads {INDEX_VERSION}: {_AGAIN}"
            )
        return Manifest.model_validate(value)
    except (ValueError, ValidationError) as error:
        raise CorruptData(f"{name} is not a manifest ({error}): {_AGAIN}") from error


_AGAIN = "build the index again with facepipe index build"
