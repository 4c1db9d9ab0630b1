"""Layers of settings, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from facepipe.errors import ConfigError
from facepipe.settings_tree import override_tree, put_over, read_tree, validated


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sgd(Strict):
    name: Literal["sgd"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = 0.9


class AdamW(Strict):
    name: Literal["adamw"] = "adamw"
    lr: float = Field(0.001, gt=0)
    eps: float = 1e-8


class Loader(Strict):
    batch: int = 4


class Settings(Strict):
    optimizer: Annotated[Sgd | AdamW, Field(discriminator="name")] = Sgd()
    second: Annotated[Sgd | AdamW, Field(discriminator="name")] | None = None
    loader: Loader = Loader()


def test_layers_go_over_each_other_key_by_key() -> None:
    below = {"optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.5}, "loader": {"batch": 8}}
    above = override_tree(["optimizer.lr=0.5", "second={name: adamw}", "optimizer.lr=0.25"])
    settings = validated(Settings, put_over(below, above))
    assert settings.optimizer == Sgd(lr=0.25, momentum=0.5)
    assert settings.second == AdamW() and settings.loader.batch == 8


def test_another_kind_leaves_the_first_one_s_settings_behind() -> None:
    below = {"optimizer": {"name": "sgd", "momentum": 0.5}}
    above = override_tree(["optimizer.eps=1.0e-6", "optimizer.name=adamw"])
    assert validated(Settings, put_over(below, above)).optimizer == AdamW(eps=1e-6)
    same = override_tree(["optimizer.name=sgd"])
    assert validated(Settings, put_over(below, same)).optimizer == Sgd(momentum=0.5)
    assert below == {"optimizer": {"name": "sgd", "momentum": 0.5}}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loader.bach=3", r"loader\.bach is not a setting: did you mean batch\?"),
        ("lader.batch=3", r"lader is not a setting: did you mean loader\?"),
        ("optimizer={name: adamw, momentum: 1}", r"optimizer\.momentum is not a setting: known"),
        ("second={name: sgd, lrr: 1}", r"second\.lrr is not a setting: did you mean lr\?"),
        ("second={name: sgd, lr: -1}", r"second\.lr = -1: Input should be greater than 0"),
        ("loader.batch=many", r"loader\.batch = 'many': Input should be a valid integer"),
        ("optimizer={name: lamb}", "optimizer = .*'sgd', 'adamw'"),
        ("loader", "not of the form a.b=c"),
        ("loader.batch=[", "the value is not YAML"),
    ],
)
def test_a_mistake_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validated(Settings, override_tree([override]))


def test_a_value_is_no_group() -> None:
    with pytest.raises(ConfigError, match="a is a value, not a group"):
        override_tree(["a=1", "a.b=2"])


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "does not exist"), ("[1]", "must hold a mapping"), ("a: [", "as YAML")],
)
def test_a_file_that_holds_no_settings(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "f.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_tree(path)


def test_an_empty_file_is_no_layer(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("# nothing\n")
    assert read_tree(tmp_path / "f.yaml") == {}
