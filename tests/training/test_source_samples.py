"""Samples of .rec, other containers and folders, through the readers that curate uses."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from facepipe.errors import SourceNotFound, UsageError
from tests.training.made_crops import encoded, rec_of
from training.samples import Samples, read_crops
from training.source_samples import GROUP_SAMPLES, source_samples


def folders_of(root: Path, people: dict[str, int]) -> Path:
    """Write a folder a person, crops numbered through."""
    names = [name for name, count in people.items() for _ in range(count)]
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{number:03d}.png").write_bytes(encoded(number))
    return root


def told(samples: Samples) -> list[tuple[str, bytes | None]]:
    people = [samples.people[label] for label in samples.label_N]
    return list(zip(people, crops_of(samples, np.arange(len(samples))), strict=True))


def crops_of(samples: Samples, chosen: NDArray[np.int64]) -> list[bytes | None]:
    try:
        return list(read_crops(samples, chosen))
    finally:
        samples.groups.close()


def test_a_rec_keeps_its_labels_and_crops(tmp_path: Path) -> None:
    labels = [n // 3 for n in range(36)]  # 0 .. 11: as text, 10 would come before 2
    samples = source_samples([str(rec_of(tmp_path / "rec", labels))])
    assert samples.people == [str(n) for n in range(12)]
    assert samples.label_N.tolist() == labels
    assert told(samples) == [(str(label), encoded(n)) for n, label in enumerate(labels)]
    assert samples.counts == {"damaged": 0, "unlabelled": 0, "used": 36}
    assert (samples.weight_N == 1).all()


def test_labels_of_a_rec_with_gaps_are_numbered_through(tmp_path: Path) -> None:
    samples = source_samples([str(rec_of(tmp_path / "rec", [3, 3, 20, 100]))])
    assert samples.people == ["3", "20", "100"]
    assert samples.label_N.tolist() == [0, 0, 1, 2]


def test_a_folder_a_person(tmp_path: Path) -> None:
    root = folders_of(tmp_path / "crops", {"Bob": 2, "ann": 3, "çelik": 1})
    samples = source_samples([str(root)])
    assert samples.people == ["Bob", "ann", "çelik"]
    names = ["Bob", "Bob", "ann", "ann", "ann", "çelik"]
    assert told(samples) == [(name, encoded(n)) for n, name in enumerate(names)]
    assert samples.name(3).endswith("ann/003.png")


def test_folders_of_two_sources_are_one_set(tmp_path: Path) -> None:
    roots = [folders_of(tmp_path / "a", {"ann": 2}), folders_of(tmp_path / "b", {"bob": 1})]
    samples = source_samples([str(r) for r in reversed(roots)])
    assert samples.people == ["ann", "bob"]
    assert told(samples) == [("ann", encoded(0)), ("ann", encoded(1)), ("bob", encoded(0))]


def test_other_containers_that_state_labels(tmp_path: Path) -> None:
    table = pa.table({"image": [encoded(n) for n in range(4)], "label": ["b", "a", "b", None]})
    pq.write_table(table, tmp_path / "crops.parquet")
    with tarfile.open(tmp_path / "crops.tar", "w") as tar:
        for key, data in (("0.png", encoded(7)), ("0.cls", b"a")):
            info = tarfile.TarInfo(key)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    samples = source_samples([str(tmp_path)])
    expected = [("b", encoded(0)), ("a", encoded(1)), ("b", encoded(2)), ("a", encoded(7))]
    assert told(samples) == expected
    assert samples.counts == {"damaged": 0, "unlabelled": 1, "used": 4}


def test_neighbours_make_groups_that_never_cross_a_file(tmp_path: Path) -> None:
    count = GROUP_SAMPLES + 10
    root = tmp_path / "all"
    rec_of(root / "rec", [n // 2 for n in range(count)], ".jpg")
    folders_of(root / "more", {"1": 3})
    samples = source_samples([str(root)])
    assert samples.start_G1.tolist() == [0, GROUP_SAMPLES, count, count + 3]
    assert samples.group_of(np.array([0, 255, 256, count])).tolist() == [0, 0, 1, 2]
    assert samples.row_of(np.array([0, 255, 256, count + 2])).tolist() == [0, 255, 0, 2]
    chosen = np.array([count + 1, 0, GROUP_SAMPLES + 3, 5])
    crops = [encoded(1), *(encoded(n, ".jpg") for n in (0, GROUP_SAMPLES + 3, 5))]
    assert crops_of(samples, chosen) == crops


# -- the digest --------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_the_place(tmp_path: Path) -> None:
    people = {"ann": 2, "bob": 2}
    one, two = (source_samples([str(folders_of(tmp_path / n, people))]) for n in ("x", "y"))
    assert one.digest == two.digest


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0, 1, 2], [0, 1, 1, 1]])
def test_the_digest_depends_on_the_labels(tmp_path: Path, labels: list[int]) -> None:
    base = source_samples([str(rec_of(tmp_path / "base", [0, 0, 1, 1]))])
    other = source_samples([str(rec_of(tmp_path / "other", labels))])
    assert base.digest != other.digest


# -- damage and refusals -----------------------------------------------------------------


def test_damaged_records_are_counted(tmp_path: Path) -> None:
    folder = rec_of(tmp_path / "rec", [0, 0, 1, 1, 2, 2])
    offsets = [int(line.split()[1]) for line in (folder / "train.idx").read_text().splitlines()]
    data = bytearray((folder / "train.rec").read_bytes())
    data[offsets[2]] ^= 0xFF  # the magic of the third record
    (folder / "train.rec").write_bytes(bytes(data))
    samples = source_samples([str(folder)])
    assert samples.counts == {"damaged": 1, "unlabelled": 0, "used": 5}
    assert [crop for _, crop in told(samples)] == [encoded(n) for n in (0, 1, 3, 4, 5)]


def test_a_file_that_is_gone_is_a_crop_that_cannot_be_had(tmp_path: Path) -> None:
    root = folders_of(tmp_path / "crops", {"ann": 2, "bob": 2})
    samples = source_samples([str(root)])
    (root / "ann" / "001.png").unlink()
    assert [crop for _, crop in told(samples)] == [encoded(0), None, encoded(2), encoded(3)]


def test_two_recs_are_refused(tmp_path: Path) -> None:
    rec_of(tmp_path / "all" / "one", [0, 1])
    rec_of(tmp_path / "all" / "two", [0, 1])
    with pytest.raises(UsageError, match="not the same people"):
        source_samples([str(tmp_path / "all")])


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "crops.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("ann/1.png")
        info.size = len(encoded(1))
        tar.addfile(info, io.BytesIO(encoded(1)))
    with pytest.raises(UsageError, match="only be read from its start"):
        source_samples([str(tmp_path)])


def test_crops_that_nobody_names_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "crops.zip", "w") as archive:
        for n in range(3):
            archive.writestr(f"{n}.png", encoded(n))
    with pytest.raises(UsageError, match="0 samples of 0 people; left out: 3 unlabelled"):
        source_samples([str(tmp_path / "crops.zip")])


def test_photos_that_are_no_crops_are_refused(tmp_path: Path) -> None:
    root = folders_of(tmp_path / "crops", {"ann": 2, "bob": 2})
    for path in root.rglob("*.png"):
        path.write_bytes(b"not a picture")
    with pytest.raises(UsageError, match=r"none of .* corrupt\): run facepipe curate"):
        source_samples([str(root)])


def test_one_good_crop_is_enough_to_start(tmp_path: Path) -> None:
    root = folders_of(tmp_path / "crops", {"ann": 2, "bob": 2})
    for path in sorted(root.rglob("*.png"))[:3]:
        path.write_bytes(b"not a picture")
    assert len(source_samples([str(root)])) == 4


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        source_samples([str(tmp_path / "nothing")])
