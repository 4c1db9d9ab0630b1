"""Names and a person's words survive new photos, and a name that is taken back goes.

Legend: N faces, D dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from facepipe import decisions, ids, schema
from facepipe.commits import Plan, write_shard
from facepipe.config import load
from facepipe.constraints import parse_constraints
from facepipe.errors import UsageError
from facepipe.shards import Dataset
from facepipe.store import open_store
from pipelines import clean, dedup
from pipelines.constraints import add_constraints, check_constraints, own_labels, read_constraints
from pipelines.earlier import TABLE
from pipelines.undo import Choice, plan_undo, undo
from tests.pipelines.report_pages import a_face, a_photo
from tests.pipelines.test_partition import run

DIM, MODEL, STEP = 128, "ab" * 32, f"embed-{'ab' * 6}"
Row = dict[str, Any]


def vectors(people: int, faces: int) -> npt.NDArray[np.float64]:
    """Return unit vectors as a recogniser gives them: cosines of .68 to a person's centre."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(people, DIM)) / np.sqrt(DIM)
    own_ND = np.repeat(centres / np.linalg.norm(centres, axis=1, keepdims=True), faces, axis=0)
    cosine_N = rng.normal(0.68, 0.12, len(own_ND)).clip(0, 0.98)[:, None]
    away_ND = rng.normal(size=own_ND.shape)
    away_ND -= (away_ND * own_ND).sum(axis=1, keepdims=True) * own_ND
    away_ND /= np.linalg.norm(away_ND, axis=1, keepdims=True)
    return np.asarray(cosine_N * own_ND + np.sqrt(1 - cosine_N**2) * away_ND)


VECTORS = vectors(6, 12)


def face(number: int, label: str | None, **given: Any) -> Row:
    return a_face(number, **{"source_label": label, **given})


def detected(folder: Path, shards: Sequence[Sequence[Row]]) -> Dataset:
    """Write what detect and embed would have, shard after shard, each a run's photos."""
    dataset = Dataset(open_store(str(folder)))
    keys = {f"{n:06d}": ids.digest([n, [r["uri"] for r in s]]) for n, s in enumerate(shards)}
    for number, (shard, key) in enumerate(keys.items()):
        rows = [_with_hashes(row) for row in shards[number]]
        photos = [a_photo(r, phash=r["phash"], width_px=250, height_px=250) for r in rows]
        tables = []
        for name, found, kind in (
            ("photos", photos, schema.PHOTOS),
            ("faces", rows, schema.FACES),
        ):
            tables.append((name, name, pa.Table.from_pylist(found, schema=kind), kind))
        one = write_shard(
            dataset.store,
            step="detect",
            shard=shard,
            key=key,
            tables=tables,
            counts={},
            facts={"generation": number},
        )
        like = schema.embeddings(DIM, MODEL)
        flat = VECTORS[[r["vector"] for r in rows]].astype(np.float16).ravel()
        columns = {
            "face_id": pa.array([r["face_id"] for r in rows]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), DIM),
            "norm": pa.array([20.0] * len(rows), pa.float32()),
            "status": pa.array(["ok"] * len(rows)),
        }
        table = pa.Table.from_arrays([columns[n] for n in like.names], schema=like)
        write_shard(
            dataset.store,
            step=STEP,
            shard=shard,
            key=key,
            tables=[("embeddings", "embeddings/m", table, like)],
            counts={},
            facts={"faces": one.files[1].sha256},
        )
    dataset.write_plan(Plan(step="detect", shards=keys, basis={}))
    dataset.write_plan(Plan(step=STEP, shards=keys, basis={"model_id": MODEL}))
    dataset.set_current_model(MODEL)
    return dataset


def _with_hashes(row: Row) -> Row:
    rng = np.random.default_rng(int(row["photo_id"][:8], 16))
    number = int(Path(row["uri"]).stem.partition("-")[0])
    return {
        **dict.fromkeys(schema.FACES.names),
        "vector": number,
        "phash": rng.bytes(8),
        "crop_hash": rng.bytes(schema.CROP_HASH_BYTES),
        "crop_grey": rng.bytes(schema.CROP_GREY_PX**2),
        **row,
    }


def cleaned(dataset: Dataset) -> dict[str, Row]:
    """Run dedup and clean; return decisions by face, of the row that is in use."""
    with dataset.held():
        run(dataset, [dedup.dedup_plan(dataset, load())])
        run(dataset, clean.clean_steps(dataset, load(), read_constraints(dataset)))
    rows = dataset.table("decisions").to_pylist()
    rows.sort(key=lambda r: r["decision"] == "duplicate", reverse=True)
    return {r["face_id"]: r for r in rows}


def say(dataset: Dataset, *lines: str) -> None:
    with dataset.held():
        said = parse_constraints("\n".join(["kind,a,b", *lines]).encode(), "own.csv")
        add_constraints(dataset, said)


def named(found: dict[str, Row], rows: Sequence[Row]) -> set[str | None]:
    return {found[r["face_id"]]["identity_id"] for r in rows}


