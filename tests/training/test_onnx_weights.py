"""ONNX weights in backbones: real ones from an insightface pack, and made ones of every kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from facepipe.errors import ModelMismatch, ModelUnreadable
from tests.training.made_nets import made_net, made_onnx
from training.backbone import BackboneSettings, build_backbone
from training.export import onnx_bytes
from training.flops import layer_calls
from training.onnx_layers import Weights
from training.onnx_weights import CONVOLUTIONAL, _matching, backbone_of, load_onnx


def real_pack(assets: Path) -> bytes:
    path = assets / "models" / "insightface_pack" / "w600k_mbf.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    return path.read_bytes()


def test_a_real_pack_answers_as_in_onnxruntime(assets: Path) -> None:
    data = real_pack(assets)
    settings = backbone_of(data, "w600k_mbf.onnx")
    assert (settings.name, settings.dim) == ("mbf_w600k", 512)
    net = build_backbone(settings)
    assert load_onnx(net, data, "w600k_mbf.onnx").holds
    photos = sorted((assets / "faces" / "lfw" / "images").rglob("*.jpg"))[::1200]
    assert len(photos) > 5
    crops = [cv2.resize(cv2.imread(str(path))[65:185, 65:185], (112, 112)) for path in photos]
    blob = ((np.stack(crops)[..., ::-1] - 127.5) / 127.5).transpose(0, 3, 1, 2).astype(np.float32)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    theirs = np.concatenate([session.run(None, {"input.1": row[None]})[0] for row in blob])
    with torch.no_grad():
        ours = net.eval()(torch.from_numpy(blob.copy())).numpy()
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(1) / lengths
    assert cosines.min() >= 0.99999
    apart = (theirs @ theirs.T)[0, 1] / (np.linalg.norm(theirs, axis=1)[:2].prod())
    assert apart < 0.6  # the faces are not all the same to it


def test_a_real_pack_of_another_net_is_told(assets: Path) -> None:
    net = build_backbone(BackboneSettings(name="mbf"))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ModelMismatch, match="mbf_w600k of 512 dimensions"):
        load_onnx(net, real_pack(assets), "w600k_mbf.onnx")
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["tiny", "mobilefacenet"])
def test_an_exported_net_comes_back(name: Any) -> None:
    net, data = made_net(name), made_onnx(name)
    settings = backbone_of(data, "made.onnx")
    assert (settings.name, settings.dim) == (name, 24)
    other = made_net(name, seed=1)
    load_onnx(other, data, "made.onnx")
    x = torch.randn(3, 3, 112, 112)
    with torch.no_grad():
        expected, answer = net.eval()(x), other.eval()(x)
    torch.testing.assert_close(answer, expected, rtol=0, atol=2e-4 * float(expected.std()))


def file_of(net: nn.Module, *, folded: bool) -> list[Weights]:
    """What an exporter that folds, or does not, would leave of a net: shapes only."""
    layers: list[Weights] = []
    for call in layer_calls(net):
        layer = call.layer
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            takes = layers and layers[-1].kind in ("conv", "linear") and layers[-1].bias is None
            if folded and takes:
                layers[-1] = replace(layers[-1], bias=np.zeros(layer.num_features, np.float32))
                continue
            kind: Any = "norm"
        else:
            kinds = {nn.Conv2d: "conv", nn.Linear: "linear", nn.PReLU: "prelu"}
            kind = kinds.get(type(layer))
        if kind:
            weight = np.zeros(next(layer.parameters()).shape, np.float32)
            has_bias = kind == "linear" and layer.bias is not None
            bias = weight.reshape(len(weight), -1)[:, 0] if has_bias else None
            layers.append(Weights(kind=kind, weight=weight, bias=bias))
    return layers


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_backbone_is_told_by_its_layers(name: Any, folded: bool) -> None:
    with torch.device("meta"):
        net = build_backbone(BackboneSettings(name=name, dim=48))
    found = _matching(file_of(net, folded=folded))
    assert found == BackboneSettings(name=name, dim=48)


@pytest.mark.parametrize("change", ["longer", "shorter", "empty"])
def test_other_layers_are_of_no_backbone(change: str) -> None:
    with torch.device("meta"):
        layers = file_of(build_backbone(BackboneSettings(name="r18", dim=48)), folded=True)
    changed = {"longer": [*layers, layers[-1]], "shorter": layers[:-2], "empty": []}[change]
    assert _matching(changed) is None


def test_layers_connected_otherwise_are_noticed() -> None:
    """The same layers, but the answer is another: half of it is thrown away."""
    net = made_net("tiny")
    data = onnx_bytes(nn.Sequential(net, nn.ReLU()))
    with pytest.raises(ModelMismatch, match="answers otherwise"):
        load_onnx(made_net("tiny", seed=1), data, "made.onnx")


def test_another_architecture_is_refused(assets: Path) -> None:
    path = assets / "models" / "mobilefacenet_128d_dynbatch.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    with pytest.raises(ModelMismatch, match="none of r18"):
        backbone_of(path.read_bytes(), path.name)
    with pytest.raises(ModelUnreadable):
        backbone_of(b"no model", "made.onnx")
