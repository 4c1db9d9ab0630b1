"""The report of a curated collection: what it says equals the tables, whichever steps ran."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepipe import open_dataset
from facepipe.commits import Plan
from facepipe.errors import DatasetNotFound, StoreFull, UsageError
from facepipe.shards import Dataset
from facepipe.store import LocalStore, open_store
from pipelines.report import write_report
from pipelines.report_figures import MINUS
from tests.pipelines.conftest import curated
from tests.pipelines.report_pages import Page, a_face, a_photo, decided, page_of, stored

SECTIONS = (
    "funnel",
    "check",
    "failures",
    "faces",
    "duplicates",
    "moves",
    "people",
    "measures",
    "times",
)


# -- a curated collection ----------------------------------------------------------------


@pytest.fixture(scope="module")
def page(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(dataset, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_is_there(page: Page, section: str) -> None:
    assert len(page.words(section)) > 20
    links = {attrs.get("href") for tag, attrs in page.tags if tag == "a"}
    assert f"#{section}" in links


def test_every_link_leads_somewhere_in_the_page(page: Page) -> None:
    targets = {f"#{attrs['id']}" for _, attrs in page.tags if "id" in attrs}
    assert {a["href"] for tag, a in page.tags if tag == "a"} <= targets


def test_each_level_of_the_funnel_is_the_one_before_less_its_losses(page: Page) -> None:
    text = page.words("funnel")
    sums = re.findall(rf"([\d,]+(?: {MINUS} [\d,]+)+) = ([\d,]+)", text)
    assert len(sums) >= 4
    for terms, result in sums:
        first, *losses = (int(n.replace(",", "")) for n in terms.split(f" {MINUS} "))
        assert first - sum(losses) == int(result.replace(",", ""))


def test_counts_are_those_of_the_tables(page: Page, dataset: Dataset) -> None:
    photos = dataset.table("photos", ["status", "faces"]).to_pylist()
    faces = dataset.table("faces", ["status"])["status"].to_pylist()
    decisions = dataset.table("decisions", ["decision", "reason"]).to_pylist()
    text = page.words("funnel")
    kept = sum(d["decision"] in {"keep", "relabel"} for d in decisions)
    assert f"Photos listed {len(photos)} " in text
    assert f"Faces found {len(faces)} " in text
    assert f"= {kept} " in text and f"Of the {kept} kept" in text
    no_face = sum(p["status"] in {"ok", "salvaged"} and p["faces"] == 0 for p in photos)
    assert f"{MINUS} {no_face} no face found" in text
    bystanders = Counter(faces)["bystander"]
    assert bystanders and f"{MINUS} {bystanders} Bystanders" in text
    for status, count in Counter(p["status"] for p in photos).items():
        if status not in {"ok", "salvaged"}:
            assert f"{count} \u00d7 {status.replace('_', ' ')}" in page.words("failures")
    moved = sum(d["decision"] == "relabel" for d in decisions)
    assert moved and len(page.sheets["moves"]) == 3 * moved


def test_duplicates_are_shown_beside_what_was_kept(page: Page) -> None:
    text = page.words("duplicates")
    assert "copy.png" in text and "resaved.jpg" in text and "shot-1.png" in text
    assert "same bytes" in text and "same picture" in text


def test_what_gave_no_pixels_is_named_with_its_error(page: Page) -> None:
    text = page.words("failures")
    assert "broken.jpg" in text and "notes.txt" in text


def test_nothing_outside_the_page_is_named(page: Page) -> None:
    assert "http:" not in page.html and "https:" not in page.html
    assert "url(" not in page.html and "@import" not in page.html
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, name)


def test_the_policy_allows_the_one_script_and_pictures_only(page: Page) -> None:
    (policy,) = (
        attrs["content"]
        for tag, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    scripts = re.findall(r"<script>(.*?)</script>", page.html, re.S)
    assert len(scripts) == 1 == sum(tag == "script" for tag, _ in page.tags)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy and f"'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_pictures_are_small_jpegs(page: Page) -> None:
    sources = [a["src"] or "" for tag, a in page.tags if tag == "img"]
    assert sources
    for source in sources:
        data = base64.b64decode(source.partition(",")[2], validate=True)
        crop = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert crop is not None and crop.shape == (96, 96, 3)


def test_same_dataset_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / Path(dataset.uri).name
    shutil.copytree(dataset.uri, moved)
    first = Path(write_report(dataset, str(tmp_path / "a.html"))).read_bytes()
    again = Path(write_report(dataset, str(tmp_path / "b.html"))).read_bytes()
    copied = Path(write_report(open_dataset(moved)))
    assert copied == moved / "report.html"
    assert first == again == copied.read_bytes()


# -- steps that have not run -------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (("detect",), ("embed has not run", "dedup has not run", "clean has not run")),
        (("detect", "embed"), ("dedup has not run", "clean has not run")),
        (("detect", "embed", "dedup"), ("clean has not run",)),
    ],
    ids=["detect", "embed", "dedup"],
)
def test_steps_that_have_not_run_are_said_to_be_missing(
    tmp_path: Path, photos: Path, made_pack: Path, steps: tuple[str, ...], said: tuple[str, ...]
) -> None:
    curated([photos], tmp_path / "ds", made_pack, steps=steps, workers=1)
    page = page_of(open_dataset(tmp_path / "ds"), tmp_path)
    text = " ".join(page.html.replace("<code>", "").replace("</code>", "").split())
    assert all(words in text for words in said)
    assert "left so far" in text and "Of the" not in page.words("funnel")
    assert ("have not been looked for" in page.words("duplicates")) == ("dedup" not in steps)
    assert "not been cleaned" in page.words("moves")


def test_a_step_that_was_interrupted_is_not_counted(tmp_path: Path) -> None:
    faces = [a_face(i) for i in range(3)]
    rows = [decided(f, "drop", "outlier") for f in faces]
    dataset = stored(tmp_path / "ds", faces, decisions=rows)
    (record,) = dataset.store.list("_commits/clean")
    dataset.store.delete(record)
    page = page_of(dataset, tmp_path)
    assert "clean</code> was interrupted" in page.html
    assert "left so far 3" in page.words("funnel")


def test_decisions_over_other_faces_are_not_used(tmp_path: Path) -> None:
    faces = [a_face(i) for i in range(4)]
    others = [decided(a_face(i + 1), "drop", "outlier") for i in range(4)]
    page = page_of(stored(tmp_path / "ds", faces, decisions=others), tmp_path)
    assert "clean</code> ran before the faces changed" in page.html
    assert "left so far 4" in page.words("funnel")


def test_a_dataset_without_photos_or_faces_is_reported(tmp_path: Path) -> None:
    broken = a_photo(None, status="corrupt", error="no end", uri="/p/x.jpg")
    none = page_of(stored(tmp_path / "none", [], [], [], []), tmp_path)
    assert "Photos listed 0" in none.words("funnel") and "failures" not in none.text_of
    page = page_of(stored(tmp_path / "ds", [], [broken], [], []), tmp_path)
    assert f"1 {MINUS} 1 = 0" in page.words("funnel") and "no end" in page.words("failures")
    assert "No face was found" in page.words("faces")
    assert "no face to measure" in page.words("measures")


def test_a_dataset_before_its_first_shard_is_refused(tmp_path: Path) -> None:
    dataset = Dataset(LocalStore(tmp_path / "ds"))
    with pytest.raises(DatasetNotFound, match="facepipe curate"):
        write_report(dataset)
    dataset.write_plan(Plan(step="detect", shards={"000000": "00"}, basis={}))
    with pytest.raises(DatasetNotFound, match="no photos yet"):
        write_report(dataset)


def test_unlabelled_faces_are_captioned_by_file(tmp_path: Path) -> None:
    faces = [a_face(i, source_label=None, uri=f"/a/b{i}.jpg") for i in range(3)]
    rows = [decided(f, "keep", "unlabelled") for f in faces]
    page = page_of(stored(tmp_path / "ds", faces, decisions=rows), tmp_path)
    assert "b1.jpg" in page.words("faces") and "without a label" in page.words("funnel")
    assert "--labels folder" in page.words("people")


# -- where it is written -----------------------------------------------------------------


def test_out_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    dataset = stored(tmp_path / "ds", [a_face(0)])
    manifest = tmp_path / "ds" / "MANIFEST.json"
    manifest.write_text("{}")
    with pytest.raises(UsageError, match="name a file"):
        write_report(dataset, str(tmp_path))
    with pytest.raises(UsageError, match=r"ends in \.html"):
        write_report(dataset, str(manifest))
    assert manifest.read_text() == "{}"
    (tmp_path / "file").write_text("x")
    for blocked in (manifest, tmp_path / "file"):
        with pytest.raises(StoreFull, match="choose another --out"):
            write_report(dataset, str(blocked / "report.html"))


def test_a_page_inside_the_dataset_goes_through_the_store(tmp_path: Path) -> None:
    dataset = stored(tmp_path / "ds", [a_face(0)])
    path = Path(write_report(dataset, str(tmp_path / "ds" / "pages" / "one.html")))
    assert path.read_bytes() == Path(write_report(dataset)).read_bytes()
    assert dataset.store.list("_tmp") == []


def test_a_page_in_a_bucket(tmp_path: Path, bucket: str) -> None:
    dataset = stored(tmp_path / "ds", [a_face(0)])
    local = Path(write_report(dataset)).read_bytes()
    uri = f"{bucket}/pages/one.html"
    assert write_report(dataset, uri) == uri
    assert open_store(bucket).get("pages/one.html") == local
    with pytest.raises(UsageError, match=r"ends in \.html"):
        write_report(dataset, f"{bucket}/pages/one.parquet")
    remote = open_store(f"{bucket}/ds")
    for key in dataset.store.list_all():
        remote.put(key, dataset.store.get(key))
    assert write_report(open_dataset(remote.uri)) == f"{bucket}/ds/report.html"
    assert b"<title>" in remote.get("report.html")
