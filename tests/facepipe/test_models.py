"""Packs, graph rewrites, sessions, and embedding with them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from facepipe.embed import EmbedSettings, Recogniser, crop_blob, model_id, normalise
from facepipe.errors import ConfigError, ModelNotFound, ModelUnreadable, UsageError
from facepipe.models import ModelSettings, open_model, require_device
from facepipe.onnx_graph import fix_size, input_shape, parse, split_prelu
from facepipe.packs import RecogniserSpec, find_pack
from tests import made

CPU = ModelSettings()


def session(data: bytes) -> object:
    import onnxruntime as ort

    return ort.InferenceSession(data, providers=["CPUExecutionProvider"])


# -- packs -------------------------------------------------------------------------------


def test_a_folder_is_routed_by_its_graphs(tmp_path: Path) -> None:
    pack = find_pack(str(made.pack(tmp_path)))
    assert pack.need_detector().file == "det_made.onnx"
    assert pack.need_detector().head == "scrfd"
    assert pack.need_recogniser().file == "made_recogniser.onnx"
    assert pack.need_recogniser().mean == (127.5, 127.5, 127.5)


def test_the_insightface_pack(assets: Path) -> None:
    pack = find_pack(str(assets / "models/insightface_pack"))
    assert (pack.need_detector().file, pack.need_recogniser().file) == (
        "det_2.5g.onnx",
        "w600k_mbf.onnx",
    )


def test_names_are_found_where_insightface_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made.pack(tmp_path / ".insightface/models/mine")
    assert find_pack("mine").folder.endswith(".insightface/models/mine")


def test_a_description_says_what_the_graph_cannot(tmp_path: Path) -> None:
    made.pack(tmp_path)
    (tmp_path / "pack.yaml").write_text(
        "detector: {file: det_made.onnx, std: 127.5}\n"
        "recogniser: {file: made_recogniser.onnx, mean: [1, 2, 3], std: [4, 5, 6], rgb: false}\n"
    )
    pack = find_pack(str(tmp_path))
    assert pack.need_detector().std == 127.5
    assert pack.need_recogniser() == RecogniserSpec(
        file="made_recogniser.onnx", mean=(1, 2, 3), std=(4, 5, 6), rgb=False
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detector: {file: ../x.onnx}", "same folder"),
        ("detector: {fiel: x.onnx}", "fiel"),
        ("- a list", "mapping"),
        ("detector: [", "not a valid"),
        ("!!python/object/apply:os.system [id]", "not a valid"),
    ],
)
def test_bad_descriptions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pack.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        find_pack(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["models:/face@champion", "./nowhere/pack", "./builtin", "x.onnx", ""]
)
def test_packs_that_are_not_there(name: str) -> None:
    with pytest.raises(ModelNotFound):
        find_pack(name)


def test_an_empty_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no .onnx file"):
        find_pack(str(tmp_path))
    (tmp_path / "pack.yaml").write_text("recogniser: {file: gone.onnx}")
    pack = find_pack(str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"gone.onnx"):
        pack.digest(pack.need_recogniser())


def test_the_model_id_covers_weights_preprocessing_and_flip(tmp_path: Path) -> None:
    pack = find_pack(str(made.pack(tmp_path / "a")))
    other = find_pack(str(made.pack(tmp_path / "b", seed=1)))
    same = find_pack(str(made.pack(tmp_path / "c")))
    spec = pack.need_recogniser().model_copy(update={"mean": (0.0, 0.0, 0.0)})
    changed = pack.model_copy(update={"recogniser": spec})
    settings = EmbedSettings()
    ids = [model_id(p, settings) for p in (pack, other, same, changed)]
    assert ids[0] == ids[2] and len(set(ids)) == 3
    assert model_id(pack, EmbedSettings(flip="sum")) != ids[0]
    assert model_id(pack, EmbedSettings(batch=64)) == ids[0]


# -- graphs ------------------------------------------------------------------------------


def test_rewriting_prelu_keeps_the_answers() -> None:
    before = parse(made.recogniser(), "made")
    after = split_prelu(before)
    assert "PRelu" not in {n.op_type for n in after.graph.node}
    onnx.checker.check_model(after)
    x = np.random.default_rng(0).normal(0, 1, (3, 3, 112, 112)).astype(np.float32)
    old, new = (session(m.SerializeToString()).run(None, {"input": x})[0] for m in (before, after))  # type: ignore[attr-defined]
    np.testing.assert_allclose(new, old, atol=1e-6)


def test_rewriting_prelu_on_a_real_model(assets: Path) -> None:
    data = (assets / "models/insightface_pack/w600k_mbf.onnx").read_bytes()
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    old = session(data).run(None, {"input.1": x})[0]  # type: ignore[attr-defined]
    new = open_model(data, "mbf", CPU)(x)[0]
    np.testing.assert_allclose(new, old, atol=2e-5)


def test_fixing_the_size_leaves_the_batch_free() -> None:
    model = parse(made.detector(batch=True), "made")
    assert input_shape(model) == [None, 3, None, None]
    assert input_shape(fix_size(model, 64, 96)) == [None, 3, 64, 96]
    assert input_shape(model) == [None, 3, None, None]


def test_weights_in_another_file_are_refused() -> None:
    model = parse(made.recogniser(), "made")
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    with pytest.raises(ModelUnreadable, match="another file"):
        open_model(model.SerializeToString(), "hostile", CPU)


def test_weights_of_a_node_in_another_file_are_refused() -> None:
    model = parse(made.recogniser(), "made")
    node = model.graph.node.add()
    node.op_type = "Constant"
    node.output.append("unused")
    attribute = node.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelUnreadable, match="another file"):
        open_model(model.SerializeToString(), "hostile", CPU)


def test_weights_that_are_listed_as_inputs_too() -> None:
    model = parse(made.recogniser(), "made")
    listed = onnx.helper.make_tensor_value_info("slope", TensorProto.FLOAT, [3, 1, 1])
    model.graph.input.insert(0, listed)
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 112, 112)).astype(np.float32)
    old = session(made.recogniser()).run(None, {"input": x})[0]  # type: ignore[attr-defined]
    new = open_model(model.SerializeToString(), "old export", CPU)(x)[0]
    np.testing.assert_allclose(new, old, atol=1e-6)


def test_a_model_of_one_batch_size_gets_whole_batches(
    tmp_path: Path, crops: list[np.ndarray]
) -> None:
    expected = recogniser(tmp_path / "free").embed(crops)
    model = parse(made.recogniser(), "made")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    fixed = made.pack(tmp_path / "fixed")
    (fixed / "made_recogniser.onnx").write_bytes(model.SerializeToString())
    four = Recogniser(find_pack(str(fixed)), EmbedSettings(), CPU)
    np.testing.assert_allclose(four.embed(crops), expected, atol=1e-6)


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"not a model", made.recogniser()[:200]])
def test_broken_models_name_the_file(data: bytes) -> None:
    with pytest.raises(ModelUnreadable, match=r"broken\.onnx"):
        open_model(data, "broken.onnx", CPU)


def test_a_device_that_is_not_there_is_an_error() -> None:
    import onnxruntime

    require_device(CPU)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    with pytest.raises(UsageError, match=r"models.device=cpu"):
        require_device(ModelSettings(device="cuda"))


# -- embedding ---------------------------------------------------------------------------


@pytest.fixture
def crops() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [
        cv2.resize(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8), (112, 112)) for _ in range(7)
    ]


def recogniser(folder: Path, **settings: object) -> Recogniser:
    pack = find_pack(str(made.pack(folder)))
    return Recogniser(pack, EmbedSettings(**settings), CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 3, 7, 50])
def test_any_batch_gives_the_same_vectors(
    tmp_path: Path, crops: list[np.ndarray], batch: int
) -> None:
    expected = recogniser(tmp_path, batch=2).embed(crops)
    assert expected.shape == (7, 192) and expected.dtype == np.float32
    np.testing.assert_allclose(recogniser(tmp_path, batch=batch).embed(crops), expected, atol=1e-6)


def test_flip_test(tmp_path: Path, crops: list[np.ndarray]) -> None:
    plain = recogniser(tmp_path).embed(crops)
    mirrored = recogniser(tmp_path).embed([c[:, ::-1].copy() for c in crops])
    both = recogniser(tmp_path, flip="concat")
    np.testing.assert_allclose(both.embed(crops), np.hstack([plain, mirrored]))
    assert both.dim == 384
    np.testing.assert_allclose(recogniser(tmp_path, flip="sum").embed(crops), plain + mirrored)


def test_no_crops_no_vectors(tmp_path: Path) -> None:
    assert recogniser(tmp_path).embed([]).shape == (0, 192)


def test_mean_and_std_of_each_colour(crops: list[np.ndarray]) -> None:
    spec = RecogniserSpec(file="x", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    blob = crop_blob(crops[:1], spec)
    blue, green, red = crops[0][10, 20].astype(float)
    expected = [(red - 123.675) / 58.395, (green - 116.28) / 57.12, (blue - 103.53) / 57.375]
    np.testing.assert_allclose(blob[0, :, 10, 20], expected, rtol=1e-5)
    plain = crop_blob(crops[:1], RecogniserSpec(file="x"))
    np.testing.assert_allclose(
        plain[0, :, 10, 20], (np.array([red, green, blue]) - 127.5) / 127.5, rtol=1e-5
    )


def test_normalising() -> None:
    raw = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e30, 1e30]], np.float32)
    unit, norms, sound = normalise(raw)
    assert sound.tolist() == [True, False, False, False, True]
    assert unit.dtype == np.float16
    np.testing.assert_allclose(unit[0], [0.6, 0.8], atol=1e-3)
    assert norms[0] == 5 and norms[1:4].tolist() == [0, 0, 0]
    assert (unit[1:4] == 0).all()
