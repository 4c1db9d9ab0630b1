"""The pack that comes with facepipe: how it is found, and what its models must be."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from facepipe.align import aligned_crop
from facepipe.builtin_pack import BUILTIN, BUILTIN_INT8, LICENCE, TWIN_FILE
from facepipe.detect import Detector, DetectSettings, Faces
from facepipe.embed import EmbedSettings, Recogniser
from facepipe.models import ModelSettings
from facepipe.packs import find_pack
from tests import made

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "facepipe" / BUILTIN
MODELS = ("detector.onnx", "recogniser.onnx", TWIN_FILE)
CARDS = ("detector.md", "recogniser.md")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# What the files may take: of a source package that everybody downloads.
MAX_BYTES = dict(zip(MODELS, (1_000_000, 5_000_000, 5_000_000), strict=True))
MAX_TOTAL_BYTES = 6_000_000

# -- finding it: in a copy of facepipe with made models, as it would be installed -------------

ASK = """
import json, sys
from facepipe.errors import FacepipeError
from facepipe.packs import find_pack
said = []
for name in sys.argv[1:]:
    try:
        pack = find_pack(name, download=False)
        specs = (pack.need_detector(), pack.need_recogniser())
        said.append([pack.folder, str(pack.path), *(pack.digest(spec) for spec in specs)])
    except FacepipeError as error:
        said.append([type(error).__name__, str(error)])
print(json.dumps([said, sorted({"onnx", "onnxruntime", "insightface"} & set(sys.modules))]))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with facepipe in it, whose builtin models are made ones."""
    folder = tmp_path / "site"
    leave = shutil.ignore_patterns("__pycache__", "*.onnx")
    shutil.copytree(ROOT / "facepipe", folder / "facepipe", ignore=leave)
    own = folder / "facepipe" / BUILTIN
    made.pack(tmp_path / "made", seed=5)
    (tmp_path / "made" / "det_made.onnx").rename(own / "detector.onnx")
    recogniser = (tmp_path / "made" / "made_recogniser.onnx").read_bytes()
    for name in MODELS[1:]:
        (own / name).write_bytes(recogniser)
    names = (*MODELS, "pack.yaml")
    ran = subprocess.run(["sha256sum", *names], cwd=own, capture_output=True, check=True)
    (own / "SHA256SUMS").write_bytes(ran.stdout)
    return folder


def ask(site: Path, *names: str, cwd: Path) -> tuple[list[list[str]], list[str]]:
    """Return what find_pack says of names in a process of its own, and what it has imported."""
    ran = subprocess.run(
        [sys.executable, "-c", ASK, *names],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    said, heavy = json.loads(ran.stdout)
    return said, heavy


def test_builtin_is_the_installation_s_own_and_never_a_folder_beside(
    site: Path, tmp_path: Path
) -> None:
    made.pack(tmp_path / "here" / BUILTIN, seed=6)
    own, beside = site / "facepipe" / BUILTIN, tmp_path / "here" / BUILTIN
    (name, path, folder, whole), heavy = ask(
        site, BUILTIN, str(own), f"./{BUILTIN}", f"{BUILTIN}/", cwd=tmp_path / "here"
    )
    assert name[:2] == [BUILTIN, str(own)]
    assert path[:2] == [str(own), str(own)] and path[2:] == name[2:]
    assert folder[:2] == whole[:2] == [str(beside), str(beside)]
    assert folder[3] != name[3]
    assert heavy == ["onnx"]  # of the folder without a description; never of builtin


def test_builtin_is_found_without_a_heavy_import(site: Path, tmp_path: Path) -> None:
    assert ask(site, BUILTIN, cwd=tmp_path)[1] == []


@pytest.mark.parametrize("file", [*MODELS, "pack.yaml", "SHA256SUMS"])
def test_a_missing_file_is_named_with_what_to_do(site: Path, tmp_path: Path, file: str) -> None:
    (site / "facepipe" / BUILTIN / file).unlink()
    ((kind, text),), _ = ask(site, BUILTIN, cwd=tmp_path)
    assert kind == "ModelNotFound"
    assert file in text and "install facepipe again" in text and "--models" in text


@pytest.mark.parametrize("file", [*MODELS, "pack.yaml"])
def test_a_file_that_is_another_is_not_read(site: Path, tmp_path: Path, file: str) -> None:
    path = site / "facepipe" / BUILTIN / file
    path.write_bytes(path.read_bytes() + b"\n")
    name = BUILTIN_INT8 if file == TWIN_FILE else BUILTIN
    ((kind, text),), _ = ask(site, name, cwd=tmp_path)
    assert kind == "CorruptData" and file in text


def test_what_goes_to_a_worker_names_no_folder_of_this_machine(site: Path, tmp_path: Path) -> None:
    code = f"from facepipe.packs import find_pack; print(find_pack({BUILTIN!r}).model_dump_json())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout)["folder"] == BUILTIN
    assert str(tmp_path) not in ran.stdout


# -- the models that are shipped ----------------------------------------------------------------


def test_the_licence_is_the_project_s() -> None:
    assert PYPROJECT["project"]["license"] == LICENCE


def test_every_file_is_package_data_and_named_in_the_checksums() -> None:
    there = {path.name for path in FOLDER.iterdir()}
    assert there == {*MODELS, *CARDS, "pack.yaml", "SHA256SUMS"}
    declared = PYPROJECT["tool"]["setuptools"]["package-data"]["facepipe"]
    for name in there:
        assert any(fnmatch(f"{BUILTIN}/{name}", pattern) for pattern in declared), name
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(sums) == {*MODELS, "pack.yaml"}
    for name, digest in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_the_files_are_small() -> None:
    sizes = {name: (FOLDER / name).stat().st_size for name in MAX_BYTES}
    assert all(sizes[name] < most for name, most in MAX_BYTES.items()), sizes
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MAX_TOTAL_BYTES


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_a_plain_graph_and_nothing_else(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions and not model.training_info
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    # Exporters leave call stacks with the paths of the machine they ran on.
    del model.graph.initializer[:]  # in whose bytes three letters may come by chance
    words = model.SerializeToString()
    assert not re.search(rb"\.py\W|site-packages|pickle|/work", words)


def test_each_card_says_what_a_user_must_know() -> None:
    for name in CARDS:
        text = (FOLDER / name).read_text()
        said = (
            "licence",
            LICENCE,
            "[Nn]ot (to )?be used",
            "[Hh]eld out|[Kk]ept[ -]out",
            "%",
            "python -m train",
        )
        for words in (*said, "[Tt]eacher", "[Ll]imits"):
            assert re.search(words, text), f"{name} says nothing of {words!r}"
        assert not re.search(r"\b(TODO|SIZE|HOURS|MEASURED|LESS)\b", text), "a place to be filled"


def sample_pictures() -> tuple[Path, Path]:
    """Return scikit-image's astronaut and insightface's picture of six people."""
    found = []
    for package, below in (("skimage", "data/astronaut.png"), ("insightface", "data/images")):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            pytest.skip(f"{package}, which brings the picture, is not installed")
        found.append(Path(spec.origin).parent / below)
    return found[0], found[1] / "t1.jpg"


@pytest.fixture(scope="module")
def astronaut() -> npt.NDArray[np.uint8]:
    pixels = cv2.imread(str(sample_pictures()[0]))
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def found_on(pixels_HWC: npt.NDArray[np.uint8]) -> Faces:
    return Detector(find_pack(BUILTIN), DetectSettings(), ModelSettings()).find([pixels_HWC])[0]


def cascade_box(pixels_HWC: npt.NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Return where the LBP cascade that scikit-image brings sees the one face: x1, y1, x2, y2."""
    skimage_feature: Any = pytest.importorskip("skimage.feature")
    trained = sample_pictures()[0].with_name("lbpcascade_frontalface_opencv.xml")
    cascade = skimage_feature.Cascade(str(trained))
    (face,) = cascade.detect_multi_scale(
        img=np.ascontiguousarray(pixels_HWC[..., ::-1]),
        scale_factor=1.2,
        step_ratio=1,
        min_size=(60, 60),
        max_size=(160, 160),
    )
    left, top = face["c"], face["r"]
    return left, top, left + face["width"], top + face["height"]


