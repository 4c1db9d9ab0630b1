"""A version of a registered model, and the names by which one is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from facepipe.errors import CorruptData, UsageError
from facepipe.packs import parse_sums

MODEL_ID = "facepipe.model_id"
SUMS_TAG = "facepipe.sha256sums"
_SCHEME = "models:/"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .-]{0,199}")  # of a model; MLflow forbids / and :
_ALIAS = re.compile(r"(?!latest$|[vV]\d+$)[A-Za-z0-9_-]{1,200}", re.IGNORECASE)  # as MLflow has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: int
    run_id: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        """Return its address."""
        return f"{_SCHEME}{self.name}/{self.version}"

    @property
    def model_id(self) -> str:
        """Return facepipe's digest of weights and preprocessing."""
        return self.tags.get(MODEL_ID, "")

    def sums(self) -> dict[str, str]:
        """Return the SHA-256 of its files. Raises CorruptData where facepipe registered none."""
        if SUMS_TAG not in self.tags:
            raise CorruptData(
                f"{self} has no tag {SUMS_TAG}, so that its files cannot be checked: register its "
                "pack with facepipe"
            )
        return parse_sums(self.tags[SUMS_TAG].encode(), f"tag {SUMS_TAG} of {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What `models:/NAME/3` or `models:/NAME@champion` asks for."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{_SCHEME}{self.name}" + (f"/{self.version}" if self.version else f"@{self.alias}")


def parse_reference(text: str) -> Reference:
    """Return what `models:/...` asks for. Raises UsageError for another form."""
    name, at, alias = text.removeprefix(_SCHEME).partition("@")
    name, slash, number = name.partition("/")
    if text.startswith(_SCHEME) and _NAME.fullmatch(name):
        if at and not slash and _ALIAS.fullmatch(alias):
            return Reference(name=name, alias=alias)
        if slash and not at and number.isascii() and number.isdigit() and int(number):
            return Reference(name=name, version=int(number))
    raise UsageError(
        f"{text!r} names no registered model: write models:/NAME@champion (an alias) or "
        "models:/NAME/3 (a version)"
    )


def checked_name(name: str) -> str:
    """Return the name of a model. Raises UsageError for one that `models:/` could not say."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a model's name: take letters, digits, _ . - and spaces, a letter "
            "or digit first, 200 at most"
        )
    return name


def checked_alias(alias: str) -> str:
    """Return an alias. Raises UsageError for one that MLflow does not take."""
    if not _ALIAS.fullmatch(alias):
        raise UsageError(
            f"{alias!r} cannot be an alias: take letters, digits, _ and -; latest and v1, v2, .. "
            "are MLflow's own"
        )
    return alias
