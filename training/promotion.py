"""The gate of an alias: a model becomes champion if it beats the present one on the same pairs.

What it must show is in `promotion_checks`. The pairs are pinned: the first promotion writes their
digest down, and no other data decide later. Who beat whom, by how much, on what, stays with the
version that won, and is what a rollback goes by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from facepipe.errors import GateFailed, ModelNotFound, UsageError
from facepipe.packs import Pack, find_pack
from training.promotion_checks import Check, PromotionSettings, Scores, compare
from training.registered import Registered, checked_alias, checked_name
from training.registry import Registry, fetch
from training.run_environment import code_version

CHAMPION = "champion"
_PINNED, _PROMOTED = "facepipe.evaluation", "facepipe.promotion"  # tags: a dot and the alias follow
_ROLLED_BACK = "facepipe.rollback"
_RUN_ID = re.compile(r"[0-9a-f]{32}")

Measure = Callable[[Sequence[Pack]], Scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A promotion that is asked for."""

    name: str
    alias: str = CHAMPION
    candidate: str | None = None  # a version, a run's id or a pack; None: the latest version
    first: bool = False  # there is no champion yet, and nothing is asked of the first
    repin: bool = False  # other data than before decide from now on
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a promotion or a rollback came to."""

    name: str
    alias: str
    candidate: str
    champion: str | None  # before
    version: int | None  # that the alias points at now
    passed: bool
    moved: bool
    evaluation: Mapping[str, object]
    checks: tuple[Check, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"checks": [check.as_json() for check in self.checks]}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A pack that may be registered already."""

    pack: Pack
    registered: Registered | None

    def __str__(self) -> str:
        return str(self.registered or self.pack.folder)


def promote(
    registry: Registry, asked: Asked, measure: Measure, settings: PromotionSettings
) -> Outcome:
    """Measure candidate and champion on the same pairs, and move the alias if all checks hold.

    A pack that is not registered is registered once it has won. Nothing is written where a check
    does not hold, or by ``dry_run``.

    Raises UsageError, ModelNotFound for what is asked; GateFailed for data other than the pinned,
    and where somebody else has moved the alias meanwhile.
    """
    champion = registry.aliased(checked_name(asked.name), checked_alias(asked.alias))
    _check_asked(asked, champion, settings)
    candidate = _candidate(registry, asked)
    if champion is not None and _model_id(candidate.pack) == champion.model_id:
        raise UsageError(
            f"{candidate} is the model that {asked.name}@{asked.alias} is already: {champion}"
        )
    others = [] if champion is None else [_pack(registry, champion)]
    scores = measure([candidate.pack, *others])
    _check_pin(registry, asked, scores)
    checks = compare(scores, settings)
    passed = all(check.holds for check in checks)
    moves = passed and not asked.dry_run
    version = None if champion is None else champion.version
    if moves:
        version = _move(registry, asked, candidate, champion, scores, checks)
    return Outcome(
        name=asked.name,
        alias=asked.alias,
        candidate=str(candidate),
        champion=None if champion is None else str(champion),
        version=version,
        passed=passed,
        moved=moves,
        evaluation=scores.evaluation(),
        checks=checks,
    )


def roll_back(registry: Registry, name: str, alias: str, *, dry_run: bool = False) -> Outcome:
    """Move an alias back to the version that its present one was promoted over.

    Raises ModelNotFound where it points nowhere or that version is gone, UsageError where there
    was none.
    """
    now = registry.aliased(checked_name(name), checked_alias(alias))
    if now is None:
        raise ModelNotFound(f"{name}@{alias} points at no version: there is nothing to roll back")
    record = json.loads(now.tags.get(f"{_PROMOTED}.{alias}", "{}"))
    if record.get("over") is None:
        raise UsageError(
            f"{now} was promoted over no other version: promote another one, or remove the alias "
            "in MLflow"
        )
    before = registry.version(name, record["over"])
    if not dry_run:
        note = json.dumps({"at": _now(), "to": before.version})
        registry.tag(now, f"{_ROLLED_BACK}.{alias}", note)
        registry.point(name, alias, before.version, expected=now.version)
    return Outcome(
        name=name,
        alias=alias,
        candidate=str(before),
        champion=str(now),
        version=now.version if dry_run else before.version,
        passed=True,
        moved=not dry_run,
        evaluation=record.get("evaluation", {}),
    )


