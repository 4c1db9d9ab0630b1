"""The gate in a real registry: who becomes champion, what is written down, and the way back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepipe.errors import GateFailed, ModelNotFound, UsageError
from facepipe.packs import Pack
from tests import made
from tests.mlflow_places import OWN_WARNINGS
from training.promotion import Asked, Outcome, promote, roll_back
from training.promotion_checks import PromotionSettings, Scores
from training.registry import Registry, fetch, register

pytest.importorskip("mlflow", reason="mlflow, of [train], is missing")
pytestmark = OWN_WARNINGS

PAIRS, PEOPLE = 400, 100
SETTINGS = PromotionSettings(samples=200)
FIRST = PromotionSettings(samples=200, at_least=0.5)
WRONG = {0: 80, 1: 40, 2: 0, 3: 78}  # pairs that the made pack of a seed gets wrong


class Pairs:
    """Pairs that a made pack gets wrong as often as its seed says."""

    def __init__(self, folder: Path, digest: str = "a" * 64) -> None:
        self.digest, self.asked = digest, 0
        self.packs = {seed: made.pack(folder / f"pack-{seed}", seed=seed) for seed in WRONG}
        self.seed_of = {(made.recogniser(seed)): seed for seed in WRONG}

    def __call__(self, packs: Sequence[Pack]) -> Scores:
        self.asked += 1
        wrong = [WRONG[self.seed_of[pack.read(pack.need_recogniser())]] for pack in packs]
        same = np.arange(PAIRS) % 2 == 0
        first = np.arange(PAIRS) // 2 % PEOPLE
        right = np.stack([np.arange(PAIRS) >= count for count in wrong])
        return Scores(
            digest=self.digest,
            about={"pairs": PAIRS},
            same_P=same,
            people_P2=np.stack([first, np.where(same, first, (first + 1) % PEOPLE)], axis=1),
            similarity_MP=np.where(right == same, 0.8, 0.2),
            right_MP=right,
        )


@pytest.fixture
def pairs(database: str, tmp_path: Path) -> Pairs:
    return Pairs(tmp_path)


def champion() -> int | None:
    found = Registry().aliased("face", "champion")
    return None if found is None else found.version


def ask(pairs: Pairs, settings: PromotionSettings = SETTINGS, **asked: Any) -> Outcome:
    return promote(Registry(), Asked(name="face", **asked), pairs, settings)


def started(pairs: Pairs) -> None:
    """Make seed 0 version 1 and champion."""
    register(pairs.packs[0], None, "face")
    ask(pairs, first=True)


def test_the_first_needs_a_minimum_or_a_word(pairs: Pairs) -> None:
    register(pairs.packs[0], None, "face")
    with pytest.raises(UsageError, match="--at-least"):
        ask(pairs)
    assert pairs.asked == 0
    refused = ask(pairs, PromotionSettings(at_least=0.9))
    assert (refused.passed, refused.moved, champion()) == (False, False, None)
    assert "facepipe.evaluation.champion" not in Registry().model_tags("face")
    outcome = ask(pairs, FIRST)
    assert (outcome.moved, outcome.version, champion()) == (True, 1, 1)
    with pytest.raises(UsageError, match="--first"):
        ask(pairs, first=True)


def test_a_better_one_takes_over_and_who_beat_whom_is_kept(pairs: Pairs) -> None:
    started(pairs)
    register(pairs.packs[1], None, "face")
    outcome = ask(pairs)
    assert (outcome.moved, outcome.champion, champion()) == (True, "models:/face/1", 2)
    won = Registry().version("face", 2)
    record = json.loads(won.tags["facepipe.promotion.champion"])
    assert (record["version"], record["over"]) == (2, 1)
    assert record["model_id"] == won.model_id
    assert record["evaluation"] == {"digest": "a" * 64, "pairs": PAIRS}
    accuracy = record["checks"][0]
    assert (accuracy["candidate"], accuracy["champion"]) == (0.9, 0.8)
    assert accuracy["difference"]["low"] > 0
    from mlflow import MlflowClient

    (file,) = MlflowClient().list_artifacts(won.run_id, "promotion")
    assert file.path == "promotion/champion-v2.json"


@pytest.mark.parametrize("seed", [0, 3])
def test_one_that_is_not_better_beyond_chance_changes_nothing(pairs: Pairs, seed: int) -> None:
    """80 against 78 wrong of 400; and the champion's own files under another number."""
    started(pairs)
    if seed == 0:
        with pytest.raises(UsageError, match="already"):
            ask(pairs, candidate=str(pairs.packs[0]))
    else:
        before = Registry().model_tags("face")
        outcome = ask(pairs, candidate=str(pairs.packs[3]))
        assert not outcome.passed
        assert Registry().model_tags("face") == before
    assert champion() == 1
    assert len(Registry().versions("face")) == 1


