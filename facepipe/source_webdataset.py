"""Webdataset: the files of a tar that share a name are one sample, and some are its label.

``0001.jpg``, ``0001.cls`` and ``0001.json`` are a photo, the identity on it and what else is
known of it. Samples are contiguous; within one the order is free. The layout is that of the
webdataset project (its name ends at the first dot of the base name) and of img2dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from facepipe.archive_bytes import shown_name
from facepipe.containers import Member

SIDECAR_BYTES = 1 << 19  # read of one sidecar at most; JSON of this size takes 20 MB parsed
MAX_SAMPLE_MEMBERS = 256  # a longer run of one name is no sample, and is not held back
LABEL_KEYS = ("label", "identity", "class")  # of a JSON sidecar, the first that is there

_LABELLING = {"cls", "json"}
_SIDECARS = {*_LABELLING, "txt"}  # txt is a caption
_IMAGES = {
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "tif", "tiff", "gif"),
    *("heic", "heif", "avif", "ppm", "pgm", "pbm", "pnm"),
}


def sample_of(name: str) -> tuple[str, str]:
    """Return the sample that a member belongs to and its extension there, in small letters.

    A name that begins with a dot, or has none, is a sample of its own with no extension.
    """
    base = name.rpartition("/")[2]
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        return name, ""
    return name[: len(name) - len(extension) - 1], extension.lower()


def may_label(name: str) -> bool:
    """Say whether a member's content may name the identity of its sample."""
    return sample_of(name)[1] in _LABELLING


def with_labels(
    found: Iterable[tuple[Member, bytes | None]], label_key: str | None = None
) -> Iterator[Member]:
    """Yield the members of an archive, less the sidecars of photos, which label them.

    ``found`` are members in the archive's order, with the content of those that ``may_label``
    says. The label is the value of ``label_key`` in the JSON where that is set and there,
    else the text of ``.cls``, else the first of LABEL_KEYS in the JSON. A sidecar that was to
    be read and cannot be is yielded with its problem.
    """
    held: list[Member] = []
    labels: list[tuple[int, str]] = []  # rank, label
    problems: dict[int, str] = {}  # of sidecars, by their offset
    sample = ""
    for member, content in found:
        key, extension = sample_of(member.name)
        if held and (key != sample or len(held) == MAX_SAMPLE_MEMBERS):
            yield from _sample(held, labels, problems)
            held, labels, problems = [], [], {}
        sample = key
        held.append(member)
        if extension not in _LABELLING or member.problem is not None:
            continue
        if content is None:
            problems[member.offset] = "a sidecar too large to be read: its label is lost"
            continue
        try:
            labels += _labels(extension, content, label_key)
        except (ValueError, RecursionError):
            problems[member.offset] = "a sidecar that is no JSON: its label is lost"
    yield from _sample(held, labels, problems)


def _sample(
    held: list[Member], labels: list[tuple[int, str]], problems: dict[int, str]
) -> Iterator[Member]:
    if not any(_is_image(member) for member in held):
        yield from held
        return
    label = min(labels)[1] if labels else None
    for member in held:
        problem = member.problem or problems.get(member.offset)
        if _is_image(member):
            yield replace(member, label=label)
        elif problem is not None or sample_of(member.name)[1] not in _SIDECARS:
            yield replace(member, problem=problem)


def _is_image(member: Member) -> bool:
    return sample_of(member.name)[1].rpartition(".")[2] in _IMAGES


def _labels(extension: str, content: bytes, label_key: str | None) -> Iterator[tuple[int, str]]:
    """Yield (rank, label) of what a sidecar states. Raises ValueError or RecursionError."""
    if extension == "cls":
        stated: list[tuple[int, Any]] = [(1, content.decode("utf-8", "replace"))]
    else:
        values = json.loads(content)
        if not isinstance(values, dict):
            return
        stated = [(rank, values.get(key)) for rank, key in enumerate(LABEL_KEYS, start=2)]
        if label_key is not None:
            stated.append((0, values.get(label_key)))
    for rank, value in stated:
        if text := _text(value):
            yield rank, text


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return shown_name(str(value).strip().encode("utf-8", "replace"))
