"""How good a student is on people whom it never saw: LFW's pairs of the folds held out.

Legend: C crops, P pairs, D dimensions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from facepipe.errors import SourceNotFound
from facepipe.evaluate import fold_accuracy, picture_name, read_pairs
from facepipe.models import ModelSettings, open_model
from training.face_windows import FaceWindows, crops
from training.taught_batches import as_input

BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found; shares, not per cent."""

    accuracy: float  # mean of the folds, each with the threshold of the others
    folds: tuple[float, ...]
    cosine: float  # mean, of the student's to the teacher's embedding


class HeldOut:
    """The faces of held-out people, and the pairs of their folds."""

    def __init__(
        self,
        faces: FaceWindows,
        taught_CD: npt.NDArray[np.float32],
        pairs_file: Path,
        folds: Collection[int],
    ) -> None:
        """Find the pairs' faces; ``folds`` count from 0. Raises SourceNotFound for one not there.

        A picture in which the teacher's detector saw nobody has no face: its pairs are wrong.
        """
        pairs = read_pairs(pairs_file)
        chosen = np.isin(pairs.fold_P, list(folds))
        place = {PurePosixPath(name).stem: n for n, name in enumerate(faces.names)}
        sides = [[side[p] for p in np.flatnonzero(chosen)] for side in (pairs.left, pairs.right)]
        self._left_P, self._right_P = (
            np.array([place.get(picture_name(*picture), -1) for picture in side]) for side in sides
        )
        if (self._left_P < 0).all():
            raise SourceNotFound(f"{pairs_file} names no face of the photos that were given")
        self._same_P, self._fold_P = pairs.same_P[chosen], pairs.fold_P[chosen]
        self._crops = np.ascontiguousarray(crops(faces))
        self._taught_CD = taught_CD

    def check(self, net: nn.Module) -> Check:
        """Measure a net in evaluation mode; a face's embedding is the sum with its mirror's."""
        own_CD = embedded(net, self._crops)
        score_P = (own_CD[self._left_P] * own_CD[self._right_P]).sum(axis=1)
        score_P[(self._left_P < 0) | (self._right_P < 0)] = np.nan
        found = fold_accuracy(score_P, self._same_P, self._fold_P)
        return Check(
            accuracy=found.mean,
            folds=tuple(found.accuracy.tolist()),
            cosine=float((own_CD * self._taught_CD).sum(axis=1).mean()),
        )


class OnnxNet(nn.Module):
    """An ONNX recogniser where a net is expected, as `facepipe` opens it."""

    def __init__(self, data: bytes, name: str) -> None:
        """Open it. Raises ModelUnreadable."""
        super().__init__()
        self._model = open_model(data, name, ModelSettings())

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return B x D."""
        return torch.from_numpy(self._model(np.ascontiguousarray(x_BCHW.numpy()))[0])


@torch.no_grad()
def embedded(net: nn.Module, crops_CHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return unit embeddings of BGR crops, each summed with its mirror image's, (C, D).

    The sum is of embeddings as they come, as `facepipe.embed` has it.
    """
    parts = []
    for start in range(0, len(crops_CHWC), BATCH):
        shown = crops_CHWC[start : start + BATCH]
        both = [net(as_input(np.ascontiguousarray(side))) for side in (shown, shown[:, :, ::-1])]
        parts.append(nn.functional.normalize((both[0] + both[1]).double()).numpy())
    return np.concatenate(parts)
