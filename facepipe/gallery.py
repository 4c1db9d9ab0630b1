"""What goes into a gallery: which faces of a dataset, and why not the others.

A dataset is looked at a shard at a time, twice: first to judge every face and to find those
that occur more than once, then to take the rows. What is kept in between is a few bytes a face,
never an id or a vector, so that the faces of a large archive can be chosen on a small machine.
Legend: F rows of FACES in one shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.errors import StoreError
from facepipe.id_keys import UInt64, among, repeated, text_keys
from facepipe.schema import Decision, EmbeddingStatus, FaceStatus, Reason
from facepipe.suppressed import DELETED

Include = Literal["kept", "all"]
By = Literal["decisions", "status", "all"]
FACE_COLUMNS = ("face_id", "uri", "member", "box_xyxy_px", "source_label", "status")
EMBEDDING_COLUMNS = ("face_id", "status")
DECISION_COLUMNS = ("face_id", "uri", "member", "identity_id", "decision", "reason")
KEPT = {Decision.KEEP, Decision.RELABEL, Decision.MERGE}  # a merged label is a renamed one
UNIT_TOLERANCE = 0.01  # float16 bends a length by 0.0005; another model's vectors are far off
SALTS = 3  # two keys of 10 million rows are equal by chance once in 370,000 times

GALLERY = pa.schema(
    [
        pa.field("face_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("box_xyxy_px", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("identity_id", pa.string()),  # null where nobody is known
    ],
    metadata={"facepipe.table": "gallery", "facepipe.schema_version": "1"},
)
# Rows of GALLERY on their way into it: where the vector is, and what a sample is spread over.
PICKED = pa.schema(
    [
        *GALLERY,
        pa.field("row", pa.int32(), nullable=False),  # of the shard's EMBEDDINGS
        pa.field("stratum", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """DECISIONS in 14 bytes a row: who a face is, and why it is not in the gallery."""

    keys: UInt64  # of face, uri and member; rising
    salt: int
    codes: NDArray[np.uint8]  # place in _REASONS; 0: it is in
    people: NDArray[np.int32]  # place in names; -1: nobody
    names: pa.Array

    @classmethod
    def read(cls, tables: Callable[[], Iterable[pa.Table]]) -> Verdicts:
        """Take in DECISION_COLUMNS, in parts; again with other keys where two are equal.

        Raises StoreError where a face has two decisions.
        """
        for salt in range(SALTS):
            found = cls._read(tables(), salt)
            if not (found.keys[1:] == found.keys[:-1]).any():
                return found
        raise StoreError("a face has two decisions: run facepipe clean (or facepipe curate) again")

    @classmethod
    def _read(cls, tables: Iterable[pa.Table], salt: int) -> Verdicts:
        number: dict[str, int] = {}
        parts = [
            (
                _occurrence_keys(table, salt),
                _codes_of(table),
                _people_of(table, number),
            )
            for table in tables
        ]
        kinds = (np.uint64, np.uint8, np.int32)
        keys, codes, people = (
            np.concatenate([np.empty(0, kind), *(part[i] for part in parts)])
            for i, kind in enumerate(kinds)
        )
        order = np.argsort(keys, kind="stable")
        names = pa.array(list(number), pa.string())
        return cls(keys[order], salt, codes[order], people[order], names)

    def __len__(self) -> int:
        """Return how many decisions there are."""
        return len(self.keys)

    def of(self, faces: pa.Table) -> tuple[NDArray[np.object_], pa.Array, int]:
        """Return each face's refusal ("": none) and identity, and how many have no decision."""
        places_F = among(_occurrence_keys(faces, self.salt), self.keys)
        missing_F = places_F < 0
        refusal = _REASONS[self.codes[places_F]] if len(self) else _empty(len(faces))
        people_F = self.people[places_F] if len(self) else np.full(len(faces), -1)
        nobody_F = missing_F | (people_F < 0)
        identity = self.names.take(pa.array(people_F, mask=nobody_F))
        return refusal, identity, int(missing_F.sum())


_REASONS = np.array(["", *(str(reason) for reason in Reason)], dtype=object)


