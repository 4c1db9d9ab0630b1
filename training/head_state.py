"""A head's state as files, by global class id: saved by any number of ranks, read by any other.

A rank writes the rows of its classes, of the centres and of each optimiser tensor of the same
shape (momentum), as ``<name>.<first>-<end>.npy``; rank 0 also writes ``head.json``, with the
rest: how many classes, the loss's running statistics, step counters. A reader takes the rows
it needs out of whatever files hold them. Float64, float32 and float16 are kept as they are.
The folder is the caller's, and so is making it appear whole (the trainer's checkpoint).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facepipe.errors import CorruptData, ModelMismatch
from training.heads import Head

ROWS_FILE = re.compile(r"(?P<name>\w+)\.(?P<first>\d+)-(?P<end>\d+)\.npy")
CENTRES = "centres"


def write_head(folder: Path, head: Head, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Write this rank's rows; the rank that has class 0 also writes what is not by class."""
    scalars: dict[str, float] = {}
    for name, values in _by_class(head, optimizer).items():
        if not values.numel():
            continue  # more ranks than classes
        if values.shape == head.centres.shape:
            np.save(folder / f"{name}.{head.first}-{head.last}.npy", values.detach().cpu().numpy())
        else:
            scalars[name] = values.item()
    if head.first == 0 and head.last > 0:
        rest = {
            "num_classes": head.num_classes,
            "shape": list(head.centres.shape[1:]),
            "head": {key: value.item() for key, value in _rest(head).items()},
            "optimizer": scalars,
        }
        (folder / "head.json").write_text(json.dumps(rest, indent=1, sort_keys=True) + "\n")


def read_head(folder: Path, head: Head, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Give a head, and its optimiser, the state that any number of ranks wrote.

    The optimiser's state is replaced; it must hold the centres alone or beside others. Raises
    ModelMismatch where the state is of other classes or another loss, CorruptData where rows
    are missing.
    """
    rest = _read_rest(folder, head)
    with torch.no_grad():
        head.centres.copy_(read_rows(folder, CENTRES, head.first, head.last))
    state = dict(_rest(head))
    for key, value in state.items():
        state[key] = torch.tensor(rest["head"][key], dtype=value.dtype)
    head.load_state_dict({**state, CENTRES: head.centres.detach()})
    if optimizer is None:
        return
    names = {match["name"] for match in _files(folder)} - {CENTRES}
    device, dtype = head.centres.device, head.centres.dtype
    by_row = {
        name: read_rows(folder, name, head.first, head.last).to(device=device, dtype=dtype)
        for name in sorted(names)
    }
    scalars = {name: torch.tensor(value) for name, value in rest["optimizer"].items()}
    optimizer.state[head.centres] = {**by_row, **scalars}


def read_rows(folder: Path, name: str, first: int, end: int) -> Tensor:
    """Return the rows of classes first..end-1 of one tensor. Raises CorruptData for a gap."""
    parts, place, written = [], first, 0
    for file_first, file_end, file in sorted(
        (int(m["first"]), int(m["end"]), m[0]) for m in _files(folder, name)
    ):
        if file_first < written:
            raise CorruptData(
                f"{file} holds {name} of class {file_first}, and so does another file of "
                f"{folder}: two saves lie in one folder; take another checkpoint"
            )
        written = file_end
        if file_first <= place < min(file_end, end):
            rows = np.load(folder / file, mmap_mode="r")
            if len(rows) != file_end - file_first:
                raise CorruptData(f"{file} holds {len(rows)} rows: take another checkpoint")
            parts.append(rows[place - file_first : end - file_first])
            place = min(file_end, end)
    if place < end:
        raise CorruptData(
            f"no file of {folder} has {name} of class {place}: a rank's file is missing; "
            "take another checkpoint"
        )
    if not parts:  # more ranks than classes
        return torch.from_numpy(np.load(folder / _files(folder, name)[0][0])[:0])
    return torch.from_numpy(np.concatenate(parts))


def _files(folder: Path, name: str | None = None) -> list[re.Match[str]]:
    matches = (ROWS_FILE.fullmatch(path.name) for path in sorted(folder.iterdir()))
    return [match for match in matches if match and name in (None, match["name"])]


def _by_class(head: Head, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """Return the centres and what the optimiser keeps of them."""
    kept = {} if optimizer is None else optimizer.state.get(head.centres, {})
    tensors = {name: torch.as_tensor(value) for name, value in kept.items() if value is not None}
    return {CENTRES: head.centres, **tensors}


def _rest(head: Head) -> dict[str, Tensor]:
    """Return the state that is not by class: numbers."""
    return {key: value for key, value in head.state_dict().items() if key != CENTRES}


def _read_rest(folder: Path, head: Head) -> dict[str, Any]:
    path = folder / "head.json"
    try:
        rest: dict[str, Any] = json.loads(path.read_text())
        found = {"num_classes": rest["num_classes"], "shape": rest["shape"]}
        keys, _ = set(rest["head"]), rest["optimizer"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptData(
            f"{path} cannot be read ({type(error).__name__}: {error}): take another checkpoint"
        ) from error
    wanted = {"num_classes": head.num_classes, "shape": list(head.centres.shape[1:])}
    if found != wanted or keys != set(_rest(head)):
        raise ModelMismatch(
            f"{path} is the state of another head ({found}, {sorted(keys)}), this one is "
            f"({wanted}, {sorted(_rest(head))}): resume with the settings of that run, or "
            "start without its head"
        )
    return rest
