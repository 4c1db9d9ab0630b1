"""Makes a collection of every kind from the shared assets: LFW folders, messy files, containers.

    python benchmarks/mixed_sources.py ASSETS OUT [--photos 500]

OUT gets links to LFW folders and to the messy files, and from further LFW photos a .rec with
its .idx and .lst, a tar, a tar.gz, a zip and a TSV in MS-Celeb-1M's columns.
"""

from __future__ import annotations

import argparse
import base64
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from facepipe.record_writer import RecordStreams, write_records

IN_CONTAINER = 60  # photos in each


def make_sources(assets: Path, out: Path, photos: int = 500) -> Path:
    """Make the collection, unless it is there, and return its folder."""
    if out.exists():
        return out
    identities = iter(sorted((assets / "faces/lfw/images").iterdir()))
    left = photos
    for identity in identities:
        here = sorted(identity.iterdir())[:left]
        (out / "lfw" / identity.name).mkdir(parents=True)
        for photo in here:
            (out / "lfw" / identity.name / photo.name).symlink_to(photo)
        left -= len(here)
        if not left:
            break
    (out / "messy").symlink_to(assets / "messy")
    further = (photo for identity in identities for photo in sorted(identity.iterdir()))
    for write in (_rec, _tar, _tar_gz, _zip, _tsv):
        write(out, list(islice(further, IN_CONTAINER)))
    return out


def link_photos(photos: Iterable[Path], root: Path, folder: Path) -> None:
    """Link photos of a folder into another, at the same places below it."""
    for photo in photos:
        place = folder / photo.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(photo)


def _named(photos: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    return ((f"{p.parent.name}/{p.name}", p.read_bytes()) for p in photos)


def _rec(out: Path, photos: Sequence[Path]) -> None:
    folder = out / "rec"
    folder.mkdir()
    labels = sorted({p.parent.name for p in photos})
    names = ("train.rec", "train.idx", "train.lst", "property")
    rec, idx, lst, about = ((folder / name).open("wb") for name in names)
    rows = ((labels.index(name.split("/")[0]), name, data) for name, data in _named(photos))
    with rec, idx, lst, about:
        write_records(rows, RecordStreams(rec=rec, idx=idx, lst=lst, property=about))


def _tar(out: Path, photos: Sequence[Path], mode: str = "w", name: str = "photos.tar") -> None:
    with tarfile.open(out / name, mode) as tar:  # type: ignore[call-overload]
        for member, data in _named(photos):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _tar_gz(out: Path, photos: Sequence[Path]) -> None:
    _tar(out, photos, "w:gz", "photos.tar.gz")


def _zip(out: Path, photos: Sequence[Path]) -> None:
    with zipfile.ZipFile(out / "photos.zip", "w") as archive:
        for member, data in _named(photos):
            archive.writestr(member, data)


def _tsv(out: Path, photos: Sequence[Path]) -> None:
    with (out / "photos.tsv").open("wb") as stream:
        for i, (member, data) in enumerate(_named(photos)):
            fields = [member.split("/")[0], str(i), "url", "page", f"FaceId-{i}", "AAAA"]
            stream.write("\t".join(fields).encode() + b"\t" + base64.b64encode(data) + b"\n")


def main() -> None:
    """Make the collection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=int, default=500)
    args = parser.parse_args()
    print(make_sources(args.assets, args.out, args.photos))


if __name__ == "__main__":
    main()
