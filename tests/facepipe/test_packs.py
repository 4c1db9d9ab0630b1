"""Packs with checksums: the same packs, and no file of them is read that is another."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from facepipe.errors import CorruptData
from facepipe.packs import find_pack
from tests import made


def summed(folder: Path) -> Path:
    """Write a made pack with a description and the checksums of its files."""
    made.pack(folder)
    described = "recogniser: {file: made_recogniser.onnx}\ndetector: {file: det_made.onnx}\n"
    (folder / "pack.yaml").write_text(described)
    names = ("det_made.onnx", "made_recogniser.onnx", "pack.yaml")
    ran = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    (folder / "SHA256SUMS").write_bytes(ran.stdout)
    return folder


def test_a_pack_with_checksums_is_the_same_pack(tmp_path: Path) -> None:
    pack = find_pack(str(summed(tmp_path / "summed")))
    plain = find_pack(str(made.pack(tmp_path / "plain")))
    assert pack.digest(pack.need_recogniser()) == plain.digest(plain.need_recogniser())
    assert dict(pack.sums).keys() == {"det_made.onnx", "made_recogniser.onnx", "pack.yaml"}
    assert len({pack, plain, find_pack(pack.folder)}) == 2  # workers look jobs up by it


@pytest.mark.parametrize("file", ["det_made.onnx", "made_recogniser.onnx"])
def test_a_file_that_is_not_the_one_named_is_not_read(tmp_path: Path, file: str) -> None:
    pack = find_pack(str(summed(tmp_path)))
    data = bytearray((tmp_path / file).read_bytes())
    data[-1] ^= 1
    (tmp_path / file).write_bytes(data)
    for spec in (pack.need_detector(), pack.need_recogniser()):
        if spec.file == file:
            with pytest.raises(CorruptData, match=file):
                pack.read(spec)
        else:
            pack.read(spec)


@pytest.mark.parametrize("change", ["edited", "removed", "unnamed", "not sums"])
def test_a_description_that_is_not_the_one_named_is_refused(tmp_path: Path, change: str) -> None:
    folder = summed(tmp_path)
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    if change == "edited":
        (folder / "pack.yaml").write_text("recogniser: {file: made_recogniser.onnx, mean: [0,0,0]}")
    elif change == "removed":
        (folder / "pack.yaml").unlink()
    elif change == "unnamed":
        (folder / "SHA256SUMS").write_text("".join(sums[:2]))
    else:
        (folder / "SHA256SUMS").write_text("".join(sums) + "../pack.yaml\n")
    with pytest.raises(CorruptData):
        find_pack(str(folder))
