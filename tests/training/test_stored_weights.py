"""Weights kept in 8 bits: small, near, and run in float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from facepipe.models import ModelSettings, open_model
from tests.training.made_nets import made_net, made_onnx
from training.export import onnx_bytes
from training.mirrored import Mirrored
from training.parity import as_input, compare, made_crops, plain_copy
from training.stored_weights import quantised, stored_bytes

NAME = "plain_s"


def test_the_file_is_a_quarter_and_answers_nearly_alike() -> None:
    whole, stored = made_onnx(NAME), stored_bytes(made_net(NAME), {"made by": "a test"})
    assert len(stored) < 0.27 * len(whole)
    crops = as_input(made_crops())
    answers = [open_model(data, NAME, ModelSettings())(crops)[0] for data in (whole, stored)]
    agreement = compare(*answers)
    assert 0.99 < agreement.cosine < 1  # not the same weights; a trained net's are nearer
    plain = onnxruntime.InferenceSession(stored, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(plain.run(None, {"input": crops})[0], answers[1], atol=1e-3)
    assert stored == stored_bytes(made_net(NAME), {"made by": "a test"})


@pytest.mark.parametrize("batch", [1, 3])
def test_a_mirrored_net_is_the_sum_of_both_sides(batch: int) -> None:
    net, crops = plain_copy(made_net(NAME)), as_input(made_crops())[:batch]
    sides = [net(torch.from_numpy(np.ascontiguousarray(x))) for x in (crops, crops[..., ::-1])]
    expected = (sides[0] + sides[1]).detach().numpy()
    model = open_model(onnx_bytes(Mirrored(net)), NAME, ModelSettings())
    assert model.batch is None
    np.testing.assert_allclose(model(crops)[0], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(model(crops[..., ::-1].copy())[0], expected, rtol=1e-3, atol=1e-3)


def test_each_large_weight_is_there_in_steps_of_its_channel() -> None:
    whole = onnx.load_model_from_string(made_onnx(NAME))
    stored = onnx.load_model_from_string(stored_bytes(made_net(NAME)))
    kept = {tensor.name: tensor for tensor in stored.graph.initializer}
    large = [t for t in whole.graph.initializer if np.prod(t.dims) >= 1024]
    assert len(large) > 8
    for tensor in large:
        assert tensor.name not in kept
        steps = kept[f"{tensor.name}.steps"]
        assert steps.data_type == TensorProto.INT8
        scale = numpy_helper.to_array(kept[f"{tensor.name}.scale"])
        again = numpy_helper.to_array(steps).astype(np.float32) * scale
        assert (np.abs(again - numpy_helper.to_array(tensor)) <= scale * 0.501).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_steps_are_symmetric_and_whole(axis: int) -> None:
    values = np.array([[1.0, -2.0, 0.0], [0.5, 4.0, 0.0]], np.float32)
    steps, scale = quantised(values, axis)
    largest = np.abs(values).max(axis=1 - axis, keepdims=True)
    expected = np.where(largest > 0, largest / 127, 1)
    np.testing.assert_allclose(scale, expected, rtol=1e-6)
    assert np.abs(steps).max() == 127
    np.testing.assert_allclose(steps * scale, values, atol=float(scale.max()) / 2)
