"""The files of a pack that is registered, with their checksums; and those it comes back as.

Only what makes a detector and a recogniser, a description that leaves nothing to the graph, and
SHA256SUMS, which `facepipe.packs` holds against every file that it reads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

from facepipe import ids
from facepipe.errors import CorruptData
from facepipe.packs import DESCRIPTION, SUMS, Pack, format_sums


def pack_files(pack: Pack) -> dict[str, bytes]:
    """Return the files of a pack by name, DESCRIPTION and SUMS among them.

    The same model ids as the pack has. Raises ModelNotFound where it has no recogniser.
    """
    specs = {"recogniser": pack.need_recogniser()}
    described: dict[str, Any] = {}
    files = {}
    for name, spec in {**specs, "detector": pack.detector}.items():
        if spec is not None:
            described[name] = spec.model_dump(mode="json", exclude_none=True)
            files[spec.file] = pack.read(spec)
    files[DESCRIPTION] = yaml.safe_dump(described, sort_keys=True).encode()
    files[SUMS] = format_sums({name: ids.sha256_hex(data) for name, data in files.items()})
    return files


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder that is there."""
    for name, data in files.items():
        (folder / name).write_bytes(data)


def cache_folder() -> Path:
    """Return where fetched packs are kept: ~/.cache/facepipe/packs, or below XDG_CACHE_HOME."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser().absolute() / "facepipe" / "packs"


def cached(sums: Mapping[str, str]) -> Path:
    """Return the folder of a pack with these checksums, there or not."""
    return cache_folder() / ids.sha256_hex(format_sums(sums))


def keep(sums: Mapping[str, str], bring: Callable[[str, Path], None], source: str) -> Path:
    """Bring a pack's files into the cache, whole or not at all; return its folder.

    ``bring`` puts the file of a name into a folder. Raises CorruptData, naming it, for a file
    whose checksum is another.
    """
    folder = cached(sums)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(prefix=f".{folder.name[:12]}-", dir=folder.parent))
    try:
        for name, expected in sums.items():
            bring(name, partial)
            check(partial / name, expected, source)
        write_files(partial, {SUMS: format_sums(sums)})
        try:
            partial.replace(folder)
        except OSError:
            if not folder.is_dir():
                raise  # else another run has brought the same files at the same time
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def check(path: Path, expected: str, source: str) -> None:
    """Raise CorruptData unless a file has the checksum that was registered."""
    found = ids.sha256_hex(path.read_bytes()) if path.is_file() else "no file"
    if found != expected:
        raise CorruptData(
            f"{path.name} of {source} is not what was registered (sha256 {found[:16]}, registered "
            f"{expected[:16]}): it was changed or damaged where it is stored; register the pack "
            "again, or use another version"
        )


def remember(place: str, address: str, folder: Path) -> None:
    """Write down which pack in the cache a version of a server is; a version never changes."""
    note = _note(place, address)
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_suffix(f".{os.getpid()}")
    partial.write_text(folder.name + "\n")
    partial.replace(note)


def remembered(place: str, address: str) -> Path | None:
    """Return the folder in the cache of a version that was fetched before, None if it was not."""
    note = _note(place, address)
    folder = cache_folder() / note.read_text().strip() if note.is_file() else None
    return folder if folder is not None and folder.is_dir() else None


def _note(place: str, address: str) -> Path:
    return cache_folder() / "versions" / ids.digest([place, address])[:32]


def verified(folder: Path) -> Path:
    """Return a folder of the cache. Raises CorruptData where its SUMS are not what it is named by.

    The files that SUMS names are checked by `facepipe.packs` when they are read.
    """
    path = folder / SUMS
    if not path.is_file() or ids.sha256_hex(path.read_bytes()) != folder.name:
        raise CorruptData(
            f"{path} is missing or was changed: remove {folder}, and the next use fetches the pack "
            "again"
        )
    return folder
