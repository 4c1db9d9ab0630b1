"""Model packs: which files make a detector and a recogniser, and how they want their input.

A pack is an insightface folder (or the name of one), or any folder with a detector and a
recogniser as ONNX. What insightface's own rules cannot tell from the graph is said in a
small description beside the files, ``pack.yaml``:

    detector: {file: yunet.onnx, head: yunet}
    recogniser:
      file: mobilefacenet_128d.onnx
      mean: [123.675, 116.28, 103.53]     # of RGB 0..255
      std: [58.395, 57.12, 57.375]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from facepipe import ids
from facepipe.errors import ConfigError, ModelNotFound, ModelUnreadable

DESCRIPTION = "pack.yaml"
INSIGHTFACE_ROOT = "~/.insightface"
MAX_MODEL_BYTES = 2_000_000_000  # protobuf's own limit; checked before a file is read


class DetectorSpec(BaseModel):
    """How a detector is fed and read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    head: Literal["scrfd", "yunet"] = Field(
        "scrfd", description="scrfd: insightface's distance heads (SCRFD, RetinaFace)"
    )
    mean: float = 127.5
    std: float = Field(128.0, gt=0)
    rgb: bool = True

    @model_validator(mode="before")
    @classmethod
    def _as_its_head_wants(cls, value: Any) -> Any:
        """YuNet takes BGR, 0 to 255, as it is."""
        if isinstance(value, dict) and value.get("head") == "yunet":
            return {"mean": 0.0, "std": 1.0, "rgb": False, **value}
        return value


class RecogniserSpec(BaseModel):
    """How a recogniser is fed. Mean and std are of R, G and B, 0 to 255."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    rgb: bool = True
    batch: int | None = Field(None, ge=1, description="where a model must run at one batch size")

    @field_validator("std")
    @classmethod
    def _divides(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise ValueError("must be positive")
        return value


class Pack(BaseModel):
    """A detector and a recogniser; either may be missing where only the other is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    detector: DetectorSpec | None = None
    recogniser: RecogniserSpec | None = None

    def need_detector(self) -> DetectorSpec:
        """Return the detector. Raises ModelNotFound, naming the folder."""
        if self.detector is None:
            raise ModelNotFound(
                f"pack {self.folder} has no face detector: put a SCRFD, RetinaFace or YuNet "
                f"ONNX file there, or name one in {DESCRIPTION}"
            )
        return self.detector

    def need_recogniser(self) -> RecogniserSpec:
        """Return the recogniser. Raises ModelNotFound, naming the folder."""
        if self.recogniser is None:
            raise ModelNotFound(
                f"pack {self.folder} has no face recogniser: put an ArcFace-style ONNX file "
                f"with a 112 x 112 input there, or name one in {DESCRIPTION}"
            )
        return self.recogniser

    def read(self, spec: DetectorSpec | RecogniserSpec) -> bytes:
        """Return a model file's bytes. Raises ModelNotFound, ModelUnreadable."""
        return _model_bytes(Path(self.folder) / spec.file)

    def digest(self, spec: DetectorSpec | RecogniserSpec) -> str:
        """Return the model id: a digest of the weights and of all that is done to its input."""
        weights = ids.sha256_hex(self.read(spec))
        return ids.digest([weights, spec.model_dump(exclude={"file"}, mode="json")])


def _model_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ModelUnreadable(f"{path} is over 2 GB: not an ONNX model of one file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelNotFound(
            f"{path} does not exist, though {DESCRIPTION} names it: correct the name"
        ) from error
    except OSError as error:
        raise ModelUnreadable(f"{path} cannot be read: {error.strerror}") from error