class Selector:
    """Chooses a gallery's faces, and accounts for every row of FACES.

    ``kept``: what DECISIONS keeps, under the identity it gives; where there are none yet, the
    faces whose status is ok, under their source label. ``all``: every face with a vector,
    bystanders and dropped ones too (without a name where the name was refused). A face that
    occurs under several uris (exact copies) goes in once, under the first.

    `look` at every shard in their order, then call `looked`; `settle` each shard that it
    returns; then `take` the rows of any.
    """

    def __init__(self, verdicts: Verdicts | None, include: Include) -> None:
        """Start an account. ``verdicts``: None where nothing was decided yet."""
        decided: By = "status" if verdicts is None else "decisions"
        self.by: By = "all" if include == "all" else decided
        self.expected = 0  # rows of FACES
        self._verdicts, self._include = verdicts, include
        self._left_out: Counter[str] = Counter()
        self._undecided = self._not_embedded = 0
        self._keys: list[UInt64] = []
        self._taken: list[int] = []  # by shard
        self._twice: UInt64 = np.empty(0, np.uint64)
        self._first: dict[str, tuple[Any, ...]] = {}  # of the faces that occur more than once
        self._copies: dict[int, list[int]] = {}  # rows by shard

    @property
    def count(self) -> int:
        """Return how many faces go in."""
        return sum(self._taken)

    @property
    def left_out(self) -> dict[str, int]:
        """Return how many rows of FACES do not, by reason."""
        return dict(sorted(self._left_out.items()))

    def look(self, faces: pa.Table, embeddings: pa.Table) -> None:
        """Judge a shard's FACE_COLUMNS and EMBEDDING_COLUMNS."""
        refusal, _, undecided, not_embedded = self._judged(faces, embeddings)
        self.expected += len(faces)
        self._undecided += undecided
        self._not_embedded += not_embedded
        self._left_out.update(r for r in refusal if r)
        fit = faces.column("face_id").filter(pa.array(refusal == ""))
        self._keys.append(text_keys(fit))
        self._taken.append(len(fit))

    def looked(self) -> list[int]:
        """Return the shards with faces that may occur more than once.

        Raises StoreError where DECISIONS or EMBEDDINGS do not belong to these FACES.
        """
        if self._verdicts is not None and len(self._verdicts) != self.expected:
            raise StoreError(
                f"the dataset has {self.expected} faces and {len(self._verdicts)} decisions: run "
                "facepipe clean (or facepipe curate) again, so that every face has one"
            )
        if self._undecided:
            raise StoreError(
                f"{self._undecided} of {self.expected} faces have no decision: the faces were made "
                "again since; run facepipe clean (or facepipe curate) again"
            )
        if self._not_embedded:
            raise StoreError(
                f"{self._not_embedded} of {self.expected} faces have not been embedded: "
                "run facepipe embed (or facepipe curate) again"
            )
        self._twice = repeated(np.concatenate([np.empty(0, np.uint64), *self._keys]))
        hit = [i for i, keys in enumerate(self._keys) if (among(keys, self._twice) >= 0).any()]
        self._keys = []
        return hit

    def settle(self, shard: int, faces: pa.Table, embeddings: pa.Table) -> None:
        """Keep the first of the copies of a face, by uri and member, over all settled shards."""
        refusal, *_ = self._judged(faces, embeddings)
        rows = np.flatnonzero(refusal == "")
        keys = text_keys(faces.column("face_id").take(pa.array(rows)))
        for row in rows[among(keys, self._twice) >= 0].tolist():
            face, uri, member = (faces.column(n)[row].as_py() for n in ("face_id", "uri", "member"))
            this = (uri, member is None, member or "", shard, row)
            other = self._first.get(face)
            self._first[face] = this if other is None else min(this, other)
            if other is not None:
                _, _, _, late_shard, late_row = max(this, other)
                self._copies.setdefault(late_shard, []).append(late_row)
                self._taken[late_shard] -= 1
                self._left_out[str(Reason.SAME_BYTES)] += 1

    def withhold(self, shard: int, count: int) -> None:
        """Count so many rows of a shard as deleted; whoever takes them leaves them out."""
        if count:
            self._taken[shard] -= count
            self._left_out[DELETED] += count

    def take(self, shard: int, faces: pa.Table, embeddings: pa.Table) -> pa.Table:
        """Return a shard's rows of the gallery (PICKED), in the order of its tables."""
        refusal, identity, *_ = self._judged(faces, embeddings)
        fit = refusal == ""
        fit[self._copies.get(shard, [])] = False
        rows = pa.array(np.flatnonzero(fit).astype(np.int32))
        label, uri = faces.column("source_label"), faces.column("uri")
        folder = pc.replace_substring_regex(uri, r"/[^/]*$", "")
        columns = {n: faces.column(n) for n in GALLERY.names if n != "identity_id"}
        stratum = pc.coalesce(label, folder)
        table = pa.table({**columns, "identity_id": identity, "stratum": stratum}).take(rows)
        return table.append_column("row", rows).select(PICKED.names).cast(PICKED)

    def _judged(
        self, faces: pa.Table, embeddings: pa.Table
    ) -> tuple[NDArray[np.object_], pa.Array, int, int]:
        """Return refusals, identities, and how many faces have no decision or embedding."""
        undecided = 0
        if self._verdicts is None:
            refusal, identity = _by_status(faces)
        else:
            refusal, identity, undecided = self._verdicts.of(faces)
        if self._include == "all":
            refusal = _empty(len(faces))
        not_embedded = _not_embedded(faces, embeddings)
        if not not_embedded:
            bad = pc.not_equal(embeddings.column("status"), str(EmbeddingStatus.OK))
            refusal[(refusal == "") & np.asarray(bad)] = str(Reason.NO_VECTOR)
        return refusal, identity, undecided, not_embedded


