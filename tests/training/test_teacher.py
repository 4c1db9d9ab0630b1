"""Teachers answer as the recognisers that they are, on the student's pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import ModelMismatch, ModelNotFound
from facepipe.models import ModelSettings
from facepipe.packs import find_pack
from tests.training.made_crops import crop
from tests.training.made_nets import made_net, made_onnx
from training.distill import Distillation, DistillSettings
from training.parity import plain_copy
from training.teacher import AnyTeacher, Teacher, as_crops, open_teacher
from training.tensor_file import tensor_bytes

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("FACEPIPE_ASSETS", ROOT.parent / "shared" / "assets"))
NAME, DIM = "tiny", 24
RGB = np.stack([crop(number) for number in range(5)])


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    """What a student gets of five made crops."""
    pixels = torch.from_numpy(RGB).permute(0, 3, 1, 2)
    return ((pixels.float() - 127.5) / 127.5).to(dtype)


def teacher(**settings: Any) -> Teacher:
    return open_teacher(TypeAdapter(AnyTeacher).validate_python(settings))


@pytest.fixture
def pack(tmp_path: Path) -> str:
    (tmp_path / "recogniser.onnx").write_bytes(made_onnx(NAME, DIM))
    return str(tmp_path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    path.write_bytes(tensor_bytes(made_net(NAME, DIM).state_dict()))
    return path


def test_crops_are_the_pixels_that_the_student_had() -> None:
    assert np.array_equal(as_crops(images()), RGB[..., ::-1])
    every = torch.arange(256).float().sub(127.5).div(127.5).repeat(3).view(1, 3, 16, 16)
    assert np.array_equal(as_crops(every)[0, ..., 0].ravel(), np.arange(256))
    beyond = torch.tensor([-1.2, 1.2, 0.0, -0.001]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert as_crops(beyond)[0, ..., 1].ravel().tolist() == [0, 255, 128, 127]


@pytest.mark.parametrize("flip", ["none", "sum"])
@pytest.mark.parametrize("batch", [2, 32])
def test_a_pack_answers_as_facepipe_embed_does(pack: str, flip: Any, batch: int) -> None:
    embedding = EmbedSettings(flip=flip, batch=batch)
    recogniser = Recogniser(find_pack(pack), embedding, ModelSettings())
    crops = [np.ascontiguousarray(rgb[..., ::-1]) for rgb in RGB]
    taught = teacher(kind="pack", pack=pack, flip=flip, batch=batch)
    found = taught.embed(images())
    assert (taught.dim, found.shape, found.dtype) == (DIM, (5, DIM), torch.float32)
    assert np.array_equal(found.numpy(), recogniser.embed(crops))


@pytest.mark.parametrize("rgb", [True, False])
def test_a_pack_is_fed_as_its_description_says(pack: str, rgb: bool) -> None:
    mean, std = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]
    described = {"recogniser": {"file": "recogniser.onnx", "mean": mean, "std": std, "rgb": rgb}}
    (Path(pack) / "pack.yaml").write_text(yaml.safe_dump(described))
    normal = (RGB - np.array(mean)) / np.array(std)
    blob = (normal if rgb else normal[..., ::-1]).transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(made_onnx(NAME, DIM), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input": np.ascontiguousarray(blob)})
    found = teacher(kind="pack", pack=pack).embed(images()).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def answer(blob_BCHW: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(plain_copy(made_net(NAME, DIM))(blob_BCHW).numpy())


@pytest.mark.parametrize("flip", ["none", "sum"])
def test_weights_answer_as_their_net_in_evaluation(weights: Path, flip: str) -> None:
    expected = answer(images())
    if flip == "sum":
        expected = expected + answer(images().flip(3))
    before = torch.random.get_rng_state()
    backbone = {"name": NAME, "dim": DIM}
    taught = teacher(kind="weights", weights=weights, backbone=backbone, flip=flip, batch=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.autocast("cpu", torch.bfloat16):
        found = taught.embed(images().requires_grad_())
    assert found.dtype == torch.float32
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_two_kinds_of_one_net_agree(pack: str, weights: Path) -> None:
    by_pack = teacher(kind="pack", pack=pack).embed(images())
    backbone = {"name": NAME, "dim": DIM}
    by_torch = teacher(kind="weights", weights=weights, backbone=backbone).embed(images())
    # made_onnx takes (x - 127.5) / 127.5, which is what a pack without a description is fed.
    cosines = torch.nn.functional.cosine_similarity(by_pack, by_torch)
    assert cosines.min() > 0.99999


def test_a_digest_is_of_what_changes_the_answer(pack: str, weights: Path) -> None:
    backbone = {"name": NAME, "dim": DIM}
    digests = [
        teacher(kind="pack", pack=pack).digest,
        teacher(kind="pack", pack=pack, batch=3).digest,
        teacher(kind="pack", pack=pack, flip="sum").digest,
        teacher(kind="weights", weights=weights, backbone=backbone).digest,
        teacher(kind="weights", weights=weights, backbone=backbone, batch=3).digest,
        teacher(kind="weights", weights=weights, backbone=backbone, flip="sum").digest,
    ]
    assert digests[0] == digests[1]
    assert digests[3] == digests[4]
    assert len(set(digests)) == 4


def test_a_teacher_that_is_not_there_is_told(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ModelNotFound):
        teacher(kind="pack", pack=str(tmp_path))  # a folder without a recogniser
    with pytest.raises(ModelNotFound):
        teacher(kind="weights", weights=tmp_path / "none.pt", backbone={"name": NAME})
    with pytest.raises(ModelMismatch):
        teacher(kind="weights", weights=weights, backbone={"name": NAME, "dim": 2 * DIM})


def test_a_student_comes_near_its_teacher(pack: str) -> None:
    """A linear student of the pixels' coarse means, taught by a net: the loss falls by half."""
    settings = DistillSettings.model_validate(
        {"teacher": {"kind": "pack", "pack": pack}, "distance": 1.0, "angle": 2.0}
    )
    distillation = Distillation(settings, 16)
    source = torch.Generator().manual_seed(0)
    student = torch.nn.Parameter(torch.randn(3 * 49, 16, generator=source))
    means = torch.nn.functional.avg_pool2d(images(), 16).flatten(1)
    optimizer = torch.optim.Adam([student, *distillation.parameters()], lr=0.05)
    losses = []
    for _ in range(30):
        loss = distillation(means @ student, images())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.skipif(not ASSETS.is_dir(), reason=f"no folder {ASSETS}")
