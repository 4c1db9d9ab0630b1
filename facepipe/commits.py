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
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facepipe import ids
from facepipe.errors import CorruptData
from facepipe.schema import SCHEMA_VERSION
from facepipe.store import Store

KEY_CHARS = 16  # of a record's key in its file name; the whole key is inside
SHA_CHARS = 8  # of a file's hash in its name: two attempts with other bytes cannot collide
# The only names that are ever deleted: someone's own file in a table's folder is not ours.
# 000013.0004 is the fifth part of the container that is shard 000013.
SHARD_FILE = re.compile(rf"\d{{6,}}(\.\d{{4,}})?-[0-9a-f]{{{SHA_CHARS}}}\.parquet")
INCOMPRESSIBLE = {"crop", "vector"}  # encoded pictures and float noise


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """One Parquet file of a committed shard."""

    table: str
    file: str
    sha256: str
    bytes: int
    rows: int

    def as_json(self) -> dict[str, Any]:
        """Return the fields, which `ShardFile(**fields)` takes."""
        return {name: getattr(self, name) for name in self.__slots__}


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

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them. Not asdict: it copies each of thousands deeply."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "files": [f.as_json() for f in self.files]}

    def to_json(self) -> bytes:
        """Return the record as it is stored."""
        value = {"schema_version": SCHEMA_VERSION, **self.as_json()}
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_value(cls, value: dict[str, Any]) -> Commit:
        """Return the commit of a parsed record. Raises what a wrong one raises."""
        value = {k: v for k, v in value.items() if k != "schema_version"}
        return cls(files=tuple(ShardFile(**f) for f in value.pop("files")), **value)

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Commit:
        """Read a record. Raises CorruptData, naming the record, where it is none."""
        try:
            return cls.from_value(json.loads(data))
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


def pack_commits(plan_id: str, commits: Iterable[Commit]) -> bytes:
    """Return all records of a finished step as one file, a record a line."""
    head = json.dumps({"schema_version": SCHEMA_VERSION, "plan_id": plan_id})
    return ("\n".join([head, *(json.dumps(c.as_json()) for c in commits)]) + "\n").encode()


def unpack_commits(data: bytes, plan_id: str) -> dict[str, Commit]:
    """Return the records that `pack_commits` wrote, by shard; none where they are of another plan.

    They are a copy for speed: one that cannot be read counts as none.
    """
    try:
        head, *lines = data.decode().splitlines()
        if json.loads(head) != {"schema_version": SCHEMA_VERSION, "plan_id": plan_id}:
            return {}
        commits = [Commit.from_value(json.loads(line)) for line in lines]
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {c.shard: c for c in commits}


def packed_key(step: str) -> str:
    """Return where the records of a finished step are stored as one file."""
    return f"_commits/{step}.jsonl"


def record_key(step: str, shard: str, key: str) -> str:
    """Return where the commit record of a shard is stored."""
    return f"_commits/{step}/{shard}-{key[:KEY_CHARS]}.json"


def write_parquet(table: pa.Table, schema: pa.Schema, group_rows: int | None = None) -> bytes:
    """Return a table as Parquet bytes: the same rows always give the same bytes.

    One row group, or one for every ``group_rows`` rows, for tables that are read in parts.
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
        row_group_size=group_rows or max(1, table.num_rows),
        store_schema=True,
    )
    return sink.getvalue()


def _leaf_path(column: pa.Field) -> str:
    """Return a column's name as Parquet spells it for its compression setting."""
    return (
        f"{column.name}.list.element" if pa.types.is_fixed_size_list(column.type) else column.name
    )


def write_shard(
    store: Store,
    *,
    step: str,
    shard: str,
    key: str,
    tables: Sequence[tuple[str, str, pa.Table, pa.Schema]],
    counts: Mapping[str, Mapping[str, int]],
    seconds: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
    group_rows: int | None = None,
) -> Commit:
    """Write a shard's tables, then commit them; return the record that won.

    ``tables`` holds (table, folder, rows, schema). Where another attempt at the same shard
    has already committed, its record is returned and this attempt's other files, if any,
    are left for the step's end to remove. Raises StoreFull.
    """
    files = []
    for table, folder, rows, schema in tables:
        data = write_parquet(rows, schema, group_rows)
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