def _not_embedded(faces: pa.Table, embeddings: pa.Table) -> int:
    """Return how many faces have no row of EMBEDDINGS at their own place."""
    common = min(len(faces), len(embeddings))
    pair = (faces.column("face_id")[:common], embeddings.column("face_id")[:common])
    return len(faces) - int(pc.sum(pc.equal(*pair)).as_py() or 0)


def _by_status(faces: pa.Table) -> tuple[NDArray[np.object_], pa.Array]:
    good = pc.equal(faces.column("status"), str(FaceStatus.OK))
    refusal = pc.if_else(good, "", faces.column("status"))
    nobody = pa.scalar(None, pa.string())
    return _objects(refusal), pc.if_else(good, faces.column("source_label"), nobody)


def _codes_of(decisions: pa.Table) -> NDArray[np.uint8]:
    kept = pc.is_in(decisions.column("decision"), value_set=pa.array([str(d) for d in KEPT]))
    reason = pc.if_else(kept, "", decisions.column("reason"))
    places = pc.index_in(reason, value_set=pa.array(_REASONS.tolist(), pa.string()))
    if places.null_count:
        unknown = reason.filter(places.is_null())[0].as_py()
        raise StoreError(f"DECISIONS has the reason {unknown!r}, which this facepipe does not know")
    return np.asarray(places).astype(np.uint8)


def _people_of(decisions: pa.Table, number: dict[str, int]) -> NDArray[np.int32]:
    """Return a number for each identity, -1 for nobody and for the dropped."""
    dropped = pc.equal(decisions.column("decision"), str(Decision.DROP))
    nobody = pa.scalar(None, pa.string())
    return people_of(pc.if_else(dropped, nobody, decisions.column("identity_id")), number)


def people_of(identity: pa.ChunkedArray, number: dict[str, int]) -> NDArray[np.int32]:
    """Return a number for each name, adding new ones to ``number``; -1 for null."""
    coded = identity.combine_chunks().dictionary_encode()
    own = np.array(
        [*(number.setdefault(name, len(number)) for name in coded.dictionary.to_pylist()), -1],
        dtype=np.int32,
    )
    return own[np.asarray(coded.indices.fill_null(len(own) - 1)).astype(np.int64)]


def _occurrence_keys(table: pa.Table, salt: int) -> UInt64:
    """Return a key for face, uri and member: a face may occur under several uris."""
    member = pc.fill_null(table.column("member"), "")
    parts = (table.column("face_id"), table.column("uri"), member)
    return text_keys(pc.binary_join_element_wise(*parts, "\0"), salt)


def _objects(column: Any) -> NDArray[np.object_]:
    return np.array(column.to_pylist(), dtype=object)


def _empty(count: int) -> NDArray[np.object_]:
    return np.full(count, "", dtype=object)
