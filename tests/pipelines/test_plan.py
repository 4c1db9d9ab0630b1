"""Plans from samples: of all photos exact, of some right, and compared with the run."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from facepipe.config import Settings, load
from facepipe.errors import CorruptData, SourceNotFound, UsageError
from facepipe.packs import find_pack
from facepipe.shards import Dataset, open_dataset
from pipelines import plan_sample
from pipelines.plan import KEY, PlanRequest, compare, plan_job, read_forecast
from pipelines.progress import Progress
from pipelines.verify import verify_dataset
from tests import made
from tests.pipelines.conftest import curated, labelled_settings

ALL = 1000  # more than there are
ALL_THERE = 33  # 4 people x 6 shots, 6 others of theirs, 3 that are no photo


def planned(
    sources: list[Path], pack: Path, *, settings: Settings | None = None, **more: Any
) -> dict[str, Any]:
    request = PlanRequest(
        sources=[str(s) for s in sources],
        settings=settings or labelled_settings(),
        pack=find_pack(str(pack)),
        **more,
    )
    return plan_job(request, Progress(quiet=True))


def only(values: dict[str, list[float]]) -> dict[str, float]:
    """Return numbers that are known exactly."""
    assert all(low == value == high for value, low, high in values.values())
    return {name: value for name, (value, _, _) in values.items()}


@pytest.fixture(scope="module")
def of_all(photos: Path, made_pack: Path) -> dict[str, Any]:
    return planned([photos], made_pack, sample=ALL)


@pytest.fixture(scope="module")
def of_some(photos: Path, made_pack: Path) -> dict[str, Any]:
    return planned([photos], made_pack, sample=16)


def test_a_sample_of_all_counts_what_a_run_finds(of_all: dict[str, Any], dataset: Dataset) -> None:
    faces = dataset.table("faces", ["status"])["status"].to_pylist()
    statuses = Counter(dataset.table("photos", ["status"])["status"].to_pylist())
    assert only(of_all["photo_status"]) == statuses
    assert only(of_all["face_status"]) == Counter(faces)
    assert only({"faces": of_all["faces"]}) == {"faces": len(faces)}
    assert of_all["photos"] == [sum(statuses.values())] * 3 and of_all["sampled"] == ALL_THERE
    assert only({"usable": of_all["usable"]}) == {"usable": faces.count("ok")}


def test_pairs_are_those_of_the_duplicates(of_all: dict[str, Any], dataset: Dataset) -> None:
    heads = Counter(
        row["evidence"]
        for row in dataset.table("duplicates").to_pylist()
        if row["decision"] == "duplicate"
    )
    assert set(heads.values()) == {1}  # every one has a head of its own: a pair each
    assert of_all["pairs_sampled"] == len(heads) > 0
    assert of_all["duplicates"][0] == len(heads)


def test_a_sample_of_some_holds_what_a_run_finds(
    of_some: dict[str, Any], of_all: dict[str, Any]
) -> None:
    assert of_some["sampled"] == 16 and of_some["photos"] == [ALL_THERE] * 3
    for name in ("faces", "usable", "unfit", "duplicates", "kept"):
        value, low, high = of_some[name]
        assert low <= of_all[name][0] <= high and low <= value <= high, name
    value, low, high = of_some["photo_status"]["ok"]
    assert low <= of_all["photo_status"]["ok"][0] <= high < ALL_THERE


def test_the_same_sample_gives_the_same_numbers(
    of_some: dict[str, Any], photos: Path, made_pack: Path
) -> None:
    again = planned([photos], made_pack, sample=16)
    counted = ("photos", "photo_status", "faces", "face_status", "kept", "bytes", "basis")
    for name in counted:
        if name == "bytes":  # uris and crops are the same; the gallery's manifest has no time
            assert again[name]["faces"] == of_some[name]["faces"]
        else:
            assert again[name] == of_some[name], name


def test_what_was_measured_can_be_scaled(of_some: dict[str, Any]) -> None:
    costs = of_some["costs"]
    assert len(costs["detect_photo_s"]) == len(costs["embed_photo_s"]) == 16
    for name in ("start_s", "shard_s", "driver_photo_s", "worker_bytes", "driver_photo_bytes"):
        assert costs[name] > 0, name
    assert costs["labels_a_photo"] == pytest.approx(4 / ALL_THERE)
    value, low, high = of_some["work_s"]["total"]
    assert 0 < low < value < high
    # The photos' seconds, as measured, for all of them: no more than that and the rest.
    each = [d + e for d, e in zip(costs["detect_photo_s"], costs["embed_photo_s"], strict=True)]
    both = of_some["work_s"]["detect"][0] + of_some["work_s"]["embed"][0]
    assert both == pytest.approx(ALL_THERE * sum(each) / 16, abs=1e-4)
    assert set(of_some["bytes"]) >= {"photos", "faces", "embeddings", "duplicates", "gallery"}
    parts = sum(v[0] for name, v in of_some["bytes"].items() if name != "total")
    assert of_some["bytes"]["total"][0] == pytest.approx(parts)


def test_bytes_are_those_of_a_run(of_all: dict[str, Any], dataset: Dataset) -> None:
    for table in ("photos", "faces", "embeddings"):
        stored = sum(f.bytes for f in dataset.files(table))
        assert of_all["bytes"][table][0] == pytest.approx(stored, rel=0.15), table


def test_workers_for_an_hour_are_told(photos: Path, made_pack: Path) -> None:
    found = planned([photos], made_pack, sample=8, hours=1.0, workers=3)
    assert found["workers_in_time"] == found["workers"] == 1 and found["hours"] == 1.0
    never = planned([photos], made_pack, sample=8, hours=1e-9, workers=3)
    assert never["workers_in_time"] is None and never["workers"] == 3


def test_photos_in_containers_are_sampled_too(tmp_path: Path, made_pack: Path) -> None:
    plain = made.people(tmp_path / "plain", persons=2, shots=3)
    source = tmp_path / "in"
    made.people(source, persons=1, shots=2)
    for kind in ("tar", "tar.gz"):
        with tarfile.open(source / f"a.{kind}", "w:gz" if kind == "tar.gz" else "w") as tar:
            tar.add(plain, arcname=".")
    found = planned([source], made_pack, sample=ALL)
    assert found["photos"] == [14.0] * 3 and found["sampled"] == 14
    assert only(found["photo_status"]) == {"ok": 14} and found["faces"] == [14.0] * 3
    assert found["costs"]["contained"] == pytest.approx(12 / 14)
    assert found["costs"]["container_photos"] == 6
    assert found["costs"]["list_photo_s"] > 0
    assert found["pairs_sampled"] == 6 + 2 * 2  # three times person-0's first two shots
    few = planned([source], made_pack, sample=7)
    assert few["sampled"] == 7 and few["faces"][1] <= 14 <= few["faces"][2]


def test_of_many_large_containers_some_are_listed(
    tmp_path: Path, made_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_sample, "LISTED_BYTES", 0)
    monkeypatch.setattr(plan_sample, "LISTED_CONTAINERS", 3)
    plain = made.people(tmp_path / "plain", persons=1, shots=8)
    shots = sorted(plain.rglob("*.png"))
    (tmp_path / "in").mkdir()
    held = [2, 3, 4, 5, 6, 7]
    for count in held:
        with tarfile.open(tmp_path / "in" / f"{count}.tar", "w") as tar:
            for shot in shots[:count]:
                tar.add(shot, arcname=shot.name)
    found = planned([tmp_path / "in"], made_pack, sample=6)
    value, low, high = found["photos"]
    assert low < value < high and low <= sum(held) <= high
    assert found["sampled"] == 6
    assert found["faces"][2] - found["faces"][1] >= high - low


@pytest.mark.parametrize("kind", ["text", "landscape"])
def test_sources_without_a_face_can_be_planned(tmp_path: Path, made_pack: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    for n in range(5):
        if kind == "text":
            (tmp_path / "in" / f"{n}.txt").write_text(f"note {n}")
        else:
            made.save(tmp_path / "in" / f"{n}.png", made.photo([], n))
    found = planned([tmp_path / "in"], made_pack, sample=3)
    assert found["faces"][0] == 0 and found["faces"][1] == 0 < found["faces"][2]
    assert found["kept"][0] == 0


def test_nothing_to_plan_is_said(tmp_path: Path, photos: Path, made_pack: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceNotFound, match="no file below"):
        planned([tmp_path / "empty"], made_pack)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other things"):
        planned([photos], made_pack, out=str(tmp_path / "mine"))


# -- with a dataset to be ------------------------------------------------------------------


@pytest.fixture(scope="module")
def then_run(
    tmp_path_factory: pytest.TempPathFactory, photos: Path, made_pack: Path
) -> tuple[Path, dict[str, Any], list[str], dict[str, Any] | None]:
    """Plan into a dataset, look at it, and make it."""
    out = tmp_path_factory.mktemp("planned") / "ds"
    forecast = planned([photos], made_pack, sample=20, out=str(out), workers=1)
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    reports = curated([photos], out, made_pack, workers=1)
    return out, forecast, files, compare(open_dataset(out), reports)


def test_only_the_plan_is_written(
    then_run: tuple[Path, dict[str, Any], list[str], dict[str, Any] | None],
) -> None:
    out, forecast, files, _ = then_run
    assert [f for f in files if not f.startswith("_lock")] == [KEY]
    assert read_forecast(open_dataset(out)) == json.loads(json.dumps(forecast))


def test_the_run_is_compared_with_the_plan(
    then_run: tuple[Path, dict[str, Any], list[str], dict[str, Any] | None], dataset: Dataset
) -> None:
    out, forecast, _, found = then_run
    assert found is not None and found["same_settings"] and found["workers"] == 1
    assert found["photos"] == {"actual": ALL_THERE, "planned": [ALL_THERE] * 3, "right": True}
    assert found["faces"]["actual"] == len(dataset.table("faces", ["status"]))
    kept = dataset.table("decisions", ["decision"])["decision"].to_pylist()
    assert found["kept"]["actual"] == sum(d in ("keep", "relabel") for d in kept)
    assert found["duplicates"]["actual"] == kept.count("duplicate")
    for name in ("faces", "kept", "duplicates"):
        assert found[name]["right"] and found[name]["planned"] == forecast[name]
    assert found["work_s"]["actual"] > 0 and found["wall_s"]["actual"] > 0
    stored = sum(p.stat().st_size for p in out.rglob("*.parquet") if "_plan" not in p.parts)
    assert found["bytes"]["actual"] == stored
    assert verify_dataset(open_dataset(out))["problems"] == []


def test_a_run_that_does_nothing_or_part_is_not_compared(
    then_run: tuple[Path, dict[str, Any], list[str], dict[str, Any] | None],
    photos: Path,
    made_pack: Path,
    dataset: Dataset,
) -> None:
    out = then_run[0]
    again = curated([photos], out, made_pack)
    assert compare(open_dataset(out), again) is None
    assert compare(open_dataset(out), again[:2]) is None
    assert compare(dataset, again) is None  # nothing was planned for this one


def test_a_run_with_other_settings_or_workers_says_so(
    tmp_path: Path, photos: Path, made_pack: Path
) -> None:
    planned([photos], made_pack, sample=8, out=str(tmp_path / "ds"), workers=1)
    other = load(None, ["sources.labels=folder", "quality.min_sharpness=1", "run.shard_photos=6"])
    reports = curated([photos], tmp_path / "ds", made_pack, settings=other)
    one = compare(open_dataset(tmp_path / "ds"), reports)
    two = compare(open_dataset(tmp_path / "ds"), reports, 2)
    assert one is not None and two is not None
    assert not one["same_settings"]
    assert two["wall_s"]["planned"][0] < one["wall_s"]["planned"][0]
    assert two["work_s"] == one["work_s"]


def test_a_run_that_went_on_has_no_wall_time(tmp_path: Path, photos: Path, made_pack: Path) -> None:
    planned([photos], made_pack, sample=8, out=str(tmp_path / "ds"))
    curated([photos], tmp_path / "ds", made_pack, steps=("detect",))
    found = compare(open_dataset(tmp_path / "ds"), curated([photos], tmp_path / "ds", made_pack))
    assert found is not None and "wall_s" not in found and found["faces"]["right"]


def test_a_damaged_plan_is_named(tmp_path: Path, photos: Path, made_pack: Path) -> None:
    planned([photos], made_pack, sample=4, out=str(tmp_path / "ds"))
    (tmp_path / "ds" / KEY).write_text("{")
    with pytest.raises(CorruptData, match="forecast"):
        read_forecast(open_dataset(tmp_path / "ds"))
