"""The pairs that decide: the same crops for every pack, and a digest of what was compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepipe.config import Settings, load
from facepipe.errors import UsageError
from facepipe.packs import find_pack
from pipelines.pinned_pairs import PinnedPairs, measure_pinned
from pipelines.progress import Progress
from tests import made
from tests.pipelines.made_pairs import made_crops, made_pairs

PEOPLE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    made_crops(root / "crops", PEOPLE)
    made_pairs(root / "pairs.txt", PEOPLE)
    made.pack(root / "pack")
    return root


def measure(
    root: Path, *, pairs: str = "pairs.txt", settings: Settings | None = None
) -> PinnedPairs:
    return measure_pinned(
        str(root / "crops"),
        str(root / pairs),
        [find_pack(str(root / "pack"))],
        settings or Settings(),
        1,
        Progress(quiet=True),
    )


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "other"))


def test_pairs_are_judged_as_counted_by_hand(folder: Path) -> None:
    found = measure(folder)
    assert found.pairs.same_P.sum() == (~found.pairs.same_P).sum() == 2 * PEOPLE
    crops = {path.stem: cv2.imread(str(path)) for path in (folder / "crops").rglob("*.png")}

    def unit(name: str) -> np.ndarray:  # type: ignore[type-arg]
        rgb = crops[name][..., ::-1].astype(np.float64).transpose(2, 0, 1)
        x = (rgb - 127.5) / 127.5
        x = np.where(x < 0, 0.9 * x, x).reshape(3, 8, 14, 8, 14).mean(axis=(2, 4)).ravel()
        return np.asarray(x / np.linalg.norm(x))

    expected = unit("p000_0001") @ unit("p000_0002")  # the first pair of the first fold
    assert found.similarity_MP[0, 0] == pytest.approx(expected, abs=1e-5)
    assert found.right_MP.shape == (1, 4 * PEOPLE)
    assert found.pictures == len(crops)


def test_the_digest_is_of_what_is_compared_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path)
    extra = other / "crops" / "somebody_0001.png"
    shutil.copyfile(next((other / "crops").rglob("*.png")), extra)  # of no pair
    assert measure(other).digest == measure(folder).digest


@pytest.mark.parametrize("change", ["crop", "pairs", "flip"])
def test_the_digest_changes_with_what_is_compared(
    folder: Path, tmp_path: Path, change: str
) -> None:
    other, settings = copied(folder, tmp_path), Settings()
    if change == "crop":
        path = sorted((other / "crops").rglob("*.png"))[0]
        picture = cv2.imread(str(path))
        picture[0, 0] ^= 1
        cv2.imwrite(str(path), picture)
    elif change == "pairs":
        lines = (other / "pairs.txt").read_text().splitlines()
        lines[1], lines[2] = lines[2], lines[1]
        (other / "pairs.txt").write_text("\n".join(lines) + "\n")
    else:
        settings = load(None, ["embed.flip=sum"])
    assert measure(other, settings=settings).digest != measure(folder).digest


def test_photos_are_refused_since_another_detector_finds_other_faces(
    folder: Path, tmp_path: Path
) -> None:
    other = copied(folder, tmp_path)
    for path in (other / "crops").rglob("*.png"):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (250, 250)))
    with pytest.raises(UsageError, match="aligned crop"):
        measure(other)


def test_pairs_have_to_be_given(folder: Path) -> None:
    with pytest.raises(UsageError, match="--pairs"):
        measure_pinned(str(folder / "crops"), None, [], Settings(), 1, Progress(quiet=True))
