"""The numbers of a forecast, from what a sample has and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from facepipe.forecast import (
    Interval,
    Population,
    added,
    exactly,
    fewest_copies,
    pairs_total,
    share_total,
    time_total,
    total,
)
from facepipe.simulation import Costs, simulate, workers_for
from pipelines.plan_measure import SampledRows
from pipelines.plan_sample import Sample, SampleRun

VERSION = 1
# Dedup and clean grow with all faces, by constants measured on another machine and other
# photos: planned to be right within this factor.
GROWTH_FACTOR = 2.0
SHARDED = ("photos", "faces", "embeddings")  # tables with a file a shard


def forecast_of(
    sample: Sample,
    ran: SampleRun,
    rows: SampledRows,
    costs: Costs,
    *,
    shard_photos: int,
    workers: int,
    hours: float | None,
) -> dict[str, Any]:
    """Return the forecast as it is stored; intervals are [value, low, high]."""
    of = sample.photos
    in_time = None
    if hours is not None:
        in_time = workers_for(costs, round(of.photos.value), hours * 3600, shard_photos)
        workers = in_time or workers
    work = _work(sample, ran, costs)
    times = wall_times(costs, of.photos, work, shard_photos, workers)
    (one,) = simulate(costs, [round(of.photos.value)], [workers], shard_photos)
    return {
        "version": VERSION,
        "sampled": sample.size,
        "photos": of.photos.as_json(),
        **_counts(sample.size, rows, of),
        "work_s": {name: part.as_json() for name, part in work.items()},
        "workers": workers,
        **{name: value.as_json() for name, value in times.items()},
        "useful_workers": one.useful_workers,
        "hours": hours,
        "workers_in_time": in_time,
        "bytes": {n: b.as_json() for n, b in _bytes(rows, of, shard_photos).items()},
        "memory_bytes": dict(one.memory_bytes),
        "shard_photos": shard_photos,
        "basis": ran.basis,
        "costs": asdict(costs),
    }


def _counts(sampled: int, rows: SampledRows, of: Population) -> dict[str, Any]:
    faces = total(rows.faces_n, of)
    usable = total(rows.usable_n, of)
    pairs = pairs_total(rows.pairs, sampled, of)
    copies = Interval(
        value=min(pairs.value, faces.value),
        low=min(fewest_copies(pairs.low), faces.low),
        high=min(pairs.high, faces.high),
    )
    kept = Interval(
        value=max(0.0, usable.value - copies.value),
        low=max(0.0, usable.low - copies.high),
        high=usable.high,
    )
    return {
        "photo_status": {
            s: share_total(n, sampled, of).as_json() for s, n in rows.photo_status.items()
        },
        "faces": faces.as_json(),
        "face_status": {s: total(v, of).as_json() for s, v in rows.face_status_n.items()},
        "usable": usable.as_json(),
        "unfit": total(rows.faces_n - rows.usable_n, of).as_json(),
        "pairs_sampled": rows.pairs,
        "duplicates": copies.as_json(),
        "kept": kept.as_json(),
    }


def _work(sample: Sample, ran: SampleRun, costs: Costs) -> dict[str, Interval]:
    """Return the seconds that workers report, by step and in all."""
    of = sample.photos
    (one,) = simulate(costs, [round(of.photos.value)], [1])
    detect, embed = costs.detect_photo_s, costs.embed_photo_s
    both = time_total([d + e for d, e in zip(detect, embed, strict=True)], of)
    listing = of.photos.scaled(costs.contained * costs.list_photo_s)
    whole = {name: within(one.steps_s[name], GROWTH_FACTOR) for name in ("dedup", "clean")}
    return {
        "members": listing,
        "detect": time_total(detect, of),
        "embed": time_total(embed, of),
        **whole,
        "total": added([listing, both, *whole.values()]),
    }


def within(value: float, factor: float) -> Interval:
    """Return what is known up to a factor."""
    return Interval(value=value, low=value / factor, high=value * factor)


def wall_times(
    costs: Costs,
    photos: Interval,
    work: Mapping[str, Interval],
    shard_photos: int,
    workers: int,
) -> dict[str, Interval]:
    """Return wall times of the steps and of the whole run, between slow and fast photos."""
    both = added([work["detect"], work["embed"]])
    found: dict[str, list[float]] = {"steps_wall_s": [], "wall_s": []}
    for value in (both.value, both.low, both.high):
        scaled = costs.slower(value / both.value if both.value else 1.0)
        (run,) = simulate(scaled, [round(photos.value)], [workers], shard_photos)
        steps = sum(run.steps_s.values()) - run.steps_s["index"]
        found["steps_wall_s"].append(steps)
        found["wall_s"].append(run.wall_s)
    return {name: Interval.of(values) for name, values in found.items()}


def _bytes(rows: SampledRows, of: Population, shard_photos: int) -> dict[str, Interval]:
    shards = -(-of.photos.value // shard_photos)
    found = {}
    for name, bytes_n in rows.bytes_n.items():
        files = rows.file_bytes.get(name, 0.0) * (shards if name in SHARDED else 1)
        found[name] = added([total(bytes_n, of, counts=False), exactly(files)])
    return {**found, "total": added(list(found.values()))}
