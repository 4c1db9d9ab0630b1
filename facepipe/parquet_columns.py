"""Which columns of a Parquet file are the photos, their names and their identities.

Two layouts are common. img2dataset: ``key``, ``status``, ``error_message``, ``url`` and others,
and the bytes in a column called after the format (jpg, png, webp), null where the download
failed. Hugging Face datasets: ``image`` is a struct of ``bytes`` and ``path``; the schema's
metadata has, under ``huggingface``, the features as JSON: the column of type Image, and the
names of a ClassLabel, whose column holds their numbers (-1: no label).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

# In the order in which they are looked for; case does not matter.
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes", "data", "content")
LABEL_COLUMNS = ("label", "identity", "class", "person", "target", "cls")
NAME_COLUMNS = ("key", "__key__", "file_name", "filename")
BYTES_CHILD, PATH_CHILD = "bytes", "path"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoColumns:
    """Names of columns, None for what the file does not have."""

    image: str
    is_struct: bool  # of bytes and, perhaps, a path
    has_path: bool
    name: str | None
    label: str | None
    label_names: tuple[str, ...] | None  # of a ClassLabel, by number
    status: str | None  # of a download
    error: str | None

    def all(self) -> list[str]:
        """Return the columns that listing needs."""
        found = (self.image, self.name, self.label, self.status, self.error)
        return [column for column in found if column is not None]


def find_columns(schema: pa.Schema) -> PhotoColumns | None:
    """Return the columns of a file, None where it has no photos."""
    features = _features(schema)
    declared = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    image = _first((*declared, *IMAGE_COLUMNS), schema, _holds_images)
    if image is None:
        return None
    label = _first(LABEL_COLUMNS, schema, _is_label)
    kind = schema.field(image).type
    is_struct = bool(pa.types.is_struct(kind))
    return PhotoColumns(
        image=image,
        is_struct=is_struct,
        has_path=is_struct and kind.get_field_index(PATH_CHILD) >= 0,
        name=_first(NAME_COLUMNS, schema, _is_name),
        label=label,
        label_names=None if label is None else _class_names(features.get(label, {})),
        status=_first(("status",), schema, _is_text),
        error=_first(("error_message",), schema, _is_text),
    )


def _first(
    names: Sequence[str], schema: pa.Schema, fits: Callable[[pa.DataType], bool]
) -> str | None:
    for name in names:
        for field in schema:
            # The index is -1 where two columns share a name: they cannot be told apart.
            alone = schema.get_field_index(field.name) >= 0
            if field.name.lower() == name.lower() and alone and fits(field.type):
                return str(field.name)
    return None


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: value for name, value in found.items() if isinstance(value, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _class_names(feature: dict[str, Any]) -> tuple[str, ...] | None:
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list):
        return None
    return tuple(map(str, names))


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index(BYTES_CHILD)
        return place >= 0 and _is_bytes(kind.field(place).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _is_name(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _is_label(kind: pa.DataType) -> bool:
    return _is_name(kind) or _is_bytes(kind) or bool(pa.types.is_floating(kind))
