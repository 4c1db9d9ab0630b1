"""The dataset's own list: what is stored is read again, and contradictions name both lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from facepipe.constraints import Constraints, parse_constraints
from facepipe.errors import StoreError, UsageError
from facepipe.shards import Dataset, open_dataset
from facepipe.store import LocalStore
from pipelines.constraints import KEY, add_constraints, read_constraints, read_file
from tests.pipelines.conftest import curated, ran

F, G = "0" * 32 + "-0000", "1" * 32 + "-0000"


def test_lines_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    dataset = Dataset(LocalStore(tmp_path / "ds"))
    assert read_constraints(dataset) == Constraints()
    own = tmp_path / "own.csv"
    own.write_text(f"kind,a,b\nkeep,{F},\n")
    with dataset.held():
        add_constraints(dataset, Constraints())
        assert not dataset.has(KEY)
        add_constraints(dataset, read_file(str(own)))
        merged = add_constraints(dataset, parse_constraints(f"kind,a,b\ndrop,{G},".encode(), "x"))
    assert [line.text for line in merged.lines] == [f"keep,{F}", f"drop,{G}"]
    assert read_constraints(dataset) == merged
    stored = (tmp_path / "ds" / KEY).read_bytes()
    with dataset.held():
        add_constraints(dataset, merged)
    assert (tmp_path / "ds" / KEY).read_bytes() == stored


def test_a_contradiction_names_the_file_and_the_dataset(tmp_path: Path) -> None:
    dataset = Dataset(LocalStore(tmp_path / "ds"))
    with dataset.held():
        add_constraints(dataset, parse_constraints(f"kind,a,b\nkeep,{F},".encode(), "first"))
        more = parse_constraints(f"kind,a,b\ndrop,{G},\ndrop,{F},".encode(), "own.csv")
        with pytest.raises(UsageError, match=rf"own.csv, line 3 .*{KEY}, line 2 \(keep\)"):
            add_constraints(dataset, more)
    assert [line.text for line in read_constraints(dataset).lines] == [f"keep,{F}"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--constraints .*none.csv cannot be read"):
        read_file(str(tmp_path / "none.csv"))


def test_a_list_that_somebody_has_broken_is_named(tmp_path: Path) -> None:
    dataset = Dataset(LocalStore(tmp_path / "ds"))
    dataset.store.put(KEY, b"kind,a,b\nhold,x,\n")
    with pytest.raises(UsageError, match=rf"{KEY}, line 2: unknown kind 'hold'"):
        read_constraints(dataset)


def test_clean_stores_no_list_that_it_cannot_obey(
    dataset: Dataset, tmp_path: Path, made_pack: Path
) -> None:
    out = tmp_path / "ds"
    shutil.copytree(dataset.store.local, out)
    rows = dataset.table("decisions").to_pylist()
    kept = next(r for r in rows if r["source_label"] == "person-3" and r["decision"] == "keep")
    face = kept["face_id"]
    own = parse_constraints(f"kind,a,b\ndifferent,{face},label:person-3\n".encode(), "own.csv")
    curated([], out, made_pack, steps=("clean",), constraints=own)
    more = parse_constraints(f"kind,a,b\nkeep,{face},\n".encode(), "more.csv")
    with pytest.raises(UsageError, match=r"line 2 \(different\) contradicts more.csv, line 2"):
        curated([], out, made_pack, steps=("clean",), constraints=more)
    assert read_constraints(open_dataset(out)).lines == own.lines
    assert not ran(curated([], out, made_pack, steps=("clean",)))


def test_only_who_holds_the_dataset_may_write(tmp_path: Path) -> None:
    dataset, other = (Dataset(LocalStore(tmp_path / "ds")) for _ in range(2))
    with dataset.held(), pytest.raises(StoreError, match="another"), other.held():
        pass