def _check_asked(asked: Asked, champion: Registered | None, settings: PromotionSettings) -> None:
    if champion is None and not asked.first and settings.at_least is None:
        raise UsageError(
            f"{asked.name}@{asked.alias} points at no version yet, so there is none to beat: give "
            "--at-least ACCURACY for what the first one must reach, or --first to ask nothing"
        )
    if champion is not None and asked.first:
        raise UsageError(
            f"{asked.name}@{asked.alias} is {champion} already: leave out --first, and beat it"
        )


def _candidate(registry: Registry, asked: Asked) -> _Candidate:
    """Return what is to be promoted. Raises ModelNotFound, naming the remedy."""
    text = asked.candidate or ""
    if text and not text.isdigit() and not _RUN_ID.fullmatch(text):
        folder = str(fetch(text, uri=registry.uri)) if text.startswith("models:/") else text
        return _known(registry, asked.name, find_pack(folder))
    if text.isdigit() and not _RUN_ID.fullmatch(text):
        chosen = registry.version(asked.name, int(text))
        return _Candidate(_pack(registry, chosen), chosen)
    fitting = [known for known in registry.versions(asked.name) if text in ("", known.run_id)]
    if not fitting:
        missing = f"comes from run {text}" if text else "is registered"
        raise ModelNotFound(
            f"no version of {asked.name} {missing}: register its pack with facepipe train "
            "--register, or give --candidate PACK"
        )
    return _Candidate(_pack(registry, fitting[-1]), fitting[-1])


def _known(registry: Registry, name: str, pack: Pack) -> _Candidate:
    """Return a pack, and the latest version that is the same model, if there is one."""
    same = [known for known in registry.versions(name) if known.model_id == _model_id(pack)]
    return _Candidate(pack, same[-1] if same else None)


def _pack(registry: Registry, registered: Registered) -> Pack:
    return find_pack(str(fetch(str(registered), uri=registry.uri)))


def _model_id(pack: Pack) -> str:
    return pack.digest(pack.need_recogniser())


def _check_pin(registry: Registry, asked: Asked, scores: Scores) -> None:
    """Raise GateFailed unless the data are those that decided before."""
    if asked.repin or not registry.versions(asked.name):
        return
    text = registry.model_tags(asked.name).get(f"{_PINNED}.{asked.alias}")
    pinned = json.loads(text) if text else None
    if pinned is not None and pinned["digest"] != scores.digest:
        raise GateFailed(
            f"{asked.name}@{asked.alias} is decided on other data: pinned are {_text(pinned)}, "
            f"given are {_text(scores.evaluation())}; give the same --data and --pairs, or "
            "--repin to decide on these from now on"
        )


def _text(evaluation: Mapping[str, object]) -> str:
    return f"{evaluation.get('pairs')} pairs of digest {str(evaluation['digest'])[:12]}"


def _move(
    registry: Registry,
    asked: Asked,
    candidate: _Candidate,
    champion: Registered | None,
    scores: Scores,
    checks: Sequence[Check],
) -> int:
    """Write down who beats whom, then move the alias; return the version it points at."""
    winner = candidate.registered or registry.add(candidate.pack, asked.name)
    over = None if champion is None else champion.version
    record = {
        "at": _now(),
        "alias": asked.alias,
        "version": winner.version,
        "model_id": winner.model_id,
        "over": over,
        "over_model_id": None if champion is None else champion.model_id,
        "evaluation": scores.evaluation(),
        "checks": [check.as_json() for check in checks],
        "code": code_version(),
    }
    evaluation = json.dumps(scores.evaluation(), sort_keys=True)
    # The record first: an alias that has moved without one could not be rolled back.
    registry.tag(winner, f"{_PROMOTED}.{asked.alias}", json.dumps(record, sort_keys=True))
    registry.attach(winner, f"promotion/{asked.alias}-v{winner.version}.json", record)
    registry.tag_model(asked.name, f"{_PINNED}.{asked.alias}", evaluation)
    registry.point(asked.name, asked.alias, winner.version, expected=over)
    return winner.version


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
