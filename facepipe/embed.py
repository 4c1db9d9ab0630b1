"""Faces to unit vectors: batches of aligned crops through a recogniser.

Legend: N crops of H x W x C (112 x 112 x 3, BGR, uint8); D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from facepipe import ids
from facepipe.errors import ModelUnreadable
from facepipe.models import Model, ModelSettings, open_model
from facepipe.packs import Pack, RecogniserSpec

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class EmbedSettings(BaseModel):
    """How crops become vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: Literal["none", "sum", "concat"] = Field(
        "none",
        description="also embed the mirrored crop and add the two vectors, or put one after "
        "the other; twice the cost",
    )
    batch: int = Field(4, ge=1, description="crops a batch; on a CPU more is not faster")


def model_id(pack: Pack, settings: EmbedSettings) -> str:
    """Return the id of vectors: weights, preprocessing and flip test, but not the batch size."""
    return ids.digest([pack.digest(pack.need_recogniser()), settings.flip])


@dataclass(slots=True)
class Recogniser:
    """A recogniser, opened once per worker."""

    pack: Pack
    settings: EmbedSettings
    models: ModelSettings
    _model: Model | None = None

    def __post_init__(self) -> None:
        """Open the session, so that a bad model fails before the first face."""
        spec = self.pack.need_recogniser()
        self._model = open_model(self.pack.read(spec), spec.file, self.models)

    @property
    def dim(self) -> int:
        """Return D of the vectors `embed` gives."""
        return self._run_once() * (2 if self.settings.flip == "concat" else 1)

    def embed(self, crops: Sequence[Pixels]) -> Floats:
        """Return N x D raw vectors (not normalised), float32, in the order of the crops.

        Always the same batches for the same list, so that the bits do not depend on what
        else runs.
        """
        plain = self._forward(crops)
        if self.settings.flip == "none":
            return plain
        mirrored = self._forward([np.ascontiguousarray(c[:, ::-1]) for c in crops])
        if self.settings.flip == "sum":
            return plain + mirrored
        return np.concatenate([plain, mirrored], axis=1)

    def _forward(self, crops: Sequence[Pixels]) -> Floats:
        model, spec = self._opened(), self.pack.need_recogniser()
        step = spec.batch or model.batch or self.settings.batch
        parts = [
            _vectors(model, crop_blob(crops[start : start + step], spec))
            for start in range(0, len(crops), step)
        ]
        if not parts:
            return np.zeros((0, self._run_once()), dtype=np.float32)
        return np.concatenate(parts)

    def _run_once(self) -> int:
        """Return the model's own D; asks the model where its graph does not say."""
        model = self._opened()
        if model.dim:
            return model.dim
        blank = np.zeros((112, 112, 3), dtype=np.uint8)
        return int(_vectors(model, crop_blob([blank], self.pack.need_recogniser())).shape[1])

    def _opened(self) -> Model:
        assert self._model is not None  # set by __post_init__
        return self._model


def _vectors(model: Model, blob_NCHW: Floats) -> Floats:
    """Return N x D of a model's first output. Raises ModelUnreadable where it is none."""
    output = model(blob_NCHW)[0]
    rows = model.batch or len(blob_NCHW)
    if output.shape[:1] != (rows,) or output.size == 0:
        raise ModelUnreadable(
            f"{model.name} answers {list(output.shape)} to {rows} crops, not one vector each: it "
            "is no face recogniser"
        )
    return output.reshape(rows, -1)[: len(blob_NCHW)].astype(np.float32)


def crop_blob(crops: Sequence[Pixels], spec: RecogniserSpec) -> Floats:
    """Return crops as N x 3 x 112 x 112 float32, normalised as the recogniser wants it."""
    if len(set(spec.mean)) == 1 and len(set(spec.std)) == 1:
        # One mean and one std: insightface's own call, so that the bits agree.
        blob = cv2.dnn.blobFromImages(crops, 1.0 / spec.std[0], mean=spec.mean, swapRB=spec.rgb)
        return np.asarray(blob, dtype=np.float32)
    stack = np.stack(crops).astype(np.float32)
    rgb = stack[..., ::-1]
    normal = (rgb - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    ordered = normal if spec.rgb else normal[..., ::-1]
    return np.ascontiguousarray(ordered.transpose(0, 3, 1, 2))


def normalise(raw_ND: Floats) -> tuple[NDArray[np.float16], Floats, NDArray[np.bool_]]:
    """Return unit vectors (float16), their lengths before (float32), and which are sound.

    A vector that is not finite, or of length 0, is unsound: its row is 0.
    """
    raw = np.where(np.isfinite(raw_ND), raw_ND, np.nan).astype(np.float64)
    norm = np.sqrt(np.einsum("nd,nd->n", raw, raw))
    sound = np.isfinite(norm) & (norm > 1e-6)
    unit = raw / np.where(sound, norm, 1.0)[:, None]
    unit[~sound] = 0
    lengths = np.where(sound, norm, 0).astype(np.float32)
    return unit.astype(np.float16), lengths, sound