@pytest.mark.parametrize("name", [None, "Anna"])
def test_labels_found_without_labels_stay_one_person(tmp_path: Path, name: str | None) -> None:
    # New photos come first by their ids, so a name that is not remembered would be another.
    people = [
        sorted((face(n, None) for n in range(p, p + 12)), key=lambda f: f["face_id"], reverse=True)
        for p in range(0, 72, 12)
    ]
    first = [row for person in people for row in person[:6]]
    dataset = detected(tmp_path / "ds", [first])
    found = cleaned(dataset)
    (one,), (other,) = (named(found, people[p][:6]) for p in (0, 1))
    assert len(named(found, first)) == 6
    assert TABLE not in {f.table for c in dataset.commits("clean") for f in c.files}
    say(dataset, f"same,label:{one},label:{other}")
    if name:
        say(dataset, f"name,{people[0][0]['face_id']},{name}")
    cleaned(dataset)
    later = [row for person in people for row in person[6:]]
    found = cleaned(detected(tmp_path / "ds", [first, later]))
    (now,) = named(found, people[0] + people[1])
    assert now == name if name else now in {one, other}
    assert len(named(found, first + later)) == 5


def test_a_name_that_is_taken_back_goes(tmp_path: Path) -> None:
    bare = [face(n, None) for n in range(12)]
    folders = [face(n, "x" if n < 18 else "y") for n in range(12, 24)]
    others = [face(n, f"l{n // 12}") for n in range(24, 72)]
    dataset = detected(tmp_path / "ds", [bare + folders + others])
    before = cleaned(dataset)
    assert len(named(before, bare)) == len(named(before, folders)) == 1
    chosen = [bare[0]["face_id"], folders[-1]["face_id"]]
    say(dataset, f"name,{chosen[0]},Ann", f"name,{chosen[1]},Bob")
    found = cleaned(dataset)
    assert named(found, bare) == {"Ann"} and named(found, folders) == {"Bob"}
    assert len(undo(dataset, Choice(faces=chosen)).removed) == 2
    assert cleaned(dataset) == before


def test_texts_in_pieces_decide_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["a", "b", None, "a", None, "c"]
    rows = [face(n, labels[n // 12]) for n in range(72)]
    rows += [face(n, "b", uri=f"/photos/z/{n:04d}-copy.jpg") for n in (2, 15, 26, 27)]
    rows += [face(n, None, uri=f"/photos/z/{n:04d}-bare.jpg", member="x.tar") for n in (28, 40)]
    stored = []
    for limit in (decisions.MAX_TEXT_BYTES, 100):
        monkeypatch.setattr(decisions, "MAX_TEXT_BYTES", limit)
        dataset = detected(tmp_path / str(limit), [rows[:40], rows[40:]])
        found = cleaned(dataset)
        names = ("duplicates", "clusters", "decisions", "label_pairs")
        stored.append([f.sha256 for name in names for f in dataset.files(name)])
        assert len({r["reason"] for r in found.values()}) > 2
    assert stored[0] == stored[1]


# -- one face in files of two labels, or of two runs -----------------------------------------


@pytest.mark.parametrize("wrong_first", [False, True])
def test_a_face_has_the_label_of_its_row_in_use(tmp_path: Path, wrong_first: bool) -> None:
    rows = [face(n, "ab"[n // 12]) for n in range(24)]
    twin = face(0, "b", uri="/photos/b/0000-copy.jpg")
    dataset = detected(tmp_path / "ds", [[twin, *rows] if wrong_first else [*rows, twin]])
    cleaned(dataset)
    chosen = rows[0]["face_id"]
    assert own_labels(dataset, [chosen]) == {chosen: "a"}
    assert own_labels(dataset, [chosen], "decisions") == {chosen: "a"}
    say(dataset, f"keep,{chosen}", f"different,{chosen},label:b")
    found = cleaned(dataset)[chosen]
    assert (found["decision"], found["reason"], found["identity_id"]) == ("keep", "said", "a")
    swapped = f"kind,a,b\nkeep,{chosen},\ndifferent,{chosen},label:a\n"
    with pytest.raises(UsageError, match=r"line 3 \(different\) contradicts .*line 2 \(keep\)"):
        check_constraints(dataset, parse_constraints(swapped.encode(), "own.csv"))


def test_undo_of_a_run_leaves_rows_of_other_runs(tmp_path: Path) -> None:
    rows = [face(n, "abc"[n // 12]) for n in range(36)]
    rows[5]["source_label"] = "c"
    again = face(5, "c", uri="/photos/z/0005-copy.jpg")
    dataset = detected(tmp_path / "ds", [rows, [again]])
    assert cleaned(dataset)[again["face_id"]]["decision"] == "relabel"
    old, new = (plan_undo(dataset, Choice(generation=run)) for run in (0, 1))
    assert old.taken_back == Counter({"relabel other_identity": 1})
    assert not new.taken_back and new.left == {"another copy of a kept file": 1}


def test_a_line_that_a_duplicate_contradicts_is_counted(tmp_path: Path) -> None:
    rows = [face(n, "ab"[n // 12]) for n in range(24)]
    one, other = rows[0]["face_id"], a_face(99)["face_id"]
    hashes = {name: _with_hashes(rows[0])[name] for name in ("phash", "crop_hash", "crop_grey")}
    copy = {**a_face(99, source_label="a", uri="/photos/a/0000-smaller.jpg"), **hashes}
    dataset = detected(tmp_path / "ds", [[*rows, {**copy, "eye_distance_px": 30.0}]])
    say(dataset, f"name,{one},Ann", f"name,{other},Bob")
    found = cleaned(dataset)
    assert found[other]["decision"] == "duplicate" and found[other]["identity_id"] == "Ann"
    (commit,) = dataset.commits("clean")
    assert commit.counts["lines"] == {"passed_over": 1}
    assert commit.facts["lines_passed_over"] == [f"name,{other},Bob"]
    assert undo(dataset, Choice(faces=[other], said=True)).lines == 1
    cleaned(dataset)
    (commit,) = dataset.commits("clean")
    assert "lines" not in commit.counts and "lines_passed_over" not in commit.facts