def test_real_packs_tell_real_people_apart(tmp_path: Path) -> None:
    """ImageNet's mean and std in one pack, one mean in the other: both as they are described."""
    folder = tmp_path / "mobilefacenet"
    folder.mkdir()
    source = ASSETS / "models" / "mobilefacenet_128d_dynbatch.onnx"
    (folder / source.name).write_bytes(source.read_bytes())
    described = {
        "recogniser": {
            "file": source.name,
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
        }
    }
    (folder / "pack.yaml").write_text(yaml.safe_dump(described))
    lfw = ASSETS / "faces" / "lfw" / "images"
    people = [path for path in sorted(lfw.iterdir()) if len(list(path.iterdir())) > 1][:6]
    photos = [photo for person in people for photo in sorted(person.iterdir())[:2]]
    crops = [cv2.resize(cv2.imread(str(photo))[69:181, 69:181], (112, 112)) for photo in photos]
    rgb = torch.from_numpy(np.stack(crops)[..., ::-1].copy()).permute(0, 3, 1, 2)
    pixels = (rgb.float() - 127.5) / 127.5
    for pack, dim in ((folder, 128), (ASSETS / "models" / "insightface_pack", 512)):
        vectors = teacher(kind="pack", pack=str(pack)).embed(pixels)
        assert vectors.shape == (12, dim)
        unit = torch.nn.functional.normalize(vectors)
        cosines = unit @ unit.T
        same = cosines.diagonal(1)[::2]
        person = torch.arange(12) // 2
        other = cosines.masked_fill(person[:, None] == person, -1)
        assert same.mean() > other.max(dim=1).values.mean() + 0.1
