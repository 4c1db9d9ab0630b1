"""The tensors of a PyTorch checkpoint (.pt, .pth), read without unpickling.

torch.save writes a zip: `data.pkl`, a pickle of the state dict in which each tensor is a name
of a file beside it, and those files. An unpickler calls what the file names; this reader
follows the few instructions that a dict of tensors needs, calls nothing, and refuses the rest.
Files of before PyTorch 1.6 are no zip and are refused too.

Instructions: pickletools in the Python library. Format: torch/serialization.py.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facepipe.errors import CorruptData, ModelUnreadable

# Where trainers keep the net's state in a checkpoint that holds more.
STATE_KEYS = ("state_dict_backbone", "state_dict", "model_state_dict", "model", "backbone", "net")
MAX_PICKLE_BYTES = 64 << 20  # of names and shapes; arcface_torch's r200 has 0.2 MB

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_CALLABLE = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


class _Refused(Exception):
    """An instruction, or a use of one, that a dict of tensors does not need."""


@dataclass(frozen=True, slots=True)
class _Name:
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A file of the zip that tensors are views of."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_state(data: bytes, name: str) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint's bytes, on the CPU.

    Of a checkpoint that holds more (optimiser, epoch), the state under the first of
    `STATE_KEYS`. Raises ModelUnreadable where there is none or it holds other things than
    tensors, CorruptData where the file is cut short.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            prefix, root = _contents(archive)
            state = _state(root, name)
            storages: dict[str, Tensor] = {}
            return {key: _tensor(view, archive, prefix, storages) for key, view in state.items()}
    except _Refused as error:
        raise ModelUnreadable(
            f"{name} holds more than tensors ({error}), and is not unpickled, which could run "
            "code: save the net's state_dict() alone, or as safetensors"
        ) from error
    except zipfile.BadZipFile as error:
        raise ModelUnreadable(
            f"{name} is no checkpoint of PyTorch 1.6 or later (no zip): save it again there, or "
            "as safetensors"
        ) from error
    except (KeyError, ValueError, IndexError, EOFError, RuntimeError, TypeError) as error:
        raise CorruptData(f"{name} is no whole checkpoint ({error}): copy it again") from error


def _contents(archive: zipfile.ZipFile) -> tuple[str, Any]:
    """Return the folder in the zip, and the value of its pickle."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise _Refused("it is compressed")  # torch.save never does; it could grow without end
    for entry in archive.infolist():
        if entry.filename.endswith("/data.pkl"):
            prefix = entry.filename.removesuffix("data.pkl")
            if entry.file_size > MAX_PICKLE_BYTES:
                raise _Refused(f"{entry.file_size} bytes of names")
            order = f"{prefix}byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise _Refused("it was written by a big-endian machine")
            return prefix, _Reader().value(archive.read(entry))
    raise _Refused("no data.pkl")


def _state(root: Any, name: str) -> Mapping[str, _View]:
    held = next((root[key] for key in STATE_KEYS if isinstance(root, dict) and key in root), root)
    if isinstance(held, dict) and held:
        if all(isinstance(k, str) and isinstance(v, _View) for k, v in held.items()):
            return held
    raise ModelUnreadable(
        f"{name} holds no state dict (nor one under {', '.join(STATE_KEYS)}): save the net's "
        "state_dict() alone, or as safetensors"
    )


def _tensor(
    view: _View, archive: zipfile.ZipFile, prefix: str, storages: dict[str, Tensor]
) -> Tensor:
    key = view.storage.key
    if key not in storages:
        data = archive.read(f"{prefix}data/{key}")
        if len(data) != view.storage.count * view.storage.dtype.itemsize:
            raise ValueError(f"storage {key} has {len(data)} bytes")
        empty = torch.empty(0, dtype=view.storage.dtype)
        storages[key] = (
            torch.frombuffer(bytearray(data), dtype=view.storage.dtype) if data else empty
        )
    if math.prod(view.size) > view.storage.count:
        raise ValueError(f"a view of {list(view.size)} in storage {key}")
    # as_strided refuses a view that leaves its storage.
    return storages[key].as_strided(view.size, view.stride, view.offset).clone()


