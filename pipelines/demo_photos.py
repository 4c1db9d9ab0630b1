"""The photos of the demo: real ones, and what is made of them so that there is work to do.

A folder a person, whose name is the label. Of each person there is one photo; the other files of
a folder are copies and made frames of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import SourceNotFound
from pipelines import demo_changes as changes
from pipelines import demo_originals as originals
from pipelines.demo_awkward import awkward
from pipelines.demo_changes import COPIES, Portrait, frame_of
from pipelines.demo_files import SECOND_LABEL, Expected, Kind, Made, PhotoSet, Query
from pipelines.demo_originals import Original, Sitter

FRAMES = 5  # of each person
COPIES_EACH = 3


def make_photos() -> PhotoSet:
    """Make the set: the same bytes each time. Raises SourceNotFound where no picture is here."""
    found, missing = originals.find_originals()
    people = dict(_people(found))
    if not people:
        raise SourceNotFound(
            "the demo has no photo of a face to work on: " + "; ".join(missing) + ". Your own "
            "will do: facepipe curate PHOTOS --out DATASET"
        )
    stranger = _portrait(found.get(originals.STRANGER.path))
    photos = [*_of_people(people), *_mislabelled(people, stranger), *awkward(people, found)]
    return PhotoSet(
        photos=tuple(sorted(photos, key=lambda made: made.name)),
        queries=tuple(_queries(people, found)),
        missing=tuple(missing),
    )


# -- people ------------------------------------------------------------------------------


def _people(found: Mapping[str, Original]) -> Iterator[tuple[str, Portrait]]:
    """Yield everyone who has a folder, with their one photo."""
    group = found.get(originals.GROUP.path)
    if group is not None:
        height, width = group.pixels_HWC.shape[:2]
        for sitter in originals.GROUP.sitters:
            x1, y1, x2, y2 = originals.cut_out(sitter, width, height)
            pixels = np.ascontiguousarray(group.pixels_HWC[y1:y2, x1:x2])
            points = _points(sitter) - (x1, y1)
            data = changes.jpeg(pixels, 95)
            yield (
                sitter.name,
                Portrait(pixels_HWC=pixels, landmarks_52=points, data=data, suffix=".jpg"),
            )
    astronaut = _portrait(found.get(originals.ASTRONAUT.path))
    if astronaut is not None:
        yield originals.ASTRONAUT.sitters[0].name, astronaut


def _portrait(original: Original | None) -> Portrait | None:
    """Return an original with one sitter as it is."""
    if original is None:
        return None
    return Portrait(
        pixels_HWC=original.pixels_HWC,
        landmarks_52=_points(original.known.sitters[0]),
        data=original.data,
        suffix=original.suffix,
    )


def _points(sitter: Sitter) -> NDArray[np.float64]:
    return np.array(sitter.landmarks_px, np.float64)


def _of_people(people: Mapping[str, Portrait]) -> Iterator[Made]:
    """Yield each person's photo, made frames of it, and copies: all kinds of them in turn."""
    kinds = cycle(COPIES.items())
    for person, photo in people.items():
        cut = f"cut out of {originals.GROUP.path}" if person != "astronaut" else "as it came"
        yield Made(
            name=f"{person}/original{photo.suffix}",
            kind=Kind.ORIGINAL,
            told=f"the photo itself, {cut}",
            expected=Expected.ONCE,
            data=photo.data,
            person=person,
            picture=person,
        )
        for number in range(1, FRAMES + 1):
            yield Made(
                name=f"{person}/frame-{number}.jpg",
                kind=Kind.FRAME,
                told="a made frame: head turned, mouth moved, noise",
                expected=Expected.KEPT,
                data=frame_of(person, photo, number),
                person=person,
            )
        for copy, (told, suffix, change) in islice(kinds, COPIES_EACH):
            yield Made(
                name=f"{person}/copy-{copy}{suffix}",
                kind=Kind.COPY,
                told=f"the photo, {told}",
                expected=Expected.ONCE,
                data=change(photo),
                person=person,
                picture=person,
            )


def _mislabelled(people: Mapping[str, Portrait], stranger: Portrait | None) -> Iterator[Made]:
    """Yield frames in folders of others, of somebody without a folder, and a second name."""
    names = [name for name in people if name != "astronaut"]
    for place, (person, folder) in enumerate(zip(names, names[3:], strict=False)):
        if place < 2:
            yield Made(
                name=f"{folder}/wrong-label.jpg",
                kind=Kind.WRONG,
                told=f"a made frame of {person}, put into the folder {folder}",
                expected=Expected.MOVED,
                data=frame_of(person, people[person], 20 + place),
                person=person,
            )
    if stranger is not None:
        folder = next(iter(people))
        yield Made(
            name=f"{folder}/stranger.jpg",
            kind=Kind.WRONG,
            told=f"a made frame of a man who has no folder, put into {folder}",
            expected=Expected.DROPPED,
            data=changes.burst_frame(stranger, 1),
        )
    if "astronaut" in people:
        for number in range(1, FRAMES + 1):
            yield Made(
                name=f"{SECOND_LABEL}/frame-{number}.jpg",
                kind=Kind.SECOND,
                told=f"a made frame of the astronaut, in a second folder named {SECOND_LABEL}",
                expected=Expected.KEPT,
                data=frame_of("astronaut", people["astronaut"], 40 + number),
                person="astronaut",
            )


def _queries(people: Mapping[str, Portrait], found: Mapping[str, Original]) -> Iterator[Query]:
    *_, (person, photo) = people.items()
    yield Query(
        name="somebody-known.jpg",
        told=f"a made frame of {person} that was kept out of the photos",
        person=person,
        data=frame_of(person, photo, 80),
    )
    stranger = found.get(originals.STRANGER.path)
    if stranger is not None:
        yield Query(
            name=f"stranger{stranger.suffix}",
            told="the real photo of the man without a folder, as it came",
            person=None,
            data=stranger.data,
        )
