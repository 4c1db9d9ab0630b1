"""Model packs: which files make a detector and a recogniser, and how they want their input.

A pack is ``builtin`` (`facepipe.builtin_pack`), an insightface folder (or the name of one), or
any folder with a detector and a recogniser as ONNX. What insightface's own rules cannot tell
from the graph is said in a small description beside the files, ``pack.yaml``:

    detector: {file: yunet.onnx, head: yunet}
    recogniser:
      file: mobilefacenet_128d.onnx
      mean: [123.675, 116.28, 103.53]     # of RGB 0..255
      std: [58.395, 57.12, 57.375]
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from facepipe import ids
from facepipe.builtin_pack import BUILTIN, BUILTIN_INT8, FORMER_DEFAULT, TWIN_FILE, builtin_folder
from facepipe.errors import ConfigError, CorruptData, ModelNotFound, ModelUnreadable

DESCRIPTION = "pack.yaml"
SUMS = "SHA256SUMS"  # as sha256sum writes it; where it is there, it is obeyed
INSIGHTFACE_ROOT = "~/.insightface"
# The sums travel with a pack; the files of this one are those of the machine that reads them.
_REMEDIES = {BUILTIN: "install the same version of facepipe on every machine, or install it again"}
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

    folder: str = Field(description="absolute, or builtin: of the installation that runs")
    detector: DetectorSpec | None = None
    recogniser: RecogniserSpec | None = None
    sums: tuple[tuple[str, str], ...] = Field((), description="file and SHA-256, of SUMS")

    @property
    def path(self) -> Path:
        """Return the folder of the files here. Raises ModelNotFound."""
        return builtin_folder() if self.folder == BUILTIN else Path(self.folder)

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
        """Return a model file's bytes.

        Raises ModelNotFound, ModelUnreadable; CorruptData where the pack has SUMS and the bytes
        are not those that it names.
        """
        path = self.path / spec.file
        data = _model_bytes(path)
        if self.sums:
            _check_sum(path, data, dict(self.sums), _REMEDIES.get(self.folder))
        return data

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
    """Find a pack: builtin or its twin, a folder, or an insightface name that it may download.

    Without ``download`` a name that is not on this machine is not there. ``builtin`` is never a
    folder of that name: such a one is ``./builtin``.

    Raises ModelNotFound where there is none, ModelUnreadable for a file that is no model.
    """
    if name.startswith("models:/"):
        raise ModelNotFound(
            f"{name} is a registered model, and not fetched yet: give it to --models of a facepipe "
            "command, or in Python the folder that training.registry.fetch returns"
        )
    if name in (BUILTIN, BUILTIN_INT8):
        return _builtin(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if os.sep in name or name.endswith(".onnx") or not name:
            raise ModelNotFound(
                f"--models {name!r} is not a folder: give a folder with a detector and a "
                f"recogniser, {BUILTIN}, or an insightface pack name such as {FORMER_DEFAULT}"
            )
        folder = _insightface_folder(name, download)
    return _opened(folder.resolve())


def _builtin(name: str) -> Pack:
    pack = _opened(builtin_folder()).model_copy(update={"folder": BUILTIN})
    if name == BUILTIN:
        return pack
    twin = pack.need_recogniser().model_copy(update={"file": TWIN_FILE})
    return pack.model_copy(update={"recogniser": twin})


def _opened(folder: Path) -> Pack:
    """Return what a folder holds, by its description or else by its files."""
    sums = _sums_of(folder)
    described = folder / DESCRIPTION
    if DESCRIPTION in sums and not described.is_file():
        raise CorruptData(f"{described} is missing, though {SUMS} names it: fetch the pack again")
    if described.is_file():
        return _from_description(folder, described, sums)
    return _from_files(folder, sums)


def _insightface_folder(name: str, download: bool) -> Path:
    root = Path(INSIGHTFACE_ROOT).expanduser()
    folder = root / "models" / name
    if any(folder.glob("*.onnx")):
        return folder
    if not download:
        raise ModelNotFound(
            f"{name} is not in {root}/models: the first run lets insightface download it; or give "
            f"--models {BUILTIN} or a folder"
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
            f"({type(error).__name__}: {error}): copy its folder there, or give --models a folder "
            f"or {BUILTIN}"
        ) from error
    if not any(folder.glob("*.onnx")):
        raise ModelNotFound(f"insightface has no pack named {name!r}: see its model zoo for names")
    return folder


def _from_description(folder: Path, path: Path, sums: dict[str, str]) -> Pack:
    import yaml

    data = path.read_bytes()
    if sums:
        _check_sum(path, data, sums)
    try:
        value = yaml.safe_load(data.decode())
        if not isinstance(value, dict):
            raise ConfigError(f"{path} must hold a mapping with detector and recogniser")
        pack = Pack(folder=str(folder), sums=tuple(sums.items()), **value)
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError, TypeError) as error:
        raise ConfigError(f"{path} is not a valid pack description: {error}") from error
    for spec in (pack.detector, pack.recogniser):
        if spec is not None and Path(spec.file).name != spec.file:
            raise ConfigError(f"{path}: file {spec.file!r} must be a name in the same folder")
    return pack


def _from_files(folder: Path, sums: dict[str, str]) -> Pack:
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
    return Pack(folder=str(folder), sums=tuple(sums.items()), **found)


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


def format_sums(sums: Mapping[str, str]) -> bytes:
    """Return checksums by file name as sha256sum writes them, by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def parse_sums(data: bytes, where: str) -> dict[str, str]:
    """Return the checksums by file name. Raises CorruptData where they are not of that form."""
    sums = {}
    for line in data.decode("utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([^/\\\0]+)", line)
        if match is None or match[2] in (".", "..", SUMS):
            raise CorruptData(
                f"{where}: {line[:80]!r} is not '<sha256>  <file of this folder>': copy or fetch "
                "the pack again"
            )
        sums[match[2]] = match[1]
    return sums


def _sums_of(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    return parse_sums(path.read_bytes(), str(path)) if path.is_file() else {}


def _check_sum(path: Path, data: bytes, sums: Mapping[str, str], remedy: str | None = None) -> None:
    found, expected = ids.sha256_hex(data), sums.get(path.name, "none")
    if found != expected:
        remedy = remedy or f"remove {path.parent}, then copy or fetch the pack again"
        raise CorruptData(
            f"{path} is not the file that {SUMS} names (sha256 {found[:16]}, expected "
            f"{expected[:16]}): {remedy}"
        )
