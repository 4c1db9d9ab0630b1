"""Runs that are killed, stopped, moved between ranks: what they learn is as if nothing had been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facepipe.errors import FacepipeError, StoreError, UsageError
from facepipe.store import locked, open_store
from tests.training.head_cases import MARGINS
from tests.training.train_runs import (
    BATCH,
    SAMPLES,
    STEPS,
    Job,
    made_run_samples,
    metrics_of,
    run_job,
    run_ranks,
    run_settings,
    state_of,
    use_plain_net,
)
from training.backbone import BackboneSettings, build_backbone
from training.checkpoint import checkpoints, read_net
from training.run_folder import RunFolder
from training.tensor_file import read_tensors, tensor_bytes
from training.train import train

# Everything with a state of its own: dropout draws, t of the loss, sampled classes, centres of the
# center loss, averaged weights.
STATEFUL: dict[str, Any] = {
    "backbone": {"name": "tiny", "dim": 8, "dropout": 0.3},
    "head": {"margin": {"name": "curricularface", "scale": 16.0}, "sample_rate": 0.5},
    "center": {},
    "ema_decay": 0.9,
    "log_every_steps": 2,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_killed_goes_on_bit_for_bit(tmp_path: Path, ranks: int) -> None:
    settings = run_settings(**STATEFUL)
    assert run_ranks(Job(out=tmp_path / "whole", settings=settings), ranks) == [0] * ranks
    out = tmp_path / "killed"
    # Between checkpoints, right after one, and while one is being written.
    for kill in ({"kill_at": 5}, {"kill_in_write": 4}, {"kill_at": 7}):
        assert -9 in run_ranks(Job(out=out, settings=settings, **kill), ranks)
    assert run_ranks(Job(out=out, settings=settings), ranks) == [0] * ranks
    assert metrics_of(out) == metrics_of(tmp_path / "whole")
    assert state_of(out) == state_of(tmp_path / "whole")
    for name in ("recogniser.onnx", "pack.yaml"):
        packs = [tmp_path / run / "pack" / name for run in ("whole", "killed")]
        assert packs[0].exists() == packs[1].exists()
        if packs[0].exists():
            assert packs[0].read_bytes() == packs[1].read_bytes()
    starts = json.loads((out / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 3, 3, 6]


@pytest.fixture(scope="module")
def plain_losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the losses of 10 steps of 8 samples with a net without batch normalisation."""
    out = tmp_path_factory.mktemp("plain") / "run"
    data = {"loader": {"batch_samples": 8, "workers": 2}}
    assert run_ranks(Job(out=out, settings=run_settings(data=data), plain=True)) == [0]
    return [row["loss"] for row in metrics_of(out)]


