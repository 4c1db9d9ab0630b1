"""Checks an index: every byte of every version, and that what is in force adds up.

Hashes say that no byte has changed; the rest says that what was written is right: counts, unit
vectors, faces that occur once, codes that are those of the vectors, and the dataset's own faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepipe.errors import CorruptData, FacepipeError
from facepipe.gallery_changes import Indexed
from facepipe.id_keys import UInt64, among, repeated, text_keys
from facepipe.index_codes import ShardCodes
from facepipe.index_manifest import (
    CODES,
    CURRENT,
    VECTORS,
    Manifest,
    Shard,
    manifest_key,
    read_manifest,
    suppressed_key,
)
from facepipe.lease import LEASE
from facepipe.shards import Dataset
from facepipe.store import LOCK, Store
from facepipe.suppressed import DELETED
from facepipe.vector_file import need_unit
from pipelines.index import finished_plans
from pipelines.index_files import (
    Named,
    check_bytes,
    living_rows,
    read_dead,
    read_rows,
    vector_blocks,
    version_files,
    version_keys,
)
from pipelines.index_select import look
from pipelines.index_shards import Nowhere, open_template
from pipelines.index_suppressed import read_suppressed
from pipelines.index_versions import Version, all_versions, current_etag, own_folder

SAMPLE_ROWS = 100_000  # whose codes are made again, in whole shards: some 4 s a core
OF_ANY_RUN = {LOCK, LEASE}


@dataclass(slots=True)
class Findings:
    """What is wrong, and how much was looked at."""

    problems: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    rows: int = 0

    def check(self, store: Store, named: Named) -> bool:
        """Check a file by its hash; tell whether it is right."""
        try:
            check_bytes(store, named)
        except (CorruptData, OSError) as error:
            self.problems.append(str(error))
            return False
        self.count(named)
        return True

    def count(self, named: Named) -> None:
        """Count a file that has been checked."""
        self.files += 1
        self.bytes += named.file.bytes


def verify_index(uri: str, *, full: bool = False, dataset: Dataset | None = None) -> dict[str, Any]:
    """Return the problems of an index, and how many files, bytes and rows were checked.

    All files of all versions are hashed. ``full``: make the codes of all shards again, not of
    a sample. ``dataset``: compare the faces with those that it keeps now. ``unknown`` are files
    that no version names; they are no problem, and the next command that finishes removes those
    that an interrupted run left. It is begun again where another run has put a version in force
    meanwhile, and so removed older files. Raises DatasetNotFound where there is no index.
    """
    store = own_folder(uri)
    while True:
        seen = current_etag(store)
        found = _verified(store, full, dataset)
        if not found["problems"] or current_etag(store) == seen:
            return found


def _verified(store: Store, full: bool, dataset: Dataset | None) -> dict[str, Any]:
    findings = Findings()
    current: Version | None = None
    try:
        current = read_manifest(store)
    except CorruptData as error:
        findings.problems.append(str(error))
    versions = all_versions(store)
    if current is not None:
        check_version(store, *current, findings, full=full)
        if dataset is not None and not findings.problems:
            findings.problems += _of_dataset(store, current[1], dataset)
    _other_versions(store, versions, current, findings)
    named = {key for item in versions.items() for key in version_keys(*item)} | {CURRENT}
    return {
        "version": None if current is None else current[0],
        "versions": len(versions),
        "problems": findings.problems,
        "files": findings.files,
        "bytes": findings.bytes,
        "rows": findings.rows,
        "unknown": [k for k in store.list_all() if k not in named and k not in OF_ANY_RUN],
    }


def check_version(
    store: Store, version: str, manifest: Manifest, findings: Findings, *, full: bool
) -> None:
    """Check one version wholly."""
    template = manifest.template
    if template is not None and not findings.check(store, Named(template.key, template.file)):
        return
    findings.problems += _suppressed(store, manifest, findings)
    sound = [shard for shard in manifest.shards if _check_shard(store, shard, manifest, findings)]
    if len(sound) == len(manifest.shards):
        findings.problems += _account(store, version, manifest)
    if template is not None:
        for shard in sound if full else _sampled(sound):
            findings.problems += _other_codes(store, manifest, shard)


def _check_shard(store: Store, shard: Shard, manifest: Manifest, findings: Findings) -> bool:
    """Check a shard's bytes, rows and vectors; tell whether its bytes are right."""
    before = len(findings.problems)
    for name, file in shard.files.items():
        if name != VECTORS:
            findings.check(store, Named(shard.key(name), file))
    where = f"{store.uri}/{shard.key(VECTORS)}"
    try:
        read_dead(store, shard)
        if shard.tombstones is not None and shard.tombstones_key is not None:
            findings.count(Named(shard.tombstones_key, shard.tombstones))
        face_ids = read_rows(store, shard, ("face_id",)).column("face_id")
        if len(face_ids) > 1 and not pc.all(pc.less(face_ids[:-1], face_ids[1:])).as_py():
            findings.problems.append(f"shard {shard.name} is not in the order of face_id")
        for start, block in vector_blocks(store, shard, manifest.embedding.dim):
            try:
                need_unit(block, start)
            except CorruptData as error:
                findings.problems.append(f"{where}: {error}")
        findings.count(Named(shard.key(VECTORS), shard.files[VECTORS]))
    except (CorruptData, OSError) as error:
        if str(error) not in findings.problems:
            findings.problems.append(str(error))
    findings.rows += shard.rows
    return len(findings.problems) == before


