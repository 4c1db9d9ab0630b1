"""The state of a builtin model's training on disk: written whole or not at all.

    RUN/checkpoints/step-00000123/
        net.safetensors  ema.safetensors  optimizer.safetensors  state.json

As in ``training.checkpoint``, a folder is renamed to its name when its files are on the disk, so
that one that is there is whole; the pictures of a step follow from its number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facepipe.errors import CorruptData, ModelMismatch, UsageError
from training.checkpoint import checkpoints, step_folder
from training.ema import WeightAverage
from training.tensor_file import read_tensors, tensor_bytes

RECORD = "run.json"
KEPT = 2  # checkpoints: the newest, and the one before it should that one be damaged


def begin(run: Path, record: Mapping[str, Any]) -> None:
    """Make a run's folder, or find it as it was. Raises UsageError for one of other settings."""
    run.mkdir(parents=True, exist_ok=True)
    path, text = run / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n"
    if not path.exists():
        if any(entry.name != "labels.npz" for entry in run.iterdir()):
            raise UsageError(f"{run} holds something else: give the run a folder of its own")
        write_whole(path, text.encode())
    elif path.read_text(encoding="utf-8") != text:
        raise UsageError(
            f"{run} is a run of other settings, photos or teacher: go on with the same ones, or "
            "give this run a folder of its own"
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    partial = path.with_name(f".{path.name}.partial")
    _write(partial, data)
    partial.replace(path)


def write_state(
    run: Path,
    step: int,
    net: nn.Module,
    average: WeightAverage,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Write a checkpoint after a step, then remove all but the newest."""
    final = step_folder(run / "checkpoints", step)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write(partial / "net.safetensors", tensor_bytes(net.state_dict()))
    _write(partial / "ema.safetensors", tensor_bytes(average.state))
    _write(partial / "optimizer.safetensors", tensor_bytes(_optimizer_state(net, optimizers)))
    _write(partial / "state.json", json.dumps({"step": step}).encode())
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in checkpoints(final.parent)[:-KEPT]:
        shutil.rmtree(old)


def read_state(
    run: Path,
    net: nn.Module,
    average: WeightAverage,
    optimizers: Sequence[torch.optim.Optimizer],
) -> int:
    """Go on from the newest checkpoint; return its step, 0 where there is none.

    Raises CorruptData where it is damaged, ModelMismatch where it is of another net.
    """
    found = checkpoints(run / "checkpoints")
    if not found:
        return 0
    folder = found[-1]
    try:
        net.load_state_dict(_read(folder / "net.safetensors"))
    except RuntimeError as error:
        raise ModelMismatch(f"{folder} is of another net: resume with its settings") from error
    average.load(_read(folder / "ema.safetensors"))
    _load_optimizers(net, optimizers, _read(folder / "optimizer.safetensors"))
    step: int = json.loads((folder / "state.json").read_bytes())["step"]
    return step


def _optimizer_state(
    net: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, parameter in net.named_parameters()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_optimizers(
    net: nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    of_name: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        owner, _, key = name.rpartition(".")
        of_name.setdefault(owner, {})[key] = value
    names = {parameter: name for name, parameter in net.named_parameters()}
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            for key, value in of_name.get(names[parameter], {}).items():
                if value.shape == parameter.shape:  # in the parameter's order of memory
                    value = torch.empty_like(parameter, requires_grad=False).copy_(value)
                optimizer.state[parameter][key] = value


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path.read_bytes(), str(path))
    except OSError as error:
        raise CorruptData(
            f"{path} cannot be read ({error.strerror}): remove {path.parent}, and the run goes on "
            "from the checkpoint before it"
        ) from error


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
