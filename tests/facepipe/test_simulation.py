"""Simulated jobs: small cases by hand, and what must hold for every queue."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe import crop_pairs, simulation
from facepipe.simulation import Costs, makespan, meetings, simulate, workers_for

COSTS = Costs(
    detect_photo_s=(0.5, 1.0, 1.5, 9.0),
    embed_photo_s=(0.1, 0.2, 0.3, 0.2),
    group_photos=8,
    faces_a_photo=1.5,
    labels_a_photo=0.1,
    container_photos=300,
    contained=0.5,
    list_photo_s=0.01,
    shard_s=0.05,
    sort_face_s=1e-4,
    start_s=3.0,
    driver_photo_s=1e-4,
    driver_shard_s=1e-3,
)

seconds = st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("shards", "workers", "end"),
    [
        ([3.0, 1.0, 2.0], 1, 6.0),
        ([3.0, 1.0, 2.0], 2, 3.0),  # 3 | 1 2
        ([1.0, 1.0, 4.0], 2, 5.0),  # 1 4 | 1: a long one last is waited for
        ([2.0, 2.0, 2.0], 2, 4.0),
        ([2.0], 5, 2.0),
        ([], 3, 0.0),
    ],
)
def test_queue_by_hand(shards: list[float], workers: int, end: float) -> None:
    assert makespan(shards, workers) == end


@given(seconds, st.integers(1, 12))
def test_queue_is_no_better_than_possible(costs: list[float], workers: int) -> None:
    end = makespan(costs, workers)
    assert end >= max(costs)
    assert end >= math.fsum(costs) / workers * (1 - 1e-12)
    # Graham 1969: no worse than both together.
    assert end <= math.fsum(costs) / workers + max(costs) + 1e-9
    assert makespan(costs, 1) == pytest.approx(math.fsum(costs))


@given(seconds, st.integers(1, 12), st.floats(0, 100))
def test_queue_grows_with_shards_and_shrinks_with_workers(
    costs: list[float], workers: int, more: float
) -> None:
    assert makespan([*costs, more], workers) >= makespan(costs, workers)
    assert makespan(costs, workers + 1) <= makespan(costs, workers)


def test_a_job_by_hand() -> None:
    """10 photos in shards of 4 on 2 workers, 1 s a photo: 4 | 4 and then 2."""
    costs = Costs(
        detect_photo_s=(1.0,), embed_photo_s=(0.5,), faces_a_photo=0.0, shard_s=0.25, start_s=2.0
    )
    (one,) = simulate(costs, [10], [2], shard_photos=4)
    assert one.steps_s["detect"] == pytest.approx(4.25 + 2.25)
    assert one.steps_s["embed"] == pytest.approx(2.25 + 1.25)
    assert one.shards == 3 and one.commits == 3 + 3 + 2  # no face, so no run by label
    assert one.work_s == pytest.approx(10 + 5 + 6 * 0.25)
    assert one.driver_s == 2.0
    assert one.wall_s == pytest.approx(6.5 + 3.5 + 2.0)
    assert one.useful_workers == 3  # 16.5 s to share, 2 s alone: 8, but there are 3 shards
    assert one.slowest == "detect"


def test_containers_and_runs_by_label_by_hand() -> None:
    costs = Costs(
        detect_photo_s=(0.0,),
        embed_photo_s=(0.0,),
        faces_a_photo=2.0,
        container_photos=10,
        contained=0.5,
        list_photo_s=0.1,
        sort_face_s=0.01,
    )
    (one,) = simulate(costs, [50], [2], shard_photos=5)
    # 25 photos in containers of 10, 10 and 5: 1 s | 1 s, then 0.5 s.
    assert one.steps_s["members"] == pytest.approx(1.5)
    assert one.steps_s["clean"] == pytest.approx(0.01 * 100)  # one run of all 100 faces
    assert one.commits == 3 + 2 * 10 + 1 + 2


@pytest.mark.parametrize("workers", [1, 3, 64])
def test_time_grows_with_photos(workers: int) -> None:
    edges = simulation.QUEUE_SHARDS * 4 + np.array([-9, -1, 0, 1, 9])
    photos = sorted([1, 3, 4, 5, 7, 8, 63, 64, 65, 1000, 4097, *edges.tolist(), 10**6])
    runs = simulate(COSTS, photos, [workers], shard_photos=4)
    for less, more in itertools.pairwise(runs):
        for step in less.steps_s:
            assert more.steps_s[step] >= less.steps_s[step] * (1 - 1e-12), (less.photos, step)
        assert more.wall_s > less.wall_s
        assert more.driver_s > less.driver_s and more.commits >= less.commits


@pytest.mark.parametrize("photos", [1, 500, 10**6, 10**9])
def test_no_number_of_workers_beats_what_one_process_does(photos: int) -> None:
    runs = simulate(COSTS, [photos], [1, 2, 7, 100, 10**4])
    for fewer, more in itertools.pairwise(runs):
        assert more.wall_s <= fewer.wall_s * (1 + 1e-12)
    for run in runs:
        assert run.wall_s >= run.serial_s
        assert run.wall_s >= run.serial_s + run.parallel_s / run.workers - 1e-6
    assert runs[0].wall_s == pytest.approx(runs[0].serial_s + runs[0].parallel_s)


def test_a_long_queue_that_is_scaled_down_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = 20_000 * 4
    (short,) = simulate(COSTS, [photos], [16], shard_photos=4)
    monkeypatch.setattr(simulation, "QUEUE_SHARDS", 10**6)
    (whole,) = simulate(COSTS, [photos], [16], shard_photos=4)
    assert short.steps_s["detect"] == pytest.approx(whole.steps_s["detect"], rel=0.02)


def test_at_the_workers_of_use_half_of_the_time_is_one_process() -> None:
    costs = replace(COSTS, driver_photo_s=0.02)  # so many that shards are shared out evenly
    (run,) = simulate(costs, [10**6], [1])
    (there,) = simulate(costs, [10**6], [run.useful_workers])
    assert 10 < run.useful_workers < run.shards / 10
    assert there.serial_s / there.wall_s == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_workers_for_a_time_are_the_fewest(share: float) -> None:
    (one,) = simulate(COSTS, [10_000], [1])
    aim = one.serial_s + share * (one.wall_s - one.serial_s)
    workers = workers_for(COSTS, 10_000, aim)
    assert workers is not None and workers > 1
    fewer, enough = simulate(COSTS, [10_000], [workers - 1, workers])
    assert fewer.wall_s > aim >= enough.wall_s
    assert workers_for(COSTS, 10_000, one.serial_s / 2) is None


def test_what_does_not_fit_is_named() -> None:
    (run,) = simulate(COSTS, [10**9], [4])
    assert run.too_large(1e15) == []
    assert {"dedup", "clean"} <= set(run.too_large(64e9))
    assert "index" not in run.too_large(64e9)  # the driver of its shards
    assert "worker" not in run.too_large(64e9)


@pytest.mark.parametrize("faces", [100, 10_000, 160_000, 10_000_000, 1_000_000_000])
def test_meetings_are_those_of_the_tables_that_dedup_takes(faces: int) -> None:
    least, most = crop_pairs.KEY_SIGNS
    signs = min(most, max(least, faces.bit_length() - 1))
    keys = 2 * len(crop_pairs.STRIDES) * 2**crop_pairs.PROBE_SIGNS
    assert meetings(faces) == faces * keys * min(crop_pairs.CROWD, faces / 2**signs)


def test_the_same_costs_give_the_same_times() -> None:
    assert simulate(COSTS, [12_345], [7]) == simulate(COSTS, [12_345], [7])
    slow = simulate(COSTS.slower(2.0), [12_345], [1])[0]
    fast = simulate(COSTS, [12_345], [1])[0]
    shards = 2 * COSTS.shard_s * fast.shards
    queue = fast.steps_s["detect"] + fast.steps_s["embed"] - shards
    assert slow.steps_s["detect"] + slow.steps_s["embed"] == pytest.approx(2 * queue + shards)
