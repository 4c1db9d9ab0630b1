"""Settings from files and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from facepipe.config import Settings, load
from facepipe.errors import ConfigError
from pipelines.settings_yaml import as_yaml


def test_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("detect: {size_px: 320, threshold: 0.4}\n")
    settings = load(path, ["detect.size_px=960", "embed.flip=sum", "run.shard_photos=null"])
    assert (settings.detect.size_px, settings.detect.threshold) == (960, 0.4)
    assert settings.embed.flip == "sum"
    assert load() == Settings() == load(None, [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("detect.sise_px=640", "did you mean size_px"),
        ("detekt.size_px=640", "did you mean detect"),
        ("detect.size_px=650", "multiple of 32"),
        ("detect.size_px=big", "detect.size_px = 'big'"),
        ("detect=3", "detect = 3"),
        ("detect.size_px", "form a.b=c"),
        ("=3", "form a.b=c"),
        ("detect.size_px.more=3", "detect.size_px"),
        ("decode.truncated=maybe", "salvage"),
        ("detect.size_px=[", "not YAML"),
    ],
)
def test_wrong_settings_name_the_key_and_the_remedy(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(None, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must hold a mapping"),
        ("a: [", "cannot be read as YAML"),
        ("!!python/object/apply:os.system [id]", "cannot be read as YAML"),
        ("unknown: 1", "unknown is not a setting"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "none.yaml")


def test_settings_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings().detect.size_px = 1  # type: ignore[misc]


def test_the_printed_file_is_the_settings(tmp_path: Path) -> None:
    text = as_yaml(load(None, ["detect.size_px=320"]))
    path = tmp_path / "f.yaml"
    path.write_text(text)
    assert load(path) == load(None, ["detect.size_px=320"])
    assert yaml.safe_load(text)["detect"]["size_px"] == 320
    assert "side of the letterbox" in text
