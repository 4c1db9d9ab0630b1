"""Small training runs, in this process or in children that may be killed, alone or as ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimiser imports: a child finds it there
import torch.distributed as dist
from torch import Tensor, nn

from tests.training.made_samples import CountedCrops, samples_of
from training import checkpoint, learner, run_end, run_folder
from training.samples import Int64, Samples
from training.settings import TrainSettings
from training.train import StepReport, TrainResult, train

PEOPLE, SAMPLES, BATCH, STEPS = 5, 22, 4, 10
BAD = (3, 17)  # samples without a crop
CHILD_S = 120  # until a child is taken for hung

run_folder._environment()  # once, in the process that children are forked from


class PlainNet(nn.Module):
    """A net whose answer to a picture does not depend on the others of its batch."""

    def __init__(self, dim: int) -> None:
        """Draw weights from torch's generator."""
        super().__init__()
        self.pool = nn.AvgPool2d(16)
        self.hidden = nn.Linear(3 * 7 * 7, 24)
        self.end = nn.Linear(24, dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D."""
        embeddings_BD: Tensor = self.end(torch.tanh(self.hidden(self.pool(x_BCHW).flatten(1))))
        return embeddings_BD


class CropsWithGaps(CountedCrops):
    """Pictures, some of which are damaged."""

    def read(self, group: int, rows: Int64) -> list[bytes | None]:
        """Return pictures; those of BAD are none."""
        found = super().read(group, rows)
        first = int(self.start_G1[group])
        return [
            b"junk" if first + int(row) in BAD else data
            for row, data in zip(rows, found, strict=True)
        ]


def made_run_samples() -> Samples:
    """Return the samples that all runs here are trained on; weights differ, two are damaged."""
    labels = [n % PEOPLE for n in range(SAMPLES)]
    samples = samples_of(labels, [6, 6, 6, 4], pictures=True)
    crops = CropsWithGaps(samples.start_G1, pictures=True)
    return Samples(
        groups=crops,
        start_G1=samples.start_G1,
        row_N=None,
        label_N=samples.label_N,
        weight_N=samples.weight_N,
        people=samples.people,
        counts=samples.counts,
        digest="made",
    )


def run_settings(**more: Any) -> TrainSettings:
    """Return the settings of a short run; more go over them, key by key."""
    tree: dict[str, Any] = {
        "steps": STEPS,
        "data": {"loader": {"batch_samples": BATCH, "workers": 1}},
        "backbone": {"name": "tiny", "dim": 8},
        "head": {"margin": {"name": "cosface", "scale": 16.0, "margin": 0.1}},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "schedule": {"name": "cosine", "warmup_epochs": 0.5},
        "device": "cpu",
        "checkpoint": {"every_steps": 3},
        "log_every_steps": 1,
    }
    return TrainSettings.model_validate({**tree, **more})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a child does."""

    out: Path
    settings: TrainSettings = field(default_factory=run_settings)
    plain: bool = False  # PlainNet, whatever the settings say
    kill_at: int | None = None  # after this step, before its checkpoint
    kill_in_write: int | None = None  # at so many files of checkpoints brought to the disk
    stop_at: int | None = None
    victim: int | None = None  # the rank that is killed; None: every one


def use_plain_net(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Have runs train a PlainNet."""

    def built(settings: Any) -> nn.Module:
        return PlainNet(settings.dim)

    put(learner, "build_backbone", built)
    put(run_end, "build_backbone", built)


def run_job(job: Job, reports: list[StepReport] | None = None) -> TrainResult:
    """Do a job in this process."""
    at = 0

    def on_step(report: StepReport) -> None:
        nonlocal at
        at = report.step
        if reports is not None:
            reports.append(report)
        if job.kill_at == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def stop() -> bool:
        return job.stop_at == at

    return train(job.settings, made_run_samples(), job.out, on_step=on_step, stop=stop)


def run_ranks(job: Job, size: int = 1) -> list[int]:
    """Do a job in one child a rank; return their exit codes (negative: the signal)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pandas"])  # which pyarrow imports
    job.out.parent.mkdir(parents=True, exist_ok=True)
    meeting = job.out.parent / f"meeting-{os.urandom(4).hex()}"
    children = [
        context.Process(target=_child, args=(job, rank, size, meeting)) for rank in range(size)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(CHILD_S)
        if child.exitcode is None or child.exitcode < 0:  # the others would wait for it
            for other in children:
                other.kill()
    return [int(child.exitcode or 0) for child in children]


def _child(job: Job, rank: int, size: int, meeting: Path) -> None:
    torch.set_num_threads(1)
    if job.victim not in (None, rank):
        job = replace(job, kill_at=None, kill_in_write=None)
    if job.plain:
        use_plain_net()
    if job.kill_in_write is not None:
        _kill_in_write(job.kill_in_write)
    if size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    run_job(job)
    if size > 1:
        dist.destroy_process_group()


def _kill_in_write(at: int) -> None:
    count, sync = 0, checkpoint._sync

    def counted(path: Path) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(path)

    checkpoint._sync = counted


def metrics_of(out: Path) -> list[dict[str, float]]:
    """Return the logged steps of a run, without what a clock measured."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    rows: list[dict[str, float]] = [json.loads(line) for line in lines]
    for row in rows:
        row.pop("samples_per_s", None)
    return rows


def state_of(out: Path) -> dict[str, bytes]:
    """Return the files of a run's last checkpoint, without what a clock measured."""
    last = checkpoint.checkpoints(out / "checkpoints")[-1]
    files = {
        str(path.relative_to(last)): path.read_bytes()
        for path in sorted(last.rglob("*"))
        if path.is_file()
    }
    state = json.loads(files["state.json"])
    del state["log"]["seconds"]
    return {**files, "state.json": json.dumps(state, sort_keys=True).encode()}
