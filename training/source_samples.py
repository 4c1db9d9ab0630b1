"""Samples from .rec, other containers that state labels, and folders of aligned crops.

They are read by facepipe's own readers: all that `facepipe curate` reads, as long as it states
who each crop is. Neighbours of a source make a group. A sample costs 16 bytes in a container,
and the length of its path in a folder.

Legend: N samples, G groups.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from facepipe.align import CROP_PX
from facepipe.errors import UsageError
from facepipe.source_kinds import open_container
from facepipe.source_listing import list_sources
from facepipe.source_read import PhotoReader
from facepipe.sources import Entry, SourceSettings
from facepipe.url_guard import UrlSettings
from training.crop_pixels import MAX_CROP_BYTES, BadCrop, decode_into
from training.samples import (
    USED,
    Int64,
    Samples,
    check_trainable,
    read_crops,
    samples_digest,
)

GROUP_SAMPLES = 256  # neighbours that are read together: as many as a shard of FACES has photos
UNLABELLED = "unlabelled"  # nothing says who it is
DAMAGED = "damaged"  # the listing says that it cannot be read
_LABELLED = SourceSettings(labels="folder")
_FILES = -1  # the container of what lies in none
_MAX_SIZE = 2**32 - 1  # bytes of a file that the list can hold; no crop comes near
_LOOKED_AT = 64  # crops, before a run starts
_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)


@dataclass(slots=True)
class _Listing:
    """What was found, in the order of the listing; everything but names as numbers."""

    containers: list[Entry] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])  # of the groups, and the end
    container_G: list[int] = field(default_factory=list)  # place in containers, or _FILES
    offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)
    sizes: list[npt.NDArray[np.uint32]] = field(default_factory=list)
    codes: list[npt.NDArray[np.int32]] = field(default_factory=list)
    uris: list[str] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)  # of each label
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, container: int, offsets: list[int], sizes: list[int], labels: list[str]) -> None:
        """Append neighbours, in groups."""
        for first in range(0, len(labels), GROUP_SAMPLES):
            count = min(GROUP_SAMPLES, len(labels) - first)
            self.starts.append(self.starts[-1] + count)
            self.container_G.append(container)
        self.offsets.append(np.array(offsets, np.int64))
        self.sizes.append(np.array(sizes, np.uint32))
        self.codes.append(self._codes(labels))
        self.counts[USED] += len(labels)

    def _codes(self, labels: list[str]) -> npt.NDArray[np.int32]:
        number = self.number
        return np.array([number.setdefault(name, len(number)) for name in labels], np.int32)


class SourceCrops:
    """The crops of listed sources, neighbours in groups."""

    def __init__(self, listing: _Listing) -> None:
        """Take over what was listed; nothing is opened yet."""
        self._containers = listing.containers
        self._container_G = np.array(listing.container_G, np.int32)
        self._start_G1 = np.array(listing.starts, np.int64)
        self._offset_N = np.concatenate([np.empty(0, np.int64), *listing.offsets])
        self._bytes_N = np.concatenate([np.empty(0, np.uint32), *listing.sizes])
        self._uris = pa.array(listing.uris, pa.large_string())
        self._reader = PhotoReader(_LABELLED, UrlSettings())
        self._reading = threading.Lock()  # the reader has one container open, and a place in it

    def read(self, group: int, rows: Int64) -> list[bytes | None]:
        """Return the crops of some rows, None for one that cannot be read."""
        with self._reading:
            return [self._crop(self._entry(group, row)) for row in rows.tolist()]

    def name(self, group: int, row: int) -> str:
        """Return the file, and where in it."""
        entry = self._entry(group, row)
        return entry.uri if entry.member is None else f"{entry.uri}: offset {entry.offset}"

    def sizes_digest(self) -> str:
        """Return a digest of where crops begin and how long they are."""
        digest = hashlib.sha256(self._offset_N.astype("<i8").data)
        digest.update(self._bytes_N.astype("<u4").data)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the container that is open."""
        with self._reading:
            self._reader.close()

    def _crop(self, entry: Entry) -> bytes | None:
        try:
            return self._reader.read(entry, MAX_CROP_BYTES)
        except OSError:
            return None

    def _entry(self, group: int, row: int) -> Entry:
        sample, container = int(self._start_G1[group]) + row, int(self._container_G[group])
        offset, size = int(self._offset_N[sample]), int(self._bytes_N[sample])
        if container == _FILES:
            return Entry(uri=self._uris[offset].as_py(), bytes=size)
        return replace(self._containers[container], member="", offset=offset, bytes=size)


