"""All settings in one tree, from defaults, a YAML file and --set a.b=c, in that order.

Each part lives beside its owner; an unknown key is refused with the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facepipe.align import AlignSettings
from facepipe.clean import CleanSettings
from facepipe.cluster import ClusterSettings
from facepipe.decode import DecodeSettings
from facepipe.dedup import DedupSettings
from facepipe.detect import DetectSettings
from facepipe.embed import EmbedSettings
from facepipe.errors import ConfigError
from facepipe.export_choice import ExportSettings
from facepipe.index_settings import IndexSettings
from facepipe.models import ModelSettings
from facepipe.overlap import OverlapSettings
from facepipe.quality import QualitySettings
from facepipe.sources import SourceSettings
from facepipe.url_guard import UrlSettings


class StepResources(BaseModel):
    """What one worker of a step keeps busy; asked of Ray, which places workers by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cpus: float = Field(1.0, ge=0, description="cores; a worker runs one thread, clean as many")
    num_gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs, parts allowed; by default 1 for a step with models.device = cuda",
    )
    memory_bytes: int = Field(0, ge=0, description="memory; 0 asks for none")


class ResourceSettings(BaseModel):
    """What the workers of each step keep busy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: StepResources = StepResources()
    detect: StepResources = StepResources()
    embed: StepResources = StepResources()
    dedup: StepResources = StepResources()
    clean: StepResources = StepResources()
    index: StepResources = StepResources()


class RunSettings(BaseModel):
    """How work is cut and what may fail. None of these but shard_photos changes a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_photos: int | None = Field(
        None, ge=1, description="photos a shard; by default 4 to 256, growing with the input"
    )
    photo_timeout_s: int = Field(
        120, ge=1, description="a photo that takes longer is quarantined as crashed"
    )
    max_quarantined: float = Field(
        0.5,
        ge=0,
        le=1,
        description="exit code 3 where a larger share of the image files gave no pixels",
    )
    retries: int = Field(2, ge=0, description="of a shard after a passing error")
    resources: ResourceSettings = ResourceSettings()


class Settings(BaseModel):
    """Every setting of facepipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: SourceSettings = SourceSettings()
    urls: UrlSettings = UrlSettings()
    decode: DecodeSettings = DecodeSettings()
    detect: DetectSettings = DetectSettings()
    align: AlignSettings = AlignSettings()
    quality: QualitySettings = QualitySettings()
    embed: EmbedSettings = EmbedSettings()
    dedup: DedupSettings = DedupSettings()
    cluster: ClusterSettings = ClusterSettings()
    clean: CleanSettings = CleanSettings()
    overlap: OverlapSettings = OverlapSettings()
    export: ExportSettings = ExportSettings()
    index: IndexSettings = IndexSettings()
    models: ModelSettings = ModelSettings()
    run: RunSettings = RunSettings()


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of a YAML file with ``a.b=c`` overrides on top.

    Raises ConfigError, naming the key and what is allowed, for an unknown key, a value out
    of range, or a file that is no YAML mapping.
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    tree = {name: {} if value is None else value for name, value in tree.items()}
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """Return a settings error as lines a person can act on."""
    return "settings: " + "; ".join(_explain_one(item) for item in error.errors())


def _explain_one(item: Any) -> str:
    where = [str(part) for part in item["loc"]]
    name = ".".join(where)
    if item["type"] != "extra_forbidden":
        return f"{name} = {item['input']!r}: {item['msg']}"
    known = _keys(where[:-1])
    close = difflib.get_close_matches(where[-1], known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
    return f"{name} is not a setting: {hint}"


def _keys(where: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in where:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read as YAML: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"--config {path} must hold a mapping such as detect: {{size_px: 640}}")
    return value


def _apply(tree: dict[str, Any], override: str) -> None:
    import yaml

    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r} is not of the form a.b=c, as in detect.size_px=960")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from error
    for part in parts[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, Mapping):
            raise ConfigError(f"--set {override!r}: {part} is a value, not a group of settings")
        tree[part] = dict(below)
        tree = tree[part]
    tree[parts[-1]] = value
