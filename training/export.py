"""A trained backbone as a model pack: ONNX for any batch size, checked against the net.

The pack is a folder that `facepipe --models FOLDER` takes. It appears at once and whole, and
only if what `facepipe embed` makes with it equals what the net answers.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
import yaml
from torch import nn

from facepipe.embed import EmbedSettings, Recogniser
from facepipe.errors import GateFailed, UsageError
from facepipe.models import ModelSettings
from facepipe.packs import DESCRIPTION, Pack, RecogniserSpec, find_pack
from training import parity
from training.backbone import IMAGE_PX
from training.flops import evaluating
from training.parity import Parity

RECOGNISER_FILE = "recogniser.onnx"
OPSET = 17  # the first with LayerNormalization; onnxruntime since 1.12
HALF_RANGE = 127.5  # (x - 127.5) / 127.5 takes 0..255 to a backbone's [-1, 1]
CHECK_BATCH = 3  # of 8 pictures: batches of 3, 3 and 2, so that a fixed batch does not pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A pack that was written, and how well it agrees with the net."""

    pack: Pack
    model_id: str  # digest of weights and preprocessing: facepipe.packs
    parity: Parity


def export_pack(
    net: nn.Module,
    folder: Path,
    *,
    detector: Pack | None = None,
    notes: Mapping[str, str] | None = None,
) -> Exported:
    """Write a net as a pack; with ``detector``, that pack's detector is copied into it.

    ``notes`` go into the ONNX file's metadata, such as what it was trained on. The net stays
    as it is. Raises UsageError where the folder exists and is not empty, GateFailed where the
    pack answers otherwise than the net; then nothing is left behind.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists: give the export a folder of its own")
    spec = RecogniserSpec(file=RECOGNISER_FILE, mean=(HALF_RANGE,) * 3, std=(HALF_RANGE,) * 3)
    described: dict[str, Any] = {"recogniser": spec.model_dump(exclude={"batch"}, mode="json")}
    copy = parity.plain_copy(net)
    files = {RECOGNISER_FILE: onnx_bytes(copy, notes)}
    if detector is not None:
        found = detector.need_detector()
        described["detector"] = found.model_dump(mode="json")
        files[found.file] = detector.read(found)
    files[DESCRIPTION] = yaml.safe_dump(described, sort_keys=True).encode()
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        _write(partial, files)
        agreement = check_pack(find_pack(str(partial)), copy)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    pack = find_pack(str(folder))
    return Exported(pack=pack, model_id=pack.digest(pack.need_recogniser()), parity=agreement)


def onnx_bytes(net: nn.Module, notes: Mapping[str, str] | None = None) -> bytes:
    """Return a net in evaluation mode as one ONNX file: ``input`` B x 3 x 112 x 112.

    The same net gives the same bytes.
    """
    with TemporaryDirectory() as folder, warnings.catch_warnings(), evaluating(net):
        target = Path(folder) / RECOGNISER_FILE
        # The exporter that needs no package besides onnx; torch announces that it will go. The
        # newer one wants onnxscript. What either writes is checked in the same way.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, IMAGE_PX, IMAGE_PX),),
            target,
            input_names=["input"],
            output_names=["embedding"],
            dynamic_axes={"input": {0: "batch"}, "embedding": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
        model = _without_aliases(onnx.load(target))
    onnx.helper.set_model_props(model, dict(sorted((notes or {}).items())))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def check_pack(pack: Pack, net: nn.Module) -> Parity:
    """Return how alike a pack and a net answer, through `facepipe.embed` and its input.

    Raises GateFailed where they do not.
    """
    crops = parity.made_crops()
    recogniser = Recogniser(pack, EmbedSettings(batch=CHECK_BATCH), ModelSettings())
    expected = parity.embed(parity.plain_copy(net), parity.as_input(crops))
    agreement = parity.compare(expected, recogniser.embed(crops))
    if not agreement.holds:
        raise GateFailed(
            f"the exported pack answers otherwise than the net: cosine {agreement.cosine:.7f}, "
            f"{agreement.centred_cosine:.7f} less the mean, at least {parity.LEAST_COSINE} is "
            "needed: export from the float32 weights, and compare the two layer by layer"
        )
    return agreement


def _without_aliases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without Identity nodes that give a stored tensor another name.

    The exporter writes them for tensors that are equal, as many are in a fresh net; they hide
    the weights from `facepipe.onnx_graph`.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    alias = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Identity" and node.input[0] in stored
    }
    kept = [node for node in model.graph.node if node.output[0] not in alias]
    for node in kept:
        node.input[:] = [alias.get(name, name) for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
