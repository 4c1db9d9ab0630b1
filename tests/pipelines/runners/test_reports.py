"""Reports: errors that come back through another program's text, commits counted once."""

from __future__ import annotations

import json

import pytest

from facepipe.commits import Commit
from facepipe.errors import FacepipeError, StoreFull
from pipelines.runners import ONE_CORE, Resources, ShardTask, Worker
from pipelines.runners.reports import Round, report_of, sealed, unsealed
from tests.pipelines.runners.contract import tasks

FATAL = {"kind": "StoreFull", "text": 'no space left on "disk"\nfree some: "é"'}


class Job:
    resources: Resources = ONE_CORE

    def open(self) -> Worker:
        raise NotImplementedError


def commit_of(task: ShardTask) -> Commit:
    return Commit(step="s", shard=task.shard, key=task.key, files=(), counts={})


@pytest.mark.parametrize(
    "text",
    [
        sealed(FATAL),
        f"RuntimeError: {sealed(FATAL)} [while running 'RunShards-ptransform-7']",
        json.dumps({"message": sealed(FATAL)}),
        f"cut off: {sealed(FATAL)[:-8]}\n{sealed(FATAL)}",
    ],
    ids=["alone", "with a note", "quoted", "behind a broken one"],
)
def test_an_error_is_found_in_the_text_of_another(text: str) -> None:
    error = unsealed(text)
    assert type(error) is StoreFull
    assert str(error) == FATAL["text"]


@pytest.mark.parametrize("text", ["", "no such thing", sealed(FATAL)[:-8], "facepipe-error:AAA"])
def test_no_error_is_made_up(text: str) -> None:
    assert unsealed(text) is None


@pytest.mark.parametrize("kind", ["ClassVar", "annotations", "NoSuchError"])
def test_an_error_of_an_unknown_kind_keeps_its_text(kind: str) -> None:
    error = unsealed(sealed({"kind": kind, "text": "what it said"}))
    assert type(error) is FacepipeError and str(error) == "what it said"


def test_a_sealed_error_can_be_read() -> None:
    assert sealed(FATAL).startswith(f"StoreFull: {FATAL['text']}")


def test_a_commit_counts_once_and_over_an_earlier_failure() -> None:
    done: list[str] = []
    a, b = tasks(a=["x"], b=["x"])
    now = Round(Job(), {"a": a, "b": b}, lambda task, commit: done.append(commit.shard))
    now.take(report_of("r", a, OSError("passing")))
    assert now.todo() == [b]
    now.take(report_of("r", a, commit_of(a)))
    now.take(report_of("r", a, commit_of(a)))
    now.take(report_of("r", a, OSError("another attempt, too late")))
    now.take(report_of("r", b, commit_of(b)))
    assert done == ["a", "b"]
    now.end(retries=2)


def test_what_is_missing_in_the_end_is_said() -> None:
    a, b = tasks(a=["x"], b=["x"])
    now = Round(Job(), {"a": a, "b": b}, lambda task, commit: None)
    with pytest.raises(FacepipeError, match="2 are not committed, a first"):
        now.end(retries=2)
    now.take(report_of("r", b, OSError("lasting")))
    with pytest.raises(FacepipeError, match="1 shards failed 3 times, b first with OSError: last"):
        now.end(retries=2)
    with pytest.raises(StoreFull, match="made disk"):
        now.take(report_of("r", a, StoreFull("no space on a made disk")))
