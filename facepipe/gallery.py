"""What goes into a gallery: which faces of a dataset, in which order, and why not the others.

Legend: F rows of FACES, N faces of the gallery, D dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facepipe.errors import CorruptData, StoreError
from facepipe.neighbors import vector_matrix, vector_rows
from facepipe.schema import Decision, FaceStatus, Reason

Include = Literal["kept", "all"]
FACE_COLUMNS = ("face_id", "uri", "member", "box_xyxy_px", "source_label", "status")
DECISION_COLUMNS = ("face_id", "uri", "member", "identity_id", "decision", "reason")
KEPT = {Decision.KEEP, Decision.RELABEL, Decision.MERGE}  # a merged label is a renamed one
UNIT_TOLERANCE = 0.01  # float16 bends a length by 0.0005; another model's vectors are far off
BLOCK_ROWS = 65536  # widened to float32 at a time

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The faces of a gallery by rising face_id, with their unit vectors, and the count."""

    rows: pa.Table  # GALLERY
    vectors_ND: NDArray[np.float16]
    expected: int  # rows of FACES: N + the sum of left_out
    left_out: Mapping[str, int]
    by: Literal["decisions", "status", "all"]


def select_faces(
    faces: pa.Table, embeddings: pa.Table, decisions: pa.Table | None, include: Include
) -> Selection:
    """Choose a gallery's faces and account for every row of FACES.

    ``kept``: what DECISIONS keeps, under the identity it gives; where there are no decisions
    yet, the faces whose status is ok, under their source label. ``all``: every face with a
    vector, bystanders and dropped ones too (without a name where the name was refused).
    A face that occurs under several uris (exact copies) goes in once, under the first.

    Raises StoreError where DECISIONS or EMBEDDINGS do not belong to these FACES,
    CorruptData for vectors that are not unit vectors.
    """
    if decisions is None:
        refusal, identity = _by_status(faces)
    else:
        refusal, identity = _by_decision(faces, decisions)
    if include == "all":
        refusal = np.full(len(faces), "", dtype=object)
    _need_embeddings(faces, embeddings)
    places = vector_rows(faces.column("face_id"), embeddings)
    refusal[(refusal == "") & (places < 0)] = str(Reason.NO_VECTOR)
    chosen = _first_of_each(faces, refusal)
    vectors = vector_matrix(embeddings)[places[chosen]]
    _need_unit(vectors)
    columns = {name: faces.column(name) for name in GALLERY.names if name != "identity_id"}
    rows = pa.table({**columns, "identity_id": identity}).take(pa.array(chosen))
    by: Literal["decisions", "status"] = "status" if decisions is None else "decisions"
    return Selection(
        rows=rows.select(GALLERY.names).cast(GALLERY).combine_chunks(),
        vectors_ND=vectors,
        expected=len(faces),
        left_out=dict(sorted(Counter(r for r in refusal if r).items())),
        by="all" if include == "all" else by,
    )


def _by_status(faces: pa.Table) -> tuple[NDArray[np.object_], pa.Array]:
    good = pc.equal(faces.column("status"), str(FaceStatus.OK))
    refusal = pc.if_else(good, "", faces.column("status"))
    nobody = pa.scalar(None, pa.string())
    return _objects(refusal), pc.if_else(good, faces.column("source_label"), nobody)


def _by_decision(faces: pa.Table, decisions: pa.Table) -> tuple[NDArray[np.object_], pa.Array]:
    if len(decisions) != len(faces):
        raise StoreError(
            f"the dataset has {len(faces)} faces and {len(decisions)} decisions: run facepipe "
            "clean (or facepipe curate) again, so that every face has one"
        )
    places = pc.index_in(_occurrence(faces), value_set=_occurrence(decisions).combine_chunks())
    if places.null_count:
        raise StoreError(
            f"{places.null_count} of {len(faces)} faces have no decision: the faces were made "
            "again since; run facepipe clean (or facepipe curate) again"
        )
    found = decisions.take(places)
    kept = pc.is_in(found.column("decision"), value_set=pa.array([str(d) for d in KEPT]))
    dropped = pc.equal(found.column("decision"), str(Decision.DROP))
    nobody = pa.scalar(None, pa.string())
    identity = pc.if_else(dropped, nobody, found.column("identity_id"))
    return _objects(pc.if_else(kept, "", found.column("reason"))), identity


def _occurrence(table: pa.Table) -> pa.ChunkedArray:
    """Return one string for face, uri and member: a face may occur under several uris."""
    member = pc.fill_null(table.column("member"), "")
    parts = (table.column("face_id"), table.column("uri"), member)
    return pc.binary_join_element_wise(*parts, "\0")


def _objects(column: Any) -> NDArray[np.object_]:
    return np.array(column.to_pylist(), dtype=object)


def _need_embeddings(faces: pa.Table, embeddings: pa.Table) -> None:
    known = embeddings.column("face_id").combine_chunks()
    without = pc.index_in(faces.column("face_id"), value_set=known).null_count
    if without:
        raise StoreError(
            f"{without} of {len(faces)} faces have not been embedded: "
            "run facepipe embed (or facepipe curate) again"
        )


def _first_of_each(faces: pa.Table, refusal: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the rows to take, by face_id; mark further copies of a face in ``refusal``."""
    keys = [("face_id", "ascending"), ("uri", "ascending"), ("member", "ascending")]
    order = pc.sort_indices(faces.select([name for name, _ in keys]), sort_keys=keys).to_numpy()
    order = order.astype(np.int64)[refusal[order] == ""]
    face_ids = _objects(faces.column("face_id").take(pa.array(order)))
    again = np.zeros(len(order), dtype=bool)
    again[1:] = face_ids[1:] == face_ids[:-1]
    refusal[order[again]] = str(Reason.SAME_BYTES)
    taken: NDArray[np.int64] = order[~again]
    return taken


def _need_unit(vectors_ND: NDArray[np.float16]) -> None:
    wrong = 0
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        wide = vectors_ND[start : start + BLOCK_ROWS].astype(np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        wrong += int(np.count_nonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE)))  # NaN is wrong
    if wrong:
        raise CorruptData(
            f"{wrong} of {len(vectors_ND)} embeddings are not unit vectors: "
            "run facepipe verify DATASET --repair, then the same command again"
        )