@pytest.mark.parametrize("shrunk", [1, 2, 4])
def test_the_one_face_is_found_where_it_is(astronaut: npt.NDArray[np.uint8], shrunk: int) -> None:
    left, top, right, bottom = cascade_box(astronaut)
    small = cv2.resize(astronaut, None, fx=1 / shrunk, fy=1 / shrunk, interpolation=cv2.INTER_AREA)
    faces = found_on(np.asarray(small, np.uint8))
    assert len(faces) == 1
    x1, y1, x2, y2 = faces.boxes_N4[0] * shrunk
    wide, high = min(right, x2) - max(left, x1), min(bottom, y2) - max(top, y1)
    union = (right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - wide * high
    assert wide > 0 and high > 0 and wide * high / union > 0.45  # a cascade's box is a square
    points_52 = faces.landmarks_N52[0] * shrunk
    assert ((points_52 > (left, top)) & (points_52 < (right, bottom))).all()
    eyes, mouth = points_52[:2], points_52[3:]
    assert eyes[0, 0] < points_52[2, 0] < eyes[1, 0]  # the nose is between the eyes
    assert eyes[:, 1].max() < points_52[2, 1] < mouth[:, 1].min()


def test_nothing_is_found_on_noise_and_texture() -> None:
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (320, 320, 3), dtype=np.uint8)
    y, x = np.mgrid[:320, :320]
    stripes = np.repeat((((x + y) // 8) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    assert [len(found_on(picture)) for picture in (noise, stripes, 0 * noise)] == [0, 0, 0]


def test_a_mirrored_face_is_the_same_person_and_six_others_are_not(
    astronaut: npt.NDArray[np.uint8],
) -> None:
    group = cv2.imread(str(sample_pictures()[1]))
    assert group is not None
    others = found_on(np.asarray(group, np.uint8))
    assert len(others) == 6
    own = aligned_crop(astronaut, found_on(astronaut).landmarks_N52[0])
    crops = [own, np.ascontiguousarray(own[:, ::-1])]
    crops += [aligned_crop(np.asarray(group, np.uint8), p) for p in others.landmarks_N52]
    raw = Recogniser(find_pack(BUILTIN), EmbedSettings(), ModelSettings()).embed(crops)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[0, 1] > 0.8
    assert cosine[0, 2:].max() < 0.5
    assert cosine[2:, 2:][~np.eye(6, dtype=bool)].max() < 0.6
