"""The door to model files: onnxruntime sessions that run on one thread.

With several processes, one thread each beats any other split: no spinning, no
oversubscription (onnxruntime issues 3099, 22967). A device that was asked for and is not
there is an error, never a silent run on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from facepipe.errors import ModelUnreadable, UsageError
from facepipe.onnx_channels import block_size, pad_channels
from facepipe.onnx_graph import fix_size, input_shape, output_shape, parse, split_prelu

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ModelSettings(BaseModel):
    """Where and how models run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1, description="threads of one session; add workers instead")


@dataclass(frozen=True, slots=True)
class Model:
    """An open model: one input, float32 N x 3 x H x W; all outputs in graph order."""

    name: str
    session: Any
    batch: int | None  # the only batch size it takes; None for any
    size_px: int | None  # the only H = W it takes; None for any
    dim: int  # of the first output's last axis

    def __call__(self, blob_NCHW: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the model. Raises ModelUnreadable where the graph fails on its input.

        A model of one batch size gets a short batch filled up with zeros; its answers for
        them are the caller's to leave out.
        """
        short = (self.batch or 0) - len(blob_NCHW)
        if short > 0:
            blank = np.zeros((short, *blob_NCHW.shape[1:]), dtype=np.float32)
            blob_NCHW = np.concatenate([blob_NCHW, blank])
        try:
            outputs: list[NDArray[np.float32]] = self.session.run(
                None, {self.session.get_inputs()[0].name: blob_NCHW}
            )
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise ModelUnreadable(f"{self.name} failed while running: {error}") from error
        return outputs

    @property
    def output_names(self) -> list[str]:
        """Return the outputs' names in graph order."""
        return [output.name for output in self.session.get_outputs()]


def require_device(settings: ModelSettings) -> None:
    """Raise UsageError where the device that was asked for is not there."""
    import onnxruntime

    provider = _PROVIDERS[settings.device]
    if provider not in onnxruntime.get_available_providers():
        raise UsageError(
            f"models.device is {settings.device}, but this onnxruntime has no {provider}: "
            "install facepipe[gpu] on a machine with CUDA, or set models.device=cpu"
        )


def open_model(
    data: bytes, name: str, settings: ModelSettings, *, size_px: int | None = None
) -> Model:
    """Open ONNX bytes; ``size_px`` fixes a free input height and width (both the same).

    Raises ModelUnreadable where the file is no model or its graph cannot be run, UsageError
    where the device is missing.
    """
    require_device(settings)
    model = split_prelu(parse(data, name))
    shape = input_shape(model)
    if len(shape) != 4 or shape[1] != 3:
        raise ModelUnreadable(f"{name} takes {shape}, not pictures (N, 3, height, width)")
    fixed_px = shape[2] if shape[2] is not None and shape[2] == shape[3] else None
    if size_px is not None and fixed_px is None:
        model = fix_size(model, size_px, size_px)
    block = block_size() if settings.device == "cpu" else None
    if block is not None:
        model = pad_channels(model, block)
    session = _session(model.SerializeToString(), name, settings)
    dims = output_shape(model)
    return Model(name=name, session=session, batch=shape[0], size_px=fixed_px, dim=dims[-1] or 0)


def _session(data: bytes, name: str, settings: ModelSettings) -> Any:
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider = _PROVIDERS[settings.device]
    try:
        session = ort.InferenceSession(data, options, providers=[provider])
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise ModelUnreadable(f"{name} cannot be opened by onnxruntime: {error}") from error
    if provider not in session.get_providers():  # it falls back on the CPU with a log line
        raise UsageError(
            f"models.device is {settings.device}, but onnxruntime could not start {provider}: "
            "check the CUDA and cuDNN that facepipe[gpu] needs, or set models.device=cpu"
        )
    return session
