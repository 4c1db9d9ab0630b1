"""A detector from photos to a file: resumed to the bit, read by facepipe as YuNet is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from facepipe.errors import CorruptData, UsageError
from facepipe.heads import yunet_candidates
from facepipe.models import ModelSettings, open_model
from tests.training.test_detector_mosaics import photo
from training.checkpoint import checkpoints
from training.detector_export import detector_bytes, folded
from training.detector_net import DetectorNet, NetSettings, decoded_boxes, points_of
from training.detector_photos import labelled_half, people_of_folds, photos_in
from training.detector_run import DetectorSettings, _course, load, train_detector

SMALL = {
    "pictures": 12,
    "batch": 2,
    "checkpoint_steps": 2,
    "net": {"stem": 8, "stages": (8, 8, 8), "heads": (8, 8, 8)},
    "mosaics": {"canvas_px": 96},
    "score_scale": 1.0,
}


def settings(**changes: Any) -> DetectorSettings:
    return DetectorSettings.model_validate({**SMALL, **changes})


def made_detector(seed: int = 0) -> DetectorNet:
    """A net whose normalisations have seen something."""
    torch.manual_seed(seed)
    net = DetectorNet(NetSettings(stem=8, stages=(8, 8, 8), heads=(8, 8, 8)))
    net(torch.rand(4, 3, 96, 96) * 255)
    return net.eval()


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    album = [photo(number) for number in range(3)]
    straight = train_detector(settings(), album, tmp_path / "straight")
    train_detector(settings(), album, tmp_path / "stopped", stop=lambda step: step == 3)
    assert [p.name for p in checkpoints(tmp_path / "stopped" / "checkpoints")] == ["step-00000002"]
    resumed = train_detector(settings(), album, tmp_path / "stopped")
    expected, found = straight.state_dict(), resumed.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    rescored = train_detector(settings(score_shift=-2.0), album, tmp_path / "stopped")
    assert all(torch.equal(expected[name], w) for name, w in rescored.state_dict().items())
    with pytest.raises(UsageError, match="other settings"):
        train_detector(settings(batch=3), album, tmp_path / "stopped")
    for path in (tmp_path / "stopped" / "checkpoints").rglob("ema.safetensors"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptData):
        train_detector(settings(), album, tmp_path / "stopped")


def test_a_run_is_finished_from_where_it_stood(tmp_path: Path) -> None:
    """Up to there it is the run without a finish; then rates and weights of losses are others."""
    album = [photo(number) for number in range(3)]
    plain = train_detector(settings(), album, tmp_path / "plain").state_dict()
    finish = {"pictures": 4, "landmarks": 4.0, "rate": 0.5}
    longer = settings(finish=finish, loss={"landmarks": 1.0})
    shorter = settings(loss={"landmarks": 1.0})
    course = [_course(longer, step) for step in range(8)]
    assert course[:6] == [_course(shorter, step) for step in range(6)]
    assert [weights.landmarks for weights, _ in course] == [1.0] * 6 + [4.0] * 2
    assert course[6][1] == 0.5 and 0 < course[7][1] < 0.5
    same = settings(finish={**finish, "landmarks": DetectorSettings().loss.landmarks})
    stopped = train_detector(same, album, tmp_path / "run", stop=lambda step: step == 6)
    assert all(torch.equal(plain[name], w) for name, w in stopped.state_dict().items())
    ended = train_detector(same, album, tmp_path / "run")
    straight = train_detector(same, album, tmp_path / "straight").state_dict()
    assert all(torch.equal(straight[name], w) for name, w in ended.state_dict().items())
    assert not all(torch.equal(plain[name], w) for name, w in straight.items())


def test_facepipe_reads_the_file_as_the_net_means_it() -> None:
    net = folded(made_detector())
    data = detector_bytes(net, {"trained_by": "a test"})
    pictures = np.random.default_rng(1).integers(0, 256, (2, 3, 64, 96)).astype(np.float32)
    model = open_model(data, "made.onnx", ModelSettings())
    named = dict(zip(model.output_names, model(pictures), strict=True))
    with torch.no_grad():
        answer = net(torch.from_numpy(pictures))
    points = points_of(64, 96)
    boxes = decoded_boxes(answer.boxes_BA4, points.xy_A2, points.stride_A)
    offsets = answer.landmarks_BA10.view(2, -1, 5, 2) * points.stride_A[:, None, None]
    for picture in range(2):
        scores, found, landmarks = yunet_candidates(named, picture, 64, 96, 0.0)
        np.testing.assert_allclose(scores, answer.logits_BA[picture].sigmoid(), atol=1e-4)
        np.testing.assert_allclose(found, boxes[picture], rtol=1e-3, atol=1e-2)
        expected = points.xy_A2[:, None] + offsets[picture]
        np.testing.assert_allclose(landmarks, expected, rtol=1e-3, atol=1e-2)
    assert data == detector_bytes(net, {"trained_by": "a test"})
    stored = onnx.load_model_from_string(data).graph.initializer
    assert {t.data_type for t in stored if np.prod(t.dims) > 64} == {onnx.TensorProto.FLOAT16}


def test_scores_are_shifted_in_the_graph() -> None:
    net = made_detector()
    picture = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        plain, shifted = (folded(net, *by)(picture) for by in [(1.0, 0.0), (1.5, -0.75)])
    expected = 1.5 * plain.logits_BA - 0.75
    torch.testing.assert_close(shifted.logits_BA, expected, rtol=1e-2, atol=1e-2)  # half floats
    assert torch.equal(plain.boxes_BA4, shifted.boxes_BA4)


def test_the_default_net_is_small() -> None:
    data = detector_bytes(folded(DetectorNet(load(None).net)))
    assert len(data) < 1_000_000


def test_half_of_the_labelled_photos_and_some_people_are_kept_out(tmp_path: Path) -> None:
    folder = tmp_path / "labelled"
    folder.mkdir()
    names = ["d.jpg", "a.jpg", "c.jpg", "b.jpg"]
    for name in names:
        (folder / name).write_bytes(b"")
    (folder / "labels.csv").write_text("file,x1,y1,x2,y2\nb.jpg,1,2,3,4\n")
    halves = [[s.path.name for s in labelled_half(folder, training=t)] for t in (True, False)]
    assert halves == [["a.jpg", "c.jpg"], ["b.jpg", "d.jpg"]]
    assert labelled_half(folder, training=False)[0].labels_N4.tolist() == [[1, 2, 3, 4]]
    (tmp_path / "people.txt").write_text("2\n1\nAnn_Lee\t2\n1\nBo_Ek\t1\n")
    out = people_of_folds(tmp_path / "people.txt", [2])
    assert out == {"Bo_Ek"}
    for path in ("lfw/Ann_Lee/x.jpg", "lfw/Bo_Ek/y.jpg", "lfw/more/group_Bo_Ek_0001.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    assert [s.path.name for s in photos_in([tmp_path / "lfw"], out)] == ["x.jpg"]
    with pytest.raises(UsageError, match="folds 1 to 2"):
        people_of_folds(tmp_path / "people.txt", [3])
