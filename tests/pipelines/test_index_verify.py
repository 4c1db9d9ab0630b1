"""Verify: every changed bit is found, and so is what was wrong when it was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepipe import ids, open_index
from facepipe.errors import CorruptData, DatasetNotFound, FacepipeError
from facepipe.index_manifest import CURRENT, IndexFile, manifest_key, shard_name
from facepipe.index_settings import IndexSettings
from pipelines.index import build_index
from pipelines.index_add import add_to_index
from pipelines.index_delete import Doomed, delete_from_index
from pipelines.index_verify import verify_index
from tests.pipelines.made_gallery import Made, contents, people

FLAT = IndexSettings()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(folder=tmp_path / "dataset", faces=people(20, 4))


@pytest.fixture
def index(made: Made, tmp_path: Path) -> Path:
    """Make an index with lists, two shards, deleted rows and a version before."""
    folder = tmp_path / "index"
    build_index(made.write(), str(folder), IndexSettings(kind="ivf_pqfs", recall=0.9))
    made.faces += people(5, 3, first=30)
    add_to_index(str(folder), made.write(), FLAT)
    delete_from_index(str(folder), Doomed(people=("person-004",)))
    return folder


def test_a_sound_index_has_no_problems(made: Made, index: Path) -> None:
    result = verify_index(str(index), full=True)
    assert (result["problems"], result["unknown"]) == ([], [])
    files = contents(index)
    assert result["files"] == len(files) - 1  # CURRENT names the manifest
    assert result["bytes"] == sum(map(len, files.values())) - len(files[CURRENT])
    assert (result["versions"], result["rows"]) == (2, 95)


def test_every_flipped_bit_is_found_and_not_opened(index: Path) -> None:
    """Of every file 20 places; those that are not in force are of no matter to a reader."""
    rng = np.random.default_rng(0)
    current = open_index(index)
    in_force = {CURRENT, manifest_key(current.version)}
    for file in (*current.record.shards, current.record.template):
        assert file is not None
        in_force |= set(map(str, keys_of(file)))
    assert len(in_force) == 10
    for name, data in contents(index).items():
        for bit in rng.choice(8 * len(data), min(20, 8 * len(data)), replace=False).tolist():
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            (index / name).write_bytes(changed)
            assert verify_index(str(index))["problems"], f"{name}, bit {bit}"
            if name in in_force:
                with pytest.raises(FacepipeError):
                    open_index(index)
        (index / name).write_bytes(data)
    assert verify_index(str(index))["problems"] == []


def keys_of(file: Any) -> list[str]:
    if hasattr(file, "files"):
        return [*map(file.key, file.files), *([file.tombstones_key] if file.tombstones else [])]
    return [file.key]


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b""])
def test_files_of_another_length_are_found(index: Path, change: Callable[[bytes], bytes]) -> None:
    for name, data in contents(index).items():
        (index / name).write_bytes(change(data))
        assert verify_index(str(index))["problems"], name
        (index / name).write_bytes(data)


def test_missing_files_are_found(index: Path) -> None:
    before = manifest_key(before_of(index))
    for name, data in contents(index).items():
        (index / name).unlink()
        if name == CURRENT:
            with pytest.raises(DatasetNotFound):
                verify_index(str(index))
        elif name != before:
            assert verify_index(str(index))["problems"], name
        (index / name).write_bytes(data)


def before_of(index: Path) -> str:
    """Return the version before: that there is none is nothing wrong."""
    (current,) = (index / CURRENT).read_text().split()
    parent: str = json.loads((index / manifest_key(current)).read_text())["parent"]
    return parent


def test_files_that_no_version_names_are_said(index: Path) -> None:
    strange = index / "shards" / "0123456789abcdef" / "vectors.f16"
    strange.parent.mkdir()
    strange.write_bytes(b"1")
    (index / "notes.txt").write_text("mine")
    result = verify_index(str(index))
    assert result["problems"] == []
    assert result["unknown"] == ["notes.txt", "shards/0123456789abcdef/vectors.f16"]


def rewritten(index: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Put a manifest in force that is whole, and says something else."""
    (current,) = (index / CURRENT).read_text().split()
    value = json.loads((index / manifest_key(current)).read_text())
    change(value)
    data = (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
    version = ids.sha256_hex(data)
    (index / manifest_key(version)).parent.mkdir(exist_ok=True)
    (index / manifest_key(version)).write_bytes(data)
    (index / CURRENT).write_text(f"{version}\n")


def test_counts_that_do_not_add_up_are_found(index: Path) -> None:
    rewritten(index, lambda v: v["totals"].update(identities=7))
    assert any("counts 7 people" in p for p in verify_index(str(index))["problems"])
    rewritten(index, lambda v: v["totals"].update(expected=1000))
    assert any("1000 faces were expected" in p for p in verify_index(str(index))["problems"])


def test_a_face_in_two_shards_is_found(made: Made, tmp_path: Path) -> None:
    """A shard of another index of the same faces, put beside the own ones."""
    other = Made(folder=tmp_path / "others", faces=[*made.faces[:3], *people(3, 1, first=70)])
    copied = tmp_path / "copy"
    build_index(other.write(), str(copied), FLAT)
    shard = json.loads(next(copied.glob("versions/*/manifest.json")).read_text())["shards"][0]

    def both(value: dict[str, Any]) -> None:
        value["shards"] = [*flat["shards"], shard]
        value["totals"] = {**flat["totals"], "indexed": flat["totals"]["indexed"] + 6}

    whole = tmp_path / "whole"
    flat = build_index(made.write(), str(whole), FLAT)
    for path in copied.glob("shards/*"):
        path.rename(whole / "shards" / path.name)
    rewritten(whole, both)
    problems = verify_index(str(whole))["problems"]
    assert any("3 faces occur twice" in problem for problem in problems), problems


def test_codes_of_other_vectors_are_found(index: Path) -> None:
    """Whole files, named by their hashes, that do not belong together."""
    record = open_index(index).record
    codes = (index / f"shards/{record.shards[0].name}/codes.ivf").read_bytes()

    def other(value: dict[str, Any]) -> None:
        data = bytearray(codes)
        data[-300] ^= 255  # in a code or an id: the structure is not what is looked at
        shard = value["shards"][0]
        shard["files"]["codes.ivf"] = {"bytes": len(data), "sha256": ids.sha256_hex(bytes(data))}
        files = {name: IndexFile(**file) for name, file in shard["files"].items()}
        folder = index / "shards" / shard["name"]
        shard["name"] = shard_name(files)
        folder.rename(folder.with_name(shard["name"]))
        (folder.with_name(shard["name"]) / "codes.ivf").write_bytes(data)

    rewritten(index, other)
    problems = verify_index(str(index), full=True)["problems"]
    assert any("is not what its vectors are encoded to" in problem for problem in problems)


def test_a_dataset_that_has_moved_on_is_said(made: Made, index: Path) -> None:
    assert verify_index(str(index), dataset=made.write())["problems"] == []
    made.faces += people(1, 1, first=50)
    problems = verify_index(str(index), dataset=made.write())["problems"]
    assert problems == [
        f"1 faces of {made.folder} are not in the index as they are now, and 0 of the index are "
        f"not in the dataset: facepipe index add {index} --from {made.folder}"
    ]
    add_to_index(str(index), made.write(), FLAT)
    assert verify_index(str(index), dataset=made.write())["problems"] == []
    made.model = "second"
    problems = verify_index(str(index), dataset=made.write())["problems"]
    assert "facepipe index migrate" in problems[0]


def test_a_reader_and_verify_agree_on_a_hostile_manifest(index: Path) -> None:
    rewritten(index, lambda v: v["shards"][0].update(rows=81))
    assert "not a manifest" in verify_index(str(index))["problems"][0]
    with pytest.raises(CorruptData):
        open_index(index)
