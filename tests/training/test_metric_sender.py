"""Metrics on their way: in order, tried again, never waited for, and counted where they stay."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.metric_sender import LoggedStep, MetricSender

WAIT_S = 30.0


class Place:
    """A server that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.steps: list[int] = []
        self.files: list[str] = []
        self.said: list[str] = []
        self.heard = threading.Event()

    def send(self, steps: Sequence[LoggedStep]) -> None:
        self._answer()
        self.steps += [logged.step for logged in steps]

    def send_file(self, path: Path, folder: str) -> None:
        self._answer()
        self.files.append(f"{folder}/{path.name}")

    def say(self, error: Exception) -> None:
        self.said.append(str(error))
        self.heard.set()

    def _answer(self) -> None:
        if self.away:
            raise ConnectionError("nobody there")


def sender(place: Place, first_retry_s: float = 0.01) -> MetricSender:
    return MetricSender(place.send, place.send_file, place.say, first_retry_s=first_retry_s)


def logged(step: int) -> LoggedStep:
    return LoggedStep(step, 1000 + step, {"loss": 1.0})


def test_all_arrives_in_order_and_files_after_the_steps_before_them(tmp_path: Path) -> None:
    place = Place()
    (tmp_path / "curve.svg").write_text("<svg/>")
    opened = sender(place)
    for step in range(1, 131):
        opened.step(logged(step))
    opened.file(tmp_path / "curve.svg", "plots")
    assert opened.close() == (0, 0)
    assert place.steps == list(range(1, 131))
    assert place.files == ["plots/curve.svg"]
    assert place.said == []


@pytest.mark.parametrize("first_retry_s", [0.001, 1000.0])
def test_what_was_measured_while_nobody_was_there_arrives_later(first_retry_s: float) -> None:
    """By itself, or, where the next try is far away, when the training ends."""
    place = Place()
    place.away = True
    opened = sender(place, first_retry_s)
    opened.step(logged(1))
    assert place.heard.wait(WAIT_S)
    opened.step(logged(2))
    place.away = False
    opened.step(logged(3))
    assert opened.close() == (0, 0)
    assert place.steps == [1, 2, 3]
    assert place.said == ["nobody there"]


def test_what_does_not_arrive_is_counted(tmp_path: Path) -> None:
    place = Place()
    place.away = True
    (tmp_path / "curve.svg").write_text("<svg/>")
    opened = sender(place, 1000.0)
    opened.step(logged(1))
    opened.step(logged(2))
    opened.file(tmp_path / "curve.svg", "")
    assert opened.close() == (2, 1)
    assert place.said == ["nobody there"]


def test_a_file_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    """A checkpoint may be removed before its turn comes."""
    place = Place()
    opened = sender(place)
    opened.file(tmp_path / "gone.json", "")
    opened.step(logged(1))
    assert opened.close() == (0, 0)
    assert (place.steps, place.files) == ([1], [])


def test_a_hung_server_is_not_waited_for() -> None:
    place, opened = Place(), threading.Event()

    def hang(steps: Sequence[LoggedStep]) -> None:
        opened.wait(WAIT_S)

    hung = MetricSender(hang, place.send_file, place.say)
    hung.step(logged(1))
    assert hung.close(timeout_s=0.05) == (1, 0)
    opened.set()
