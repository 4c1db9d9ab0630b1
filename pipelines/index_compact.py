"""Rewrites shards without their deleted rows, and joins small ones; erases what held such rows.

After `compact --all` no file of the index has a row or a vector of a deleted face: shards that
had one are rewritten, and the versions before, which need the old ones, are removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facepipe.errors import UsageError
from facepipe.index_manifest import Shard, read_manifest
from facepipe.index_settings import IndexSettings
from pipelines.index_build import Build, Workers, changed, described
from pipelines.index_shards import Making
from pipelines.index_versions import own_folder, retire
from pipelines.progress import Progress

SMALL_SHARE = 0.5  # of a full shard; below, shards are joined


def compact_index(
    uri: str,
    settings: IndexSettings,
    *,
    everything: bool = False,
    erase: bool = False,
    keep_versions: bool = False,
    progress: Progress | None = None,
    workers: Workers | None = None,
    dry: bool = False,
) -> dict[str, Any]:
    """Rewrite shards with deleted rows, join small ones, and return the manifest.

    A shard is rewritten from index.compact_at deleted rows on; ``everything``: from one on.
    Every other version is erased where deleted rows were, since it may hold them, always with
    ``everything`` or ``erase``, and never with ``keep_versions``: to join small shards alone
    erases nothing.
    The manifest comes with ``version``, ``built``, and the counts ``rewritten`` (shards),
    ``erased`` (rows) and ``dead`` (deleted rows that are still on disk). ``dry``: only count.

    Raises DatasetNotFound where there is no index, UsageError for both to erase and to keep.
    """
    if erase and keep_versions:
        raise UsageError("--erase and --keep-versions: say which, the other versions go or stay")
    progress = progress or Progress(quiet=True)
    store = own_folder(uri)
    version, manifest = read_manifest(store)
    at = 0.0 if everything else settings.compact_at
    if dry:
        counts = _counts(regrouped(manifest.shards, manifest.shard_rows, at))
        return described(version, manifest, built=False, published=True, **counts)
    with Build.begin(store, settings, workers=workers, progress=progress) as build:
        version, manifest = read_manifest(store)
        groups = regrouped(manifest.shards, manifest.shard_rows, at)
        counts = _counts(groups)
        erase = not keep_versions and (erase or everything or counts["erased"] > 0)
        if not counts["rewritten"]:
            retire(store, build.held, only_current=erase)
            progress.say(f"index: nothing to rewrite in {uri}")
            return described(version, manifest, built=False, published=True, **counts)
        makings = [
            Making(dim=manifest.embedding.dim, template=manifest.template, shards=group.shards)
            for group in groups
            if not group.stays and group.living
        ]
        made = iter(build.shards(makings, whole=False))
        shards: list[Shard] = []
        for group in groups:
            if group.stays:
                shards += group.shards
            elif group.living:
                shards.append(next(made))
        # Who erases names no parent, so that any later run ends what a kill has left undone.
        parent = None if erase else version
        manifest = changed(manifest, parent=parent, action="compact", shards=tuple(shards))
        version = build.publish(manifest, erase=erase)
    progress.say(f"index: {counts['rewritten']} shards rewritten, {counts['erased']} rows erased")
    return described(version, manifest, built=True, published=True, **counts)


@dataclass(frozen=True, slots=True)
class Group:
    """Shards that become one, or one that stays as it is."""

    shards: tuple[Shard, ...]
    stays: bool = False

    @property
    def living(self) -> int:
        """Return how many rows are not deleted."""
        return sum(shard.rows - shard.dead for shard in self.shards)

    @property
    def dead(self) -> int:
        """Return how many are."""
        return sum(shard.dead for shard in self.shards)


def regrouped(shards: Sequence[Shard], shard_rows: int, compact_at: float) -> list[Group]:
    """Return the shards in groups, in the order of the first of each.

    Joined are shards that are small or have ``compact_at`` of their rows deleted, up to
    ``shard_rows`` living rows. Alone, a shard with fewer deleted rows stays what it is.
    """
    groups: list[list[Shard]] = []
    filling: list[Shard] | None = None
    for shard in shards:
        living = shard.rows - shard.dead
        if not _is_due(shard, compact_at) and living >= SMALL_SHARE * shard_rows:
            groups.append([shard])
        elif filling is not None and Group((*filling, shard)).living <= shard_rows:
            filling.append(shard)
        else:
            filling = [shard]
            groups.append(filling)
    return [
        Group(tuple(group), stays=len(group) == 1 and not _is_due(group[0], compact_at))
        for group in groups
    ]


def _is_due(shard: Shard, compact_at: float) -> bool:
    return shard.dead > 0 and shard.dead >= compact_at * shard.rows


def _counts(groups: Sequence[Group]) -> dict[str, int]:
    rewritten = [group for group in groups if not group.stays]
    return {
        "rewritten": sum(len(group.shards) for group in rewritten),
        "erased": sum(group.dead for group in rewritten),
        "dead": sum(group.dead for group in groups if group.stays),
    }
