"""What this machine has, what is missing, and for what."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from typing import Any

from facepipe.errors import FacepipeError
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
        _pack(models),
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


def _pack(models: str) -> dict[str, Any]:
    try:
        pack = pack_of(models, download=False)
        detector, recogniser = pack.need_detector(), pack.need_recogniser()
    except (FacepipeError, ImportError) as error:
        return _check("models", False, str(error))
    return _check("models", True, f"{pack.folder}: {detector.file}, {recogniser.file}")
