"""What an index says about itself: one immutable record, named by its own hash.

    INDEX/
      CURRENT                           the hash of the manifest in force; compared and swapped
      versions/<hash16>/manifest.json   written before CURRENT, never changed
      templates/<sha16>/template.faiss  trained and empty, shared by all shards; none for flat
      shards/<sha16>/vectors.f16        raw float16, row after row (facepipe.vector_file)
                     codes.ivf          their lists (facepipe.list_file); none for flat
                     rows.parquet       facepipe.gallery.GALLERY; row i is vector i and id i
      tombstones/<sha16>.u32            deleted rows of one shard, rising little-endian uint32
      suppressed/<sha16>.b16            whom not to take in again (facepipe.suppressed)

A version is a digest of its content: the same inputs give the same version and bytes. Since
CURRENT holds the manifest's hash and the manifest every file's, no byte can change unseen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from facepipe import ids
from facepipe.errors import CorruptData, DatasetNotFound
from facepipe.store import Store

INDEX_VERSION: Literal[2] = 2
CURRENT = "CURRENT"
VECTORS, CODES, ROWS = "vectors.f16", "codes.ivf", "rows.parquet"
TEMPLATE = "template.faiss"
NAME_CHARS = 16  # of a hash in a folder's name; the whole hash is checked
MAX_MANIFEST_BYTES = 64 * 2**20
VECTOR_ITEM_BYTES, TOMBSTONE_BYTES = 2, 4  # float16, uint32
SUPPRESSED_FOLDER, DIGEST_BYTES = "suppressed", 16  # of a face that was deleted
_HEX, _NAME = r"^[0-9a-f]{64}$", rf"^[0-9a-f]{{{NAME_CHARS}}}$"

CodeKind = Literal["flat", "ivf_sq8", "ivf_pqfs"]
Action = Literal["build", "add", "delete", "compact", "migrate"]


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
    indexed: int = Field(ge=0, description="living rows of the shards")
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


class Template(_Record):
    """The trained, empty index that every shard's codes are made with."""

    name: str = Field(pattern=_NAME, description="of the file's hash")
    kind: Literal["ivf_sq8", "ivf_pqfs"]
    factory: str = Field(description="of faiss.index_factory")
    nlist: int = Field(ge=1, le=2**26)
    seed: int = Field(ge=0)
    sample: int = Field(ge=1, description="vectors that it was trained on")
    faiss: str = Field(description="version of the library that trained it")
    file: IndexFile

    @property
    def key(self) -> str:
        """Return where the template is stored."""
        return f"templates/{self.name}/{TEMPLATE}"

    @model_validator(mode="after")
    def _named_by_content(self) -> Self:
        if self.name != self.file.sha256[:NAME_CHARS]:
            raise ValueError(f"template {self.name} has another name than its file's hash")
        return self


class Search(_Record):
    """How a query is answered by default; both 0 for flat, which is exact."""

    nprobe: int = Field(ge=0, description="lists searched for a query")
    candidates: int = Field(ge=0, description="approximate hits of a query scored exactly")


_EXACT = Search(nprobe=0, candidates=0)


class Recall(_Record):
    """What was measured at `Search`, against exact search; intervals are Wilson's, 95 %."""

    target: float = Field(ge=0, le=1)
    rth: float = Field(description="share of the exact top-10 pairs of min_cosine that were found")
    rth_low: float
    rth_high: float
    id_at_1: float = Field(description="share of queries whose best hit is of the right person")
    id_at_1_low: float
    id_at_1_high: float
    recall_at_10: float
    queries: int = Field(ge=0)
    pairs: int = Field(ge=0, description="pairs that rth is a share of")
    people_queries: int = Field(0, ge=0, description="queries that id_at_1 is a share of")
    min_cosine: float
    seed: int


class Shard(_Record):
    """Some rows of the gallery and their vectors, under shards/<name>/."""

    name: str = Field(pattern=_NAME, description="a digest of the hashes of its files")
    rows: int = Field(ge=0, le=2**32 - 1)
    files: dict[str, IndexFile]
    inputs: str = Field(description="digest of what it was made from")
    dead: int = Field(0, ge=0, description="rows that have been deleted and are still there")
    tombstones: IndexFile | None = Field(None, description="which ones")

    def key(self, file: str) -> str:
        """Return where a file of the shard is stored."""
        return f"shards/{self.name}/{file}"

    @property
    def tombstones_key(self) -> str | None:
        """Return where the list of deleted rows is stored; None where there are none."""
        file = self.tombstones
        return None if file is None else f"tombstones/{file.sha256[:NAME_CHARS]}.u32"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name != shard_name(self.files):
            raise ValueError(f"shard {self.name} has another name than its files' hashes")
        listed = None if self.tombstones is None else self.tombstones.bytes
        if listed != (self.dead * TOMBSTONE_BYTES or None) or self.dead > self.rows:
            raise ValueError(f"shard {self.name}: {self.dead} dead of {self.rows} rows, {listed}")
        return self


