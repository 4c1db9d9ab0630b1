"""Exported packs: opened and run by facepipe as any other, equal to the net, and all or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import GateFailed, UsageError
from facepipe.models import ModelSettings
from facepipe.packs import find_pack
from tests.training.made_nets import made_net, made_onnx
from training import export, swin
from training.backbone import BackboneSettings, build_backbone
from training.export import check_pack, export_pack, onnx_bytes
from training.parity import plain_copy
from training.vit import Plan, ViT

CROPS = [np.random.default_rng(at).integers(0, 256, (112, 112, 3), np.uint8) for at in range(5)]


def test_facepipe_opens_the_pack_and_embeds_as_the_net_does(tmp_path: Path) -> None:
    net = made_net("tiny")
    exported = export_pack(net, tmp_path / "pack")
    assert exported.parity.cosine > 0.999999
    pack = find_pack(str(tmp_path / "pack"))
    assert pack == exported.pack
    assert pack.digest(pack.need_recogniser()) == exported.model_id
    vectors = Recogniser(pack, EmbedSettings(batch=2), ModelSettings()).embed(CROPS)
    rgb = np.stack(CROPS)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float64)
    with torch.no_grad():
        expected = plain_copy(net).double()(torch.from_numpy((rgb - 127.5) / 127.5)).numpy()
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-4 * expected.std())
    assert net.training  # as it was


def test_a_vit_exports_for_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ViT(Plan(channels=16, depth=2), 24, 112, drop_path=0.1, mask=0.1, recompute=False)
    assert export_pack(net, tmp_path / "pack").parity.cosine > 0.999999


def test_a_swin_exports_for_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swin, "CHANNELS", 8)
    monkeypatch.setattr(swin, "DEPTHS", (2, 1, 1, 1))
    monkeypatch.setattr(swin, "HEADS", (2, 2, 2, 2))
    torch.manual_seed(0)
    net = swin.Swin(24, 112, drop_path=0.1, recompute=False)
    assert export_pack(net, tmp_path / "pack").parity.cosine > 0.999999


def test_the_graph_is_plain() -> None:
    """Any batch, weights by name, norms folded where they can be: what facepipe speeds up."""
    model = onnx.load_from_string(made_onnx("mobilefacenet"))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 112, 112]
    kinds = [node.op_type for node in model.graph.node]
    assert set(kinds) == {"Conv", "PRelu", "Add", "Flatten", "MatMul", "BatchNormalization"}
    assert kinds.count("BatchNormalization") == 1
    assert not any(node.doc_string for node in model.graph.node)


def test_a_fresh_net_has_no_aliases() -> None:
    """Equal tensors, as a fresh net's slopes, must not be hidden behind Identity nodes."""
    net = build_backbone(BackboneSettings(name="tiny", dim=8))
    model = onnx.load_from_string(onnx_bytes(net, {"made": "by", "a": "test"}))
    notes = [(prop.key, prop.value) for prop in model.metadata_props]
    assert notes == [("a", "test"), ("made", "by")]
    stored = {tensor.name for tensor in model.graph.initializer}
    slopes = [node.input[1] for node in model.graph.node if node.op_type == "PRelu"]
    assert slopes
    assert set(slopes) <= stored


def test_the_same_net_gives_the_same_pack(tmp_path: Path) -> None:
    one, other = (export_pack(made_net("tiny"), tmp_path / name) for name in ("one", "other"))
    assert one.model_id == other.model_id
    for name in ("recogniser.onnx", "pack.yaml"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_the_detector_comes_along(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "finder.onnx").write_bytes(b"detector")
    described = {"detector": {"file": "finder.onnx", "head": "yunet"}}
    (tmp_path / "from" / "pack.yaml").write_text(yaml.safe_dump(described))
    source = find_pack(str(tmp_path / "from"))
    pack = export_pack(made_net("tiny"), tmp_path / "pack", detector=source).pack
    assert pack.need_detector() == source.need_detector()
    assert pack.read(pack.need_detector()) == b"detector"


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="of its own"):
        export_pack(made_net("tiny"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_pack_that_answers_otherwise_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = made_onnx("tiny", seed=1)
    monkeypatch.setattr(export, "onnx_bytes", lambda net, notes: wrong)
    with pytest.raises(GateFailed, match="answers otherwise"):
        export_pack(made_net("tiny"), tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_check_pack_notices_other_weights(tmp_path: Path) -> None:
    net = made_net("tiny")
    pack = export_pack(net, tmp_path / "pack").pack
    assert check_pack(pack, net).holds
    with torch.no_grad():
        layer = net.get_submodule("layer3.0.conv1")
        assert isinstance(layer, nn.Conv2d)
        layer.weight[0] += 0.1
    with pytest.raises(GateFailed):
        check_pack(pack, net)
