"""What a job costs at another size: measured costs, a queue of shards, and W workers.

Detect, embed, the sorting by label and the gallery's shards are queues of shards over W workers;
dedup, clean and the rest of the gallery are one task each; listing, planning and bookkeeping are
the driver's. A worker takes the next shard as soon as it is free (list scheduling, Graham 1969).
docs/guides/plan.md states the model in words.

Legend: S shards, W workers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from facepipe.index_plan import plan_index
from facepipe.shard_queue import makespan, shard_costs

SHARD_PHOTOS = 256  # pipelines.listing: the most of a shard, in jobs of millions
QUEUE_SHARDS = 4096  # simulated one by one, and at least QUEUE_ROUNDS for each worker
QUEUE_ROUNDS = 4
RUN_SHARDS, RUN_FACES = 64, 32768  # facepipe.partition: the most of a run by label
PUTS = {"members": 2, "detect": 3, "embed": 2, "dedup": 2, "clean": 2}  # a shard: files, record
GETS_A_FILE = 2  # of a Parquet file: its footer, then its pages
STEP_PUTS = 3  # a step: plan, packed records, manifest
DRIVER_STEPS = 6  # each rewrites the manifest of all commits

# What grows with the whole dataset, where a sample says nothing: one core with AVX-512, made
# faces of 512-d, three a label, 2 % of the labels wrong, at 10,000, 40,000 and 160,000 faces.
DEDUP_FACE_S = 3e-6
DEDUP_MEETING_S = 4e-8  # of two crops that share a key, see meetings(); 100,000 made faces
CLEAN_FACE_S = 200e-6  # the same faces, 40 % of the labels wrong
CLEAN_MATCH_S = 2.6e-8  # of a face that may be of another label, with a label; four rounds
SUSPECTS = 0.02  # such faces
# A gallery of ten million faces, 986 CPU seconds (docs/scale.md): what its shards take, which
# workers share, and all else. Bytes of dedup and clean are those of a million faces.
INDEX_SHARD_FACE_S, INDEX_FACE_S = 34e-6, 65e-6
DEDUP_FACE_BYTES = 1500.0
CLEAN_FACE_BYTES = 4200.0
INDEX_FACE_BYTES = 25.0  # of the driver
INDEX_DIM, INDEX_RECALL = 512, 0.99
TASK_BYTES = 200e6  # a process with NumPy and Arrow, before its first face
# facepipe.crop_pairs: tables, also mirrored, times the keys tried in each; and its limits.
HASH_LOOKS, KEY_SIGNS, HASH_CROWD = 8 * 2 * 32, (8, 20), 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What was measured of a collection, on one worker."""

    detect_photo_s: tuple[float, ...]  # a photo, one value for each group that was measured
    embed_photo_s: tuple[float, ...]  # the same groups, embedding their faces
    group_photos: float = 1.0  # photos of a measured group
    faces_a_photo: float = 1.0
    labels_a_photo: float = 0.0  # people; 0 without labels
    container_photos: float = 0.0  # of a container; 0 where all photos are files
    contained: float = 0.0  # share of the photos that are in containers
    list_photo_s: float = 0.0  # a worker, of a container's photo
    shard_s: float = 0.0  # a worker, of committing a shard
    sort_face_s: float = 0.0  # a worker, by label
    dedup_s: float = 0.0  # the task, before its first face
    clean_s: float = 0.0
    index_s: float = 0.0
    start_s: float = 0.0  # from the first process to models that answer
    driver_photo_s: float = 0.0  # listing and planning
    driver_shard_s: float = 0.0  # reading and packing a record, once a step
    worker_bytes: float = 0.0
    driver_bytes: float = 0.0
    driver_photo_bytes: float = 0.0
    driver_shard_bytes: float = 0.0
    photo_bytes: float = 0.0  # stored
    face_bytes: float = 0.0

    def slower(self, factor: float) -> Costs:
        """Return the same with photos that take ``factor`` as long to detect and embed."""
        return replace(
            self,
            detect_photo_s=tuple(s * factor for s in self.detect_photo_s),
            embed_photo_s=tuple(s * factor for s in self.embed_photo_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A job of so many photos on so many workers."""

    photos: int
    workers: int
    faces: float
    steps_s: Mapping[str, float]  # wall time
    driver_s: float
    serial_s: float  # what one process does while the others wait
    parallel_s: float  # what workers share, all of them together
    work_s: float  # of all workers, with what one does alone
    shards: int  # of photos
    commits: int
    requests: float  # to the dataset's store
    stored_bytes: float
    memory_bytes: Mapping[str, float]  # of the driver and of one worker of each step

    @property
    def wall_s(self) -> float:
        """Return how long the run takes."""
        return math.fsum(self.steps_s.values()) + self.driver_s

    @property
    def slowest(self) -> str:
        """Return the step that takes longest, or driver."""
        return max({**self.steps_s, "driver": self.driver_s}.items(), key=lambda s: s[1])[0]

    @property
    def useful_workers(self) -> int:
        """Return the workers at which half of the time is one process's.

        Amdahl 1967: from there, twice as many save less than a quarter. Never more than shards.
        """
        return max(1, min(self.shards, round(self.parallel_s / max(self.serial_s, 1e-9))))

    def too_large(self, memory_bytes: float) -> list[str]:
        """Return what needs more than that much memory in one process."""
        return [name for name, need in self.memory_bytes.items() if need > memory_bytes]


def simulate(
    costs: Costs,
    photos: Sequence[int],
    workers: Sequence[int],
    shard_photos: int = SHARD_PHOTOS,
) -> list[Simulated]:
    """Return what each number of photos takes on each number of workers, in this order."""
    return [_one(costs, n, w, shard_photos) for n in photos for w in workers]


def workers_for(
    costs: Costs, photos: int, seconds: float, shard_photos: int = SHARD_PHOTOS
) -> int | None:
    """Return the fewest workers that end in time; None where no number of them does."""

    def in_time(count: int) -> bool:
        return _one(costs, photos, count, shard_photos).wall_s <= seconds

    high = max(1, -(-photos // shard_photos))
    if not in_time(high):
        return None
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if in_time(middle) else (middle, high)
    return high


def _one(costs: Costs, photos: int, workers: int, shard_photos: int) -> Simulated:
    shards = max(1, -(-photos // shard_photos))
    faces = costs.faces_a_photo * photos
    queues = _queues(costs, photos, workers, shard_photos)
    alone = _alone(costs, photos, faces)
    steps = {step: wall for step, (wall, _) in queues.items()}
    steps["clean"] = steps.pop("by label") + alone["clean"]
    steps["index"] = steps.pop("gallery") + alone["index"]
    parallel_s = math.fsum(work for _, work in queues.values())
    runs = _tasks(faces, _run_faces(costs, shard_photos))
    containers = _tasks(costs.contained * photos, costs.container_photos)
    commits = containers + 2 * shards + runs + 2
    driver_s = costs.start_s + costs.driver_photo_s * photos
    driver_s += DRIVER_STEPS * costs.driver_shard_s * commits
    return Simulated(
        photos=photos,
        workers=workers,
        faces=faces,
        steps_s={**steps, "dedup": alone["dedup"]},
        driver_s=driver_s,
        serial_s=driver_s + math.fsum(alone.values()),
        parallel_s=parallel_s,
        work_s=parallel_s + alone["dedup"] + alone["clean"],
        shards=shards,
        commits=commits,
        requests=_requests(containers, shards, runs),
        stored_bytes=costs.photo_bytes * photos + costs.face_bytes * faces,
        memory_bytes=_memory(costs, photos, faces, commits),
    )


def _queues(
    costs: Costs, photos: int, workers: int, shard_photos: int
) -> dict[str, tuple[float, float]]:
    """Return wall time and work of each step that is shared out."""
    faces = costs.faces_a_photo * photos
    inside = costs.contained * photos
    return {
        "members": _alike(inside, costs.container_photos, costs.list_photo_s, costs, workers),
        "detect": _queue(costs.detect_photo_s, costs, photos, shard_photos, workers),
        "embed": _queue(costs.embed_photo_s, costs, photos, shard_photos, workers),
        "by label": _alike(
            faces, _run_faces(costs, shard_photos), costs.sort_face_s, costs, workers
        ),
        "gallery": _alike(faces, _gallery_rows(faces), INDEX_SHARD_FACE_S, costs, workers),
    }


def _alone(costs: Costs, photos: int, faces: float) -> dict[str, float]:
    """Return the time of each step that is one task."""
    labels = costs.labels_a_photo * photos
    cleaning = CLEAN_FACE_S * faces + CLEAN_MATCH_S * SUSPECTS * faces * labels if labels else 0.0
    return {
        "dedup": costs.dedup_s + DEDUP_FACE_S * faces + DEDUP_MEETING_S * meetings(faces),
        "clean": costs.clean_s + cleaning,
        "index": costs.index_s + INDEX_FACE_S * faces,
    }


# -- the queues --------------------------------------------------------------------------


def _queue(
    photo_s: Sequence[float], costs: Costs, photos: int, shard_photos: int, workers: int
) -> tuple[float, float]:
    """Return wall time and work of a step that takes photos shard by shard.

    Of very many shards only the last ones are simulated: before, every worker is busy all
    the time, so that their work divides evenly.
    """
    full, rest = divmod(photos, shard_photos)
    last = max(QUEUE_SHARDS, QUEUE_ROUNDS * workers)
    shown = min(full, last)
    cut = [shard_photos] * shown + ([rest] if rest and full < last else [])
    queue = shard_costs(photo_s, cut, costs.shard_s, costs.group_photos, shard_photos)
    behind = max(0, photos - sum(cut))
    before = behind * float(np.mean(photo_s)) + costs.shard_s * _tasks(behind, shard_photos)
    return before / workers + makespan(queue, workers), before + math.fsum(queue)


def _alike(
    items: float, size: float, item_s: float, costs: Costs, workers: int
) -> tuple[float, float]:
    """Return wall time and work of tasks that are alike, but for a smaller last one."""
    if items <= 0 or size <= 0:
        return 0.0, 0.0
    tasks = _tasks(items, size)
    full_s = costs.shard_s + item_s * size
    last_s = costs.shard_s + item_s * (items - (tasks - 1) * size)
    rounds, left = divmod(tasks - 1, workers)
    return rounds * full_s + (full_s if left else last_s), (tasks - 1) * full_s + last_s


def _tasks(items: float, size: float) -> int:
    return math.ceil(items / size) if size > 0 else 0


def _run_faces(costs: Costs, shard_photos: int) -> float:
    """Return the faces of a full run by label."""
    return min(float(RUN_FACES), RUN_SHARDS * shard_photos * costs.faces_a_photo)


def _gallery_rows(faces: float) -> float:
    """Return the faces of a full shard of the gallery."""
    plan = plan_index(max(1, int(faces)), INDEX_DIM, memory_budget_bytes=None, recall=INDEX_RECALL)
    return float(plan.shard_rows)


# -- what is not a queue -----------------------------------------------------------------


def meetings(faces: float) -> float:
    """Return how often dedup looks at two crops, with a table's keys as facepipe.crop_pairs has."""
    least, most = KEY_SIGNS
    signs = min(most, max(least, int(faces).bit_length() - 1))
    return faces * HASH_LOOKS * min(HASH_CROWD, faces / math.exp2(signs))


def _requests(containers: int, shards: int, runs: int) -> float:
    """Return the requests to the dataset's store; those for photos are not among them."""
    puts = PUTS["members"] * containers + (PUTS["detect"] + PUTS["embed"]) * shards
    puts += PUTS["clean"] * runs + PUTS["dedup"] + PUTS["clean"] + STEP_PUTS * DRIVER_STEPS
    read = containers + shards  # of detect, where photos are in containers; of embed
    read += 2 * shards + 3 * shards  # of sorting by label; of dedup
    read += shards + 1 + runs + 2 * shards + 1  # of clean; of the gallery
    return float(puts + GETS_A_FILE * read)


def _memory(costs: Costs, photos: int, faces: float, commits: int) -> dict[str, float]:
    return {
        "driver": costs.driver_bytes
        + costs.driver_photo_bytes * photos
        + costs.driver_shard_bytes * commits,
        "worker": costs.worker_bytes,
        "dedup": TASK_BYTES + DEDUP_FACE_BYTES * faces,
        "clean": TASK_BYTES + CLEAN_FACE_BYTES * faces,
        "index": TASK_BYTES + INDEX_FACE_BYTES * faces,
    }
