"""The demo from end to end, on real photos, with a real pack; then what its page says."""

from __future__ import annotations

import importlib.util
import io
import json
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from facepipe.builtin_pack import BUILTIN
from facepipe.packs import Pack, find_pack
from facepipe.schema import Decision
from facepipe.shards import open_dataset
from pipelines.cli import app
from pipelines.cli_demo import TRAIN_SETTINGS, train_a_little
from pipelines.demo import Demo, Shown, run_demo
from pipelines.demo_files import Expected
from pipelines.demo_page import SECTIONS, write_page
from pipelines.demo_page import page as page_of
from pipelines.demo_result import result_json, result_text
from pipelines.progress import Progress
from pipelines.runners.local import LocalRunner
from pipelines.verify import verify_dataset
from tests.pipelines.report_pages import Page

ROOT = Path(__file__).resolve().parents[2]
TORCH = importlib.util.find_spec("torch") is not None
SURPRISES = 10  # of 93; the packs that were tried have two


@pytest.fixture(scope="module")
def pack() -> Pack:
    """Return builtin, as the command takes it."""
    return find_pack(BUILTIN)


@dataclass(frozen=True)
class Ran:
    shown: Shown
    page: Path
    told: str  # all that the run printed
    files: dict[str, bytes]


def run(out: Path, pack: Pack) -> Ran:
    few = (*TRAIN_SETTINGS, "steps=2", "data.loader.batch_samples=4")
    demo = Demo(
        out=out,
        pack=pack,
        pack_name="small",
        train=partial(train_a_little, overrides=few) if TORCH else None,
        left_out="" if TORCH else "torch is not installed",
    )
    told = io.StringIO()
    with redirect_stderr(told), LocalRunner(2) as runner, Progress() as progress:
        shown = run_demo(demo, runner, progress)
        page = write_page(shown)
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    return Ran(shown=shown, page=page, told=told.getvalue(), files=files)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, pack: Pack) -> Ran:
    return run(tmp_path_factory.mktemp("demo") / "out", pack)


def test_every_file_has_one_outcome_and_the_counts_add_up(first: Ran) -> None:
    shown, dataset = first.shown, open_dataset(str(first.shown.demo.out / "dataset"))
    assert len(shown.outcomes) == len(shown.photos.photos) == dataset.table("photos").num_rows
    assert [o.made for o in shown.outcomes] == list(shown.photos.photos)
    assert sum(len(o.faces) for o in shown.outcomes) == dataset.table("faces").num_rows
    assert verify_dataset(dataset)["problems"] == []
    for table, counts in shown.counts.items():
        assert sum(counts.values()) == dataset.table(table).num_rows
    assert shown.export["exported"] + shown.export["removed"] == dataset.table("faces").num_rows


def test_few_things_surprise_and_what_needs_no_model_never_does(first: Ran) -> None:
    assert first.shown.surprises_in_all <= SURPRISES
    by_name = {o.made.name: o for o in first.shown.outcomes}
    pixels = [o for o in first.shown.outcomes if o.made.expected is Expected.NO_PIXELS]
    assert [o.as_expected for o in pixels] == [True] * 2
    twice = by_name["person-1/same-file.jpg"], by_name["person-1/original.jpg"]
    assert len({o.face.face_id for o in twice if o.face is not None}) == 1
    assert any(o.face is not None and o.face.decision == Decision.DUPLICATE for o in twice)


def test_the_page_says_what_was_decided(first: Ran) -> None:
    html = first.page.read_text(encoding="utf-8")
    page = Page(html)  # fails on a tag that is not closed
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")
    for kind, (title, _) in SECTIONS.items():
        own = [o for o in first.shown.outcomes if o.made.kind is kind]
        words = page.words(kind.value)
        assert title in words
        assert words.count("✓") == 0  # put there by the style
        said = Counter(o.said for o in own)
        for text, count in said.items():
            assert words.count(" ".join(text.split())) >= count, text
        assert words.count("as expected") - 1 == sum(o.as_expected for o in own)
        assert words.count("a surprise.") == sum(not o.as_expected for o in own)
    surprises = page.words("surprises").count("a surprise.") if first.shown.surprises else 0
    assert surprises == len(first.shown.surprises)
    pictures = [given["src"] or "" for tag, given in page.tags if tag == "img"]
    assert len(pictures) > len(first.shown.outcomes) - 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)


def test_a_search_names_the_known_and_nobody_else(first: Ran) -> None:
    known, stranger = first.shown.searches
    assert known.as_expected and stranger.as_expected
    assert {face["identity_id"] for face in stranger.result["faces"]} <= {None}
    hits = known.result["faces"][0]["hits"]
    assert (
        hits[0]["score"] >= first.shown.threshold > stranger.result["faces"][0]["hits"][0]["score"]
    )


def test_a_run_is_told_without_names_of_people_or_vectors(first: Ran) -> None:
    assert "detect: " in first.told and "photos: 91 in" in first.told
    for word in ("person-1", "astronaut", "Tom", "stranger", "data:image"):
        assert word not in first.told


@pytest.mark.skipif(not TORCH, reason="torch is not installed")
def test_what_was_trained_is_a_pack_beside_the_other(first: Ran) -> None:
    shown = first.shown
    assert shown.trained is not None and shown.evaluation is not None
    assert shown.trained.result["step"] == 2 == len(shown.trained.metrics)
    assert find_pack(shown.trained.result["pack"]).need_detector()
    assert [model["model"] for model in shown.evaluation["models"]] == ["small", "trained here"]
    assert 'class="trace"' in first.page.read_text(encoding="utf-8")


def test_again_adds_nothing(first: Ran, pack: Pack) -> None:
    again = run(first.shown.demo.out, pack)
    assert again.files == first.files
    assert "detect: nothing to do" in again.told and "train: " not in again.told.replace(
        "train: torch", ""
    )


def test_the_result_for_machines_and_for_people(first: Ran) -> None:
    told = result_json(first.shown, first.page)
    assert json.loads(json.dumps(told)) == told
    assert told["as_expected"] + len(told["surprises"]) == told["photos"] == 91
    text = result_text({**told, "seconds": 1.0})
    assert f"page       {first.page}" in text
    for surprise in told["surprises"]:
        assert surprise["file"] in text


def test_without_torch_the_step_says_so(first: Ran) -> None:
    shown = replace(first.shown, trained=None, demo=replace(first.shown.demo, left_out="no torch"))
    html = page_of(shown)
    assert "Left out: no torch." in html and 'class="trace"' not in html
    assert result_json(shown, first.page)["training"] == {"left_out": "no torch"}


# -- the command -------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    ran = CliRunner().invoke(app, ["demo", "--dry-run", "--json", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["photos"] == sum(told["kinds"].values()) == 91 and told["missing"] == []
    assert ("train" in told["steps"]) == TORCH == ("training_left_out" not in told)
    assert not out.exists()


@pytest.mark.parametrize("out", ["{tmp}", "{tmp}/mine.txt", "s3://bucket/demo"])
def test_what_is_not_the_demos_own_is_not_written_to(tmp_path: Path, out: str) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    asked = ["demo", "--dry-run", "--out", out.format(tmp=tmp_path)]
    ran = CliRunner().invoke(app, asked)
    assert ran.exit_code == 2 and "new" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
