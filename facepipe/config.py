"""All settings in one tree, from defaults, a YAML file and --set a.b=c, in that order.

Each part lives beside its owner; an unknown key is refused with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from facepipe.align import AlignSettings
from facepipe.clean import CleanSettings
from facepipe.cluster import ClusterSettings
from facepipe.decode import DecodeSettings
from facepipe.dedup import DedupSettings
from facepipe.detect import DetectSettings
from facepipe.embed import EmbedSettings
from facepipe.export_choice import ExportSettings
from facepipe.index_settings import IndexSettings
from facepipe.models import ModelSettings
from facepipe.overlap import OverlapSettings
from facepipe.quality import QualitySettings
from facepipe.settings_tree import Tree, override_tree, read_tree, validated
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
        None, ge=1, description="photos a shard; by default 16 to 256, growing with the input"
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
    tree: Tree = {}
    if path is not None:
        tree = read_tree(Path(path), "--config", "detect: {size_px: 640}")
    override_tree(overrides, tree, "detect.size_px=960")
    return validated(
        Settings, {name: {} if value is None else value for name, value in tree.items()}
    )
