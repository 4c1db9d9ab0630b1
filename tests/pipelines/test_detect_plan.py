"""Trying again only what failed."""

from __future__ import annotations

from pathlib import Path

from facepipe import open_dataset
from facepipe.packs import find_pack
from facepipe.shards import Dataset
from pipelines import curate
from pipelines.detect_plan import read_retries
from pipelines.progress import Progress
from pipelines.runners.local import LocalRunner
from pipelines.stage import StepReport
from pipelines.verify import verify_dataset
from tests import made
from tests.pipelines.conftest import curated, labelled_settings, ran, tree


def retried(source: Path, out: Path, pack: Path) -> list[StepReport]:
    request = curate.Request(
        steps=curate.STEPS,
        out=str(out),
        settings=labelled_settings(),
        pack=find_pack(str(pack)),
        sources=[str(source)],
        retry_failed=True,
    )
    with LocalRunner(2) as runner, Progress(quiet=True) as progress:
        return curate.run(request, runner, progress)[0]


def listed(tmp_path: Path) -> Path:
    """Return a list of twelve photos, the last two of which are not there yet."""
    made.people(tmp_path / "photos", persons=2, shots=5)
    names = sorted(str(p) for p in (tmp_path / "photos").rglob("*.png"))
    late = [str(tmp_path / "photos/person-0/late.png"), str(tmp_path / "photos/person-1/late.png")]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join([*names, *late]) + "\n")
    return tmp_path / "list.csv"


def statuses(dataset: Dataset) -> dict[str, int]:
    return dataset.write_manifest()["steps"]["detect"]["counts"]["photos"]  # type: ignore[no-any-return]


def test_only_what_failed_is_read_again(tmp_path: Path, made_pack: Path) -> None:
    source, out = listed(tmp_path), tmp_path / "ds"
    curated([source], out, made_pack)
    assert statuses(open_dataset(out)) == {"ok": 10, "unreadable": 2}
    for person in (0, 1):
        made.save(tmp_path / f"photos/person-{person}/late.png", made.photo([(person, 8, 80, 80)]))
    assert ran(curated([source], out, made_pack)) == {}
    # A photo that did not fail is not touched: it could even be gone by now.
    (tmp_path / "photos/person-1/shot-4.png").rename(tmp_path / "elsewhere.png")
    reports = retried(source, out, made_pack)
    assert [r.shards_run for r in reports[:3]] == [0, 1, 1]
    (tmp_path / "elsewhere.png").rename(tmp_path / "photos/person-1/shot-4.png")
    assert statuses(open_dataset(out)) == {"ok": 12}
    assert verify_dataset(open_dataset(out))["problems"] == []
    whole = tmp_path / "whole"
    curated([source], whole, made_pack)
    tables = ("photos/", "faces/", "embeddings/", "duplicates/", "decisions/")
    got, wanted = tree(out), tree(whole)
    assert {k: v for k, v in got.items() if k.startswith(tables)} == {
        k: v for k, v in wanted.items() if k.startswith(tables)
    }


def test_what_fails_again_is_tried_again(tmp_path: Path, made_pack: Path) -> None:
    source, out = listed(tmp_path), tmp_path / "ds"
    curated([source], out, made_pack)
    for tries in (1, 2):
        assert retried(source, out, made_pack)[1].shards_run == 1
        dataset = open_dataset(out)
        assert statuses(dataset) == {"ok": 10, "unreadable": 2}
        assert [len(t) for t in read_retries(dataset).photos.values()] == [tries]
    assert ran(curated([source], out, made_pack)) == {}
    made.save(tmp_path / "photos/person-0/late.png", made.photo([(0, 8, 80, 80)]))
    retried(source, out, made_pack)
    assert statuses(open_dataset(out)) == {"ok": 11, "unreadable": 1}


def test_with_nothing_failed_there_is_nothing_to_do(tmp_path: Path, made_pack: Path) -> None:
    made.people(tmp_path / "photos", persons=2, shots=3)
    curated([tmp_path / "photos"], tmp_path / "ds", made_pack)
    before = tree(tmp_path / "ds")
    assert all(r.shards_run == 0 for r in retried(tmp_path / "photos", tmp_path / "ds", made_pack))
    assert tree(tmp_path / "ds") == before