def source_samples(roots: Sequence[str]) -> Samples:
    """Return the aligned crops below some sources as samples, in the order of their uris.

    Who somebody is, the container says (.rec, TSV, .cls, a column), or the first folder below a
    source. Labels are 0 .. L - 1 in the order of identities: of numbers where all are numbers,
    so that those of a .rec stay, else of text. ``counts`` has every photo that was listed once.
    Raises SourceNotFound, UsageError for two .rec, for a container that can only be read from
    its start, and where fewer than two people are found.
    """
    listing = _Listing()
    entries = list_sources(list(roots), _LABELLED)
    _check_one_rec(entries)
    files = [e for e in entries if e.kind is None]
    for entry in entries:
        if entry.kind is not None:
            _list_container(listing, entry)
    _list_files(listing, files)
    groups = SourceCrops(listing)
    people = sorted(listing.number, key=_order_of(listing.number))
    label_of = np.empty(len(people), np.int32)
    label_of[[listing.number[name] for name in people]] = np.arange(len(people))
    codes = np.concatenate([np.empty(0, np.int32), *listing.codes])
    label_N, start_G1 = label_of[codes], np.array(listing.starts, np.int64)
    weight_N = np.broadcast_to(np.float32(1), label_N.shape)
    # What is in the files is not hashed, which would take as long as an epoch: their sizes are.
    content = [["listed", groups.sizes_digest()], [e.bytes for e in listing.containers]]
    samples = Samples(
        groups=groups,
        start_G1=start_G1,
        row_N=None,
        label_N=label_N,
        weight_N=weight_N,
        people=people,
        counts=dict(sorted(listing.counts.items())),
        digest=samples_digest(content, start_G1, None, label_N, weight_N, people),
    )
    where = ", ".join(roots)
    check_trainable(
        samples,
        where,
        "give a .rec, or folders of crops with one folder a person; photos that are not "
        "aligned go through facepipe curate first",
    )
    _check_crops(samples, where)
    return samples


def _check_one_rec(entries: Sequence[Entry]) -> None:
    recs = [e.uri for e in entries if e.kind == "rec"]
    if len(recs) > 1:
        raise UsageError(
            f"{recs[0]} and {recs[1]} both number people from 0, and not the same people: train "
            "on one, or put them together with facepipe curate --labels folder"
        )


def _list_container(listing: _Listing, entry: Entry) -> None:
    """Append the labelled members of a container."""
    if entry.problem is not None:
        listing.counts[DAMAGED] += 1
        return
    container = open_container(entry, _LABELLED, UrlSettings())
    try:
        if container.sequential:
            raise UsageError(
                f"{entry.uri} can only be read from its start, and training reads in another "
                "order every epoch: unpack it, or run facepipe curate on it"
            )
        offsets: list[int] = []
        sizes: list[int] = []
        labels: list[str] = []
        for member in container.members():
            label = member.label or entry.source_label
            if member.problem is not None or label is None:
                listing.counts[UNLABELLED if member.problem is None else DAMAGED] += 1
                continue
            offsets.append(member.offset)
            sizes.append(member.bytes)
            labels.append(label)
    finally:
        container.close()
    listing.add(len(listing.containers), offsets, sizes, labels)
    listing.containers.append(entry)


def _list_files(listing: _Listing, entries: Sequence[Entry]) -> None:
    """Append the labelled files, each of which is one crop; their offset is the place in uris."""
    good = [e for e in entries if e.problem is None and e.source_label is not None]
    damaged = sum(e.problem is not None for e in entries)
    listing.counts[DAMAGED] += damaged
    listing.counts[UNLABELLED] += len(entries) - damaged - len(good)
    labels = [e.source_label or "" for e in good]
    listing.add(_FILES, list(range(len(good))), [min(e.bytes, _MAX_SIZE) for e in good], labels)
    listing.uris = [e.uri for e in good]


def _order_of(names: Iterable[str]) -> Callable[[str], tuple[int, str]]:
    """Return the key that identities are sorted by."""
    if all(_NUMBER.fullmatch(name) for name in names):
        return lambda name: (int(name), name)
    return lambda name: (0, name)


def _check_crops(samples: Samples, where: str) -> None:
    """Raise UsageError where none of some crops all over the list can be used."""
    looked_at = np.unique(np.linspace(0, len(samples) - 1, _LOOKED_AT).astype(np.int64))
    pixels = np.empty((CROP_PX, CROP_PX, 3), np.uint8)
    problem: BadCrop | None = None
    try:
        for data in read_crops(samples, looked_at):
            problem = decode_into(data, pixels)
            if problem is None:
                return
    finally:
        samples.groups.close()
    raise UsageError(
        f"none of {len(looked_at)} photos of {where} is an aligned crop of {CROP_PX} x {CROP_PX} "
        f"px ({samples.name(int(looked_at[-1]))}: {problem}): run facepipe curate on them and "
        "train on that"
    )
