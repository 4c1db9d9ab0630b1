"""Settings of a gallery: sizes as people write them, and what is out of range."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from facepipe.errors import UsageError
from facepipe.index_settings import IndexSettings, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("12B", 12),
        ("500MB", 500_000_000),
        ("2GB", 2_000_000_000),
        ("2gb", 2_000_000_000),
        ("2G", 2_000_000_000),
        (" 1.5 TB ", 1_500_000_000_000),
        ("2GiB", 2_147_483_648),
        ("2Gi", 2_147_483_648),
        ("0.5KiB", 512),
        ("64kB", 64_000),
    ],
)
def test_a_size(text: str, size: int) -> None:
    assert parse_bytes(text) == size
    assert IndexSettings(memory_budget=text).memory_budget_bytes == size


@pytest.mark.parametrize(
    "text",
    ["", "GB", "-1GB", "2 G B", "1e9", "2XB", "1,5GB", "0", "0.4B", "inf", "nan", "1.GB", "2iB"],
)
def test_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="like 2GB"):
        parse_bytes(text)
    with pytest.raises(ValidationError, match="like 2GB"):
        IndexSettings(memory_budget=text)


def test_by_default_there_is_no_budget_and_the_kind_is_chosen() -> None:
    settings = IndexSettings()
    assert settings.memory_budget_bytes is None
    assert (settings.kind, settings.recall, settings.device) == ("auto", 0.99, "cpu")
    assert IndexSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"fpir": 0},
        {"fpir": 1},
        {"seed": -1},
        {"kind": "hnsw"},
        {"recall": 0.4},
        {"recall": 1},
        {"device": "tpu"},
        {"compact_at": 0},
        {"compact_at": 1.1},
        {"nprobe": 5},
    ],
)
def test_what_is_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IndexSettings.model_validate(wrong)
