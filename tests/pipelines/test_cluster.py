"""People found without labels, and what clean remembers: names and a person's words."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from facepipe import open_dataset
from facepipe.config import load
from facepipe.constraints import parse_constraints
from facepipe.errors import CorruptData
from facepipe.shards import Dataset
from pipelines import curate
from pipelines.constraints import read_constraints
from pipelines.earlier import KEY, Earlier, read_earlier
from tests import made
from tests.pipelines.conftest import curated, ran, tree

UNLABELLED = load(None, ["run.shard_photos=6"])
PEOPLE, SHOTS = 5, 6


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return photos of five people and one stranger, in folders that say nothing."""
    folder = made.people(tmp_path / "photos", persons=PEOPLE, shots=SHOTS)
    made.save(folder / "stranger.png", made.photo([(70, 0, 120, 120)], background=907))
    return folder


def person_of(dataset: Dataset) -> dict[str, str | None]:
    """Return the identity of each photo's one face, by folder and name of the photo."""
    rows = dataset.table("decisions", ["uri", "identity_id"]).to_pylist()
    return {"/".join(Path(r["uri"]).parts[-2:]): r["identity_id"] for r in rows}


def face_of(dataset: Dataset, name: str) -> str:
    rows = dataset.table("decisions", ["uri", "face_id"]).to_pylist()
    return str(next(r["face_id"] for r in rows if r["uri"].endswith(name)))


def names_by_folder(dataset: Dataset) -> dict[str, set[str | None]]:
    found = defaultdict(set)
    for name, identity in person_of(dataset).items():
        found[name.partition("/")[0]].add(identity)
    return found


def test_people_are_found_and_keep_their_names(
    archive: Path, tmp_path: Path, made_pack: Path
) -> None:
    late = [archive / f"person-{p}" / "shot-5.png" for p in range(PEOPLE)]
    for path in late:
        shutil.move(path, tmp_path / f"{path.parent.name}-late.png")
    out = tmp_path / "ds"
    curated([archive], out, made_pack, settings=UNLABELLED)
    dataset = open_dataset(out)
    first = names_by_folder(dataset)
    names = {n for p in range(PEOPLE) for n in first[f"person-{p}"]}
    assert len(names) == PEOPLE and all(str(n).startswith("person-") for n in names)
    assert person_of(dataset)["photos/stranger.png"] is None
    rows = dataset.table("decisions", ["reason", "decision", "evidence", "similarity"]).to_pylist()
    clustered = [r for r in rows if r["reason"] == "clustered"]
    assert len(clustered) == PEOPLE * (SHOTS - 1)
    ids = set(dataset.table("decisions")["face_id"].to_pylist())
    assert all(r["evidence"] in ids and 0 < r["similarity"] <= 1 for r in clustered)

    assert ran(curated([archive], out, made_pack, settings=UNLABELLED)) == {}
    for path in late:  # a new person too, whose faces come before all others by their ids
        shutil.move(tmp_path / f"{path.parent.name}-late.png", path)
    for shot in range(4):
        picture = made.photo([(60, shot, 80 + 4 * shot, 120)], background=600 + shot)
        made.save(archive / "new" / f"{shot}.png", picture)
    again = ran(curated([archive], out, made_pack, settings=UNLABELLED))
    assert again["cluster"] == again["clean"] == 1
    second = names_by_folder(open_dataset(out))
    for person in range(PEOPLE):
        assert second[f"person-{person}"] == first[f"person-{person}"]
    assert len(second["new"]) == 1 and not second["new"] & names
    assert ran(curated([archive], out, made_pack, settings=UNLABELLED)) == {}


def test_a_run_that_died_in_clean_goes_on_with_the_same_names(
    archive: Path, tmp_path: Path, made_pack: Path
) -> None:
    out = tmp_path / "ds"
    curated([archive], out, made_pack, settings=UNLABELLED)
    before = tree(out)
    for path in (out / "_commits" / "clean.jsonl", *(out / "_commits" / "clean").iterdir()):
        path.unlink()
    assert ran(curated([archive], out, made_pack, settings=UNLABELLED)) == {"clean": 1}
    assert tree(out) == before


def test_what_a_person_said_is_obeyed_and_survives(
    archive: Path, tmp_path: Path, made_pack: Path
) -> None:
    out = tmp_path / "ds"
    curated([archive], out, made_pack, settings=UNLABELLED)
    dataset = open_dataset(out)
    ann, stranger = (face_of(dataset, n) for n in ("person-1/shot-2.png", "stranger.png"))
    text = f"kind,a,b\nname,{ann},Ann\nsame,{ann},{stranger}\n"
    said = parse_constraints(text.encode(), "said.csv")
    done = curated([], out, made_pack, settings=UNLABELLED, steps=("clean",), constraints=said)
    assert ran(done) == {"cluster": 1, "clean": 1}
    for _ in range(2):
        found = person_of(open_dataset(out))
        assert found["photos/stranger.png"] == "Ann"
        assert {found[f"person-1/shot-{s}.png"] for s in range(SHOTS)} == {"Ann"}
        made.save(archive / "more.png", made.photo([(1, 40, 100, 100)], background=777))
        curated([archive], out, made_pack, settings=UNLABELLED)
    assert person_of(open_dataset(out))["photos/more.png"] == "Ann"
    assert len(read_constraints(open_dataset(out)).lines) == 2


def test_dry_run_counts_decisions_and_writes_nothing(
    archive: Path, tmp_path: Path, made_pack: Path
) -> None:
    out = tmp_path / "ds"
    curated([archive], out, made_pack, settings=UNLABELLED)
    before = tree(out)
    dataset = open_dataset(out)
    text = f"kind,a,b\ndrop,{face_of(dataset, 'person-0/shot-0.png')},\n"
    request = curate.Request(
        steps=("clean",),
        out=str(out),
        settings=UNLABELLED,
        constraints=parse_constraints(text.encode(), "said.csv"),
    )
    rows = {row["step"]: row for row in curate.dry_run(request)}
    decisions = rows["clean"]["decisions"]
    assert decisions["drop"] == {"said": 1}
    assert decisions["keep"]["clustered"] == PEOPLE * SHOTS - 1
    assert tree(out) == before


def test_damaged_names_are_said(archive: Path, tmp_path: Path, made_pack: Path) -> None:
    out = tmp_path / "ds"
    curated([archive], out, made_pack, settings=UNLABELLED)
    assert read_earlier(open_dataset(out)) == Earlier()
    (out / KEY).write_bytes(b"no parquet")
    with pytest.raises(CorruptData, match=r"identities.parquet cannot be read .* delete it"):
        curated([archive], out, made_pack, settings=UNLABELLED)
