"""Builds: the same bytes by any engine, in any shards, and nothing done twice."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facepipe import ids, index_plan, open_index
from facepipe.errors import CorruptData, GateFailed, StoreError, UsageError
from facepipe.id_keys import text_keys
from facepipe.index_settings import IndexSettings
from facepipe.local_store import LocalStore
from facepipe.shards import Dataset
from pipelines import index_job
from pipelines.index import build_index, plan_build
from pipelines.index_select import cut, look, read_work
from pipelines.index_training import Training, _fill, _sampled
from pipelines.index_verify import verify_index
from pipelines.progress import Progress
from tests.object_server import S3Server
from tests.pipelines.made_gallery import Made, contents, nearest, people, search

ROOT = Path(__file__).parents[2]
FLAT = IndexSettings()
CODED = IndexSettings(kind="ivf_pqfs", recall=0.5)
FULL_ROWS = 100


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(folder=tmp_path_factory.mktemp("made") / "dataset", faces=people(60, 4))


@pytest.fixture(scope="module")
def dataset(made: Made) -> Dataset:
    return made.write()


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards be full with FULL_ROWS."""
    monkeypatch.setattr(index_plan, "MIN_SHARD_ROWS", FULL_ROWS)
    monkeypatch.setattr(index_plan, "PADDED_LIST_FACES", 0)


# Ray in a process of its own: one that had a cluster before keeps that one's token.
BY_ENGINE = """
import sys
from facepipe import index_plan, open_dataset
from facepipe.index_settings import IndexSettings
from pipelines.engines import open_engine
from pipelines.index import build_index

if __name__ == "__main__":
    engine, dataset, out, settings, full_rows = sys.argv[1:]
    index_plan.MIN_SHARD_ROWS, index_plan.PADDED_LIST_FACES = int(full_rows), 0
    with open_engine(engine, 2, 0) as runner:
        settings = IndexSettings.model_validate_json(settings)
        build_index(open_dataset(dataset), out, settings, runner=runner)
"""


# -- cutting -----------------------------------------------------------------------------


