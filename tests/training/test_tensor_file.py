"""safetensors files: their layout by hand, and what a damaged one does."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import torch

from facepipe.errors import CorruptData
from training.tensor_file import read_notes, read_tensors, tensor_bytes

TENSORS = {
    "b": torch.tensor([[1.5, -2.0], [0.25, 8.0]]),
    "a": torch.tensor([3, -4], dtype=torch.int64),
    "c": torch.tensor([1.0, 3.0], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
    "one": torch.tensor(True),
}


def made(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_what_is_written_is_read() -> None:
    data = tensor_bytes(TENSORS, {"note": "text"})
    back = read_tensors(data, "file")
    assert back.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert back[key].dtype == value.dtype
        assert torch.equal(back[key], value)
    assert read_notes(data, "file") == {"note": "text"}


def test_the_order_of_the_dict_does_not_matter() -> None:
    turned = dict(reversed(TENSORS.items()))
    assert tensor_bytes(TENSORS, {"x": "1", "y": "2"}) == tensor_bytes(turned, {"y": "2", "x": "1"})


def test_the_layout_is_the_formats() -> None:
    data = tensor_bytes({"w": torch.tensor([[1.0], [2.0]])})
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length]) == {
        "w": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}
    }
    assert struct.unpack("<2f", data[8 + length :]) == (1.0, 2.0)


def test_the_reference_library_reads_it_and_is_read() -> None:
    reference = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    back = reference.load(tensor_bytes(TENSORS, {"note": "text"}))
    theirs = read_tensors(reference.save(TENSORS), "file")
    assert back.keys() == theirs.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert torch.equal(back[key], value)
        assert torch.equal(theirs[key], value)


def test_views_and_transposes_are_stored_as_they_read() -> None:
    square = torch.arange(6.0).reshape(2, 3)
    back = read_tensors(tensor_bytes({"t": square.T, "row": square[1]}), "file")
    assert back["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert back["row"].tolist() == [3, 4, 5]


GOOD: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        struct.pack("<Q", 1 << 60) + b"{}",
        made([], b""),
        made({"w": {**GOOD, "dtype": "F99"}}, b"\0" * 8),
        made({"w": {**GOOD, "shape": [3]}}, b"\0" * 8),
        made({"w": {**GOOD, "shape": [-1, -2]}}, b"\0" * 8),
        made({"w": {**GOOD, "data_offsets": [0, 4]}}, b"\0" * 8),
        made({"w": {**GOOD, "data_offsets": [4, 12]}}, b"\0" * 12),
        made({"w": GOOD}, b"\0" * 7),
        made({"w": GOOD}, b"\0" * 9),
        made({"w": GOOD, "v": GOOD}, b"\0" * 8),
        made({"w": 3}, b"\0" * 8),
    ],
)
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptData, match=r"here\.safetensors"):
        read_tensors(data, "here.safetensors")
