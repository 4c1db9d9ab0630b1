"""A run that is killed at any write leaves a whole version in force, and its work to the next.

Every write of every command is made the last one, one after the other; then the same command is
run again, and each byte has to be that of a run that was left alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from facepipe import open_index
from facepipe.index_settings import IndexSettings
from facepipe.local_store import LocalStore
from facepipe.shards import Dataset, open_dataset
from pipelines.index import build_index
from pipelines.index_add import add_to_index
from pipelines.index_compact import compact_index
from pipelines.index_delete import Doomed, delete_from_index
from pipelines.index_migrate import migrate_index
from pipelines.index_publish import list_versions, publish_version, roll_back
from pipelines.index_verify import verify_index
from tests.pipelines.made_gallery import Face, Made, contents, people

WRITES = ("put", "put_if_absent", "put_if_match", "delete", "sweep")
FLAT = IndexSettings()
CODED = IndexSettings(kind="ivf_pqfs", recall=0.5)  # a template and lists to be killed over
GONE = Face(person=3, shot=1)


class Killed(BaseException):
    """What a kill is in one process: nothing catches it."""


@contextmanager
def killed_at(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let so many writes of a store through, and raise at the next, and at all others."""
    left = [writes]

    def count() -> None:
        if left[0] <= 0:
            raise Killed
        left[0] -= 1

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(LocalStore, name)

        def write(self: LocalStore, *given: Any) -> Any:
            count()
            return real(self, *given)

        return write

    real_create, real_adopt = LocalStore.create, LocalStore.adopt

    @contextmanager
    def create(self: LocalStore, key: str) -> Iterator[BinaryIO]:
        count()
        with real_create(self, key) as stream:
            yield stream
            count()

    def adopt(self: LocalStore, key: str, file: BinaryIO) -> None:
        count()
        real_adopt(self, key, file)
        count()

    with monkeypatch.context() as patch:
        for name in WRITES:
            patch.setattr(LocalStore, name, counted(name))
        patch.setattr(LocalStore, "create", create)
        patch.setattr(LocalStore, "adopt", adopt)
        yield


class World:
    """An index and its dataset, as the commands find them."""

    def __init__(self, root: Path) -> None:
        self.made = Made(folder=root / "dataset", faces=people(30, 4))
        self.dataset = self.made.write()
        self.index = root / "index"

    def grow(self) -> None:
        self.made.faces += people(5, 3, first=40)
        self.dataset = self.made.write()

    def embed_again(self) -> None:
        self.made.model = "second"
        self.dataset = self.made.write()


def nothing(world: World) -> None:
    """Start from an empty folder."""


def built(world: World) -> None:
    build_index(world.dataset, str(world.index), FLAT)


def grown(world: World) -> None:
    built(world)
    world.grow()


def deleted(world: World) -> None:
    grown(world)
    add_to_index(str(world.index), world.dataset, FLAT)
    delete_from_index(str(world.index), Doomed(faces=(GONE.face_id,), people=("person-041",)))


def embedded_again(world: World) -> None:
    built(world)
    world.embed_again()


def staged(world: World) -> None:
    built(world)
    build_index(world.dataset, str(world.index), FLAT, include="all", publish=False)


def build_coded(world: World) -> None:
    build_index(world.dataset, str(world.index), CODED)


def build_again(world: World) -> None:
    build_index(world.dataset, str(world.index), IndexSettings(fpir=0.2))


def publish_staged(world: World) -> None:
    waiting = [v for v in list_versions(str(world.index)) if v["parent"] is not None]
    publish_version(str(world.index), waiting[0]["version"])


