"""Which identities an earlier run of clean gave, so that names stay with people.

They are taken from the decisions that are there when the inputs change, and stored: the same
command again then finds the same, though the decisions have been replaced meanwhile.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facepipe import ids
from facepipe.commits import write_parquet
from facepipe.errors import CorruptData
from facepipe.schema import Decision, Reason
from facepipe.shards import Dataset

KEY = "_plan/identities.parquet"
TABLE = "names_found"  # beside decisions, of a dataset for which a list is there
SCHEMA = pa.schema(
    [
        pa.field("face_id", pa.string()),  # of a face without a label; else null
        pa.field("source_label", pa.string()),  # of a label that is one person with others
        pa.field("identity_id", pa.string(), nullable=False),
    ]
)
_INPUTS = b"facepipe.inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Identities of faces without a label, and of merged labels."""

    faces: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return a digest of all that is in it."""
        return ids.digest([sorted(self.faces.items()), sorted(self.labels.items())])


def earlier_identities(dataset: Dataset, inputs: str, named: Collection[str]) -> Earlier:
    """Return what is stored for these inputs, a digest, or else what the decisions say.

    named: names that a person gave, which are the person's to give again.
    """
    stored = _stored(dataset, inputs)
    if stored is not None:
        return stored
    if not dataset.commits("clean"):
        return Earlier()
    files = [f for c in dataset.commits("clean") for f in c.files if f.table == TABLE]
    if not files:
        return _of_decisions(dataset, named)
    rows = dataset.scan("decisions").to_table(
        columns=["face_id", "identity_id"],
        filter=pc.field("reason") == Reason.CLUSTERED.value,
    )
    faces = dict(zip(rows["face_id"].to_pylist(), rows["identity_id"].to_pylist(), strict=True))
    found = _of_table(pa.concat_tables([dataset.read(f) for f in files]))
    return Earlier(faces={**faces, **found.faces}, labels=found.labels)


def names_found(found: pa.Table, said: pa.Table) -> pa.Table:
    """Return, by SCHEMA, the names that a list hides in decisions: the next run needs them.

    found, said: DECISIONS before and after a list was applied, the same rows. Of faces without
    a label those that are not clustered with that name any more; of labels all that are merged,
    with the one whose name they got.
    """
    names, now = found["identity_id"], said["identity_id"]
    stayed = pc.and_(pc.equal(said["reason"], Reason.CLUSTERED.value), pc.equal(names, now))
    hidden = pc.invert(pc.fill_null(stayed, False))
    faces = found.filter(pc.and_(pc.equal(found["reason"], Reason.CLUSTERED.value), hidden))
    merged = found.filter(pc.equal(found["decision"], Decision.MERGE.value))
    pairs = merged.group_by(["source_label", "identity_id"]).aggregate([]).to_pylist()
    labels = {pair["source_label"]: pair["identity_id"] for pair in pairs}
    labels |= {name: name for name in labels.values()}
    by_face = dict(zip(faces["face_id"].to_pylist(), faces["identity_id"].to_pylist(), strict=True))
    return _table(Earlier(faces=by_face, labels=labels))


def _of_decisions(dataset: Dataset, named: Collection[str]) -> Earlier:
    """Return what decisions say where no list was applied, or by a version that kept no names."""
    rows = dataset.scan("decisions").to_table(
        columns=["face_id", "source_label", "identity_id"],
        filter=(pc.field("reason") == Reason.CLUSTERED.value)
        | (pc.field("decision") == Decision.MERGE.value),
    )
    rows = rows.filter(pc.invert(pc.is_in(rows["identity_id"], pa.array(list(named), pa.string()))))
    faces, labels = {}, {}
    for row in rows.to_pylist():
        if row["source_label"] is None:
            faces[row["face_id"]] = row["identity_id"]
        else:
            labels[row["source_label"]] = row["identity_id"]
            labels[row["identity_id"]] = row["identity_id"]  # the label that gave the name
    return Earlier(faces=faces, labels=labels)


def read_earlier(dataset: Dataset) -> Earlier:
    """Return what is stored. Raises CorruptData."""
    return _parsed(dataset)[0] if dataset.has(KEY) else Earlier()


def store_earlier(dataset: Dataset, inputs: str, earlier: Earlier) -> None:
    """Store identities for these inputs, none too; only while the dataset is held."""
    schema = SCHEMA.with_metadata({_INPUTS: inputs.encode()})
    dataset.put(KEY, write_parquet(_table(earlier), schema))


def _table(earlier: Earlier) -> pa.Table:
    faces, labels = sorted(earlier.faces.items()), sorted(earlier.labels.items())
    columns = [
        pa.array([face for face, _ in faces] + [None] * len(labels), pa.string()),
        pa.array([None] * len(faces) + [label for label, _ in labels], pa.string()),
        pa.array([name for _, name in [*faces, *labels]], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _of_table(table: pa.Table) -> Earlier:
    """Return what `_table` made a table of."""
    columns = (table[name].to_pylist() for name in SCHEMA.names)
    faces, labels = {}, {}
    for face, label, name in zip(*columns, strict=True):
        if face is not None:
            faces[face] = name
        else:
            labels[label] = name
    return Earlier(faces=faces, labels=labels)


def _stored(dataset: Dataset, inputs: str) -> Earlier | None:
    if not dataset.has(KEY):
        return None
    earlier, of = _parsed(dataset)
    return earlier if of == inputs else None


def _parsed(dataset: Dataset) -> tuple[Earlier, str]:
    try:
        table = pq.read_table(io.BytesIO(dataset.store.get(KEY)))
        earlier = _of_table(table)
        return earlier, (table.schema.metadata or {}).get(_INPUTS, b"").decode()
    except (pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise CorruptData(
            f"{dataset.uri}/{KEY} cannot be read ({error}): delete it; people without a label may "
            "then get other names than before"
        ) from error
