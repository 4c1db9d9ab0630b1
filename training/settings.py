"""All settings of a training run in one tree: a recipe, a YAML file, and a.b=c over both.

Recipes are settings files that come with the package (training/recipes): each says what it is
for, what it costs and what to expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from facepipe.errors import ConfigError
from facepipe.settings_tree import override_tree, put_over, read_tree, validated
from training.augment import AugmentSettings
from training.backbone import BackboneSettings
from training.balance import BalanceSettings
from training.dataset_samples import SampleSettings
from training.distill import DistillSettings
from training.heads import HeadSettings
from training.loader import LoaderSettings
from training.metric_losses import AnyMetricLoss, CenterLossSettings
from training.optimizers import AnyOptimizer, CentreSettings, Sgd
from training.run_facts import flattened
from training.sample_order import OrderSettings
from training.schedules import AnySchedule, Poly

RECIPES = Path(__file__).parent / "recipes"

# What may differ when a run goes on: where and how often things are written, who decodes, and how
# a step's samples are shared out, which another number of ranks asks for.
NOT_OF_THE_RUN = (
    *("device", "log_every_steps", "checkpoint.every_steps", "checkpoint.keep"),
    *("data.loader.workers", "data.loader.pin_memory", "data.loader.batch_samples"),
    "accumulation",
)


class DataSettings(BaseModel):
    """Which samples come, in which order, and what is done to them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: SampleSettings = SampleSettings()
    order: OrderSettings = OrderSettings()
    balance: BalanceSettings = BalanceSettings()
    augment: AugmentSettings = AugmentSettings()
    loader: LoaderSettings = LoaderSettings()


class CheckpointSettings(BaseModel):
    """When the state of a run is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_steps: int = Field(
        1000, ge=1, description="besides at the end, and when the run is told to stop"
    )
    keep: int = Field(2, ge=1, description="newest checkpoints that stay")


class TrainSettings(BaseModel):
    """Every setting of a training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="of everything that is drawn, but class centres: head")
    epochs: float = Field(20.0, gt=0, description="how often the samples are gone through")
    steps: int | None = Field(None, ge=1, description="so many steps, instead of epochs")
    data: DataSettings = DataSettings()
    backbone: BackboneSettings = BackboneSettings()
    weights: Path | None = Field(
        None, description="to begin with: .safetensors, .pt, .pth, or .onnx of a pack"
    )
    head: HeadSettings | None = Field(
        HeadSettings(), description="classes and their margin; null: other losses alone"
    )
    metric: AnyMetricLoss | None = Field(
        None, description="a loss on pairs or triplets; wants data.order.run_samples above 1"
    )
    metric_weight: float = Field(1.0, gt=0, description="of it, beside the others")
    center: CenterLossSettings | None = Field(None, description="the center loss")
    distillation: DistillSettings | None = Field(None, description="a teacher")
    optimizer: AnyOptimizer = Sgd()
    centres: CentreSettings = CentreSettings()
    schedule: AnySchedule = Poly()
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the backbone's products; margins are float32 in any case"
    )
    accumulation: int = Field(1, ge=1, description="batches of a step, one after the other")
    clip_norm: float | None = Field(
        5.0, gt=0, description="of the net's gradient; 5 as in arcface_torch; centres are not cut"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="of a running mean of the weights, which is exported then"
    )
    channels_last: bool = Field(True, description="memory order in which convolutions are quick")
    compile: bool = Field(False, description="torch.compile of the backbone")
    deterministic: bool = Field(
        True, description="on a GPU only kernels that give the same bits each time"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one"
    )
    checkpoint: CheckpointSettings = CheckpointSettings()
    log_every_steps: int = Field(50, ge=1, description="a line of metrics, means since the last")

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        """Refuse a run that would learn nothing."""
        if self.head is None and self.metric is None and self.distillation is None:
            raise ValueError(
                "nothing to learn from: set head, metric or distillation (center alone pulls "
                "everything into one point)"
            )
        return self


def recipes() -> list[str]:
    """Return the names of the recipes; those of the builtin models are other commands' settings."""
    names = (path.stem for path in RECIPES.glob("*.yaml"))
    return sorted(name for name in names if not name.startswith("builtin_"))


def load(
    recipe_or_path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    config: str | Path | None = None,
) -> TrainSettings:
    """Return a recipe's (or a YAML file's) settings, with another file and a.b=c texts over it.

    Raises ConfigError, naming the key and what is allowed.
    """
    # The defaults are a layer, so that one above need not repeat which kind it is about.
    tree: dict[str, Any] = TrainSettings().model_dump(mode="json")
    if recipe_or_path is not None:
        tree = put_over(tree, read_tree(_recipe(recipe_or_path)))
    if config is not None:
        tree = put_over(tree, read_tree(Path(config)))
    return validated(TrainSettings, put_over(tree, override_tree(overrides)))


def _recipe(name: str | Path) -> Path:
    if isinstance(name, Path) or name.endswith((".yaml", ".yml")):
        return Path(name)
    if name not in recipes():
        raise ConfigError(
            f"--recipe {name!r} is none of {', '.join(recipes())}: name one, or give a settings "
            "file with --config"
        )
    return RECIPES / f"{name}.yaml"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two runs' settings and changes the run, as lines of text."""
    one, other = flattened(before), flattened(now)
    keys = sorted((one.keys() | other.keys()) - set(NOT_OF_THE_RUN))
    return [
        f"{key} was {one.get(key, 'not set')}, is {other.get(key, 'not set')}"
        for key in keys
        if one.get(key, _ABSENT) != other.get(key, _ABSENT)
    ]


_ABSENT = object()
