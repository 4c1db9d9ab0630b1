"""What can be read: photos in folders and buckets, and files that hold many photos.

Every regular file below the roots is an input and will have exactly one outcome in PHOTOS,
whatever it holds; so has every folder or special file that cannot be read. Links are
followed, each folder once, so that a loop ends. A container (an archive, a .rec, a list ...)
stands for its photos; the files that belong to it (.idx, .lst, property) for nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field

from facepipe.object_client import OBJECT_SCHEMES


class SourceSettings(BaseModel):
    """How the inputs are listed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Literal["none", "folder"] = Field(
        "none",
        description="folder: the identity of a photo is what its container states (.rec, TSV, "
        ".cls, a label column), else the first folder in an archive or below a source",
    )
    gone: Literal["keep", "drop"] = Field(
        "keep",
        description="photos of earlier runs whose file is no longer there: keep their rows, or "
        "drop them from the dataset",
    )
    containers: Literal["expand", "leave"] = Field(
        "expand",
        description="archives, .rec, .bin, TSV and Parquet files below a source: read the "
        "photos in them, or leave each as one input that is no image",
    )
    label_field: str | None = Field(
        None,
        description="of the JSON beside an image in a webdataset: holds the identity; by default "
        "what .cls says, else the field label, identity or class",
    )
    video_frames_per_s: float | None = Field(
        None, gt=0, le=1000, description="take frames of videos at this rate; by default none"
    )
    video_max_frames: int = Field(10_000, ge=1, description="of one video")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One input as it was listed; ``problem`` says why its bytes cannot be asked for."""

    uri: str
    bytes: int = 0
    version: str = ""  # changes when the bytes do: the modification time in ns, or an etag
    source_label: str | None = None
    problem: str | None = None
    kind: str | None = None  # of a container, see facepipe.source_kinds; None: a photo
    member: str | None = None  # the photo's name in its container
    offset: int = 0  # where its container's reader finds it


def uri_of(path: str) -> str:
    """Return the uri of a local path: the path itself, or file:// where it is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))
    return path


def path_of(uri: str) -> str:
    """Return the local path of a uri that `uri_of` made."""
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    return uri


def read_bytes(entry: Entry, max_bytes: int) -> bytes:
    """Return the bytes of a photo's file, at most ``max_bytes`` + 1 of them. Raises OSError."""
    if entry.problem is not None:
        raise OSError(entry.problem)
    if entry.uri.startswith(OBJECT_SCHEMES):
        from facepipe.object_files import read_object

        return read_object(entry.uri, max_bytes)
    with Path(path_of(entry.uri)).open("rb") as stream:
        return read_at_most(stream, max_bytes)


def read_at_most(stream: BinaryIO, max_bytes: int) -> bytes:
    """Return what a file holds from here on, at most ``max_bytes`` + 1 of it. Raises OSError."""
    # A read makes room for all it is asked for, and gives it back, which costs page faults.
    size = min(os.fstat(stream.fileno()).st_size, max_bytes)
    data = stream.read(size + 1)
    return data if len(data) <= size else data + stream.read(max_bytes - size)


def open_file(uri: str) -> BinaryIO:
    """Open an input as a seekable file. Raises OSError."""
    if uri.startswith(OBJECT_SCHEMES):
        from facepipe.object_files import open_object

        return open_object(uri)
    return Path(path_of(uri)).open("rb")
