"""Checkpoints of torch.save, read without unpickling; hostile ones call nothing."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facepipe.errors import CorruptData, ModelUnreadable
from training.torch_file import read_state


def saved(value: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2).half())
    return net.state_dict()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("key", [None, "state_dict_backbone", "state_dict"])
def test_reads_what_torch_saves(protocol: int, key: str | None) -> None:
    expected = state()
    held = {"epoch": 3, "rate": 1e-3, "done": (True, None), key: expected, "list": [1, "x", 2.5]}
    back = read_state(saved(held if key else expected, pickle_protocol=protocol), "net.pt")
    assert list(back) == list(expected)
    for name, value in expected.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_views_share_a_storage_but_not_the_result() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    views = {"whole": whole, "column": whole[:, 1], "turned": whole.T, "parameter": whole[1]}
    back = read_state(saved({**views, "parameter": nn.Parameter(whole[1])}), "net.pt")
    for name, value in views.items():
        assert torch.equal(back[name], value)
    back["whole"].zero_()
    assert back["column"].tolist() == [1, 5, 9]


class Caller:
    """What a hostile file holds: a call, made by whoever unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_a_call_in_the_file_is_refused_and_not_made(tmp_path: Path) -> None:
    data = saved({**state(), "x": Caller(tmp_path / "called")})
    with pytest.raises(ModelUnreadable, match="more than tensors"):
        read_state(data, "net.pt")
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "value", [{}, {"a": 1}, [torch.zeros(2)], {"state_dict": {"a": 3}}, {3: torch.zeros(1)}]
)
def test_without_a_state_dict_it_is_refused(value: object) -> None:
    with pytest.raises(ModelUnreadable, match="no state dict"):
        read_state(saved(value), "net.pt")


def test_a_whole_module_is_refused() -> None:
    with pytest.raises(ModelUnreadable, match="state_dict"):
        read_state(saved(nn.Linear(2, 2)), "net.pt")


def test_files_of_before_1_6_are_refused() -> None:
    data = saved(state(), _use_new_zipfile_serialization=False)
    with pytest.raises(ModelUnreadable, match=r"1\.6"):
        read_state(data, "net.pth")


def changed(data: bytes, name: str, content: bytes | None, compression: int = 0) -> bytes:
    """Return the zip with one entry changed, or without it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for entry in old.namelist():
            if not entry.endswith(name):
                new.writestr(entry, old.read(entry))
            elif content is not None:
                new.writestr(entry, content)
    return stream.getvalue()


def test_damage_is_told_apart_from_malice() -> None:
    data = saved({"w": torch.arange(4.0)})
    with pytest.raises(CorruptData):
        read_state(changed(data, "data/0", b"\0" * 15), "net.pt")
    with pytest.raises(CorruptData):
        read_state(changed(data, "data/0", None), "net.pt")
    with pytest.raises(CorruptData):
        read_state(changed(data, "data.pkl", b"\x80\x02}"), "net.pt")
    with pytest.raises(ModelUnreadable, match="compressed"):
        read_state(changed(data, "none", None, zipfile.ZIP_DEFLATED), "net.pt")
    with pytest.raises(ModelUnreadable):
        read_state(changed(data, "data.pkl", None), "net.pt")


def test_a_view_larger_than_its_storage_is_refused() -> None:
    """A stride of 0 would make terabytes of four bytes."""
    data = saved({"w": torch.zeros(1).expand(1 << 40)})
    with pytest.raises(CorruptData, match="view"):
        read_state(data, "net.pt")


def test_an_ordered_dict_is_a_state_dict() -> None:
    ordered = OrderedDict(w=torch.ones(2))
    assert read_state(saved(ordered), "net.pt")["w"].tolist() == [1, 1]
