"""Settings from layers: files and ``a.b=c`` put over each other, and errors a person can act on.

For any pydantic model. A group with a ``name`` or ``kind`` (a loss, a teacher) is one of several;
where a layer names another one, what lower layers set for the one before falls away.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from facepipe.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
Tree = dict[str, Any]

KINDS = ("name", "kind")  # keys that say which of several a group is


def read_tree(
    path: Path, named: str = "settings file", example: str = "optimizer: {lr: 1}"
) -> Tree:
    """Return the mapping of a YAML file. Raises ConfigError, in these words, where it is none."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{named} {path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{named} {path} cannot be read as YAML: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{named} {path} must hold a mapping such as {example}")
    return value


def override_tree(
    overrides: Sequence[str], onto: Tree | None = None, example: str = "optimizer.lr=0.05"
) -> Tree:
    """Return ``a.b=c`` texts as one tree; of two for one key the later counts.

    ``onto`` is a tree of the caller's to write them into. Raises ConfigError for a text of
    another form, and for a key below what is a value.
    """
    tree: Tree = {} if onto is None else onto
    for override in overrides:
        _apply(tree, override, example)
    return tree


def put_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Return a tree over another one: groups key by key, values and other kinds replaced."""
    merged = dict(below)
    for key, value in above.items():
        own = merged.get(key)
        if isinstance(own, Mapping) and isinstance(value, Mapping) and not _differ(own, value):
            merged[key] = put_over(own, value)
        else:
            merged[key] = value
    return merged


def validated(model: type[Model], tree: Mapping[str, Any]) -> Model:
    """Return a tree as settings. Raises ConfigError, naming key, value and what is allowed."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = (_explained(model, item) for item in error.errors())
        raise ConfigError("settings: " + "; ".join(lines)) from error


def _differ(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return any(kind in below and kind in above and below[kind] != above[kind] for kind in KINDS)


def _apply(tree: Tree, override: str, example: str) -> None:
    import yaml

    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override!r} is not of the form a.b=c, as in {example}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from error
    for part in parts[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {override!r}: {part} is a value, not a group of settings")
        tree = below
    tree[parts[-1]] = value


def _explained(model: type[BaseModel], item: Any) -> str:
    parts = [str(part) for part in item["loc"]]
    groups, shown = [model], []
    for part in parts[: -1 if item["type"] == "extra_forbidden" else None]:
        below = [found for group in groups for found in _below(group, part)]
        if not any(_kind(group) == part for group in groups):
            shown.append(part)
            groups = below
        else:  # pydantic names the kind, too
            groups = [group for group in groups if _kind(group) == part]
    if item["type"] != "extra_forbidden":
        return f"{'.'.join(shown) or 'together'} = {item['input']!r}: {item['msg']}"
    name, known = parts[-1], sorted({key for group in groups for key in group.model_fields})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
    return f"{'.'.join([*shown, name])} is not a setting: {hint}"


def _below(group: type[BaseModel], part: str) -> list[type[BaseModel]]:
    field = group.model_fields.get(part)
    return [] if field is None else _models(field.annotation)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes that a field may hold."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [model for one in get_args(annotation) for model in _models(one)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def _kind(group: type[BaseModel]) -> str | None:
    """Return which of several a group is, where it says so."""
    for key in KINDS:
        annotation = group.model_fields[key].annotation if key in group.model_fields else None
        if get_origin(annotation) is Literal and len(get_args(annotation)) == 1:
            return str(get_args(annotation)[0])
    return None
