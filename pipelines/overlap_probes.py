"""The probes of `facepipe overlap`: what they are, and their faces found and embedded.

A probe set is a folder of photos (flat, or one a person), a file of photos such as a .bin, a
pairs file in LFW's format with the folder of its photos, or a dataset with the same model.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from facepipe import ids
from facepipe.builtin_pack import default_note
from facepipe.config import Settings
from facepipe.embed import model_id
from facepipe.errors import (
    DatasetNotFound,
    ModelMismatch,
    QuarantineExceeded,
    SourceNotFound,
    UsageError,
)
from facepipe.evaluate import picture_name, read_pairs
from facepipe.packs import Pack
from facepipe.shards import Dataset, open_dataset
from facepipe.source_listing import list_sources
from facepipe.sources import SourceSettings, path_of
from pipelines import curate
from pipelines.progress import Progress
from pipelines.runners import Runner

Kind = Literal["photos", "pairs", "dataset"]
NAME_CHARS = 16  # of a set's folder below --work


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSet:
    """A set of probes: its name, where it is, and for pairs the folder of their photos."""

    name: str
    kind: Kind
    path: str
    images: str | None = None


def find_probes(paths: Sequence[str], images: str | None) -> list[ProbeSet]:
    """Return what each path is. Raises UsageError and SourceNotFound naming the path."""
    if not paths:
        raise UsageError("no --probes: give folders, pairs files, .bin sets or datasets")
    repeated = sorted({p for p in paths if list(paths).count(p) > 1})
    if repeated:
        raise UsageError(f"--probes {repeated[0]} is given twice")
    names = _names(paths)
    found = [_probe(n, p, images) for n, p in zip(names, paths, strict=True)]
    if images is not None and all(p.kind != "pairs" for p in found):
        raise UsageError(f"--images {images} is for a pairs file, and --probes has none")
    return found


def _probe(name: str, path: str, images: str | None) -> ProbeSet:
    local = "://" not in path
    if local and not Path(path).exists():
        raise SourceNotFound(f"--probes {path} does not exist")
    if local and Path(path).is_file():
        if Path(path).suffix.lower() != ".txt":
            return ProbeSet(name=name, kind="photos", path=path)
        if images is None:
            raise UsageError(f"--probes {path} is a pairs file: give --images FOLDER too")
        return ProbeSet(name=name, kind="pairs", path=path, images=images)
    try:
        open_dataset(path)
    except DatasetNotFound:
        return ProbeSet(name=name, kind="photos", path=path)
    return ProbeSet(name=name, kind="dataset", path=path)


def _names(paths: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart, of whole names."""
    parts = [
        (PurePosixPath(p) if "://" in p else PurePosixPath(Path(p).resolve())).parts for p in paths
    ]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]).lstrip("/") or "/" for p in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"--probes {paths[0]} is given twice, under two names")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReader:
    """Finds and embeds the faces of probes, each set in a dataset of its own below ``work``."""

    model: str  # model_id of the dataset that is compared
    pack: Pack | None
    settings: Settings
    work: Path
    runner: Runner
    progress: Progress

    def read(self, probe: ProbeSet) -> tuple[Dataset, QuarantineExceeded | None]:
        """Return a set's dataset, and the error to raise at the end where it is hardly readable.

        Raises ModelMismatch where it was embedded with another model, and the steps' errors.
        """
        if probe.kind == "dataset":
            return self._embedded(probe), None
        # Under the name of what it is, so that another set never adds to it.
        where = [str(Path(p).resolve()) if p and "://" not in p else p for p in _places(probe)]
        folder = self.work / ids.digest(where)[:NAME_CHARS]
        folder.mkdir(parents=True, exist_ok=True)
        request = curate.Request(
            steps=("detect", "embed"),
            out=str(folder / "dataset"),
            settings=_by_folder(self.settings),
            pack=self.pack,
            sources=[str(write_list(probe, folder)) if probe.kind == "pairs" else probe.path],
        )
        self.progress.say(f"probes {probe.name}:")
        _, exceeded = curate.run(request, self.runner, self.progress)
        return open_dataset(folder / "dataset"), exceeded

    def _embedded(self, probe: ProbeSet) -> Dataset:
        dataset = open_dataset(probe.path)
        if dataset.plan(dataset.step_of("embeddings", self.model)) is None:
            raise ModelMismatch(
                f"--probes {probe.path} has no vectors of model {self.model[:12]}, which the "
                "dataset was embedded with: run facepipe embed on it with the same --models, or "
                "give its photos"
            )
        dataset.require_embeddings(self.model)
        return dataset


def check_model(dataset: Dataset, pack: Pack, settings: Settings) -> None:
    """Raise ModelMismatch unless the pack makes the vectors that the dataset has."""
    asked, made = model_id(pack, settings.embed), dataset.current_model()
    if asked != made:
        raise ModelMismatch(
            f"{dataset.uri} was embedded with model {made[:12]}, but "
            f"{pack.need_recogniser().file} of {pack.folder} with embed.flip="
            f"{settings.embed.flip} is {asked[:12]}: give the --models and embed.flip that the "
            f"dataset was embedded with{default_note(pack.folder)}"
        )


def _places(probe: ProbeSet) -> tuple[str, str | None]:
    return probe.path, probe.images


def _by_folder(settings: Settings) -> Settings:
    """Return the settings with folders as people: a photo in no folder is nobody's."""
    sources = settings.sources.model_copy(update={"labels": "folder", "gone": "drop"})
    return settings.model_copy(update={"sources": sources})


# -- pairs -------------------------------------------------------------------------------


def write_list(probe: ProbeSet, folder: Path) -> Path:
    """Write the photos of a pairs file as a list with labels, and return its path.

    Photos are known by their file names, wherever below --images they are. Raises UsageError
    where none of them is there.
    """
    found = list(_pictures(probe))
    if not found:
        raise UsageError(
            f"no photo of {probe.path} is below --images {probe.images}: they are looked for by "
            "their names, as in Abel_Pacheco_0001.jpg"
        )
    path = folder / "pairs.csv"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label"])
    writer.writerows(found)
    data = text.getvalue().encode("utf-8", "surrogateescape")
    if not path.exists() or path.read_bytes() != data:  # a new time would be a new list
        path.write_bytes(data)
    return path


def _pictures(probe: ProbeSet) -> Iterator[tuple[str, str]]:
    """Yield the uri and the person of each photo of a pairs file that is there."""
    pairs = read_pairs(Path(probe.path))
    people = {picture_name(*picture): picture[0] for picture in (*pairs.left, *pairs.right)}
    for entry in list_sources([probe.images or ""], SourceSettings(containers="leave")):
        name = PurePosixPath(path_of(entry.uri)).stem
        if entry.problem is None and name in people:
            yield entry.uri, people[name]


def count_photos(probe: ProbeSet) -> int:
    """Return how many photos a set has as far as its listing says: a container counts as one."""
    if probe.kind == "dataset":
        return sum(f.rows for f in open_dataset(probe.path).files("photos"))
    if probe.kind == "pairs":
        return len(list(_pictures(probe)))
    return len(list_sources([probe.path], SourceSettings()))