class Manifest(_Record):
    """All of the above."""

    schema_version: Literal[2] = INDEX_VERSION
    inputs: str = Field(description="digest of all that the index was made from")
    parent: str | None = Field(
        pattern=_HEX,
        description="the version it was made from; null for a first one, and after a compaction "
        "that erased rows",
    )
    action: Action = Field(description="what made it out of its parent")
    embedding: Embedding
    dataset: Origin
    totals: Totals
    kind: CodeKind
    template: Template | None = Field(description="null for flat")
    search: Search
    recall: Recall | None = Field(description="null for flat, which is exact")
    threshold: Threshold
    shards: tuple[Shard, ...]
    shard_rows: int = Field(ge=1, description="rows at which a shard is full")
    note: tuple[str, ...] = Field(description="why it was planned so")
    suppressed: IndexFile | None = Field(None, description="digests of the deleted faces")

    def to_json(self) -> bytes:
        """Return the manifest as it is stored."""
        # Left out where there is none, so that who knows no such list can read all others.
        unset = {"suppressed"} if self.suppressed is None else set()
        text = json.dumps(self.model_dump(mode="json", exclude=unset), indent=1, sort_keys=True)
        return f"{text}\n".encode()

    @model_validator(mode="after")
    def _counts_reconcile(self) -> Self:
        living = sum(shard.rows - shard.dead for shard in self.shards)
        if self.totals.indexed != living:
            raise ValueError(f"{self.totals.indexed} faces indexed, {living} in the shards")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is named twice")
        return self

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.template is None:
            good = self.kind == "flat" and self.search == _EXACT and self.recall is None
        else:
            good = self.kind == self.template.kind and self.search.candidates >= 1
            good = good and 1 <= self.search.nprobe <= self.template.nlist
        if not good:
            raise ValueError(f"template, search and recall are not those of {self.kind}")
        return self

    @model_validator(mode="after")
    def _files_of_the_kind(self) -> Self:
        expected = {VECTORS, ROWS} if self.kind == "flat" else {VECTORS, CODES, ROWS}
        for shard in self.shards:
            size = shard.rows * self.embedding.dim * VECTOR_ITEM_BYTES
            if set(shard.files) != expected or shard.files[VECTORS].bytes != size:
                raise ValueError(f"shard {shard.name} has no {size} bytes in {sorted(expected)}")
        return self


def shard_name(files: Mapping[str, IndexFile]) -> str:
    """Return the name of a shard with these files: a digest of their hashes."""
    return ids.digest({name: file.sha256 for name, file in files.items()})[:NAME_CHARS]


def suppressed_key(file: IndexFile) -> str:
    """Return where a list of deleted faces is stored."""
    return f"{SUPPRESSED_FOLDER}/{file.sha256[:NAME_CHARS]}.b16"


def manifest_key(version: str) -> str:
    """Return where the manifest of a version is stored."""
    return f"versions/{version[:NAME_CHARS]}/manifest.json"


def current_version(store: Store) -> str | None:
    """Return the version in force, None where there is none. Raises CorruptData."""
    return current_with_etag(store)[0]


def current_with_etag(store: Store) -> tuple[str | None, str | None]:
    """Return the version in force and what `Store.put_if_match` knows CURRENT by.

    Both None where there is no index yet. Raises CorruptData where CURRENT names no version.
    """
    try:
        text, etag = store.get_with_etag(CURRENT)
    except FileNotFoundError:
        return None, None
    if re.fullmatch(rb"[0-9a-f]{64}\n", text) is None:
        raise CorruptData(f"{store.uri}/{CURRENT} does not name a version: {_AGAIN}")
    return text.decode().strip(), etag


def read_manifest(store: Store) -> tuple[str, Manifest]:
    """Return the version in force and its manifest.

    Raises DatasetNotFound where there is no index, CorruptData where its manifest is missing,
    changed, or of a layout that this facepipe does not know.
    """
    version = current_version(store)
    if version is None:
        remedy = f"make one with facepipe index build DATASET --out {store.uri}"
        if any(True for _ in store.list_all("versions")):
            remedy = f"a version waits there: facepipe index publish {store.uri} puts it in force"
        raise DatasetNotFound(f"no index in {store.uri}: {remedy}")
    return version, read_version(store, version)


def read_version(store: Store, version: str) -> Manifest:
    """Return the manifest of a version, given its whole hash. Raises CorruptData."""
    key = manifest_key(version)
    try:
        if store.size(key) > MAX_MANIFEST_BYTES:
            raise CorruptData(f"{store.uri}/{key} is too large for a manifest: {_AGAIN}")
        data = store.get(key)
    except FileNotFoundError as error:
        raise CorruptData(f"{store.uri}/{key} is missing: {_AGAIN}") from error
    if ids.sha256_hex(data) != version:
        raise CorruptData(f"{store.uri}/{key} does not have the hash {version}: {_AGAIN}")
    return _parse(data, f"{store.uri}/{key}")


def _parse(data: bytes, name: str) -> Manifest:
    try:
        value: Any = json.loads(data)
        written = value.get("schema_version") if isinstance(value, dict) else None
        if written != INDEX_VERSION:
            raise CorruptData(f"{name} is of layout {written}, not {INDEX_VERSION}: {_AGAIN}")
        return Manifest.model_validate(value)
    except (ValueError, ValidationError, RecursionError) as error:
        raise CorruptData(f"{name} is not a manifest ({error}): {_AGAIN}") from error


_AGAIN = "build the index again with facepipe index build"
