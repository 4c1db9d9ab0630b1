"""Names of registered models: what `models:/` may say."""

from __future__ import annotations

import pytest

from facepipe.errors import CorruptData, UsageError
from training.registered import (
    SUMS_TAG,
    Reference,
    Registered,
    checked_alias,
    checked_name,
    parse_reference,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models:/face@champion", Reference(name="face", alias="champion")),
        ("models:/face/12", Reference(name="face", version=12)),
        ("models:/face r50.v2@next-one", Reference(name="face r50.v2", alias="next-one")),
    ],
)
def test_a_reference_is_an_alias_or_a_version(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        *("models:/", "models:/face", "models:/face/", "models:/face@", "models:/face/0"),
        *("models:/face/x", "models:/face/latest", "models:/face@latest", "models:/face@v3"),
        *("models:/../3", "models:/a/b/3", "models:/face/3@champion", "face@champion"),
        *("models:/face/\uff13", "models:/face@champion/../x", "models://face/3"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"models:/NAME@champion"):
        parse_reference(text)


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", ".hidden", "x" * 201, "gesicht\n"])
def test_a_name_that_no_reference_could_say_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        checked_name(name)


@pytest.mark.parametrize("alias", ["", "a b", "latest", "V2", "a/b"])
def test_an_alias_that_mlflow_does_not_take_is_refused(alias: str) -> None:
    with pytest.raises(UsageError):
        checked_alias(alias)
    assert checked_alias("champion_2") == "champion_2"


@pytest.mark.parametrize(
    "sums",
    [
        "",
        "no checksums",
        f"{'a' * 64}  ../x",
        f"{'a' * 64}  a/b",
        f"{'a' * 63}  x",
        f"{'A' * 64}  x",
    ],
)
def test_checksums_name_files_of_the_folder_only(sums: str) -> None:
    tags = {SUMS_TAG: sums} if sums else {}
    with pytest.raises(CorruptData, match=r"models:/face/3"):
        Registered(name="face", version=3, run_id="", tags=tags).sums()
