"""Commit records: one JSON file decides what a shard of a step is.

A shard task is a pure function of its inputs, and its *key* is a digest of them. It writes
its Parquet files under names that carry their hash, then one record, put only if absent,
that lists them all: between a retry, a speculative copy and a zombie the record decides
(docs/adr/0004).
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facepipe import ids
from facepipe.errors import CorruptData
from facepipe.schema import SCHEMA_VERSION
from facepipe.store import LocalStore

KEY_CHARS = 16  # of a record's key in its file name; the whole key is inside
SHA_CHARS = 8  # of a file's hash in its name: two attempts with other bytes cannot collide
# The only names that are ever deleted: someone's own file in a table's folder is not ours.
SHARD_FILE = re.compile(rf"\d{{6}}-[0-9a-f]{{{SHA_CHARS}}}\.parquet")
INCOMPRESSIBLE = {"crop", "vector"}  # encoded pictures and float noise


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """One Parquet file of a committed shard."""

    table: str
    file: str
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one shard task wrote, its counts by status, and how long each part took."""

    step: str
    shard: str
    key: str
    files: tuple[ShardFile, ...]
    counts: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the record as it is stored."""
        value = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Commit:
        """Read a record. Raises CorruptData, naming the record, where it is none."""
        try:
            value = json.loads(data)
            value.pop("schema_version")
            files = tuple(ShardFile(**f) for f in value.pop("files"))
            return cls(files=files, **value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptData(
                f"commit record {name} cannot be read ({error}): delete it and run the same "
                "command again; only its shard is redone"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The shards of a step, each with the key of its inputs, and what the keys were made of."""

    step: str
    shards: Mapping[str, str]
    basis: Mapping[str, Any]

    @property
    def plan_id(self) -> str:
        """Return a digest of every shard's inputs."""
        return ids.digest([self.step, dict(self.shards)])

    def to_json(self) -> bytes:
        """Return the plan as it is stored."""
        value = {"step": self.step, "plan_id": self.plan_id, "basis": self.basis}
        return (json.dumps({**value, "shards": self.shards}, indent=1) + "\n").encode()


def record_key(step: str, shard: str, key: str) -> str:
    """Return where the commit record of a shard is stored."""
    return f"_commits/{step}/{shard}-{key[:KEY_CHARS]}.json"


def write_parquet(table: pa.Table, schema: pa.Schema) -> bytes:
    """Return a table as Parquet bytes: the same rows always give the same bytes.

    Raises CorruptData where the table does not have the schema's columns and types.
    """
    if table.schema.names != schema.names:
        raise CorruptData(f"columns {table.schema.names} are not those of {schema.names}")
    table = table.cast(schema)
    compression = {_leaf_path(f): "NONE" if f.name in INCOMPRESSIBLE else "ZSTD" for f in schema}
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression=compression,
        use_dictionary=[c for c in schema.names if schema.field(c).type == pa.string()],
        row_group_size=max(1, table.num_rows),
        store_schema=True,
    )
    return sink.getvalue()


def _leaf_path(column: pa.Field) -> str:
    """Return a column's name as Parquet spells it for its compression setting."""
    return (
        f"{column.name}.list.element" if pa.types.is_fixed_size_list(column.type) else column.name
    )


def write_shard(
    store: LocalStore,
    *,
    step: str,
    shard: str,
    key: str,
    tables: Sequence[tuple[str, str, pa.Table, pa.Schema]],
    counts: Mapping[str, Mapping[str, int]],
    seconds: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Commit:
    """Write a shard's tables, then commit them; return the record that won.

    ``tables`` holds (table, folder, rows, schema). Where another attempt at the same shard
    has already committed, its record is returned and this attempt's other files, if any,
    are left for the step's end to remove. Raises StoreFull.
    """
    files = []
    for table, folder, rows, schema in tables:
        data = write_parquet(rows, schema)
        sha = ids.sha256_hex(data)
        name = f"{folder}/{shard}-{sha[:SHA_CHARS]}.parquet"
        store.put(name, data)
        files.append(
            ShardFile(table=table, file=name, sha256=sha, bytes=len(data), rows=rows.num_rows)
        )
    commit = Commit(
        step=step,
        shard=shard,
        key=key,
        files=tuple(files),
        counts=counts,
        seconds=seconds or {},
        facts=facts or {},
    )
    where = record_key(step, shard, key)
    if store.put_if_absent(where, commit.to_json()):
        return commit
    return Commit.from_json(store.get(where), where)


def total_counts(commits: Iterable[Commit]) -> dict[str, dict[str, int]]:
    """Return the sum of commits' counts: table -> status -> rows."""
    totals: dict[str, Counter[str]] = {}
    for commit in commits:
        for table, counts in commit.counts.items():
            totals.setdefault(table, Counter()).update(counts)
    return {table: dict(sorted(c.items())) for table, c in sorted(totals.items())}
