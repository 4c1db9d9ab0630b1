"""What a taught recogniser's recipe says.

    python -m training.recogniser_run --photos LFW --people people.txt --pairs pairs.txt \
        --teacher PACK --out RUN [--more FOLDER]..
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from facepipe.errors import ConfigError
from training.backbone import BackboneSettings
from training.muon_adamw import MuonAdamW
from training.schedules import AnySchedule, Cosine
from training.taught_learner import LossSettings, Precision
from training.taught_pool import PoolSettings

RECIPE = Path(__file__).parent / "recipes" / "builtin_recogniser.yaml"


class RecogniserSettings(BaseModel):
    """A recipe. Folds count from 1, as LFW's do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    held_out: tuple[int, ...] = Field(description="folds of people.txt that no step may see")
    test: tuple[int, ...] = Field(description="folds whose pairs are measured on, during and after")
    backbone: BackboneSettings
    pool: PoolSettings
    losses: LossSettings = LossSettings()
    optimizer: MuonAdamW = MuonAdamW()
    schedule: AnySchedule = Cosine()
    epochs: float = Field(gt=0, description="how often the pool is gone through")
    batch: int = Field(128, ge=2, description="pictures a step")
    precision: Precision = Field(
        "bfloat16", description="of the maps; a CPU without AMX is as fast or faster in float32"
    )
    clip_norm: float = Field(5.0, gt=0, description="longest gradient")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="of the averaged weights")
    check_every: int = Field(500, ge=1, description="steps between checkpoints and measures")

    @model_validator(mode="after")
    def _has_folds_to_learn(self) -> Self:
        """Refuse folds that do not exist."""
        if len(set(self.test)) < 2 or min(self.test) < 1:
            raise ValueError("test needs two folds at least, counted from 1")
        return self


def read_recipe(path: Path) -> RecogniserSettings:
    """Return a recipe. Raises ConfigError where it is none."""
    try:
        return RecogniserSettings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path} is no recipe of a taught recogniser: {error}") from error
