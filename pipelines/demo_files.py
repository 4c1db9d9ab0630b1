"""What a file of the demo is: what was done to it, who is on it, what should become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from facepipe.errors import StoreFull

SECOND_LABEL = "pilot"  # another name of the astronaut
GROUP_NAME = "group.jpg"
# Of a person, to be exported and trained on: those who are found without a label have fewer.
MIN_FACES = 4


class Kind(StrEnum):
    """Why a file is in the set; the sections of the page, in their order."""

    ORIGINAL = "original"
    FRAME = "frame"
    COPY = "copy"
    GROUP = "group"
    WRONG = "wrong"
    SECOND = "second"
    UNLABELLED = "unlabelled"
    TURNED = "turned"
    DAMAGED = "damaged"
    UNFIT = "unfit"
    FACELESS = "faceless"


class Expected(StrEnum):
    """What should become of a file."""

    KEPT = "kept"
    ONCE = "once"  # of the files of one picture one is kept, the others are its duplicates
    MOVED = "moved"  # to the label of the person who is on it
    DROPPED = "dropped"  # nobody of the labels is on it
    NAMED = "named"  # every face a duplicate of the one that was cut out of it
    LEFT_OUT = "left_out"  # nothing asks for it to be found; if it is, as who it is
    UNFIT = "unfit"  # marked, or not found
    NO_FACE = "no_face"
    NO_PIXELS = "no_pixels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file of the demo."""

    name: str  # below the folder of photos; the first folder is its label
    kind: Kind
    told: str  # what was done, in words
    expected: Expected
    data: bytes = field(repr=False)
    person: str | None = None  # who is on it
    picture: str | None = None  # files of one picture are copies of one another

    @property
    def label(self) -> str | None:
        """Return what its folder says of it."""
        folder, slash, _ = self.name.partition("/")
        return folder if slash else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A photo that is kept out, to search with: who should be found, None for nobody."""

    name: str
    told: str
    person: str | None
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSet:
    """All that the demo works on."""

    photos: tuple[Made, ...]
    queries: tuple[Query, ...]
    missing: tuple[str, ...]  # sample pictures that are not here, in words


# Two names of the same person.
LABELS_OF: Mapping[str, frozenset[str]] = {"astronaut": frozenset({"astronaut", SECOND_LABEL})}


def labels_of(person: str) -> frozenset[str]:
    """Return the labels that are right for a person."""
    return LABELS_OF.get(person, frozenset({person}))


def write_photos(folder: Path, files: Mapping[str, bytes]) -> int:
    """Write files that are not there as they should be; return how many. Raises StoreFull.

    A file that is there is left alone: its time would change, and with it what is to be done.
    """
    written = 0
    for name, data in files.items():
        path = folder / name
        try:
            if path.is_file() and path.read_bytes() == data:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise StoreFull(f"cannot write {path} ({error.strerror}): choose another --out") from (
                error
            )
        written += 1
    return written
