"""The lists of an export: its faces, those that were removed and why, and who has which number.

They are written as DECISIONS is read, and hold every row of it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from facepipe.export_choice import CAUSES, EXPORTED, KEPT, Choice
from facepipe.schema import DECISIONS
from facepipe.shards import Dataset
from pipelines.batches import table_batches
from pipelines.export_target import Target

FACES_LIST = pa.schema(
    [
        pa.field("face_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("source_label", pa.string()),
        pa.field("identity_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("file", pa.string(), nullable=False),  # in the export's folder
        pa.field("record", pa.int64()),  # its id in train.rec
    ]
)
REMOVED_LIST = pa.schema(
    [*DECISIONS.remove_metadata(), pa.field("removed_by", pa.string(), nullable=False)]
)

# (places of faces, their labels) -> (file, record id or -1) of each
Whereabouts = Callable[[npt.NDArray[np.int64]], tuple[list[str], npt.NDArray[np.int64]]]


def write_lists(
    dataset: Dataset, choice: Choice, target: Target, whereabouts: Whereabouts | None
) -> None:
    """Write faces and removed as .csv and .parquet; without ``whereabouts`` only removed."""
    with ExitStack() as opened:
        removed = opened.enter_context(_List(target, "removed", REMOVED_LIST))
        faces = None
        if whereabouts is not None:
            faces = opened.enter_context(_List(target, "faces", FACES_LIST))
        for table, place in _placed(dataset, choice):
            exported = (place >= 0) & (_taken(choice.cause_M, place, 0) == EXPORTED)
            rest = np.flatnonzero(~exported)
            cause = _taken(choice.cause_M, place[rest], 0)  # not kept: by decision
            names = pa.array([CAUSES[c].value for c in cause], pa.string())
            removed.write(table.take(pa.array(rest)).append_column("removed_by", names))
            if faces is None or whereabouts is None:
                continue
            rows = np.flatnonzero(exported)
            files, records = whereabouts(place[rows])
            own = table.take(pa.array(rows))
            columns = {
                **{n: own[n] for n in own.column_names},
                "label": pa.array(choice.label_M[place[rows]], pa.int32()),
                "file": pa.array(files, pa.string()),
                "record": pa.array(records, pa.int64(), mask=records < 0),
            }
            faces.write(pa.table({n: columns[n] for n in FACES_LIST.names}))


def write_labels(choice: Choice, target: Target) -> None:
    """Write whose number and folder is whose."""
    table = pa.table(
        {
            "label": pa.array(range(len(choice.people)), pa.int32()),
            "identity_id": pa.array(choice.people, pa.string()),
            "folder": pa.array(choice.folders, pa.string()),
            "faces": pa.array(choice.sizes(), pa.int64()),
        }
    )
    with target.create("labels.csv") as stream:
        pacsv.write_csv(table, stream)


def _taken(
    values: npt.NDArray[np.int8], place: npt.NDArray[np.int64], otherwise: int
) -> npt.NDArray[np.int8]:
    """Return values by their places, ``otherwise`` for -1."""
    if not len(values):
        return np.full(len(place), otherwise, values.dtype)
    return np.where(place < 0, otherwise, values[place]).astype(values.dtype)


def _placed(dataset: Dataset, choice: Choice) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64]]]:
    """Yield DECISIONS in batches with the place of each kept face; -1 for the others."""
    values = pa.array([d.value for d in KEPT])
    for batch in table_batches(dataset, "decisions", DECISIONS.names):
        table = pa.table(batch)
        # A face that is there twice has one id: only the kept row's is looked up.
        kept = pc.is_in(table["decision"], value_set=values).to_numpy()
        place = np.full(len(table), -1, np.int64)
        place[kept] = choice.places.find(table["face_id"].filter(pa.array(kept)))
        yield table, place


class _List:
    """A table that is written in parts, as NAME.csv and NAME.parquet."""

    def __init__(self, target: Target, name: str, schema: pa.Schema) -> None:
        self._schema = schema
        self._target, self._name = target, name
        self._opened = ExitStack()

    def __enter__(self) -> _List:
        """Open both files: each writer is closed before its stream is."""
        with ExitStack() as opened:
            csv = opened.enter_context(self._target.create(f"{self._name}.csv"))
            self._csv = opened.enter_context(pacsv.CSVWriter(csv, self._schema))
            parquet = opened.enter_context(self._target.create(f"{self._name}.parquet"))
            self._parquet = opened.enter_context(pq.ParquetWriter(parquet, self._schema))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def write(self, table: pa.Table) -> None:
        if len(table):
            rows = table.cast(self._schema)
            self._csv.write_table(rows)
            self._parquet.write_table(rows)
