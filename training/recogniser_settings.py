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
from training.grown_net import can_grow
from training.muon_adamw import MuonAdamW
from training.schedules import AnySchedule, Cosine
from training.taught_learner import LossSettings, Precision
from training.taught_pool import PoolSettings

RECIPE = Path(__file__).parent / "recipes" / "builtin_recogniser.yaml"


class FirstNet(BaseModel):
    """A smaller net that is trained before, all the way, and that the recipe's begins as."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: BackboneSettings
    files: int = Field(ge=1, description="of the pool, from the first on, that it learns from")
    epochs: float = Field(gt=0, description="how often these are gone through")
    optimizer: MuonAdamW = MuonAdamW()
    precision: Precision = "bfloat16"


class RecogniserSettings(BaseModel):
    """A recipe. Folds count from 1, as LFW's do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    held_out: tuple[int, ...] = Field(description="folds of people.txt that no step may see")
    test: tuple[int, ...] = Field(description="folds whose pairs are measured on, during and after")
    backbone: BackboneSettings
    first: FirstNet | None = None
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
        if self.first is not None and not can_grow(self.first.backbone, self.backbone):
            raise ValueError(
                f"{self.backbone.name} cannot begin as {self.first.backbone.name}: it needs the "
                "same stem and dim, stages as wide, and as many units at least"
            )
        if self.first is not None and self.first.files > self.pool.files:
            raise ValueError("first.files: the pool has not as many files")
        return self

    def of_first(self) -> Self | None:
        """Return the recipe of the smaller net, None where there is none."""
        if self.first is None:
            return None
        own = {name: getattr(self.first, name) for name in ("backbone", "epochs", "optimizer")}
        pool = self.pool.model_copy(update={"files": self.first.files})
        rest = {"precision": self.first.precision, "pool": pool, "first": None}
        return self.model_copy(update=own | rest)


def read_recipe(path: Path) -> RecogniserSettings:
    """Return a recipe. Raises ConfigError where it is none."""
    try:
        return RecogniserSettings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path} is no recipe of a taught recogniser: {error}") from error