def _account(store: Store, version: str, manifest: Manifest) -> list[str]:
    """Compare the rows with the manifest's counts, and look for faces that occur twice."""
    names: set[str | None] = set()
    keys: list[UInt64] = [np.empty(0, np.uint64)]
    for _, _, rows in living_rows(store, manifest.shards, ("face_id", "identity_id")):
        names.update(pc.unique(rows.column("identity_id")).to_pylist())
        keys.append(text_keys(rows.column("face_id")))
    problems = []
    totals = manifest.totals
    if totals.identities != len(names - {None}):
        problems.append(
            f"version {version[:12]} counts {totals.identities} people, its rows have "
            f"{len(names - {None})}"
        )
    if totals.expected != totals.indexed + sum(totals.left_out.values()):
        problems.append(
            f"version {version[:12]}: {totals.expected} faces were expected, "
            f"{totals.indexed} are indexed and {sum(totals.left_out.values())} left out"
        )
    twice = repeated(np.concatenate(keys))
    if len(twice) and (faces := _twice(store, manifest, twice)):
        problems.append(f"{len(faces)} faces occur twice, {min(faces)} first")
    return problems


def _twice(store: Store, manifest: Manifest, keys: UInt64) -> set[str]:
    """Return the faces that occur more than once, of those with these keys."""
    seen: set[str] = set()
    found: set[str] = set()
    for _, _, rows in living_rows(store, manifest.shards, ("face_id",)):
        mask = among(text_keys(rows.column("face_id")), keys) >= 0
        own = rows.column("face_id").filter(pa.array(mask)).to_pylist()
        found |= seen & set(own)
        seen |= set(own)
    return found


def _suppressed(store: Store, manifest: Manifest, findings: Findings) -> list[str]:
    """Check the list of deleted faces, and that none of them is alive."""
    if manifest.suppressed is None:
        return []
    try:
        suppressed = read_suppressed(store, manifest)
    except (CorruptData, OSError) as error:
        return [str(error)]
    findings.count(Named(suppressed_key(manifest.suppressed), manifest.suppressed))
    rows = living_rows(store, manifest.shards, ("face_id",))
    try:
        alive = sum(int(suppressed.mask(part.column("face_id")).sum()) for *_, part in rows)
    except (CorruptData, OSError):
        return []  # which the shards say themselves
    return [f"{alive} faces are in the index and among those deleted from it"] if alive else []


# -- codes -------------------------------------------------------------------------------


def _sampled(shards: Sequence[Shard]) -> list[Shard]:
    """Return shards, by their names, up to SAMPLE_ROWS; one at least."""
    chosen: list[Shard] = []
    for shard in sorted(shards, key=lambda shard: shard.name):
        if chosen and sum(s.rows for s in chosen) + shard.rows > SAMPLE_ROWS:
            continue
        chosen.append(shard)
    return chosen


def _other_codes(store: Store, manifest: Manifest, shard: Shard) -> list[str]:
    """Say where a shard's codes are not those that its vectors get."""
    if manifest.template is None:
        return []
    dim = manifest.embedding.dim
    codes = ShardCodes(open_template(store, manifest.template, dim), shard.rows)
    for _, block in vector_blocks(store, shard, dim):
        codes.add(block)
    if codes.write(cast(BinaryIO, Nowhere())) == shard.files[CODES]:
        return []
    return [
        f"{store.uri}/{shard.key(CODES)} is not what its vectors are encoded to here: it was made "
        "of others, or on another type of processor"
    ]


# -- the rest ----------------------------------------------------------------------------


def _other_versions(
    store: Store, versions: dict[str, Manifest], current: Version | None, findings: Findings
) -> None:
    """Check the manifests of all versions, and the files of those that are not in force."""
    done = set() if current is None else {named.key for named in version_files(current[1])}
    for manifest in versions.values():
        findings.files += 1
        findings.bytes += len(manifest.to_json())
        for named in version_files(manifest):
            if named.key not in done:
                done.add(named.key)
                findings.check(store, named)
    keys = store.list_all("versions")
    # Read after the keys: another run may just have made a version.
    known = {manifest_key(version) for version in (*versions, *all_versions(store))}
    findings.problems += [
        f"{store.uri}/{key} is not the manifest that its folder is named after"
        for key in keys
        if key not in known
        and store.exists(key)
        and not any(key in problem for problem in findings.problems)
    ]


def _of_dataset(store: Store, manifest: Manifest, dataset: Dataset) -> list[str]:
    """Say how a gallery differs from what its dataset keeps now."""
    try:
        plans = finished_plans(dataset)
        stretch = look(
            dataset,
            manifest.dataset.include,
            decided=plans["clean"] is not None,
            suppressed=read_suppressed(store, manifest),
        )
    except FacepipeError as error:
        return [str(error)]
    problems = []
    if dataset.current_model() != manifest.embedding.model_id:
        problems.append(
            f"{dataset.uri} is embedded with model {dataset.current_model()[:12]} now, the index "
            f"holds vectors of {manifest.embedding.model_id[:12]}: facepipe index migrate"
        )
    indexed = Indexed.read(lambda: living_rows(store, manifest.shards))
    missing = sum(len(indexed.new(table)) for table in stretch.tables())
    gone = int((~indexed.seen).sum())
    # A gallery of before there were lists of the deleted may lack what its dataset keeps.
    deleted = 0 if manifest.suppressed else manifest.totals.left_out.get(DELETED, 0)
    if missing > deleted or gone:
        problems.append(
            f"{missing} faces of {dataset.uri} are not in the index as they are now, and {gone} of "
            f"the index are not in the dataset: facepipe index add {store.uri} --from {dataset.uri}"
        )
    return problems
