"""Which faces of a dataset are exported, under which number, and why the others are not.

DECISIONS is read as a stream, a few bytes a face are kept. Every face is either exported or in
the list of removed ones, with who removed it: the two add up to all faces.

Legend: M faces that were kept by clean, by rising face id; L people; B rows of a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from facepipe.errors import CorruptData
from facepipe.face_places import FacePlaces, id_bytes, joined
from facepipe.folder_names import folder_names
from facepipe.schema import Decision

KEPT = (Decision.KEEP, Decision.RELABEL, Decision.MERGE)
CHOICE_COLUMNS = ("face_id", "identity_id", "decision", "weight")
FACE_ID = r"^[0-9a-f]{32}-[0-9]{4,}$"  # what becomes a file name

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class RemovedBy(StrEnum):
    """Who kept a face out of an export, the first that applies."""

    DECISION = "decision"  # dropped or a duplicate: see its reason
    NO_IDENTITY = "no_identity"  # kept, and nobody knows who it is
    OVERLAP = "overlap"  # in a test set too
    MIN_WEIGHT = "min_weight"
    MIN_FACES = "min_faces"  # too few others of its person are left
    LIMIT = "limit"


EXPORTED = -1
CAUSES = tuple(RemovedBy)


class ExportSettings(BaseModel):
    """How an export is cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_faces: int = Field(
        10_000, ge=1, le=1_000_000, description="faces in a tar file of a webdataset"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The faces that clean kept, and what becomes of each."""

    places: FacePlaces  # of the M faces
    cause_M: npt.NDArray[np.int8]  # place in CAUSES, or EXPORTED
    label_M: Int32  # from 0, by sorted identity; -1 where not exported
    weight_M: npt.NDArray[np.float32]
    people: tuple[str, ...]  # by label
    folders: tuple[str, ...]  # of each, see facepipe.folder_names
    total: int  # rows of DECISIONS
    counts: Mapping[str, int]  # rows by RemovedBy

    @property
    def exported(self) -> int:
        """Return how many faces are exported."""
        return int((self.cause_M == EXPORTED).sum())

    def by_face(self) -> Int64:
        """Return the places of the exported faces by face id: in no order of people."""
        return np.flatnonzero(self.cause_M == EXPORTED)

    def by_label(self) -> Int64:
        """Return the places of the exported faces by label, then face id."""
        places = self.by_face()
        return places[np.argsort(self.label_M[places], kind="stable")]

    def sizes(self) -> Int64:
        """Return how many faces each person has."""
        return np.bincount(self.label_M[self.by_face()], minlength=len(self.people))


def choose(
    batches: Iterable[pa.RecordBatch],
    *,
    min_weight: float = 0.0,
    min_faces: int = 1,
    overlapping: FacePlaces | None = None,
    limit: int | None = None,
) -> Choice:
    """Decide on every row of DECISIONS (CHOICE_COLUMNS of it, in batches).

    People are numbered by their sorted identity_id. ``limit`` takes the first faces in the order
    of people. Raises CorruptData for a face id that is none, or is kept twice.
    """
    ids, codes, weights, total = [], [], [], 0
    number: dict[str | None, int] = {None: -1}
    for batch in batches:
        total += len(batch)
        kept = pc.is_in(batch["decision"], value_set=pa.array([d.value for d in KEPT]))
        rows = pa.table(batch).filter(kept)
        if not pc.all(pc.match_substring_regex(rows["face_id"], FACE_ID)).as_py() and len(rows):
            raise CorruptData("a face id of the decisions is none: run facepipe verify")
        ids.append(id_bytes(rows["face_id"]))
        people = rows["identity_id"].to_pylist()
        codes.append(np.array([number.setdefault(p, len(number) - 1) for p in people], np.int32))
        weights.append(rows["weight"].to_numpy())
    all_ids = joined(ids)
    order = np.argsort(all_ids, kind="stable")
    distinct = all_ids[order]
    if len(distinct) and (distinct[1:] == distinct[:-1]).any():
        raise CorruptData("a face is kept twice: run facepipe dedup and facepipe clean again")
    found = _Kept(
        places=FacePlaces(distinct),
        code_M=np.concatenate([np.empty(0, np.int32), *codes])[order],
        weight_M=np.concatenate([np.empty(0, np.float32), *weights])[order],
        names=[name for name in number if name is not None],
    )
    return _decided(found, total, min_weight, min_faces, overlapping, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    places: FacePlaces
    code_M: Int32  # place in names; -1: nobody
    weight_M: npt.NDArray[np.float32]
    names: list[str]


def _decided(
    kept: _Kept,
    total: int,
    min_weight: float,
    min_faces: int,
    overlapping: FacePlaces | None,
    limit: int | None,
) -> Choice:
    cause_M = np.full(len(kept.places), EXPORTED, np.int8)

    def remove(which_M: npt.NDArray[np.bool_], cause: RemovedBy) -> None:
        cause_M[which_M & (cause_M == EXPORTED)] = CAUSES.index(cause)

    remove(kept.code_M < 0, RemovedBy.NO_IDENTITY)
    if overlapping is not None:
        remove(overlapping.find(kept.places.ids) >= 0, RemovedBy.OVERLAP)
    remove(kept.weight_M < min_weight, RemovedBy.MIN_WEIGHT)
    size = np.bincount(kept.code_M[cause_M == EXPORTED], minlength=len(kept.names) + 1)
    remove(size[kept.code_M] < min_faces, RemovedBy.MIN_FACES)  # nobody's are removed already
    ranked = sorted(range(len(kept.names)), key=kept.names.__getitem__)
    rank = np.empty(len(ranked) + 1, np.int32)
    rank[ranked] = np.arange(len(ranked))
    if limit is not None:
        places = np.flatnonzero(cause_M == EXPORTED)
        places = places[np.argsort(rank[kept.code_M[places]], kind="stable")]
        cause_M[places[limit:]] = CAUSES.index(RemovedBy.LIMIT)
    exported_M = cause_M == EXPORTED
    size = np.bincount(kept.code_M[exported_M], minlength=len(kept.names))
    present = [code for code in ranked if size[code]]
    label = np.full(len(kept.names) + 1, -1, np.int32)
    label[present] = np.arange(len(present))
    people = tuple(kept.names[code] for code in present)
    counts = Counter(CAUSES[c].value for c in cause_M[~exported_M].tolist())
    counts[RemovedBy.DECISION.value] = total - len(cause_M)
    return Choice(
        places=kept.places,
        cause_M=cause_M,
        label_M=np.where(exported_M, label[kept.code_M], -1).astype(np.int32),
        weight_M=kept.weight_M,
        people=people,
        folders=tuple(folder_names(people)),
        total=total,
        counts={c.value: counts[c.value] for c in CAUSES},
    )
