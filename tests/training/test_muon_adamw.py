"""Each parameter has one of the two optimisers, and the right one."""

from __future__ import annotations

from training.backbone import BackboneSettings, build_backbone
from training.detector_net import DetectorNet, NetSettings, last_layer
from training.muon_adamw import MuonAdamW, build_optimizers


def test_every_parameter_has_one_optimiser() -> None:
    net = build_backbone(BackboneSettings(name="plain_s", dim=24))
    muon, adamw = build_optimizers(net, MuonAdamW())
    taken = [p for o in (muon, adamw) for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, taken)) == sorted(map(id, net.parameters()))
    shapes = {tuple(p.shape[1:]) for group in muon.param_groups for p in group["params"]}
    assert (3, 7, 7) not in shapes  # the first convolution
    assert all(len(shape) == 3 for shape in shapes)


def test_answers_are_left_to_adamw() -> None:
    net = DetectorNet(NetSettings())
    answering = [last_layer(head)[0] for head in net.heads]
    muon, adamw = build_optimizers(net, MuonAdamW(), answering)
    taken = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert {id(p) for p in answering} < taken
    assert not taken & {id(p) for group in muon.param_groups for p in group["params"]}