def test_losses_are_those_of_a_loop_written_out(plain_losses: list[float], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_plain_net(patch.setattr)
        out = tmp_path / "run"
        data = {"loader": {"batch_samples": 8, "workers": 1}}
        reports: list[Any] = []
        run_job(Job(out=out, settings=run_settings(data=data), plain=True), reports)
    assert [report.loss for report in reports] == plain_losses  # whatever the number of workers
    assert plain_losses[-1] < plain_losses[0]


@pytest.mark.parametrize(("ranks", "batch", "accumulation"), [(1, 4, 2), (2, 2, 2)])
def test_ranks_and_accumulation_share_a_step_out(
    tmp_path: Path, plain_losses: list[float], ranks: int, batch: int, accumulation: int
) -> None:
    data = {"loader": {"batch_samples": batch, "workers": 1}}
    settings = run_settings(data=data, accumulation=accumulation)
    job = Job(out=tmp_path / "run", settings=settings, plain=True)
    assert run_ranks(job, ranks) == [0] * ranks
    losses = [row["loss"] for row in metrics_of(tmp_path / "run")]
    assert losses == pytest.approx(plain_losses, rel=2e-6)


def test_a_run_moves_between_numbers_of_ranks(tmp_path: Path, plain_losses: list[float]) -> None:
    out = tmp_path / "run"
    for ranks, stop_at in ((2, 3), (1, 6), (4, None)):
        data = {"loader": {"batch_samples": 8 // ranks, "workers": 1}}
        settings = run_settings(data=data)
        assert run_ranks(Job(out=out, settings=settings, plain=True, stop_at=stop_at), ranks) == (
            [0] * ranks
        )
    losses = [row["loss"] for row in metrics_of(out)]
    assert losses == pytest.approx(plain_losses, rel=2e-6)
    starts = json.loads((out / "run.json").read_text())["starts"]
    assert [(start["step"], start["ranks"]) for start in starts] == [(0, 2), (3, 1), (6, 4)]


def test_a_run_that_is_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = run_settings(**STATEFUL)
    run_job(Job(out=tmp_path / "whole", settings=settings))
    first = run_job(Job(out=tmp_path / "run", settings=settings, stop_at=5))
    assert first.stopped and first.step == 5 and first.pack is None
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == [
        "step-00000003",
        "step-00000005",
    ]
    second = run_job(Job(out=tmp_path / "run", settings=settings))
    assert not second.stopped and second.step == STEPS
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    assert state_of(tmp_path / "run") == state_of(tmp_path / "whole")


def test_a_finished_run_has_a_pack_and_is_not_run_again(tmp_path: Path) -> None:
    settings = run_settings(ema_decay=0.5)
    result = run_job(Job(out=tmp_path / "run", settings=settings))
    assert result.pack == tmp_path / "run" / "pack" and result.cosine > 0.99999  # type: ignore[operator]
    assert result.epochs == STEPS * BATCH / SAMPLES
    last = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    net = build_backbone(BackboneSettings(name="tiny", dim=8))
    read_net(last, net)
    averaged = read_tensors((last / "ema.safetensors").read_bytes(), "ema")
    assert all(torch.equal(value, averaged[name]) for name, value in net.state_dict().items())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    again = run_job(Job(out=tmp_path / "run", settings=settings))
    assert again == result
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_samples_without_a_crop_are_counted(tmp_path: Path) -> None:
    epoch = -(-SAMPLES // BATCH)  # steps that see every sample at least once
    result = run_job(Job(out=tmp_path / "run", settings=run_settings(steps=epoch), stop_at=epoch))
    order = np.array(list(_order(epoch * BATCH)))
    assert result.bad == {"corrupt": int(np.isin(order, [3, 17]).sum())}
    assert metrics_of(tmp_path / "run")[-1]["bad"] == sum(result.bad.values())


def _order(count: int) -> list[int]:
    from itertools import islice

    from training.run_data import order_of

    return list(islice(order_of(made_run_samples(), run_settings()).samples_from(0), count))


@pytest.mark.parametrize("change", ["settings", "samples", "folder", "held"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, change: str) -> None:
    out = tmp_path / "run"
    samples = made_run_samples()
    if change == "folder":
        out.mkdir()
        (out / "holiday.jpg").touch()
        with pytest.raises(UsageError, match=r"no training run and holds holiday\.jpg"):
            train(run_settings(), samples, out)
        return
    if change == "held":
        with locked(open_store(out)), pytest.raises(StoreError, match="another run"):
            train(run_settings(), samples, out)
        return
    run_job(Job(out=out, stop_at=1))
    if change == "settings":
        settings = run_settings(optimizer={"name": "adamw"}, log_every_steps=7)
        with pytest.raises(UsageError, match=r"optimizer\.name was sgd, is adamw") as caught:
            train(settings, samples, out)
        assert "log_every_steps" not in str(caught.value)
    else:
        other = type(samples)(**{**_fields(samples), "digest": "others"})
        with pytest.raises(UsageError, match="its samples were others"):
            train(run_settings(), other, out)


def _fields(samples: Any) -> dict[str, Any]:
    return {name: getattr(samples, name) for name in samples.__slots__}


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_plain_net(patch.setattr)
        # Logits without a bound, and a step so long that they overflow.
        far = {"name": "sgd", "lr": 1e30}
        softmax = {"margin": {"name": "softmax"}}
        settings = run_settings(optimizer=far, head=softmax, clip_norm=None)
        with pytest.raises(FacepipeError, match=r"lower optimizer\.lr"):
            train(settings, made_run_samples(), tmp_path / "run")
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        values = read_tensors((path / "backbone.safetensors").read_bytes(), "")
        assert all(value.isfinite().all() for value in values.values())


FAMILIES: dict[str, dict[str, Any]] = {
    **{name: {"head": {"margin": {"name": name, **more}}} for name, more in MARGINS.items()},
    "sub-centres": {"head": {"sub_centers": 3, "label_smoothing": 0.1}},
    "center": {"head": {"margin": {"name": "softmax"}}, "center": {}},
    **{
        name: {"head": None, "metric": {"name": name}}
        for name in ("contrastive", "triplet", "angular_triplet", "angular")
    },
    "two": {"metric": {"name": "triplet"}, "metric_weight": 0.5},
    "adamw": {"optimizer": {"name": "adamw"}},
    "bfloat16": {"precision": "bfloat16"},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_loss_trains_from_settings(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_plain_net(monkeypatch.setattr)
    data = {"order": {"run_samples": 2}, "loader": {"batch_samples": 8, "workers": 1}}
    settings = run_settings(data=data, clip_norm=None, **FAMILIES[name])
    reports: list[Any] = []
    run_job(Job(out=tmp_path / "run", settings=settings, plain=True, stop_at=3), reports)
    assert all(np.isfinite(report.loss) for report in reports) and len(reports) == 3
    rows = metrics_of(tmp_path / "run")
    assert all(row["grad_norm"] > 0 for row in rows)
    if name in ("two", "center"):
        other = "loss_metric" if name == "two" else "loss_center"
        assert rows[1]["loss"] == pytest.approx(rows[1]["loss_head"] + rows[1][other])


def test_a_student_goes_on_with_its_map_to_the_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = build_backbone(BackboneSettings(name="tiny", dim=12))
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(tensor_bytes(teacher.state_dict()))
    taught = {"kind": "weights", "weights": weights, "backbone": {"name": "tiny", "dim": 12}}
    settings = run_settings(head=None, distillation={"teacher": taught}, steps=4)
    run_job(Job(out=tmp_path / "whole", settings=settings))
    for stop_at in (2, None):
        run_job(Job(out=tmp_path / "run", settings=settings, stop_at=stop_at))
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    state = state_of(tmp_path / "run")
    assert state == state_of(tmp_path / "whole")
    names = (
        read_tensors(state["terms.safetensors"], "terms"),
        read_tensors(state["optimizer.safetensors"], "optimizer"),
    )
    assert "distillation.map" in names[0] and "distillation.map.momentum_buffer" in names[1]
    both = Job(out=tmp_path / "both", settings=settings, stop_at=2)
    assert run_ranks(both, 2) == [0, 0]
    weights.write_bytes(tensor_bytes({k: v + 1 for k, v in teacher.state_dict().items()}))
    with pytest.raises(UsageError, match="its teacher was another model"):
        run_job(Job(out=tmp_path / "both", settings=settings))


def test_looking_on_gets_the_net_before_each_checkpoint(tmp_path: Path) -> None:
    seen: list[int] = []

    def look(net: torch.nn.Module, step: int) -> dict[str, float]:
        assert not net.training
        assert len(checkpoints(tmp_path / "run" / "checkpoints")) == min(len(seen), 2)
        seen.append(step)
        return {"accuracy": step / 100}

    train(run_settings(), made_run_samples(), tmp_path / "run", on_checkpoint=look)
    assert seen == [3, 6, 9, 10]
    found = {
        row["step"]: row["accuracy"] for row in metrics_of(tmp_path / "run") if "accuracy" in row
    }
    assert found == {3: 0.03, 6: 0.06, 9: 0.09, 10: 0.1}


class Told:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.facts: list[Any] = []
        self.steps: list[int] = []
        self.ends: list[str] = []
        self.kept: list[tuple[str, str]] = []

    def start(self, facts: Any) -> str:
        self.facts.append(facts)
        return "run-7"

    def metrics(self, values: Any, step: int) -> None:
        assert "loss" in values
        self.steps.append(step)

    def artifact(self, path: Path, folder: str = "") -> None:
        assert path.exists()
        self.kept.append((path.name, folder))

    def end(self, status: Any) -> None:
        self.ends.append(status)


def test_a_tracker_hears_of_one_run_that_goes_on(tmp_path: Path) -> None:
    told = Told()
    samples, out = made_run_samples(), tmp_path / "run"
    left = iter([False, False, True])
    lineage = {"decisions": ["d1"]}
    train(run_settings(), samples, out, tracker=told, stop=lambda: next(left), lineage=lineage)
    result = train(run_settings(), samples, out, tracker=told, lineage=lineage)
    assert told.ends == ["stopped", "finished"] and told.steps == list(range(1, STEPS + 1))
    assert [facts.earlier_run_id for facts in told.facts] == [None, "run-7"]
    assert told.kept == [("pack", "pack"), ("run.json", ""), ("metrics.jsonl", "")]
    assert told.facts[0].parameters["optimizer.lr"] == 0.05
    assert told.facts[0].dataset_digest == "made" and told.facts[0].lineage == lineage
    assert result.mlflow_run_id == "run-7"
    record = json.loads((out / "run.json").read_text())
    assert record["lineage"] == lineage and record["environment"]["packages"]["torch"]
    assert RunFolder(out).settings() == run_settings()
