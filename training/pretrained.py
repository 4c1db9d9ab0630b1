"""Weights of others for the backbones here: state dicts, and the ONNX files of packs.

A state dict of arcface_torch fits as it is, since the backbones here name their modules as it
does; the wrappers that trainers put around a net are taken off the names. An ONNX file keeps
no such names; ``onnx_weights`` lays it beside the net.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from facepipe.errors import ModelMismatch, ModelNotFound, ModelUnreadable
from training.onnx_weights import load_onnx
from training.tensor_file import read_tensors
from training.torch_file import read_state

# DistributedDataParallel, torch.compile, and a trainer that holds the net as its member.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|backbone\.|net\.)+")
# What a state dict may have and a net here does not: counters, constants that follow from the
# settings, and the token that a ViT without masking does not use.
_SURPLUS = re.compile(
    r"(?:num_batches_tracked|relative_position_index|attn_mask|shift_bias|^mask_token)$"
)
# TreB1eN's and FaceX-Zoo's names of the 1.2 M MobileFaceNet, step by step.
_FACEX_STEPS = {
    "conv1": "layers.0",
    "conv2_dw": "layers.1",
    "conv_23": "layers.2",
    "conv_3": "layers.3",
    "conv_34": "layers.4",
    "conv_4": "layers.5",
    "conv_45": "layers.6",
    "conv_5": "layers.7",
    "conv_6_sep": "conv_sep",
    "conv_6_dw": "features.layers.0",
    "linear": "features.layers.2",
    "bn": "features.layers.3",
}
_FACEX_PARTS = {
    "model": "layers",
    "conv": "layers.0",
    "conv_dw": "layers.1",
    "project": "layers.2",
    "bn": "layers.1",
    "prelu": "layers.2",
}
_ENDINGS = (".safetensors", ".pt", ".pth", ".onnx")


def need_weights(path: Path) -> None:
    """Raise ModelNotFound where there is no such file, ModelUnreadable for one of another kind."""
    if not path.is_file():
        raise ModelNotFound(f"weights {path} cannot be read: there is no such file")
    if path.suffix not in _ENDINGS:
        raise ModelUnreadable(
            f"weights {path}: {path.suffix or 'no ending'} is not one of .safetensors, .pt, .pth "
            "and .onnx"
        )


def load_weights(net: nn.Module, path: Path) -> None:
    """Load weights of others into a net: .safetensors, .pt or .pth (without unpickling), .onnx.

    Raises ModelNotFound, ModelUnreadable, CorruptData, and ModelMismatch where they are of
    another net; then the net may be left with a part of them.
    """
    need_weights(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelNotFound(f"weights {path} cannot be read: {error.strerror}") from error
    if path.suffix == ".onnx":
        load_onnx(net, data, path.name)
    elif path.suffix == ".safetensors":
        load_state(net, read_tensors(data, path.name), path.name)
    else:
        load_state(net, read_state(data, path.name), path.name)


def load_state(net: nn.Module, tensors: Mapping[str, Tensor], name: str = "weights") -> None:
    """Load a state dict of arcface_torch, or FaceX-Zoo's of MobileFaceNet, into a net.

    Raises ModelMismatch, naming what is missing, left over or of another shape.
    """
    own = net.state_dict()
    given = {_own_name(key, own): tensor for key, tensor in tensors.items()}
    given = {key: tensor for key, tensor in given.items() if not _SURPLUS.search(key)}
    wanted = {key for key in own if not key.endswith("num_batches_tracked")}
    if "mask_token" not in given:
        wanted.discard("mask_token")  # a net trained without masking has none; ours stays fresh
    wrong = [
        *(f"{key} is missing" for key in sorted(wanted - given.keys())),
        *(f"{key} is not in this net" for key in sorted(given.keys() - wanted)),
        *(
            f"{key} is {list(given[key].shape)}, not {list(own[key].shape)}"
            for key in sorted(wanted & given.keys())
            if given[key].shape != own[key].shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ModelMismatch(
            f"{name} is of another backbone: {'; '.join(wrong[:3])}{more}; set backbone.name and "
            "backbone.dim to what it was trained as"
        )
    net.load_state_dict(given, strict=False)


def _own_name(key: str, own: Mapping[str, Tensor]) -> str:
    """Return what the net here calls a tensor; an unknown name as it is, unwrapped."""
    key = _WRAPPERS.sub("", key)
    step, *parts = key.split(".")
    if key in own or step not in _FACEX_STEPS:
        return key
    inner = [_FACEX_PARTS.get(part, part) for part in parts[:-1]]
    return ".".join([_FACEX_STEPS[step], *inner, *parts[-1:]])
