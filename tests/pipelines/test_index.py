"""Building galleries from datasets, and searching them with photos, by the real engines."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepipe import open_dataset, open_index
from facepipe.config import Settings
from facepipe.errors import (
    CorruptData,
    DatasetNotFound,
    ModelMismatch,
    SourceNotFound,
    StoreError,
    UsageError,
)
from facepipe.index import IndexSettings
from facepipe.lease import LEASE
from facepipe.neighbors import vector_matrix
from facepipe.packs import Pack, find_pack
from facepipe.shards import Dataset
from facepipe.store import LocalStore, locked, open_store
from pipelines.curate import STEPS, Request, run
from pipelines.index import build_index, format_results, search_photos
from pipelines.progress import Progress
from pipelines.runners.local import LocalRunner
from tests import made
from tests.object_server import S3Server

PERSONS, SHOTS = 4, 5
GOOD = PERSONS * SHOTS
LABELLED = Settings.model_validate({"sources": {"labels": "folder"}})


def curated(
    out: Path, photos: Path, pack: Path, settings: Settings, steps: tuple[str, ...] = STEPS
) -> Dataset:
    request = Request(
        steps=steps,
        out=str(out),
        settings=settings,
        pack=find_pack(str(pack)),
        sources=[str(photos)],
    )
    with LocalRunner(1) as runner:
        run(request, runner, Progress(quiet=True))
    return open_dataset(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make photos of four people, an exact copy and a wrong label, and a dataset of them."""
    root = tmp_path_factory.mktemp("made")
    made.people(root / "photos", PERSONS, SHOTS)
    copy = root / "photos" / "person-1" / "copy.png"
    shutil.copy(root / "photos" / "person-1" / "shot-0.png", copy)
    wrong = made.photo([(9, 0, 100, 100)], background=999)
    made.save(root / "photos" / "person-0" / "wrong.png", wrong)
    curated(root / "dataset", root / "photos", made.pack(root / "pack"), LABELLED)
    return root


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder / "dataset")