@pytest.mark.parametrize("kind", ["version", "run", "pack", "other model"])
def test_a_candidate_is_a_version_a_run_or_a_pack(pairs: Pairs, kind: str) -> None:
    started(pairs)
    candidate = str(pairs.packs[2])
    if kind == "other model":
        register(pairs.packs[2], None, "nose")
        candidate = "models:/nose/1"
    elif kind != "pack":
        register(pairs.packs[2], None, "face")
        register(pairs.packs[1], None, "face")  # the latest is another one
        candidate = "2" if kind == "version" else Registry().version("face", 2).run_id
    outcome = ask(pairs, candidate=candidate)
    assert outcome.moved
    won = Registry().aliased("face", "champion")
    assert won is not None
    assert (fetch("models:/face@champion") / "made_recogniser.onnx").read_bytes() == (
        made.recogniser(2)
    )


def test_a_candidate_that_is_not_there_is_told(pairs: Pairs) -> None:
    with pytest.raises(ModelNotFound, match="no version of face is registered"):
        ask(pairs, first=True)
    started(pairs)
    with pytest.raises(ModelNotFound, match="no version of face comes from run"):
        ask(pairs, candidate="0" * 32)
    with pytest.raises(ModelNotFound, match="versions 1 of face"):
        ask(pairs, candidate="9")


def test_other_data_do_not_decide_unless_they_are_pinned_anew(pairs: Pairs, tmp_path: Path) -> None:
    started(pairs)
    other = Pairs(tmp_path / "other", digest="b" * 64)
    better = str(pairs.packs[2])
    with pytest.raises(GateFailed, match=r"aaaaaaaaaaaa.*bbbbbbbbbbbb.*--repin"):
        ask(other, candidate=better)
    assert champion() == 1
    assert ask(other, candidate=better, repin=True).moved
    with pytest.raises(GateFailed, match="--repin"):
        ask(pairs, candidate=str(pairs.packs[1]))


def test_a_dry_run_writes_nothing(pairs: Pairs) -> None:
    started(pairs)
    before = Registry().model_tags("face")
    outcome = ask(pairs, candidate=str(pairs.packs[2]), dry_run=True)
    assert (outcome.passed, outcome.moved, outcome.version) == (True, False, 1)
    assert champion() == 1
    assert len(Registry().versions("face")) == 1
    assert Registry().model_tags("face") == before


def test_a_champion_that_somebody_moved_meanwhile_is_not_overrun(pairs: Pairs) -> None:
    started(pairs)
    for seed in (1, 2):
        register(pairs.packs[seed], None, "face")

    def measure(packs: Sequence[Pack]) -> Scores:
        Registry().point("face", "champion", 3, expected=1)
        return pairs(packs)

    with pytest.raises(GateFailed, match="models:/face/3 by now"):
        promote(Registry(), Asked(name="face", candidate="2"), measure, SETTINGS)
    assert champion() == 3


def test_the_way_back(pairs: Pairs) -> None:
    started(pairs)
    with pytest.raises(UsageError, match="over no other"):
        roll_back(Registry(), "face", "champion")
    for seed in (1, 2):
        assert ask(pairs, candidate=str(pairs.packs[seed])).moved
    assert champion() == 3
    assert roll_back(Registry(), "face", "champion", dry_run=True).version == 3
    assert champion() == 3
    outcome = roll_back(Registry(), "face", "champion")
    assert (outcome.moved, outcome.version, champion()) == (True, 2, 2)
    assert json.loads(Registry().version("face", 3).tags["facepipe.rollback.champion"])["to"] == 2
    roll_back(Registry(), "face", "champion")
    assert champion() == 1
    with pytest.raises(ModelNotFound, match="nothing to roll back"):
        roll_back(Registry(), "face", "other")


def test_an_alias_of_its_own_has_its_own_data(pairs: Pairs, tmp_path: Path) -> None:
    started(pairs)
    other = Pairs(tmp_path / "other", digest="b" * 64)
    assert ask(other, alias="night", first=True).moved
    found = Registry().aliased("face", "night")
    assert found is not None and found.version == 1
