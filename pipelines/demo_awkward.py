"""What else collections of photos hold: no labels, turned, damaged and useless files, no faces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines import demo_changes as changes
from pipelines import demo_originals as originals
from pipelines.demo_changes import Portrait, frame_of
from pipelines.demo_files import GROUP_NAME, Expected, Kind, Made
from pipelines.demo_originals import Original

TINY_EYES_PX = 5.0  # quality.min_eye_distance_px is 8


def awkward(people: Mapping[str, Portrait], found: Mapping[str, Original]) -> Iterator[Made]:
    """Yield them: ``people`` with a folder each, the sample pictures that were found."""
    everybody = list(people.items())
    first, last = everybody[0], everybody[-1]
    yield from _unsorted(first, found)
    yield from _turned(first, last)
    yield from _damaged(first, last)
    yield from _unfit(everybody[1:] or everybody, found)
    for known in originals.FACELESS:
        if known.path in found:
            yield Made(
                name=Path(known.path).name,
                kind=Kind.FACELESS,
                told=known.what,
                expected=Expected.NO_FACE,
                data=found[known.path].data,
            )


def _unsorted(first: tuple[str, Portrait], found: Mapping[str, Original]) -> Iterator[Made]:
    """Yield photos that lie beside the folders: no label."""
    person, photo = first
    if originals.GROUP.path in found:
        yield Made(
            name=GROUP_NAME,
            kind=Kind.GROUP,
            told="the whole photo that six people were cut out of",
            expected=Expected.NAMED,
            data=found[originals.GROUP.path].data,
        )
    for number in range(1, 3):
        yield Made(
            name=f"no-label-{number}.jpg",
            kind=Kind.UNLABELLED,
            told=f"a made frame of {person} that lies in no folder",
            expected=Expected.KEPT,
            data=frame_of(person, photo, 60 + number),
            person=person,
        )


def _turned(first: tuple[str, Portrait], last: tuple[str, Portrait]) -> Iterator[Made]:
    ways = (
        (last, "sideways-exif", "stored sideways, with an EXIF orientation that says so"),
        (last, "sideways", "turned by 90 degrees, with nothing that says so"),
        (first, "upside-down", "turned by 180 degrees, with nothing that says so"),
    )
    how = {
        "sideways-exif": (changes.stored_sideways, Expected.ONCE),
        "sideways": (changes.lying, Expected.LEFT_OUT),
        "upside-down": (changes.upside_down, Expected.LEFT_OUT),
    }
    for (person, photo), name, told in ways:
        change, expected = how[name]
        yield Made(
            name=f"{person}/{name}.jpg",
            kind=Kind.TURNED,
            told=f"the photo, {told}",
            expected=expected,
            data=change(photo),
            person=person,
            picture=person,
        )


def _damaged(first: tuple[str, Portrait], last: tuple[str, Portrait]) -> Iterator[Made]:
    yield Made(
        name=f"{first[0]}/same-file.jpg",
        kind=Kind.COPY,
        told="the same file under another name",
        expected=Expected.ONCE,
        data=first[1].data,
        person=first[0],
        picture=first[0],
    )
    whole = changes.jpeg(last[1].pixels_HWC)
    yield Made(
        name=f"{last[0]}/broken-off.jpg",
        kind=Kind.DAMAGED,
        told="the photo, its file cut after three fifths, as a broken download leaves it",
        expected=Expected.ONCE,
        data=changes.cut_short(whole, 0.6),
        person=last[0],
        picture=last[0],
    )
    yield Made(
        name=f"{last[0]}/only-a-start.jpg",
        kind=Kind.DAMAGED,
        told="the first 200 bytes of the photo's file",
        expected=Expected.NO_PIXELS,
        data=whole[:200],
    )
    yield Made(
        name=f"{last[0]}/not-a-photo.jpg",
        kind=Kind.DAMAGED,
        told="a line of text whose name ends in .jpg",
        expected=Expected.NO_PIXELS,
        data=b"This is a text, whatever its name says.\n",
    )


def _unfit(people: Sequence[tuple[str, Portrait]], found: Mapping[str, Original]) -> Iterator[Made]:
    """Yield what is found and of no use: too small, too dark, turned away."""
    one, other = people[0], people[:2][-1]
    told_tiny = f"the photo, so small that the eyes are {TINY_EYES_PX:g} pixels apart"
    ways = (
        (one, "tiny", told_tiny, changes.tiny(one[1], TINY_EYES_PX)),
        (other, "dark", "the photo at a twentieth of its light", changes.nearly_black(other[1])),
    )
    for (person, _), name, told, data in ways:
        yield Made(
            name=f"{person}/{name}.jpg",
            kind=Kind.UNFIT,
            told=told,
            expected=Expected.UNFIT,
            data=data,
            person=person,
        )
    if originals.PROFILE.path in found:
        yield Made(
            name="profile.png",
            kind=Kind.UNFIT,
            told=f"{originals.PROFILE.what}, as it came",
            expected=Expected.UNFIT,
            data=found[originals.PROFILE.path].data,
        )