@pytest.fixture
def pack(folder: Path) -> Pack:
    return find_pack(str(folder / "pack"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


# -- build -------------------------------------------------------------------------------


def test_the_account_adds_up_and_names_the_dataset(dataset: Dataset, tmp_path: Path) -> None:
    manifest = build_index(dataset, str(tmp_path / "i"), IndexSettings())
    totals = manifest["totals"]
    decided = Counter(dataset.table("decisions")["decision"].to_pylist())
    assert totals["expected"] == GOOD + 2 == sum(decided.values())
    assert totals["expected"] == totals["indexed"] + sum(totals["left_out"].values())
    assert totals["indexed"] == decided["keep"] + decided["relabel"]
    assert totals["left_out"] == {"outlier": 1, "same_bytes": 1}
    assert totals["identities"] == PERSONS
    embed = dataset.plan(dataset.step_of("embeddings"))
    clean = dataset.plan("clean")
    assert embed is not None and clean is not None
    assert manifest["dataset"]["plans"]["embed"] == embed.plan_id
    assert manifest["dataset"]["plans"]["clean"] == clean.plan_id
    assert manifest["dataset"]["by"] == "decisions"
    assert manifest["embedding"]["model_id"] == dataset.current_model()
    assert manifest["embedding"]["dim"] == 192


def test_an_index_holds_the_tables_own_vectors(dataset: Dataset, tmp_path: Path) -> None:
    build_index(dataset, str(tmp_path / "i"), IndexSettings(), include="all")
    gallery = open_index(tmp_path / "i")
    table = dataset.table("embeddings")
    scores, face_ids = gallery.search(vector_matrix(table), 1)
    assert face_ids[:, 0].tolist() == table["face_id"].to_pylist()
    np.testing.assert_allclose(scores[:, 0], 1, atol=2e-3)
    faces = {row["face_id"]: row for row in dataset.table("faces").to_pylist()}
    for row in gallery.rows(sorted(faces)).to_pylist():
        assert row["box_xyxy_px"] == faces[row["face_id"]]["box_xyxy_px"]
        wrong = row["uri"].endswith("wrong.png")
        assert row["identity_id"] == (None if wrong else Path(row["uri"]).parent.name)


def test_same_dataset_same_bytes_and_then_nothing_to_do(dataset: Dataset, tmp_path: Path) -> None:
    first = build_index(dataset, str(tmp_path / "a"), IndexSettings())
    second = build_index(dataset, str(tmp_path / "b"), IndexSettings())
    assert first["built"] and second["built"]
    written = contents(tmp_path / "a")
    assert {Path(name).name for name in written} == {
        *("CURRENT", "manifest.json", "vectors.f16", "rows.parquet", "_lock", "swapping")
    }
    assert written == contents(tmp_path / "b")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    again = build_index(dataset, str(tmp_path / "a"), IndexSettings())
    assert not again["built"]
    assert again["version"] == first["version"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")} == before


def test_nothing_to_do_is_said(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress() as progress:
        build_index(dataset, str(tmp_path), IndexSettings(), progress=progress)
        assert f"{GOOD} of {GOOD + 2} faces" in capsys.readouterr().err
        build_index(dataset, str(tmp_path), IndexSettings(), progress=progress)
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vectors.f16", "rows.parquet", "manifest.json", "CURRENT"])
def test_building_again_mends_a_damaged_index(dataset: Dataset, tmp_path: Path, name: str) -> None:
    built = build_index(dataset, str(tmp_path), IndexSettings())
    whole = contents(tmp_path)
    path = next(tmp_path.rglob(name))
    path.write_bytes(path.read_bytes()[:-2] + b"??")
    with pytest.raises(CorruptData, match=r"build (the index|it) again"):
        open_index(tmp_path)
    assert build_index(dataset, str(tmp_path), IndexSettings())["version"] == built["version"]
    assert contents(tmp_path) == whole


def test_a_setting_makes_a_new_version_and_the_last_one_stays(
    dataset: Dataset, tmp_path: Path
) -> None:
    versions = [
        build_index(dataset, str(tmp_path), IndexSettings(fpir=fpir))["version"]
        for fpir in (0.01, 0.02, 0.05)
    ]
    kept = {p.name for p in (tmp_path / "versions").iterdir()}
    assert kept == {version[:16] for version in versions[1:]}
    assert len(list((tmp_path / "shards").iterdir())) == 1  # the vectors are the same
    everyone = build_index(dataset, str(tmp_path), IndexSettings(fpir=0.05), include="all")
    assert everyone["totals"]["indexed"] == GOOD + 1
    assert len(list((tmp_path / "shards").iterdir())) == 2
    assert open_index(tmp_path).version == everyone["version"]


def test_without_clean_the_good_faces_go_in(folder: Path, tmp_path: Path) -> None:
    dataset = curated(
        tmp_path / "d", folder / "photos", folder / "pack", LABELLED, ("detect", "embed")
    )
    manifest = build_index(dataset, str(tmp_path / "i"), IndexSettings())
    assert manifest["dataset"]["by"] == "status"
    assert manifest["dataset"]["plans"]["clean"] is None
    assert manifest["totals"]["indexed"] == GOOD + 1
    assert manifest["totals"]["left_out"] == {"same_bytes": 1}


def test_what_cannot_be_indexed_says_what_to_do(
    dataset: Dataset, folder: Path, tmp_path: Path
) -> None:
    settings = IndexSettings()
    with pytest.raises(UsageError, match="is the dataset itself"):
        build_index(dataset, f"{dataset.uri}/.", settings)
    detected = curated(tmp_path / "d", folder / "photos", folder / "pack", LABELLED, ("detect",))
    with pytest.raises(DatasetNotFound, match="facepipe embed"):
        build_index(detected, str(tmp_path / "i"), settings)
    half = tmp_path / "half"
    shutil.copytree(folder / "dataset", half)
    next((half / "_commits" / "clean").iterdir()).unlink()
    with pytest.raises(StoreError, match=r"clean of .* has not finished"):
        build_index(open_dataset(half), str(tmp_path / "i"), settings)
    assert not (tmp_path / "i").exists()


def test_photos_added_since_clean_are_noticed(folder: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "d"
    made.people(photos, 2, 2)
    curated(out, photos, folder / "pack", LABELLED)
    made.people(photos, 3, 2)
    dataset = curated(out, photos, folder / "pack", LABELLED, ("detect", "embed"))
    with pytest.raises(StoreError, match="6 faces and 4 decisions"):
        build_index(dataset, str(tmp_path / "i"), IndexSettings())


def test_two_builds_at_once_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with locked(LocalStore(tmp_path)), pytest.raises(StoreError, match="another run"):
        build_index(dataset, str(tmp_path), IndexSettings())


# -- in a bucket -------------------------------------------------------------------------


def test_an_index_in_a_bucket_has_the_same_bytes(
    dataset: Dataset, tmp_path: Path, s3: S3Server, bucket: str
) -> None:
    uri = f"{bucket}/galleries/one"
    local = build_index(dataset, str(tmp_path), IndexSettings())
    remote = build_index(dataset, uri, IndexSettings())
    assert remote == local
    store = open_store(uri)
    keys = [key for key in store.list_all() if key != LEASE]
    assert {key: store.get(key) for key in keys} == {
        key: data for key, data in contents(tmp_path).items() if not key.startswith("_")
    }
    assert open_index(uri).version == local["version"]
    s3.forget()
    assert not build_index(dataset, uri, IndexSettings())["built"]
    assert s3.counts()["PUT"] == 0


def test_a_bucket_keeps_the_last_version_too(dataset: Dataset, bucket: str) -> None:
    versions = [
        build_index(dataset, bucket, IndexSettings(fpir=fpir))["version"]
        for fpir in (0.01, 0.02, 0.05)
    ]
    kept = {key.split("/")[1] for key in open_store(bucket).list_all("versions")}
    assert kept == {version[:16] for version in versions[1:]}


def test_a_bucket_that_holds_other_things_is_refused(dataset: Dataset, bucket: str) -> None:
    open_store(bucket).put("someones/photo.jpg", b"1")
    with pytest.raises(UsageError, match=r"holds other things \(someones\)"):
        build_index(dataset, bucket, IndexSettings())
    assert open_store(bucket).names() == ["someones"]


def test_a_build_that_loses_its_lease_publishes_nothing(
    dataset: Dataset, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build_index(dataset, bucket, IndexSettings())

    def lost(self: object) -> None:
        raise StoreError("lost")

    monkeypatch.setattr("facepipe.lease.Lease.check", lost)
    with pytest.raises(StoreError, match="lost"):
        build_index(dataset, bucket, IndexSettings(fpir=0.2))
    assert open_index(bucket).version == before["version"]


# -- search ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(folder: Path) -> Path:
    build_index(open_dataset(folder / "dataset"), str(folder / "index"), IndexSettings())
    return folder / "index"


def search(index: Path, pack: Pack, *photos: Path, k: int = 3) -> list[dict[str, Any]]:
    results = search_photos(open_index(index), pack, LABELLED, [str(p) for p in photos], k)
    json.dumps(results, allow_nan=False)  # --json prints them as they are
    return results


def test_known_people_come_first_and_every_face_is_searched(
    index: Path, pack: Pack, tmp_path: Path
) -> None:
    picture = made.photo([(2, 77, 80, 100), (0, 78, 220, 160)], background=9)
    (result,) = search(index, pack, made.save(tmp_path / "two.png", picture))
    assert (result["status"], len(result["faces"])) == ("ok", 2)
    for face in result["faces"]:
        left = face["box_xyxy_px"][0]
        person = "person-2" if left < 150 else "person-0"
        assert [hit["rank"] for hit in face["hits"]] == [1, 2, 3]
        assert {hit["identity_id"] for hit in face["hits"]} == {person}
        assert face["hits"][0]["above_threshold"] and face["above_threshold"]
        assert face["identity_id"] == face["verdict"] == person
        assert Path(face["hits"][0]["uri"]).parent.name == person
        scores = [hit["score"] for hit in face["hits"]]
        assert scores == sorted(scores, reverse=True)


def test_a_photo_of_the_collection_finds_itself(folder: Path, index: Path, pack: Pack) -> None:
    photo = folder / "photos" / "person-3" / "shot-1.png"
    (result,) = search(index, pack, photo)
    hit = result["faces"][0]["hits"][0]
    assert hit["uri"] == str(photo)
    assert hit["score"] == pytest.approx(1, abs=2e-3)


def test_a_stranger_is_nobody(index: Path, pack: Pack, tmp_path: Path) -> None:
    gallery = open_index(index)  # the made recogniser finds all faces alike: raise its threshold
    raised = gallery.record.threshold.model_copy(update={"value": 0.999})
    gallery = replace(gallery, record=gallery.record.model_copy(update={"threshold": raised}))
    photo = made.save(tmp_path / "stranger.png", made.photo([(99, 0, 100, 100)]))
    (result,) = search_photos(gallery, pack, LABELLED, [str(photo)], 3)
    (face,) = result["faces"]
    assert len(face["hits"]) == 3
    assert (face["above_threshold"], face["identity_id"]) == (False, None)
    assert face["verdict"] == "nobody above the threshold of 0.999"
    assert "nobody above the threshold of 0.999" in format_results([result])


def test_photos_without_a_face_or_pixels_have_a_status(
    index: Path, pack: Pack, tmp_path: Path
) -> None:
    empty = made.save(tmp_path / "a-empty.png", made.photo([]))
    broken = tmp_path / "b-broken.png"
    broken.write_bytes(empty.read_bytes()[:60])
    text = tmp_path / "c.txt"
    text.write_text("hello")
    results = search(index, pack, tmp_path)  # a folder stands for its photos
    assert [Path(r["photo"]).name for r in results] == [empty.name, broken.name, text.name]
    assert results[0]["status"] == "ok"
    assert results[1]["status"] in {"corrupt", "salvaged"}
    assert results[2]["status"] == "not_an_image"
    assert [r["faces"] for r in results] == [[], [], []]
    shown = format_results(results)
    assert "a-empty.png: no face" in shown
    assert "not_an_image" in shown


def test_marked_faces_are_shown_and_only_the_main_one_is_searched(
    index: Path, pack: Pack, tmp_path: Path
) -> None:
    """Where no face passes quality, the large, central one is searched all the same."""
    picture = made.photo([(1, 7, 160, 160), (2, 8, 60, 60)])
    photo = made.save(tmp_path / "small.png", picture)
    strict = Settings.model_validate({"quality": {"min_eye_distance_px": 200}})
    (result,) = search_photos(open_index(index), pack, strict, [str(photo)], 2)
    assert [face["status"] for face in result["faces"]] == ["small", "small"]
    searched = [face for face in result["faces"] if face["searched"]]
    assert len(searched) == 1
    assert searched[0]["identity_id"] == "person-1"
    other = next(face for face in result["faces"] if not face["searched"])
    assert (other["hits"], other["verdict"]) == ([], "not searched")


def test_another_model_is_refused(index: Path, folder: Path, pack: Pack, tmp_path: Path) -> None:
    photo = str(folder / "photos" / "person-0" / "shot-0.png")
    other = find_pack(str(made.pack(tmp_path / "other", seed=1)))
    gallery = open_index(index)
    with pytest.raises(ModelMismatch) as caught:
        search_photos(gallery, other, LABELLED, [photo], 1)
    assert gallery.model_id[:12] in str(caught.value)
    assert "made_recogniser.onnx" in str(caught.value)
    flipped = Settings.model_validate({"embed": {"flip": "sum"}})
    with pytest.raises(ModelMismatch, match=r"embed\.flip=none.*embed\.flip=sum"):
        search_photos(gallery, pack, flipped, [photo], 1)


def test_a_missing_photo_is_named(index: Path, pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"gone\.jpg"):
        search(index, pack, tmp_path / "gone.jpg")


def test_shown_results_are_aligned_and_safe(index: Path, pack: Pack, tmp_path: Path) -> None:
    photo = made.save(tmp_path / "evil\x1b[31m.png", made.photo([(0, 5, 100, 100)]))
    results = search(index, pack, photo)
    results[0]["faces"][0]["hits"][1]["identity_id"] = "a\nb"
    shown = format_results(results)
    assert "\x1b" not in shown
    lines = shown.splitlines()
    header = next(line for line in lines if "rank" in line)
    rows = [line for line in lines if line.lstrip("* ").startswith(("1 ", "2 ", "3 "))]
    assert len(rows) == 3
    for row in rows:
        assert row[header.index("score") :][:2] in {"0.", "1."}
    assert rows[0].lstrip().startswith("*")
    assert "1 of 100" in lines[-1]


# -- real photos -------------------------------------------------------------------------


@pytest.mark.slow
def test_real_people_are_found_and_real_strangers_are_nobody(assets: Path, tmp_path: Path) -> None:
    """Twelve people of LFW, two photos kept out of each; twelve others as strangers."""
    folders = sorted(
        p for p in (assets / "faces/lfw/images").iterdir() if len(list(p.iterdir())) in (6, 7)
    )
    known, strangers = folders[:12], folders[12:24]
    for person in known:
        for photo in sorted(person.iterdir())[2:]:
            copy = tmp_path / "photos" / person.name / photo.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(photo)
    pack = assets / "models" / "insightface_pack"
    dataset = curated(tmp_path / "d", tmp_path / "photos", pack, LABELLED)
    manifest = build_index(dataset, str(tmp_path / "i"), IndexSettings())
    assert manifest["totals"]["identities"] == 12
    assert 0.15 < manifest["threshold"]["value"] < 0.4
    best_is_exact(tmp_path / "i", every_list=False)  # as the planner chose: flat
    build_index(dataset, str(tmp_path / "c"), IndexSettings(kind="ivf_pqfs"))
    best_is_exact(tmp_path / "c", every_list=True)
    probes = [photo for person in known for photo in sorted(person.iterdir())[:2]]
    found = search(tmp_path / "i", find_pack(str(pack)), *probes)
    first = [main_face(result)["hits"][0]["identity_id"] for result in found]
    assert first == [photo.parent.name for photo in probes]
    assert sum(main_face(r)["above_threshold"] for r in found) >= len(probes) - 1
    others = [sorted(person.iterdir())[0] for person in strangers]
    unknown = search(tmp_path / "i", find_pack(str(pack)), *others)
    assert sum(main_face(r)["above_threshold"] for r in unknown) <= 1


def best_is_exact(index: Path, *, every_list: bool) -> None:
    """Check that each face's best other one is that of all products in float64."""
    gallery = open_index(index, threads=1)
    vectors_ND = gallery.shards.vectors(np.arange(len(gallery)))
    scores_NN = vectors_ND.astype(np.float64) @ vectors_ND.astype(np.float64).T
    np.fill_diagonal(scores_NN, -1)
    names = gallery.shards.face_ids(np.arange(len(gallery))).astype(str)
    nprobe = len(gallery) if every_list else None
    _, found = gallery.search(vectors_ND.astype(np.float32), 2, nprobe=nprobe)
    others = [next(f for f in two if f != own) for own, two in zip(names, found, strict=True)]
    assert others == names[scores_NN.argmax(axis=1)].tolist()


def main_face(result: dict[str, Any]) -> dict[str, Any]:
    """Return the face in the middle of an LFW photo (250 px)."""

    def off_centre(face: dict[str, Any]) -> float:
        x1, y1, x2, y2 = face["box_xyxy_px"]
        return abs(x1 + x2 - 250) + abs(y1 + y2 - 250)

    faces: list[dict[str, Any]] = result["faces"]
    return min(faces, key=off_centre)