def test_shards_are_stretches_of_the_dataset(made: Made, dataset: Dataset, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    stretch = look(dataset, "kept", decided=True)
    works = cut(store, "0" * 64, stretch, FULL_ROWS)
    assert [work.rows for work in works] == [80, 80, 80]  # two of the dataset's 40 fit in 100
    assert [len(work.sources) for work in works] == [2, 2, 2]
    assert len(stretch.names) == 60
    for number, work in enumerate(works):
        rows = read_work(store, work)
        stretch_ids = [face.face_id for face in made.faces[80 * number : 80 * number + 80]]
        assert rows["face_id"].to_pylist() == sorted(stretch_ids)
        for row in rows.to_pylist():
            source = dataset.read(work.sources[row["file"]], ["face_id"])
            assert source["face_id"][row["row"]].as_py() == row["face_id"]


def test_added_photos_leave_full_shards_alone(made: Made, tmp_path: Path) -> None:
    more = Made(folder=tmp_path / "more", faces=[*made.faces, *people(20, 2, first=90)])
    before, after = (
        cut(LocalStore(tmp_path / name), "0" * 64, look(d, "kept", decided=True), 80)
        for name, d in (("a", made.write()), ("b", more.write()))
    )
    assert [w.inputs for w in after[: len(before)]] == [w.inputs for w in before]
    assert len(after) == len(before) + 1


def test_what_a_worker_reads_must_be_what_the_driver_wrote(
    dataset: Dataset, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    (work, *_) = cut(store, "0" * 64, look(dataset, "kept", decided=True), FULL_ROWS)
    (tmp_path / work.key).write_bytes(store.get(work.key)[:-1])
    with pytest.raises(CorruptData, match="has changed"):
        read_work(store, work)


# -- building ----------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("engine", "package"), [("local", ""), ("ray", "ray"), ("beam", "apache_beam")]
)
def test_any_engine_gives_the_same_bytes(
    dataset: Dataset, tmp_path: Path, engine: str, package: str
) -> None:
    if package:
        pytest.importorskip(package)
    plain = build_index(dataset, str(tmp_path / "plain"), CODED)
    script = tmp_path / "by_engine.py"
    script.write_text(BY_ENGINE)
    subprocess.run(
        [
            *(sys.executable, str(script), engine, dataset.uri, str(tmp_path / "other")),
            *(CODED.model_dump_json(), str(FULL_ROWS)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert contents(tmp_path / "other") == contents(tmp_path / "plain")
    assert len(plain["shards"]) == 3


@pytest.mark.parametrize("kind", ["flat", "ivf_sq8", "ivf_pqfs"])
def test_many_shards_answer_as_one(
    made: Made, dataset: Dataset, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = IndexSettings(kind=kind, recall=0.5)
    one = build_index(dataset, str(tmp_path / "one"), settings)
    monkeypatch.setattr(index_plan, "MIN_SHARD_ROWS", FULL_ROWS)
    monkeypatch.setattr(index_plan, "PADDED_LIST_FACES", 0)
    many = build_index(dataset, str(tmp_path / "many"), settings)
    assert (len(one["shards"]), len(many["shards"])) == (1, 3)
    assert one["threshold"] == many["threshold"]
    assert one["template"] == many["template"]
    queries = made.vectors(made.faces[::7]).astype(np.float32)
    first, second = (open_index(tmp_path / name).search(queries, 9) for name in ("one", "many"))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    if kind == "flat":
        assert search(tmp_path / "many", made, made.faces[::7], 9) == nearest(
            made, made.faces, made.faces[::7], 9
        )


@pytest.mark.usefixtures("small_shards")
def test_shards_that_are_there_are_taken_over(
    made: Made, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    build_index(dataset, str(index), FLAT)
    times = {p: p.stat().st_mtime_ns for p in index.glob("shards/*/*")}
    again = build_index(dataset, str(index), IndexSettings(fpir=0.1))
    assert {p: p.stat().st_mtime_ns for p in index.glob("shards/*/*")} == times
    damaged = next(iter(times))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    mended = build_index(dataset, str(index), IndexSettings(fpir=0.2))
    assert mended["shards"] == again["shards"]
    assert verify_index(str(index), full=True)["problems"] == []
    changed = {p for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert {p.parent for p in changed} == {damaged.parent}


@pytest.mark.usefixtures("small_shards")
def test_a_run_after_a_crash_does_the_rest(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    build_index(dataset, str(whole), CODED)
    made: list[str] = []
    real = index_job.make_shard

    def failing(*given: Any) -> Any:
        made.append(given[2].work.name)
        if len(made) == 2:
            raise OSError("the machine is taken away")
        return real(*given)

    monkeypatch.setattr(index_job, "make_shard", failing)
    with pytest.raises(OSError, match="taken away"):
        build_index(dataset, str(tmp_path / "index"), CODED)
    assert not (tmp_path / "index" / "CURRENT").exists()
    monkeypatch.setattr(index_job, "make_template", None)  # is not trained again
    build_index(dataset, str(tmp_path / "index"), CODED)
    assert made == ["000000", "000001", "000001", "000002"]
    assert contents(tmp_path / "index") == contents(whole)


def test_a_record_without_its_files_is_not_believed(dataset: Dataset, tmp_path: Path) -> None:
    """Somebody tidied up after a crash, and took too much."""
    index = tmp_path / "index"
    whole = build_index(dataset, str(index), FLAT, publish=False)
    before = contents(index)

    class Stopped(BaseException):
        pass

    other = tmp_path / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_job, "calibrate_gallery", stop(Stopped))
        with pytest.raises(Stopped):
            build_index(dataset, str(other), FLAT, publish=False)
    assert list(other.glob("_commits/index/*.json"))
    next(other.rglob("vectors.f16")).unlink()
    assert build_index(dataset, str(other), FLAT, publish=False) == whole
    assert contents(other) == before


def stop(kind: type[BaseException]) -> Any:
    def stopped(*_: object) -> None:
        raise kind

    return stopped


def test_too_little_recall_is_not_put_in_force(
    made: Made, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    before = build_index(dataset, str(index), FLAT)["version"]
    real = index_job.calibrate_gallery

    def worse(*given: Any) -> dict[str, Any]:
        facts = real(*given)
        return {**facts, "recall": {**facts["recall"], "rth": 0.4}}

    monkeypatch.setattr(index_job, "calibrate_gallery", worse)
    with pytest.raises(GateFailed, match=r"finds 0\.4000 .* should find 0\.5"):
        build_index(dataset, str(index), CODED)
    assert open_index(index).version == before


def test_a_plan_is_said_and_nothing_is_written(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_build(dataset, IndexSettings(memory_budget="1MB"), "kept")
    assert (plan["faces"], plan["expected"], plan["kind"]) == (240, 240, "flat")
    assert plan["disk_bytes"] == 240 * (32 * 2 + 50)  # an estimate of the rows
    assert plan["memory_bytes"] == 240 * (32 * 2 + 37)  # and the face ids
    with pytest.raises(UsageError, match="memory budget"):
        plan_build(dataset, IndexSettings(memory_budget="1kB"), "kept")
    with Progress() as progress:
        build_index(dataset, str(tmp_path / "i"), FLAT, progress=progress)
    said = capsys.readouterr().err
    assert all(reason in said for reason in plan["reasons"][:1])


def test_rows_can_be_read_in_parts(dataset: Dataset, tmp_path: Path) -> None:
    build_index(dataset, str(tmp_path), FLAT)
    parquet = pq.ParquetFile(next(tmp_path.rglob("rows.parquet")))
    assert parquet.metadata.num_rows == 240
    assert parquet.schema_arrow.metadata[b"facepipe.table"] == b"gallery"


def test_vectors_that_are_no_unit_vectors_are_refused(tmp_path: Path) -> None:
    class Long(Made):
        def vector(self, face: Any) -> Any:
            return super().vector(face) * np.float16(1.1)

    wrong = Long(folder=tmp_path / "dataset", faces=people(3, 2))
    with pytest.raises(CorruptData, match="not a unit vector"):
        build_index(wrong.write(), str(tmp_path / "index"), FLAT)
    assert not (tmp_path / "index" / "CURRENT").exists()


def test_embeddings_in_another_order_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    """A file that is not the one the driver read its ids from."""
    store = LocalStore(tmp_path)
    works = cut(store, "0" * 64, look(dataset, "kept", decided=True), FULL_ROWS)
    from facepipe.index_template import Device
    from pipelines.index_shards import Making, make_shard

    swapped = works[0].__class__(
        name=works[0].name,
        rows=works[0].rows,
        key=works[0].key,
        sha256=works[0].sha256,
        sources=works[1].sources,
    )
    device: Device = "cpu"
    with pytest.raises(CorruptData, match="does not have the faces in their order"):
        make_shard(store, dataset, Making(dim=32, template=None, work=swapped), device)


@pytest.mark.usefixtures("small_shards")
def test_a_bucket_gets_the_same_bytes(
    dataset: Dataset, tmp_path: Path, s3: S3Server, bucket: str
) -> None:
    from facepipe.lease import LEASE
    from facepipe.store import open_store

    local = build_index(dataset, str(tmp_path), CODED)
    assert build_index(dataset, f"{bucket}/i", CODED) == local
    store = open_store(f"{bucket}/i")
    stored = {key: store.get(key) for key in store.list_all() if key != LEASE}
    assert stored == contents(tmp_path)
    assert verify_index(f"{bucket}/i", full=True)["problems"] == []


def test_an_index_of_the_first_layout_is_replaced(dataset: Dataset, tmp_path: Path) -> None:
    """What it holds cannot be read any more, and its files are nobody's afterwards."""
    index = tmp_path / "index"
    manifest = b'{"schema_version": 1, "shards": []}\n'
    version = ids.sha256_hex(manifest)
    for name, data in {
        "CURRENT": f"{version}\n".encode(),
        f"versions/{version[:16]}/manifest.json": manifest,
        "shards/0123456789abcdef/index.faiss": b"IxSQ",
    }.items():
        (index / name).parent.mkdir(parents=True, exist_ok=True)
        (index / name).write_bytes(data)
    with pytest.raises(CorruptData, match="build the index again"):
        open_index(index)
    build_index(dataset, str(index), FLAT)
    build_index(dataset, str(tmp_path / "new"), FLAT)
    assert contents(index) == contents(tmp_path / "new")


def test_decisions_of_other_faces_are_refused(made: Made, tmp_path: Path) -> None:
    other = Made(folder=tmp_path / "dataset", faces=people(3, 2))
    other.write()
    other.faces = people(4, 2)
    with pytest.raises(StoreError, match="8 faces and 6 decisions"):
        build_index(other.write(clean=False), str(tmp_path / "index"), FLAT)


@pytest.mark.parametrize("sample", [5, 30, 239, 240, 1000])
@pytest.mark.parametrize("full_rows", [100, 1000])
def test_the_sample_is_spread_over_all_and_does_not_depend_on_the_cut(
    made: Made, dataset: Dataset, tmp_path: Path, sample: int, full_rows: int
) -> None:
    """Its vectors are those of the faces that the seeded key names, in that order."""
    store = LocalStore(tmp_path)
    works = cut(store, "0" * 64, look(dataset, "kept", decided=True), full_rows)
    plan = replace(
        index_plan.plan_index(240, 32, memory_budget_bytes=None, recall=0.9), sample=sample
    )
    work_S, row_S = _sampled(store, Training(dim=32, plan=plan, seed=7, works=tuple(works)))
    found = [
        read_work(store, works[work], ["face_id"])["face_id"][row].as_py()
        for work, row in zip(work_S.tolist(), row_S.tolist(), strict=True)
    ]
    assert len(set(found)) == len(found) == min(sample, 240)
    keys = text_keys(pa.array(found), salt=7).tolist()
    assert keys == sorted(keys)
    if sample >= 60:  # one of each person at least
        owner = {face.face_id: face.person for face in made.faces}
        assert {owner[face] for face in found} == set(range(60))
    other = cut(store, "1" * 64, look(dataset, "kept", decided=True), 80)
    works_too, rows_too = _sampled(store, Training(dim=32, plan=plan, seed=7, works=tuple(other)))
    assert found == [
        read_work(store, other[work], ["face_id"])["face_id"][row].as_py()
        for work, row in zip(works_too.tolist(), rows_too.tolist(), strict=True)
    ]
    vectors = np.zeros((len(found), 32), np.float16)
    for number, work in enumerate(works):
        inside = np.flatnonzero(work_S == number)
        _fill(store, dataset, work, row_S[inside], inside, vectors)
    of = {face.face_id: face for face in made.faces}
    np.testing.assert_array_equal(vectors, made.vectors([of[face] for face in found]))
