"""A made collection of people and a made pack, curated once for the tests that only look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest

from facepipe.config import Settings, load
from facepipe.constraints import Constraints
from facepipe.packs import find_pack
from facepipe.shards import Dataset, open_dataset
from pipelines import curate
from pipelines.progress import Progress
from pipelines.runners.local import LocalRunner
from pipelines.stage import StepReport
from tests import made
from tests.object_server import bucket, s3, s3_server  # noqa: F401


def curated(
    sources: Sequence[Path | str],
    out: Path | str,
    pack: Path,
    *,
    workers: int = 2,
    settings: Settings | None = None,
    steps: tuple[str, ...] = curate.STEPS,
    constraints: Constraints | None = None,
    quiet: bool = True,
) -> list[StepReport]:
    """Run steps of curate in-process, as the command line does."""
    request = curate.Request(
        steps=steps,
        out=str(out),
        settings=settings or labelled_settings(),
        pack=find_pack(str(pack)),
        sources=[str(s) for s in sources],
        constraints=constraints or Constraints(),
    )
    with LocalRunner(workers) as runner, Progress(quiet=quiet) as progress:
        return curate.run(request, runner, progress)[0]


def ran(reports: list[StepReport]) -> dict[str, int]:
    """Return how many shards each step has run, of the steps that had something to do."""
    return {r.step.split("-")[0]: r.shards_run for r in reports if r.shards_run}


def labelled_settings(*overrides: str) -> Settings:
    """Return settings with folder labels and small shards, so that there are several."""
    return load(None, ["sources.labels=folder", "run.shard_photos=6", *overrides])


def tree(root: Path) -> dict[str, bytes]:
    """Return the tables and plans under a dataset, byte for byte; not records' timings."""
    tables = (
        "photos",
        "faces",
        "embeddings",
        "duplicates",
        "clusters",
        "cluster_pairs",
        "decisions",
        "label_pairs",
        "members",
        "by_label",
        "_plan",
    )
    files = [p for t in tables for p in (root / t).rglob("*") if p.is_file()]
    files.append(root / "MANIFEST.json")
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def add_awkward(folder: Path) -> None:
    """Add to a collection what real ones hold besides clean photos."""
    person = folder / "person-0"
    (person / "copy.png").write_bytes((person / "shot-0.png").read_bytes())
    resaved = cv2.imread(str(person / "shot-1.png"))
    fine = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    cv2.imwrite(str(person / "resaved.jpg"), resaved, fine)
    stranger = made.photo([(50, 0, 120, 120)], background=900)
    made.save(folder / "person-1" / "wrong.png", stranger)
    swapped = made.photo([(3, 77, 120, 120)], background=901)
    made.save(folder / "person-2" / "swapped.png", swapped)
    made.save(folder / "person-1" / "two.png", made.photo([(1, 9, 160, 160), (8, 0, 40, 40)], 902))
    made.save(folder / "person-1" / "landscape.png", made.photo([], 903))
    (folder / "notes.txt").write_text("not a photo")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "person-2" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(40))


@pytest.fixture(scope="session")
def made_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the made detector and recogniser."""
    return made.pack(tmp_path_factory.mktemp("packs") / "made")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder per identity with copies, strangers, broken files and other things."""
    folder = made.people(tmp_path_factory.mktemp("photos"), persons=4, shots=6)
    add_awkward(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, photos: Path, made_pack: Path) -> Dataset:
    """Return a curated dataset; only to be read."""
    out = tmp_path_factory.mktemp("dataset") / "ds"
    curated([photos], out, made_pack)
    return open_dataset(out)
