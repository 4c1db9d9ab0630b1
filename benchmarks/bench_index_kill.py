"""Kills runs that change an index (SIGKILL) at random moments, while a reader searches it.

    python benchmarks/bench_index_kill.py [--kills 200] [--faces 12000] [--kind ivf_pqfs]

Build, add, compact and publish take turns. Each is run once undisturbed; then it is started from
the same state, killed, started again, killed again, and in the end left alone: every byte of the
index has to be that of the undisturbed run. All the while another process opens the index and
searches it, over and over: it must always get the answer of a version that was put in force, and
never an error, but for "no index" before the first one. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import queue
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

KILLS_A_TRIAL = 4
QUERIES, HITS = 8, 5
PAUSE_S = 0.002  # of the reader between two searches: there may be no index yet
# A server that has imported everything and started nothing: its children cost no start.
SPAWN = multiprocessing.get_context("forkserver")
PRELOAD = ["bench_index_kill", "pipelines.index_add", "pipelines.index_publish", "faiss"]
SECOND_FPIR = 0.05


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--faces", type=int, default=12_000)
    parser.add_argument("--kind", default="ivf_pqfs", choices=["flat", "ivf_sq8", "ivf_pqfs"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    SPAWN.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), args.kind, random.Random(args.seed))
        trial.prepare(args.faces)
        sys.exit(0 if trial.run(args.kills) else 1)


# -- what is run -------------------------------------------------------------------------


def build(root: Path, index: Path, kind: str) -> None:
    """Build the first half of the faces."""
    from facepipe.index_settings import IndexSettings
    from facepipe.shards import open_dataset
    from pipelines.index import build_index

    settings = IndexSettings(kind=kind, recall=0.5)  # type: ignore[arg-type]
    build_index(open_dataset(root / "half"), str(index), settings)


def add(root: Path, index: Path, kind: str) -> None:
    """Add the second half."""
    from facepipe.index_settings import IndexSettings
    from facepipe.shards import open_dataset
    from pipelines.index_add import add_to_index

    add_to_index(str(index), open_dataset(root / "whole"), IndexSettings())


def delete(root: Path, index: Path, kind: str) -> None:
    """Delete two people."""
    from facepipe.index import open_index
    from pipelines.index_delete import Doomed, delete_from_index

    rows = open_index(index).shards.all[0].rows
    names = next(iter(rows.parts(["identity_id"]))).column("identity_id").unique().to_pylist()
    delete_from_index(str(index), Doomed(people=tuple(sorted(names)[:2])))


def compact(root: Path, index: Path, kind: str) -> None:
    """Rewrite the shards."""
    from facepipe.index_settings import IndexSettings
    from pipelines.index_compact import compact_index

    compact_index(str(index), IndexSettings(), everything=True)


def stage(root: Path, index: Path, kind: str) -> None:
    """Write a version that is not in force."""
    from facepipe.index_settings import IndexSettings
    from facepipe.shards import open_dataset
    from pipelines.index import build_index

    settings = IndexSettings(kind=kind, recall=0.5, fpir=SECOND_FPIR)  # type: ignore[arg-type]
    build_index(open_dataset(root / "half"), str(index), settings, publish=False)


def publish(root: Path, index: Path, kind: str) -> None:
    """Put it in force."""
    from pipelines.index_publish import list_versions, publish_version

    rows = list_versions(str(index))
    staged = [row["version"] for row in rows if row["action"] == "build"]
    publish_version(str(index), staged[0])


Command = Callable[[Path, Path, str], None]
CHAIN: list[tuple[Command, bool]] = [
    (build, True),
    (add, True),
    (delete, False),
    (compact, True),
    (stage, False),
    (publish, True),
]


def _quietly(command: Command, root: Path, index: Path, kind: str) -> None:
    """Run a command on one thread, as a child process."""
    from pipelines.runners.process import ONE_THREAD, one_thread

    os.environ.update(ONE_THREAD)
    one_thread()
    command(root, index, kind)


# -- the reader --------------------------------------------------------------------------


def read_all_the_while(root: Path, orders: Any, said: Any) -> None:
    """Search the index that was last named, again and again, until None is."""
    import numpy as np

    from facepipe.errors import DatasetNotFound, FacepipeError
    from facepipe.index import open_index

    queries = np.load(root / "queries.npy")
    index = orders.get()
    while index is not None:
        try:
            gallery = open_index(index, threads=1)
            said.put((gallery.version, answer(gallery.search(queries, HITS))))
        except DatasetNotFound:
            said.put(("none", ""))
        except (FacepipeError, OSError) as error:
            said.put(("error", f"{type(error).__name__}: {error}"))
        with contextlib.suppress(queue.Empty):
            index = orders.get(timeout=PAUSE_S)
            said.put(("moved", str(index)))


def answer(found: tuple[Any, Any]) -> str:
    """Return a digest of scores and ids."""
    scores, face_ids = found
    return hashlib.sha256(scores.tobytes() + repr(face_ids.tolist()).encode()).hexdigest()


def ask(root: Path, index: Path, said: Any) -> None:
    """Tell which version is in force, and what it answers."""
    import numpy as np

    from facepipe.index import open_index

    gallery = open_index(index, threads=1)
    queries = np.load(root / "queries.npy")
    said.put((gallery.version, answer(gallery.search(queries, HITS))))


# -- the trial ---------------------------------------------------------------------------


@dataclass
class Trial:
    """States before and after each command, and what was seen of runs in between."""

    root: Path
    kind: str
    rng: random.Random
    seconds: dict[str, float] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def prepare(self, faces: int) -> None:
        """Make two datasets, and run every command undisturbed, keeping the states."""
        child = SPAWN.Process(target=make_datasets, args=(self.root, faces))
        child.start()
        child.join()
        state = self.root / "state-0"
        state.mkdir()
        for number, (command, _) in enumerate(CHAIN):
            state = self.root / f"state-{number + 1}"
            shutil.copytree(self.root / f"state-{number}", state)
            started = time.monotonic()
            if not self.child(command, state, None):
                sys.exit(f"{command.__name__} does not run")
            self.seconds[command.__name__] = time.monotonic() - started
            said = SPAWN.Queue()
            asking = SPAWN.Process(target=ask, args=(self.root, state, said))
            asking.start()
            version, found = said.get(timeout=60)
            asking.join()
            self.answers[version] = found

    def child(self, command: Command, index: Path, kill_s: float | None) -> bool:
        """Run a command in a process; kill it after a time. True where it ended by itself."""
        given = (command, self.root, index, self.kind)
        process = SPAWN.Process(target=_quietly, args=given)
        process.start()
        process.join(kill_s)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            self.wrong.append(f"{command.__name__} ended with {process.exitcode}")
        return process.exitcode == 0

    def run(self, kills: int) -> bool:
        """Kill and compare; print what was seen."""
        turns = [(n, command) for n, (command, killed) in enumerate(CHAIN) if killed]
        killed: Counter[str] = Counter()
        same = trials = 0
        with self.reader() as follow:
            while sum(killed.values()) < kills:
                number, command = turns[trials % len(turns)]
                index = self.root / f"trial-{trials}"
                shutil.copytree(self.root / f"state-{number}", index)
                follow(index)
                for _ in range(KILLS_A_TRIAL):
                    moment_s = self.rng.uniform(0, self.seconds[command.__name__])
                    if not self.child(command, index, moment_s):
                        killed[command.__name__] += 1
                self.child(command, index, None)
                equal = contents(index) == contents(self.root / f"state-{number + 1}")
                same += equal
                trials += 1
                if not equal:
                    other = self.root / f"state-{number + 1}"
                    self.wrong.append(
                        f"trial {trials}, {command.__name__}: {_differ(index, other)}"
                    )
        print(
            f"{self.kind}: {sum(killed.values())} runs killed ("
            + ", ".join(f"{n} {name}" for name, n in killed.items())
            + f"); {same} of {trials} indexes byte-identical after the last run; a reader opened "
            f"and searched {self.seen['right']} times, {self.seen['none']} times before there was "
            f"an index, and was answered wrongly {self.seen['wrong']} times"
        )
        print("\n".join(self.wrong[:20]))
        return not self.wrong

    @contextmanager
    def reader(self) -> Iterator[Callable[[Path], None]]:
        """Start the reader; give a function that sends it to another index, and judge it."""
        orders, said = SPAWN.Queue(), SPAWN.Queue()
        process = SPAWN.Process(target=read_all_the_while, args=(self.root, orders, said))
        process.start()

        def judge(until: str | None) -> None:
            while until is not None or not said.empty():
                version, found = said.get(timeout=60)
                if (version, found) == ("moved", until):
                    return
                right = version == "none" or self.answers.get(version) == found
                self.seen["none" if version == "none" else "right" if right else "wrong"] += 1
                if not right:
                    self.wrong.append(f"the reader got {version}: {found}")

        first = [True]

        def follow(index: Path) -> None:
            orders.put(str(index))
            judge(None if first else str(index))
            first.clear()

        yield follow
        orders.put(None)
        judge("None")
        process.join()


def _differ(index: Path, other: Path) -> list[str]:
    """Return the files that are not the same in two indexes."""
    found, wanted = contents(index), contents(other)
    return sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file of an index, but for locks."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if name not in ("_lock", "_tmp/swapping")
    }


def make_datasets(root: Path, faces: int) -> None:
    """Write a dataset, and the one that it was when half of its faces were there."""
    import numpy as np
    from made_dataset import make_dataset

    from facepipe.commits import Plan
    from facepipe.neighbors import vector_matrix
    from facepipe.shards import open_dataset

    whole = make_dataset(root / "whole", faces, 0.0, 64, 0)
    shutil.copytree(root / "whole", root / "half")
    half = open_dataset(root / "half")
    for step in ("detect", whole.step_of("embeddings")):
        plan = half.plan(step)
        if plan is None:
            raise ValueError(f"{step} has no plan")
        shards = dict(list(plan.shards.items())[: (len(plan.shards) + 1) // 2])
        half.write_plan(Plan(step=step, shards=shards, basis=plan.basis))
        half.pack(step)
    vectors = vector_matrix(whole.table("embeddings", ["vector"]))
    queries = vectors[:: max(1, len(vectors) // QUERIES)][:QUERIES].astype(np.float32)
    np.save(root / "queries.npy", queries / np.linalg.norm(queries, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
