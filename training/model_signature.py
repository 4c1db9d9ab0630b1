"""A pack's folder as an MLflow model too: what goes in, what comes out, and an example.

The file MLmodel names two flavours of the same ONNX file, `onnx` and `python_function`, which
`mlflow.onnx.load_model` and `mlflow.pyfunc.load_model` take. It is written here, and not by
`mlflow.onnx.save_model`, which would serialise the graph anew (other bytes, other digest), move
its weights into a second file and start a process to guess requirements.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from facepipe.embed import EmbedSettings, Recogniser, crop_blob
from facepipe.models import ModelSettings
from facepipe.packs import Pack

MODEL, EXAMPLE = "MLmodel", "input_example.json"
REQUIREMENTS, PYTHON = "requirements.txt", "python_env.yaml"
CROP_PX = 112
_BLOCK_PX = 8
_NEEDED = ("mlflow", "numpy", "onnx", "onnxruntime")


def example_input(pack: Pack) -> NDArray[np.float32]:
    """Return a crop as the recogniser's graph takes it, 1 x 3 x 112 x 112: a chessboard."""
    row = (np.arange(CROP_PX) // _BLOCK_PX) % 2
    board = np.repeat(((row[:, None] ^ row) * 255).astype(np.uint8)[..., None], 3, axis=2)
    return crop_blob([board], pack.need_recogniser())


def describe(folder: Path, pack: Pack, run_id: str, model_id: str) -> None:
    """Write MLmodel, an example and requirements into a folder with a pack's files.

    run_id, model_id: MLflow's ids. Raises ModelUnreadable where the recogniser does not run.
    """
    spec = pack.need_recogniser()
    example = example_input(pack)
    dim = Recogniser(pack, EmbedSettings(), ModelSettings()).dim
    (folder / EXAMPLE).write_text(json.dumps(example.tolist()) + "\n")
    versions = {name: importlib.metadata.version(name) for name in _NEEDED}
    requirements = "".join(f"{name}=={version}\n" for name, version in versions.items())
    (folder / REQUIREMENTS).write_text(requirements)
    environment = {
        "python": platform.python_version(),
        "build_dependencies": ["pip"],
        "dependencies": [f"-r {REQUIREMENTS}"],
    }
    (folder / PYTHON).write_text(yaml.safe_dump(environment))
    model = {
        "run_id": run_id,
        "model_id": model_id,
        "model_uuid": model_id,
        "mlflow_version": versions["mlflow"],
        "flavors": _flavours(spec.file, versions["onnx"]),
        "signature": {
            "inputs": _tensor([spec.batch or -1, 3, CROP_PX, CROP_PX]),
            "outputs": _tensor([spec.batch or -1, dim]),
            "params": None,
        },
        "saved_input_example_info": {"artifact_path": EXAMPLE, "type": "ndarray"},
        # What happens to a crop before the graph; `facepipe` reads it from pack.yaml.
        "metadata": {"preprocessing": spec.model_dump(mode="json", exclude={"file"})},
    }
    (folder / MODEL).write_text(yaml.safe_dump(model, sort_keys=False))


def _flavours(file: str, onnx_version: str) -> dict[str, Any]:
    return {
        "onnx": {
            "data": file,
            "onnx_version": onnx_version,
            "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
            "onnx_session_options": None,
            "code": None,
        },
        "python_function": {
            "data": file,
            "loader_module": "mlflow.onnx",
            "python_version": platform.python_version(),
            "env": {"virtualenv": PYTHON},
        },
    }


def _tensor(shape: list[int]) -> str:
    """Return one float32 tensor as MLflow's schemas write it: JSON within the YAML."""
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": shape}}])
