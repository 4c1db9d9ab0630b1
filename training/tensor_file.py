"""Tensors in a file, by name: the safetensors format, read and written.

Nothing in such a file can be run: eight bytes with the header's length, the header (JSON: for
each name a dtype, a shape and where its bytes are), the bytes. The format is Hugging Face's,
https://huggingface.co/docs/safetensors, and its library reads what is written here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from facepipe.errors import CorruptData

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's own limit
HEADER_ALIGN_BYTES = 8

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def tensor_bytes(tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> bytes:
    """Return the file: tensors by name, so that the same tensors give the same bytes.

    ``notes`` are texts about them. Raises KeyError for a dtype that the format has not.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(notes.items()))} if notes else {}
    parts, position = [], 0
    # The widest first, as the reference writes them: so each begins where its dtype may.
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name].detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(data)],
        }
        parts.append(data)
        position += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGN_BYTES)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """Return the tensors of a file's bytes, on the CPU, each with memory of its own.

    Raises CorruptData, naming the file, where it is cut short or contradicts itself.
    """
    try:
        header, body = _split(data)
        header.pop("__metadata__", None)
        places = sorted(tuple(entry["data_offsets"]) for entry in header.values())
        ends = [0, *(place for pair in places for place in pair), len(body)]
        if any(before != after for before, after in zip(ends[::2], ends[1::2], strict=True)):
            raise ValueError("the tensors do not fill the file")
        return {key: _tensor(entry, body) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CorruptData(
            f"{name} is no whole safetensors file ({error}): copy or export it again"
        ) from error


def read_notes(data: bytes, name: str) -> dict[str, str]:
    """Return the texts stored with the tensors. Raises CorruptData."""
    try:
        return {
            str(key): str(text) for key, text in _split(data)[0].get("__metadata__", {}).items()
        }
    except (ValueError, AttributeError, struct.error) as error:
        raise CorruptData(f"{name} is no whole safetensors file ({error})") from error


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header is no mapping")
    return header, memoryview(data)[8 + length :]


def _tensor(entry: dict[str, Any], body: memoryview) -> Tensor:
    dtype, shape = _DTYPES[entry["dtype"]], torch.Size(entry["shape"])
    begin, end = entry["data_offsets"]
    if any(size < 0 for size in shape) or shape.numel() * dtype.itemsize != end - begin:
        raise ValueError(f"{end - begin} bytes for shape {list(shape)}")
    if begin == end:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(body[begin:end]), dtype=dtype).reshape(shape)
