"""What this machine has, what is missing, and for what."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from typing import Any

from facepipe import ids
from facepipe.builtin_pack import BUILTIN, BUILTIN_INT8, LICENCE
from facepipe.errors import FacepipeError
from facepipe.packs import DetectorSpec, Pack, RecogniserSpec
from pipelines.engines import usable_cores
from pipelines.options import pack_of

_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
_NEEDED = (
    "numpy",
    "pyarrow",
    "onnx",
    "onnxruntime",
    "faiss-cpu",
    "insightface",
    "pillow",
    "pi-heif",
    "obstore",
    "simplejpeg",
    "pydantic",
    "pyyaml",
    "jinja2",
    "typer",
    "rich",
)
_INSTEAD = {"onnxruntime": "onnxruntime-gpu", "faiss-cpu": "faiss-gpu"}  # the same import packages
_OPTIONAL = {
    "ray": "the ray engine",
    "apache-beam": "the beam engine",
    "av": "frames of videos",
    "torch": "training",
    "mlflow": "tracking and the model registry",
}


def examine(models: str) -> list[dict[str, Any]]:
    """Return checks, each with name, ok, optional and a detail that says the remedy."""
    return [
        _check("python", True, platform.python_version()),
        *(_package(name) for name in _NEEDED),
        _one_opencv(),
        _formats(),
        *(_package(name, use) for name, use in _OPTIONAL.items()),
        _check("cores", True, f"{usable_cores()} usable: the default of --workers"),
        _space(),
        _gpu(),
        *_packs(models),
    ]


def _check(name: str, ok: bool, detail: str, optional: bool = False) -> dict[str, Any]:
    return {"name": name, "ok": ok, "optional": optional, "detail": detail}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _version(_INSTEAD[name]) if name in _INSTEAD else None


def _package(name: str, use: str | None = None) -> dict[str, Any]:
    version = _version(name)
    if version is not None:
        return _check(name, True, version, optional=use is not None)
    remedy = f"not installed; needed for {use}" if use else f"pip install {name}"
    return _check(name, False, remedy, optional=use is not None)


def _one_opencv() -> dict[str, Any]:
    found = [f"{n} {v}" for n in _OPENCV if (v := _version(n)) is not None]
    detail = ", ".join(found) or "pip install opencv-python"
    if len(found) > 1:
        detail += ": two distributions overwrite each other; uninstall all and install one"
    return _check("opencv", len(found) == 1, detail)


def _formats() -> dict[str, Any]:
    try:
        from PIL import features
    except ImportError:
        return _check("formats", False, "cannot read any: pip install pillow")
    avif, webp = (bool(features.check(name)) for name in ("avif", "webp"))
    heic = _version("pi-heif") is not None
    missing = [n for n, ok in (("AVIF", avif), ("WebP", webp), ("HEIC", heic)) if not ok]
    detail = f"cannot read {', '.join(missing)}" if missing else "all, WebP, HEIC and AVIF too"
    return _check("formats", not missing, detail)


def _space() -> dict[str, Any]:
    free = shutil.disk_usage(".").free
    text = f"{free / 1e9:.0f} GB free here; a million faces take about 25 GB"
    return _check("disk", free > 1e9, text)


def _gpu() -> dict[str, Any]:
    try:
        import onnxruntime
    except ImportError:
        return _check("gpu", False, "onnxruntime is not installed", optional=True)
    onnxruntime.disable_telemetry_events()
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    text = "CUDA is there: use --set models.device=cuda" if cuda else "no CUDA in onnxruntime"
    return _check("gpu", cuda, text, optional=True)


def _packs(models: str) -> list[dict[str, Any]]:
    """Return the pack that was asked for, the one that comes with facepipe, and their licences."""
    found = [_pack("models", models)]
    if models != BUILTIN:
        found.append(_pack("builtin", BUILTIN, optional=True))
    return [*found, _check("licence", True, _licence(models))]


def _pack(name: str, models: str, optional: bool = False) -> dict[str, Any]:
    """Return whether a pack is whole: every byte is read, and held against its checksums."""
    try:
        pack = pack_of(models, download=False)
        files = [_file(pack, spec) for spec in (pack.need_detector(), pack.need_recogniser())]
    except (FacepipeError, ImportError) as error:
        return _check(name, False, str(error), optional)
    said = ", ".join(f"{f['file']} ({f['bytes'] / 1e6:.1f} MB, {f['id'][:12]})" for f in files)
    place = pack.folder if str(pack.path) == pack.folder else f"{pack.folder} in {pack.path}"
    return _check(name, True, f"{place}: {said}", optional) | {"files": files}


def _file(pack: Pack, spec: DetectorSpec | RecogniserSpec) -> dict[str, Any]:
    """Return a model file; its id is the one that datasets made with it name."""
    data = pack.read(spec)
    known = pack.digest(spec)
    if isinstance(spec, RecogniserSpec):
        from facepipe.embed import EmbedSettings, model_id

        known = model_id(pack, EmbedSettings())
    return {"file": spec.file, "bytes": len(data), "sha256": ids.sha256_hex(data), "id": known}


def _licence(models: str) -> str:
    own = f"{BUILTIN}, {BUILTIN_INT8}: {LICENCE}, as facepipe"
    if models in (BUILTIN, BUILTIN_INT8):
        return own
    return f"{models}: its weights' own (insightface's: non-commercial research only); {own}"