CASES: dict[str, tuple[Callable[[World], None], Callable[[World], object]]] = {
    "build": (nothing, build_coded),
    "build again": (grown, build_again),
    "add": (grown, lambda w: add_to_index(str(w.index), w.dataset, FLAT)),
    "delete": (built, lambda w: delete_from_index(str(w.index), Doomed(people=("person-002",)))),
    "compact": (deleted, lambda w: compact_index(str(w.index), FLAT, everything=True)),
    "keep": (
        deleted,
        lambda w: compact_index(str(w.index), FLAT, everything=True, keep_versions=True),
    ),
    "migrate": (embedded_again, lambda w: migrate_index(str(w.index), w.dataset, FLAT)),
    "publish": (staged, publish_staged),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_at_any_write_is_made_good_by_the_next(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, command = CASES[case]
    world = World(tmp_path)
    prepare(world)
    saved = tmp_path / "saved"
    shutil.copytree(world.index, saved) if world.index.exists() else saved.mkdir()
    before = contents(saved).get("CURRENT")
    command(world)
    whole = contents(world.index)
    assert not [name for name in whole if name.startswith(("_work", "_commits", "_tmp"))]
    answers = {before: None, whole["CURRENT"]: found(world, world.index)}
    if before is not None:
        answers[before] = found(world, saved)
    for writes in range(1000):
        shutil.rmtree(world.index)
        shutil.copytree(saved, world.index)
        try:
            with killed_at(writes, monkeypatch):
                command(world)
        except Killed:
            pass
        else:
            break
        current = contents(world.index).get("CURRENT")
        assert current in answers, f"after {writes} writes"
        if current is not None:
            assert found(world, world.index) == answers[current]
        if current != whole["CURRENT"]:  # the swap is the last thing that is written
            leave_half_a_write(world.index)
        command(world)
        assert contents(world.index) == whole, f"after {writes} writes"
    assert writes >= 2
    assert contents(world.index) == whole
    assert verify_index(str(world.index), full=True)["problems"] == []


def leave_half_a_write(index: Path) -> None:
    """Leave what a process leaves that is killed while it writes a file."""
    (index / "_tmp").mkdir(parents=True, exist_ok=True)
    (index / "_tmp" / "123-0123456789abcdef").write_bytes(b"half")


def found(world: World, index: Path) -> list[list[str]]:
    """Return what a reader finds with some faces."""
    gallery = open_index(index)
    # The same directions for any model: what is found only has to be the same twice.
    queries = world.made.vectors([*world.made.faces[:5], GONE]).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    face_ids = gallery.search(queries, 3)[1]
    return [[str(face) for face in row] for row in face_ids]


def test_rolling_back_is_one_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    built(world)
    build_again(world)
    second, first = (v["version"] for v in list_versions(str(world.index)))
    with pytest.raises(Killed), killed_at(0, monkeypatch):
        roll_back(str(world.index))
    assert open_index(world.index).version == second
    with killed_at(3, monkeypatch):  # a sweep, the swap, and the put that is inside of it
        roll_back(str(world.index))
    assert open_index(world.index).version == first


def test_a_killed_process_leaves_its_work_to_the_next(tmp_path: Path) -> None:
    """The real thing: SIGKILL, as soon as a file of the build is there."""
    world = World(tmp_path)
    command = [
        *(sys.executable, "-m", "pipelines.cli", "index", "build", str(world.made.folder)),
        *("--out", str(world.index), "--quiet", "--workers", "1", "--kind", "ivf_pqfs"),
        *("--recall", "0.5"),
    ]
    whole_index = tmp_path / "whole"
    build_index(open_dataset(world.made.folder), str(whole_index), CODED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.Popen(command, env=environment, process_group=0)
    while run.poll() is None and not any(world.index.glob("_work/*/*.parquet")):
        os.sched_yield()
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not (world.index / "CURRENT").exists()
    subprocess.run(command, env=environment, check=True)
    assert contents(world.index) == contents(whole_index)


def test_the_made_dataset_is_one(tmp_path: Path) -> None:
    """What the tests above stand on."""
    dataset: Dataset = World(tmp_path).dataset
    assert len(dataset.table("embeddings")) == len(dataset.table("decisions")) == 120
