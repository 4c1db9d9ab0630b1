"""Overlap with test sets: made people in two collections, by the real steps."""

from __future__ import annotations

import csv
import pickle
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer import Typer
from typer.testing import CliRunner

from facepipe.errors import ModelMismatch, SourceNotFound, UsageError
from facepipe.overlap import LEVELS, OverlapSettings
from facepipe.packs import find_pack
from facepipe.schema import OVERLAP_IDENTITIES, OVERLAPS
from facepipe.shards import Dataset, open_dataset
from pipelines import cli_export
from pipelines.overlap import (
    NamedProbes,
    current,
    identity_list,
    overlap_tables,
    run_overlap,
)
from pipelines.overlap_probes import ProbeReader, ProbeSet, check_model, find_probes
from pipelines.progress import Progress
from pipelines.runners.local import LocalRunner
from pipelines.verify import verify_dataset
from tests import made
from tests.pipelines.conftest import curated, labelled_settings

PROBED = 1  # the person of the dataset that the probes have too


def save_person(folder: Path, person: int, shots: range, background: int = 5000) -> None:
    for shot in shots:
        picture = made.photo([(person, shot, 120, 100 + 4 * (shot % 9))], background + 40 * person)
        made.save(folder / f"shot-{shot}.png", picture)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, photos: Path, made_pack: Path) -> Path:
    """Return a curated dataset that the tests here may add overlaps to."""
    out = tmp_path_factory.mktemp("overlap") / "ds"
    curated([photos], out, made_pack)
    return out


