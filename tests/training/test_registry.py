"""Packs in a real registry: there and back unchanged, known by MLflow, refused where changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import CorruptData, GateFailed, ModelNotFound, StoreError
from facepipe.models import ModelSettings
from facepipe.packs import find_pack
from tests import made
from tests.mlflow_places import OWN_WARNINGS, Gate
from training.model_signature import example_input
from training.registered import parse_reference
from training.registry import Registry, fetch, register
from training.tracker import MLflowTracker, RunFacts
from training.tracking_server import artifact_folder

pytest.importorskip("mlflow", reason="mlflow, of [train], is missing")
pytestmark = OWN_WARNINGS

CROP = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)


@pytest.fixture(params=["database", "server"])
def uri(request: pytest.FixtureRequest, own_folders: Path) -> Iterator[str]:
    yield request.getfixturevalue(request.param)


def tracked_run(uri: str) -> str:
    tracker = MLflowTracker(uri)
    run_id = tracker.start(RunFacts(name="r", parameters={}, dataset_digest="ab" * 32))
    tracker.end("finished")
    return run_id


def model_id(folder: Path) -> str:
    pack = find_pack(str(folder))
    return pack.digest(pack.need_recogniser())


def embed(folder: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    return Recogniser(find_pack(str(folder)), EmbedSettings(), ModelSettings()).embed([CROP])


def stored(uri: str) -> Path:
    """Return the folder of the one model that a database has."""
    root = artifact_folder(uri)
    assert root is not None
    (path,) = root.rglob("MLmodel")
    return path.parent


def test_a_pack_comes_back_as_it_was(uri: str, tmp_path: Path) -> None:
    pack, run_id = made.pack(tmp_path / "pack"), tracked_run(uri)
    name = f"face {Path(tmp_path).name}"
    assert register(pack, run_id, name, uri=uri) == 1
    assert register(pack, run_id, name, uri=uri) == 1  # the same run and files: the same version
    other = made.pack(tmp_path / "other", seed=3)
    assert register(other, None, name, uri=uri) == 2

    found = Registry(uri).version(name, 1)
    assert found.model_id == model_id(pack)
    assert found.run_id == run_id
    assert found.tags["facepipe.dataset_digest"] == "ab" * 32
    folder = fetch(f"models:/{name}/1", uri=uri)
    assert model_id(folder) == model_id(pack)
    for file in ("det_made.onnx", "made_recogniser.onnx"):
        assert (folder / file).read_bytes() == (pack / file).read_bytes()
    assert np.array_equal(embed(folder), embed(pack))
    assert model_id(fetch(f"models:/{name}/2", uri=uri)) == model_id(other) != model_id(pack)
    assert fetch(f"models:/{name}/1", uri=uri) == folder


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # while it is imported
def test_mlflow_knows_the_model_its_signature_and_its_example(uri: str, tmp_path: Path) -> None:
    import mlflow

    name, pack = f"known {tmp_path.name}", made.pack(tmp_path / "pack")
    register(pack, tracked_run(uri), name, uri=uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    location = client.get_model_version_download_uri(name, "1")
    local = mlflow.artifacts.download_artifacts(location, dst_path=str(tmp_path), tracking_uri=uri)
    loaded = mlflow.pyfunc.load_model(local)
    example = example_input(find_pack(str(pack)))
    inputs, outputs = loaded.metadata.signature.inputs, loaded.metadata.signature.outputs
    assert inputs.inputs[0].shape == (-1, 3, 112, 112)
    assert outputs.inputs[0].shape == (-1, 192)
    assert np.array_equal(loaded.metadata.load_input_example(local), example)
    answer = loaded.predict(np.concatenate([example, -example]))["embedding"]
    expected = Recogniser(find_pack(str(pack)), EmbedSettings(), ModelSettings()).embed(
        [((example[0].transpose(1, 2, 0) * sign + 1) * 127.5).astype(np.uint8) for sign in (1, -1)]
    )
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert mlflow.onnx.load_model(local).graph.name == "made_recogniser"
    kinds = {path.suffix for path in Path(local).rglob("*") if path.is_file()}
    assert kinds <= {".onnx", ".yaml", ".json", ".txt", ""}  # nothing that runs code when read
    preprocessing = yaml.safe_load((Path(local) / "MLmodel").read_text())["metadata"]
    assert preprocessing["preprocessing"]["mean"] == [127.5] * 3


@pytest.mark.parametrize("file", ["made_recogniser.onnx", "det_made.onnx", "pack.yaml"])
def test_a_file_that_was_changed_where_it_is_stored_is_refused(
    database: str, tmp_path: Path, file: str
) -> None:
    register(made.pack(tmp_path / "pack"), None, "face")
    other = made.recogniser(seed=5) if file.endswith(".onnx") else b"recogniser: {file: x.onnx}\n"
    (stored(database) / file).write_bytes(other)
    with pytest.raises(CorruptData, match=rf"^{file} of models:/face/1"):
        fetch("models:/face/1")
    assert not list((tmp_path / "xdg_cache_home").rglob("*.onnx"))


def test_a_file_that_is_gone_from_the_store_is_told(database: str, tmp_path: Path) -> None:
    register(made.pack(tmp_path / "pack"), None, "face")
    (stored(database) / "made_recogniser.onnx").unlink()
    with pytest.raises(StoreError, match=r"made_recogniser\.onnx"):
        fetch("models:/face/1")


def test_a_file_that_was_changed_in_the_cache_is_refused(database: str, tmp_path: Path) -> None:
    register(made.pack(tmp_path / "pack"), None, "face")
    folder = fetch("models:/face/1")
    (folder / "made_recogniser.onnx").write_bytes(made.recogniser(seed=5))
    pack = find_pack(str(fetch("models:/face/1")))
    with pytest.raises(CorruptData, match=r"made_recogniser\.onnx is not the file"):
        pack.read(pack.need_recogniser())
    pack.read(pack.need_detector())
    sums = (folder / "SHA256SUMS").read_text().replace("a", "b")
    (folder / "SHA256SUMS").write_text(sums)
    with pytest.raises(CorruptData, match="SHA256SUMS is missing or was changed"):
        fetch("models:/face/1")


def test_a_version_needs_no_server_once_it_is_here_and_an_alias_does(
    gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"away {tmp_path.name}"
    register(made.pack(tmp_path / "pack"), None, name, uri=gate.address)
    registry = Registry(gate.address)
    registry.point(name, "champion", 1, expected=None)
    folder = fetch(f"models:/{name}@champion", uri=gate.address)
    gate.shut = True
    capsys.readouterr()
    assert fetch(f"models:/{name}/1", uri=gate.address) == folder
    assert "does not answer" in capsys.readouterr().err
    for reference in (f"models:/{name}@champion", f"models:/{name}/2"):
        with pytest.raises(StoreError, match="MLFLOW_TRACKING_URI"):
            fetch(reference, uri=gate.address)


@pytest.mark.parametrize(
    ("reference", "there"),
    [
        ("models:/face/7", "the versions 1 of face"),
        ("models:/face@champion", "the versions 1 of face"),
        ("models:/nose@champion", "no model 'nose'"),
        ("models:/nose/1", "no model 'nose'"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    database: str, tmp_path: Path, reference: str, there: str
) -> None:
    register(made.pack(tmp_path / "pack"), None, "face")
    with pytest.raises(ModelNotFound, match=there):
        fetch(reference)
    with pytest.raises(ModelNotFound, match="not on this machine"):
        fetch("models:/face/1", download=False)


def test_an_alias_moves_only_from_where_it_was_seen(database: str, tmp_path: Path) -> None:
    for seed in range(3):
        register(made.pack(tmp_path / f"{seed}", seed=seed), None, "face")
    registry = Registry()
    registry.point("face", "champion", 1, expected=None)
    registry.point("face", "champion", 2, expected=1)
    for expected in (1, None):
        with pytest.raises(GateFailed, match=r"models:/face/2 by now"):
            registry.point("face", "champion", 3, expected=expected)
    assert registry.find(parse_reference("models:/face@champion")).version == 2


def test_a_version_of_somebody_elses_is_refused(database: str, tmp_path: Path) -> None:
    register(made.pack(tmp_path / "pack"), None, "face")
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=database)
    client.create_model_version("face", str(stored(database)))
    with pytest.raises(CorruptData, match=r"models:/face/2 has no tag"):
        fetch("models:/face/2")


def test_a_json_value_is_kept_with_the_run(database: str, tmp_path: Path) -> None:
    import mlflow

    register(made.pack(tmp_path / "pack"), None, "face")
    registry = Registry()
    found = registry.version("face", 1)
    registry.attach(found, "promotion/x.json", {"a": 1})
    client = mlflow.MlflowClient(tracking_uri=database)
    path = client.download_artifacts(found.run_id, "promotion/x.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == {"a": 1}