def find_pack(name: str, *, download: bool = True) -> Pack:
    """Find a pack by folder or by insightface name; insightface may download a name.

    Without ``download`` a name that is not on this machine is not there.

    Raises ModelNotFound where there is none, ModelUnreadable for a file that is no model.
    """
    if name == "builtin" or name.startswith("models:/"):
        raise ModelNotFound(
            f"--models {name} is not available in this version: give an insightface pack name "
            "such as buffalo_l, or a folder with a detector and a recogniser"
        )
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if os.sep in name or name.endswith(".onnx") or not name:
            raise ModelNotFound(
                f"--models {name!r} is not a folder: give a folder with a detector and a "
                "recogniser, or an insightface pack name such as buffalo_l"
            )
        folder = _insightface_folder(name, download)
    folder = folder.resolve()
    described = folder / DESCRIPTION
    return _from_description(folder, described) if described.is_file() else _from_files(folder)


def _insightface_folder(name: str, download: bool) -> Path:
    root = Path(INSIGHTFACE_ROOT).expanduser()
    folder = root / "models" / name
    if any(folder.glob("*.onnx")):
        return folder
    if not download:
        raise ModelNotFound(
            f"{name} is not in {root}/models: the first run lets insightface download it, or give "
            "--models a folder"
        )
    print(f"facepipe: {name} is not in {root}/models: insightface downloads it", file=sys.stderr)
    from contextlib import redirect_stdout

    try:
        from insightface.utils.storage import ensure_available

        with redirect_stdout(sys.stderr):
            ensure_available("models", name, root=str(root))
    except Exception as error:  # whatever a download can end in
        raise ModelNotFound(
            f"pack {name!r} is not in {root}/models and could not be downloaded "
            f"({type(error).__name__}: {error}): copy its folder there, or give --models a folder"
        ) from error
    if not any(folder.glob("*.onnx")):
        raise ModelNotFound(f"insightface has no pack named {name!r}: see its model zoo for names")
    return folder


def _from_description(folder: Path, path: Path) -> Pack:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ConfigError(f"{path} must hold a mapping with detector and recogniser")
        pack = Pack(folder=str(folder), **value)
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError, TypeError) as error:
        raise ConfigError(f"{path} is not a valid pack description: {error}") from error
    for spec in (pack.detector, pack.recogniser):
        if spec is not None and Path(spec.file).name != spec.file:
            raise ConfigError(f"{path}: file {spec.file!r} must be a name in the same folder")
    return pack


def _from_files(folder: Path) -> Pack:
    """Route a folder's files as insightface's model_zoo does: by outputs and input size."""
    from facepipe.onnx_graph import input_shape, parse

    found: dict[str, Any] = {}
    files = sorted(p for p in folder.glob("*.onnx") if p.is_file())
    if not files:
        raise ModelNotFound(f"{folder} holds no .onnx file: it is not a model pack")
    for path in files:
        model = parse(_model_bytes(path), str(path))
        outputs, shape = len(model.graph.output), input_shape(model)
        if outputs >= 5:
            head = "yunet" if _is_yunet([o.name for o in model.graph.output]) else "scrfd"
            found.setdefault("detector", DetectorSpec(file=path.name, head=head))
        elif outputs == 1 and len(shape) == 4 and shape[2] == shape[3] == 112:
            found.setdefault("recogniser", _recogniser(path.name, model))
    return Pack(folder=str(folder), **found)


def _is_yunet(outputs: list[str]) -> bool:
    return {f"{kind}_{s}" for kind in ("cls", "obj", "bbox", "kps") for s in (8, 16, 32)} == set(
        outputs
    )


def _recogniser(file: str, model: Any) -> RecogniserSpec:
    """Tell whether the graph normalises its own input (insightface's ArcFaceONNX rule)."""
    from facepipe.onnx_graph import output_shape

    names = [node.name for node in model.graph.node[:8]]
    own = any(n.startswith(("Sub", "_minus")) for n in names) and any(
        n.startswith(("Mul", "_mul")) for n in names
    )
    batch = output_shape(model)[0]
    values: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3} if own else {}
    return RecogniserSpec(file=file, batch=batch, **values)