class _Reader:
    """Follows the instructions of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def value(self, data: bytes) -> Any:
        """Return what the pickle would make, tensors as `_View`."""
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self._stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise _Refused(f"the instruction {opcode.name}")
            step(self, argument)
        raise EOFError("it does not end")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def mark(self, _: Any) -> None:
        """Remember where the stack is."""
        self._marks.append(len(self._stack))

    def since_mark(self) -> list[Any]:
        """Take what came since the last mark off the stack."""
        at = self._marks.pop()
        taken, self._stack[at:] = self._stack[at:], []
        return taken

    def tuple_of(self, count: int) -> None:
        """Make a tuple of the last values."""
        at = len(self._stack) - count
        self._stack[at:] = [tuple(self._stack[at:])]

    def put(self, key: int | None) -> None:
        """Remember the last value."""
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def get(self, key: int) -> None:
        """Put a remembered value on the stack."""
        self.push(self._memo[key])

    def name(self, text: str | None) -> None:
        """Put a name on the stack; nothing is imported."""
        if text is None:
            name, module = self._stack.pop(), self._stack.pop()
        else:
            module, _, name = text.partition(" ")
        if (module, name) not in _CALLABLE and not (module == "torch" and name in _STORAGES):
            raise _Refused(f"the name {module}.{name}")
        self.push(_Name(module, name))

    def persistent(self, _: Any) -> None:
        """Turn ('storage', type, key, place, count) into the storage."""
        kind, dtype, key, _place, count = self._stack.pop()
        if kind != "storage" or not isinstance(dtype, _Name) or dtype.name not in _STORAGES:
            raise _Refused(f"a reference to {kind}")
        self.push(_Storage(_STORAGES[dtype.name], str(key), int(count)))

    def reduce(self, _: Any) -> None:
        """Make what a call would: an empty dict, or a view of a storage."""
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, _Name) or (called.module, called.name) not in _CALLABLE:
            raise _Refused("a call of something else than a tensor")
        if called.name == "OrderedDict":
            self.push(dict(arguments[0]) if arguments else {})
        elif called.name == "_rebuild_parameter":
            self.push(arguments[0])
        else:
            storage, offset, size, stride = arguments[:4]
            if not isinstance(storage, _Storage):
                raise _Refused("a tensor without a storage")
            self.push(_View(storage, offset, tuple(size), tuple(stride)))

    def build(self, _: Any) -> None:
        """Leave out what is set on an object: of an OrderedDict, versions of its modules."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict):
            raise _Refused("an object with a state")

    def set_items(self, pairs: list[Any]) -> None:
        """Put keys and values into the dict below."""
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise _Refused("items of something else than a dict")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def append(self, values: list[Any]) -> None:
        """Put values onto the list below."""
        target = self._stack[-1]
        if not isinstance(target, list):
            raise _Refused("items of something else than a list")
        target.extend(values)


def _pop_pair(reader: _Reader) -> list[Any]:
    value, key = reader._stack.pop(), reader._stack.pop()
    return [key, value]


_VALUES = (
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BININT", "BININT1", "BININT2"),
    *("LONG1", "INT", "LONG", "BINFLOAT", "FLOAT"),
)
_STEPS: dict[str, Callable[[_Reader, Any], None]] = {
    **dict.fromkeys(_VALUES, _Reader.push),
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "NONE": lambda reader, _: reader.push(None),
    "NEWTRUE": lambda reader, _: reader.push(True),
    "NEWFALSE": lambda reader, _: reader.push(False),
    "EMPTY_TUPLE": lambda reader, _: reader.push(()),
    "EMPTY_DICT": lambda reader, _: reader.push({}),
    "EMPTY_LIST": lambda reader, _: reader.push([]),
    "MARK": _Reader.mark,
    "TUPLE": lambda reader, _: reader.push(tuple(reader.since_mark())),
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "BINPUT": _Reader.put,
    "LONG_BINPUT": _Reader.put,
    "MEMOIZE": _Reader.put,
    "BINGET": _Reader.get,
    "LONG_BINGET": _Reader.get,
    "GLOBAL": _Reader.name,
    "STACK_GLOBAL": _Reader.name,
    "BINPERSID": _Reader.persistent,
    "REDUCE": _Reader.reduce,
    "BUILD": _Reader.build,
    "SETITEM": lambda reader, _: reader.set_items(_pop_pair(reader)),
    "SETITEMS": lambda reader, _: reader.set_items(reader.since_mark()),
    "APPEND": lambda reader, _: reader.append([reader._stack.pop()]),
    "APPENDS": lambda reader, _: reader.append(reader.since_mark()),
}