@pytest.fixture(scope="module")
def probe_photos(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Return a test set: new shots of one person, a copied photo of another, strangers."""
    root = tmp_path_factory.mktemp("probes") / "set"
    save_person(root / "Some_One", PROBED, range(40, 43))
    copied = photos / "person-2" / "shot-2.png"
    (root / "Copied").mkdir()
    shutil.copy(copied, root / "Copied" / "Copied_0001.png")
    for person in range(60, 72):
        save_person(root / f"Stranger_{person}", person, range(2))
    return root


@pytest.fixture(scope="module")
def runner() -> Iterator[LocalRunner]:
    with LocalRunner(1) as opened:
        yield opened


def read(
    dataset: Dataset, pack: Path, sets: list[ProbeSet], work: Path, runner: LocalRunner
) -> list[NamedProbes]:
    reader = ProbeReader(
        model=dataset.current_model(),
        pack=find_pack(str(pack)),
        settings=labelled_settings(),
        work=work,
        runner=runner,
        progress=Progress(quiet=True),
    )
    return [NamedProbes(name=s.name, dataset=reader.read(s)[0].uri) for s in sets]


def marked(dataset: Dataset, name: str = "overlaps") -> list[dict[str, Any]]:
    tables = [t for table, t in overlap_tables(dataset) if table == name]
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(scope="module")
def overlapped(
    own: Path,
    probe_photos: Path,
    made_pack: Path,
    tmp_path_factory: pytest.TempPathFactory,
    runner: LocalRunner,
) -> tuple[Dataset, list[dict[str, Any]]]:
    dataset = open_dataset(own)
    sets = find_probes([str(probe_photos)], None)
    named = read(dataset, made_pack, sets, tmp_path_factory.mktemp("work"), runner)
    found = run_overlap(dataset, named, OverlapSettings(), runner, Progress(quiet=True))
    return open_dataset(own), found


def test_the_copied_photo_and_the_probed_person_are_marked_and_nobody_else(
    overlapped: tuple[Dataset, list[dict[str, Any]]],
) -> None:
    dataset, _ = overlapped
    rows = marked(dataset)
    by_level: dict[str, set[str]] = {}
    for row in rows:
        by_level.setdefault(row["level"], set()).add(row["uri"].rpartition("/")[2])
        assert row["probe"] == "set"
    assert by_level["same_bytes"] == {"shot-2.png"}
    people = {row["uri"].split("/")[-2] for row in rows if row["level"] != "same_bytes"}
    assert people - {"person-2"} == {f"person-{PROBED}"}
    decided = dataset.table("decisions").to_pylist()
    own = {
        d["face_id"]
        for d in decided
        if d["identity_id"] == f"person-{PROBED}" and d["decision"] != "drop"
    }
    assert own <= {row["face_id"] for row in rows}


def test_evidence_names_the_probe_and_its_face(
    overlapped: tuple[Dataset, list[dict[str, Any]]], probe_photos: Path
) -> None:
    rows = marked(overlapped[0])
    copied = next(r for r in rows if r["level"] == "same_bytes")
    assert copied["probe_label"] == "Copied" and copied["confidence"] == 1.0
    assert copied["probe_uri"] == str(probe_photos / "Copied" / "Copied_0001.png")
    person = [r for r in rows if r["level"] == "same_person" and "person-1" in r["uri"]]
    assert person and {r["probe_label"] for r in person} == {"Some_One"}
    assert all(0 < r["similarity"] <= 1 and r["confidence"] > 0.9 for r in person)
    for row in rows:
        assert (
            (row["probe_face_id"] is None)
            or "Some_One" in row["probe_uri"]
            or (row["level"] != "same_bytes")
        )


def test_counts_add_up_in_tables_facts_and_identities(
    overlapped: tuple[Dataset, list[dict[str, Any]]],
) -> None:
    dataset, (found,) = overlapped
    rows = marked(dataset)
    counted = Counter(r["level"] for r in rows)
    assert found["overlaps"] == {level.value: counted[level] for level in LEVELS}
    assert found["probe_photos"] == 28 and found["probe_people"] == 14
    identities = marked(dataset, "overlap_identities")
    for level in LEVELS:
        of_people = sum(r["level"] == level for r in rows if r["identity_id"] is not None)
        assert sum(i[level.value] for i in identities) == of_people
    full = next(i for i in identities if i["identity_id"] == "person-1")
    assert full["overlaps"] and full["probe_label"] == "Some_One"
    assert full["faces"] == sum(full[level.value] for level in LEVELS)
    part = next(i for i in identities if i["identity_id"] == "person-2")
    assert part["faces"] > part["same_bytes"] == 1


def test_tables_have_their_schemas_and_the_dataset_verifies(
    overlapped: tuple[Dataset, list[dict[str, Any]]],
) -> None:
    dataset, _ = overlapped
    schemas = {name: table.schema for name, table in overlap_tables(dataset)}
    assert schemas["overlaps"].equals(OVERLAPS, check_metadata=True)
    assert schemas["overlap_identities"].equals(OVERLAP_IDENTITIES, check_metadata=True)
    assert verify_dataset(dataset)["problems"] == []
    assert current(dataset)


def test_a_second_run_does_nothing_and_other_work_folders_give_the_same_bytes(
    own: Path,
    overlapped: tuple[Dataset, list[dict[str, Any]]],
    probe_photos: Path,
    made_pack: Path,
    tmp_path: Path,
) -> None:
    before = {
        p: p.read_bytes() for t in ("overlaps", "overlap_identities") for p in (own / t).iterdir()
    }
    record = (own / "_commits" / "overlap.jsonl").stat().st_mtime_ns
    with LocalRunner(2) as runner:
        named = read(
            open_dataset(own), made_pack, find_probes([str(probe_photos)], None), tmp_path, runner
        )
        run_overlap(open_dataset(own), named, OverlapSettings(), runner, Progress(quiet=True))
    after = {
        p: p.read_bytes() for t in ("overlaps", "overlap_identities") for p in (own / t).iterdir()
    }
    assert before == after
    assert (own / "_commits" / "overlap.jsonl").stat().st_mtime_ns == record


def test_a_dataset_overlaps_with_itself_in_every_face_that_is_searched(
    dataset: Dataset, tmp_path: Path, made_pack: Path, runner: LocalRunner
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset.uri, copy)
    sets = find_probes([dataset.uri], None)
    assert sets[0].kind == "dataset"
    named = read(open_dataset(copy), made_pack, sets, tmp_path, runner)
    run_overlap(open_dataset(copy), named, OverlapSettings(), runner, Progress(quiet=True))
    rows = marked(open_dataset(copy))
    assert len(rows) == len(dataset.table("faces"))
    assert {r["level"] for r in rows} == {"same_bytes"}


def test_pairs_are_read_by_the_names_of_their_photos(
    own: Path, photos: Path, made_pack: Path, tmp_path: Path, runner: LocalRunner
) -> None:
    images = tmp_path / "images"
    for number, shot in ((1, 40), (2, 41)):
        picture = made.photo([(PROBED, shot, 100, 100)], background=7000 + shot)
        made.save(images / "Some_One" / f"Some_One_000{number}.png", picture)
    made.save(images / "Not_Listed" / "Not_Listed_0001.png", made.photo([(2, 40, 100, 100)], 7050))
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("1\nSome_One\t1\t2\nSome_One\t1\tNobody\t1\n")
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    sets = find_probes([str(pairs)], str(images))
    named = read(open_dataset(copy), made_pack, sets, tmp_path / "work", runner)
    (found,) = run_overlap(
        open_dataset(copy), named, OverlapSettings(), runner, Progress(quiet=True)
    )
    assert found["probe_photos"] == 2 and found["probe_people"] == 1
    rows = marked(open_dataset(copy))
    assert rows and {r["probe_label"] for r in rows} == {"Some_One"}
    identities = marked(open_dataset(copy), "overlap_identities")
    assert {i["identity_id"] for i in identities if i["overlaps"]} == {f"person-{PROBED}"}


def test_a_bin_set_has_no_names_and_its_people_are_found_all_the_same(
    own: Path, made_pack: Path, tmp_path: Path, runner: LocalRunner
) -> None:
    images = []
    for person, shot in ((PROBED, 44), (PROBED, 45), (80, 0), (81, 0)):
        path = made.save(tmp_path / "x.png", made.photo([(person, shot, 100, 100)], 7200 + shot))
        images.append(path.read_bytes())
    (tmp_path / "set.bin").write_bytes(pickle.dumps((images, [True, False]), protocol=2))
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    sets = find_probes([str(tmp_path / "set.bin")], None)
    named = read(open_dataset(copy), made_pack, sets, tmp_path / "work", runner)
    (found,) = run_overlap(
        open_dataset(copy), named, OverlapSettings(), runner, Progress(quiet=True)
    )
    assert found["probe_photos"] == 4 and found["probe_people"] == 0
    identities = marked(open_dataset(copy), "overlap_identities")
    assert {i["identity_id"] for i in identities if i["overlaps"]} >= {f"person-{PROBED}"}
    rows = [r for r in marked(open_dataset(copy)) if r["identity_id"] == f"person-{PROBED}"]
    assert {r["probe_member"] for r in rows} <= {"00000", "00001", None}
    assert {r["probe_uri"] for r in rows} <= {str(tmp_path / "set.bin"), None}


def test_probes_without_a_face_mark_nothing(
    own: Path, made_pack: Path, tmp_path: Path, runner: LocalRunner
) -> None:
    made.save(tmp_path / "empty" / "landscape.png", made.photo([], 7100))
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    sets = find_probes([str(tmp_path / "empty")], None)
    named = read(open_dataset(copy), made_pack, sets, tmp_path / "work", runner)
    (found,) = run_overlap(
        open_dataset(copy), named, OverlapSettings(), runner, Progress(quiet=True)
    )
    assert sum(found["overlaps"].values()) == 0 and "face_threshold" not in found
    assert len(identity_list(open_dataset(copy))) == 0


def test_a_dataset_without_decisions_is_compared_by_its_labels(
    photos: Path, probe_photos: Path, made_pack: Path, tmp_path: Path, runner: LocalRunner
) -> None:
    curated([photos], tmp_path / "ds", made_pack, steps=("detect", "embed"))
    dataset = open_dataset(tmp_path / "ds")
    named = read(dataset, made_pack, find_probes([str(probe_photos)], None), tmp_path, runner)
    run_overlap(dataset, named, OverlapSettings(), runner, Progress(quiet=True))
    overlapping = {r["identity_id"] for r in marked(dataset, "overlap_identities") if r["overlaps"]}
    assert overlapping == {f"person-{PROBED}", "person-2"}  # who is on the copied photo


def test_what_is_no_probe_set_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(SourceNotFound, match="does not exist"):
        find_probes([str(tmp_path / "gone")], None)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("1\nA\t1\t2\nA\t1\tB\t1\n")
    with pytest.raises(UsageError, match="--images"):
        find_probes([str(pairs)], None)
    with pytest.raises(UsageError, match="for a pairs file"):
        find_probes([dataset.uri], str(tmp_path))
    with pytest.raises(UsageError, match="twice"):
        find_probes([str(tmp_path), str(tmp_path)], None)


def test_sets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a/images", "b/images"):
        (tmp_path / name).mkdir(parents=True)
    found = find_probes([str(tmp_path / "a/images"), str(tmp_path / "b/images")], None)
    assert [p.name for p in found] == ["a/images", "b/images"]


def test_another_model_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    other = find_pack(str(made.pack(tmp_path / "other", seed=3)))
    with pytest.raises(ModelMismatch, match="--models"):
        check_model(dataset, other, labelled_settings())


def test_the_command_writes_lists_and_json(
    own: Path, probe_photos: Path, made_pack: Path, tmp_path: Path
) -> None:
    app = Typer()
    app.command("other")(lambda: None)
    cli_export.register(app)
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    listed = tmp_path / "people.csv"
    args = ["overlap", str(copy), "--probes", str(probe_photos), "--models", str(made_pack)]
    dry = CliRunner().invoke(app, [*args, "--dry-run"])
    assert dry.exit_code == 0 and dry.stdout == "set: photos, 28 photos or containers\n"
    done = CliRunner().invoke(app, [*args, "--out", str(listed), "--quiet", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "people of the dataset are in it too" in done.stdout
    rows = list(csv.DictReader(listed.read_text().splitlines()))
    assert [r["identity_id"] for r in rows] == ["person-1", "person-2"]
    table = pq.read_table(listed.with_suffix(".parquet"))
    assert table.schema.names == OVERLAP_IDENTITIES.names and len(table) == len(rows)
    assert isinstance(table, pa.Table) and list(tmp_path.glob(".*")) == []
