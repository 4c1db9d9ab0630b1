"""Settings of runs: recipes, files and texts over each other; what a run may go on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from facepipe.errors import ConfigError
from training import settings as module
from training.adaptive_rules import AdaFace
from training.margin_rules import ArcFace, CosFace
from training.optimizers import AdamW
from training.settings import NOT_OF_THE_RUN, TrainSettings, differences, load, recipes


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_whole_and_says_what_it_is(name: str) -> None:
    settings = load(name)
    assert settings == TrainSettings.model_validate(settings.model_dump(mode="json"))
    text = (module.RECIPES / f"{name}.yaml").read_text()
    assert text.startswith("# ") and f"--recipe {name}" in text.replace(" \\\n#      ", "")


def test_the_standard_recipes_are_arcface_torch_s() -> None:
    r50 = load("ms1mv3_r50")
    assert r50.optimizer.lr == 0.02 and r50.optimizer.weight_decay == 5e-4 and r50.epochs == 20
    assert r50.head is not None and r50.data.loader.batch_samples == 128 and r50.clip_norm == 5
    assert r50.head.margin == ArcFace(gradient="detached", past_pi="wrap")
    glint = load("glint360k_r100_pfc")
    assert glint.backbone.name == "r100" and glint.optimizer.lr == 0.1
    assert glint.head is not None and glint.head.sample_rate == 0.1
    assert isinstance(glint.head.margin, CosFace)


def test_layers(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("optimizer: {lr: 0.3}\nhead: {margin: {name: adaface}}\n")
    settings = load("tiny", ["epochs=2", "data.loader.batch_samples=8"], config=own)
    assert settings.optimizer.lr == 0.3 and settings.epochs == 2
    assert settings.head is not None and settings.head.margin == AdaFace()
    assert settings.data.loader.batch_samples == 8 and settings.backbone.name == "tiny"
    assert load(own).backbone.name == "r50"  # a file alone, over the defaults
    assert load() == TrainSettings()
    assert load(None, ["optimizer.name=adamw"]).optimizer == AdamW()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["head=null"], "nothing to learn from: set head, metric or distillation"),
        (["head=null", "center={}"], "nothing to learn from"),
        (["head.margn=1"], r"head\.margn is not a setting: did you mean margin\?"),
        (["head.margin={name: cosface, m: 1}"], r"head\.margin\.m is not a setting: known here"),
        (["backbone.name=vit_b", "backbone.dropout=0.1"], "vit_b has no dropout"),
        (["accumulation=0"], "accumulation = 0"),
        (["precision=fp16"], "precision = 'fp16'"),
    ],
)
def test_a_mistake_is_named(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(None, overrides)


def test_an_unknown_recipe_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="none of glint360k_r100_pfc, ms1mv3_mbf, ms1mv3_r50"):
        load("ms1mv3")


def test_what_changes_a_run_is_named_and_what_does_not_is_let_through() -> None:
    before = load("tiny").model_dump(mode="json")
    free = [
        *("checkpoint.keep=5", "checkpoint.every_steps=3", "log_every_steps=3", "device=cpu"),
        *("data.loader.workers=9", "data.loader.batch_samples=7", "accumulation=3"),
        "data.loader.pin_memory=true",
    ]
    assert {text.partition("=")[0] for text in free} == set(NOT_OF_THE_RUN)
    assert differences(before, load("tiny", free).model_dump(mode="json")) == []
    now = load("tiny", ["seed=1", "head.margin={name: arcface}"]).model_dump(mode="json")
    found = differences(before, now)
    assert "seed was 0, is 1" in found and "head.margin.name was cosface, is arcface" in found
    assert "head.margin.margin was 0.2, is not set" in found
