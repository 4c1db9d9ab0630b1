"""The state of a run on disk: written whole or not at all, read by any number of ranks.

    checkpoints/step-00000123/
      backbone.safetensors    the net's weights and statistics
      terms.safetensors       what other losses learned, if any did: centres, a map to a teacher
      ema.safetensors         the averaged weights, where they are kept
      optimizer.safetensors   momentum of the net, by parameter
      head/                   class centres and their momentum, by class id: head_state.py
      state.json              step, position and all other numbers

A folder is written under a temporary name, its files are brought to the disk, and then it is
renamed: whatever kills the run, a folder that is there is whole. Ranks on several machines need a
file system that all of them see. No state of a random generator is in it: the numbers of a step
follow from (seed, step, rank), so that there is none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facepipe.errors import CorruptData, ModelMismatch, StoreFull
from training.head_state import read_head, write_head
from training.learner import Learner
from training.ranks import Ranks
from training.tensor_file import read_tensors, tensor_bytes

STEP = re.compile(r"step-(\d{8,})")
STATE = "state.json"
HEAD = "head"
_STEP_DIGITS = 8


def step_folder(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return folder / f"step-{step:0{_STEP_DIGITS}d}"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints there are, oldest first."""
    if not folder.is_dir():
        return []
    found = ((STEP.fullmatch(path.name), path) for path in folder.iterdir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def write_checkpoint(
    folder: Path, step: int, learner: Learner, state: Mapping[str, Any], ranks: Ranks, *, keep: int
) -> Path:
    """Write a checkpoint on all ranks at once, then remove all but the newest; return its folder.

    Raises StoreFull where it cannot be written; then those before it are still there.
    """
    final = step_folder(folder, step)
    partial = final.with_name(f".{final.name}.partial")
    ranks.agreed(lambda: _writing(partial, lambda: _empty(partial)))
    _all_well(ranks, partial, lambda: _write_rows(partial, learner))
    ranks.agreed(lambda: _writing(partial, lambda: _write_rest(partial, final, learner, state)))
    if ranks.first:
        for old in checkpoints(folder)[:-keep]:
            _remove(old)
    return final


def read_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Give a rank's learner the state of a checkpoint; return its numbers.

    Raises CorruptData where the checkpoint is damaged, ModelMismatch where it is of another net.
    """
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptData(f"{path / STATE} cannot be read: {_REMEDY}") from error
    _load(learner.backbone, _tensors(path / "backbone.safetensors"), path)
    _load(learner.terms, _tensors(path / "terms.safetensors", there=False), path)
    if learner.average is not None:
        learner.average.load(_tensors(path / "ema.safetensors"))
    _load_optimizer(learner, _tensors(path / "optimizer.safetensors"))
    if learner.head is not None:
        read_head(path / HEAD, learner.head, learner.centre_optimizer)
    return state


def read_net(path: Path, net: nn.Module) -> None:
    """Give a net the weights of a checkpoint that are worth most: the averaged ones, or its own."""
    averaged = path / "ema.safetensors"
    _load(net, _tensors(averaged if averaged.is_file() else path / "backbone.safetensors"), path)


_REMEDY = "remove this checkpoint, and the run goes on from the one before it"


def _write_rows(partial: Path, learner: Learner) -> None:
    """Write the class centres of this rank."""
    if learner.head is None:
        return
    write_head(partial / HEAD, learner.head, learner.centre_optimizer)
    for path in (partial / HEAD).iterdir():
        _sync(path)


def _write_rest(partial: Path, final: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    files = {
        "backbone.safetensors": tensor_bytes(learner.backbone.state_dict()),
        "optimizer.safetensors": tensor_bytes(dict(_optimizer_state(learner))),
    }
    if learner.average is not None:
        files["ema.safetensors"] = tensor_bytes(learner.average.state)
    if learner.terms.state_dict():
        files["terms.safetensors"] = tensor_bytes(learner.terms.state_dict())
    files[STATE] = (json.dumps(state, indent=1, sort_keys=True) + "\n").encode()
    for name, data in files.items():
        path = partial / name
        path.write_bytes(data)
        _sync(path)
    for folder in (partial / HEAD, partial):
        _sync(folder)
    if final.exists():  # written before the run went back behind it
        _remove(final)
    partial.rename(final)
    _sync(final.parent)


def _all_well(ranks: Ranks, partial: Path, write: Callable[[], None]) -> None:
    """Let every rank write; where one cannot, all of them raise."""
    failed: StoreFull | None = None
    try:
        _writing(partial, write)
    except StoreFull as error:
        failed = error
    if ranks.any(failed is not None):
        raise failed or StoreFull(f"another rank could not write to {partial.parent}")


def _writing(partial: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreFull(
            f"the checkpoint {partial.name[1:].removesuffix('.partial')} cannot be written "
            f"({error.strerror or error}): make room, and run the same command again"
        ) from error


def _empty(partial: Path) -> None:
    """Make the folder to write to, and remove what killed runs left beside it."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    for left in partial.parent.glob(".step-*"):
        shutil.rmtree(left)
    (partial / HEAD).mkdir(parents=True)


def _remove(path: Path) -> None:
    """Remove a checkpoint so that at no time a part of it passes for one."""
    hidden = path.with_name(f".{path.name}.removed")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tensors(path: Path, *, there: bool = True) -> dict[str, Tensor]:
    if not there and not path.exists():
        return {}
    try:
        return read_tensors(path.read_bytes(), str(path))
    except OSError as error:
        raise CorruptData(f"{path} cannot be read ({error.strerror}): {_REMEDY}") from error


def _load(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelMismatch(
            f"{path} is of another net ({str(error).splitlines()[-1].strip()}): resume with the "
            "settings of that run"
        ) from error


def _optimizer_state(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    """Yield what the optimiser keeps, as ``<parameter>.<what>``."""
    for name, parameter in learner.net.named_parameters():
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            if value is not None:
                yield f"{name}.{key}", torch.as_tensor(value)


def _load_optimizer(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    by_name: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        owner, _, key = name.rpartition(".")
        by_name.setdefault(owner, {})[key] = value
    state = learner.optimizer.state
    state.clear()
    for name, parameter in learner.net.named_parameters():
        for key, value in by_name.get(name, {}).items():
            if value.shape == parameter.shape:  # in the parameter's order of memory
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            state[parameter][key] = value
