"""The pickle of an insightface verification set, read without unpickling.

A .bin is a pickle of (list of encoded images, list of bools), written by any Python and any
protocol. An unpickler calls what the file names; this reader knows the few instructions that
such a file needs, calls nothing, and refuses the rest. What the five names it knows would make
(numpy arrays and scalars, bytes) is recorded as data. Payloads are not read: of each, its place
in the file is kept, so that memory grows with the number of images, not with their size.

Instructions: pickletools in the Python library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

from facepipe.bin_spans import Coding, Refused, Span, span_bytes
from facepipe.forward_window import ForwardWindow

# A numpy image takes about 25 instructions, so 160,000 images; the largest set of insightface
# has 24,000. A hostile file can make each of them hold some 100 bytes of memory.
MAX_INSTRUCTIONS = 4_000_000
MAX_LINE_BYTES = 128  # of a number or a name; payloads are not held to it

_NAMES = {
    **{
        (f"{package}.{module}", name): name
        for package in ("numpy.core", "numpy._core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    },
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytearray"): "bytes",
    ("builtins", "bytearray"): "bytes",
}
_LATIN1 = ("latin1", "latin-1", "iso-8859-1")


@dataclass(slots=True)
class Array:
    """A numpy array: ``dtype`` as numpy names it, such as u1."""

    dtype: str | None = None
    shape: object = None
    data: Span | None = None


@dataclass(frozen=True, slots=True)
class _Name:
    name: str


@dataclass(frozen=True, slots=True)
class _Type:
    code: str


class PickleReader:
    """Follows the instructions of one pickle; ``value`` is what it would make."""

    def __init__(self, window: ForwardWindow) -> None:
        """Begin at the start of the file."""
        self._window = window
        self._position = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}
        self._stopped = False

    def value(self) -> Any:
        """Return the value: lists, tuples, Span, Array, int, bool and None. Raises Refused."""
        for _ in range(MAX_INSTRUCTIONS):
            start = self._position
            code = self._take(1)
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise Refused(f"instruction {code!r} at byte {start} has no place in such a file")
            try:
                instruction(self)
            except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
                raise Refused(f"instruction {code!r} at byte {start} does not fit") from error
            if self._stopped:
                return self._stack[0]
        raise Refused(f"more than {MAX_INSTRUCTIONS} instructions")

    def found(self) -> list[Any]:
        """Return the items of the first list that has any, as far as they were read."""
        levels = [*self._below, self._stack]
        if levels[0] and isinstance(levels[0][0], tuple):  # both lists were complete
            levels = [list(levels[0][0])]
        for level, above in pairwise([*levels, []]):
            for item in level:
                if not isinstance(item, list):
                    continue
                # What is above a list that is the last of its level is not appended yet.
                items = item + (_images(above) if item is level[-1] else [])
                if items:
                    return items
        return []

    # Reading the file

    def _take(self, size: int) -> bytes:
        data = self._window.at(self._position, size)
        if len(data) < size:
            raise Refused(f"the file ends within the pickle, at byte {self._window.size}")
        self._position += size
        return data

    def _number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _line(self) -> Span:
        end = self._window.find(b"\n", self._position, self._window.size)
        if end < 0:
            raise Refused(f"the file ends within the pickle, at byte {self._window.size}")
        span = Span(self._position, end - self._position)
        self._position = end + 1
        return span

    def _short_line(self) -> str:
        return self._text(self._line())

    def _text(self, span: Span) -> str:
        if span.size > MAX_LINE_BYTES:
            raise Refused(f"{span.size} bytes at byte {span.offset} where a name is expected")
        return span_bytes(self._window, span, MAX_LINE_BYTES).decode("latin-1")

    def _span(self, size: int, coding: Coding) -> None:
        if size < 0 or size > self._window.size - self._position:
            raise Refused(f"the file ends within the pickle, at byte {self._window.size}")
        self._stack.append(Span(self._position, size, coding))
        self._position += size

    # Instructions

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _last(self, count: int) -> tuple[Any, ...]:
        if count > len(self._stack):
            raise IndexError
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        return items

    def _quoted(self) -> None:
        line = self._line()
        ends = self._window.at(line.offset, 1) + self._window.at(line.offset + line.size - 1, 1)
        if line.size < 2 or ends not in (b"''", b'""'):
            raise ValueError
        self._stack.append(Span(line.offset + 1, line.size - 2, Coding.REPR))

    def _escaped(self) -> None:
        line = self._line()
        self._stack.append(Span(line.offset, line.size, Coding.ESCAPED))

    def _decimal(self) -> None:
        text = self._short_line()
        self._stack.append(text == "01" if text in ("00", "01") else int(text.rstrip("L")))

    def _list(self) -> None:
        items = self._since_mark()  # which changes the stack
        self._stack.append(items)

    def _tuple(self) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError
        self._stack[-1].extend(items)

    def _named(self, module: str, name: str) -> None:
        known = _NAMES.get((module, name))
        if known is None:
            raise Refused(f"it names {module}.{name}, which no verification set needs")
        self._stack.append(_Name(known))

    def _global(self) -> None:
        self._named(self._short_line(), self._short_line())

    def _stack_global(self) -> None:
        module, name = self._last(2)
        self._named(self._text(module), self._text(name))

    def _memoize(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    def _recall(self, key: int) -> None:
        self._stack.append(self._memo[key])

    def _reduce(self) -> None:
        function, arguments = self._last(2)
        self._stack.append(self._made(function.name, arguments))

    def _made(self, name: str, arguments: tuple[Any, ...]) -> object:
        """Return what the call would make. Anything unexpected raises, to be refused."""
        if name == "_reconstruct":
            return Array()
        if name == "dtype":
            return _Type(self._text(arguments[0]))
        if name == "_frombuffer":
            data, dtype, shape, _ = arguments
            return _array(dtype, shape, data)
        if name == "scalar":
            dtype, data = arguments
            if not isinstance(dtype, _Type) or data.size > 8:
                raise TypeError
            return any(span_bytes(self._window, data, 8))
        if name == "encode" and self._text(arguments[1]).lower() not in _LATIN1:
            raise ValueError
        if name not in ("encode", "bytes"):
            raise TypeError
        if not arguments:
            return Span(0, 0)
        if not isinstance(arguments[0], Span):
            raise TypeError
        return arguments[0]

    def _build(self) -> None:
        (state,) = self._last(1)
        target = self._stack[-1]
        if isinstance(target, Array):
            _, shape, dtype, _, data = state
            made = _array(dtype, shape, data)
            target.dtype, target.shape, target.data = made.dtype, made.shape, made.data
        elif not isinstance(target, _Type):  # of a type, the state is its byte order
            raise TypeError

    def _stop(self) -> None:
        if len(self._stack) != 1 or self._below:
            raise ValueError
        self._stopped = True


def _images(level: list[Any]) -> list[Any]:
    """Return what may be images at the start of a level: the rest may be half of another."""
    return list(
        takewhile(lambda i: isinstance(i, Span) or (isinstance(i, Array) and i.data), level)
    )


def _array(dtype: Any, shape: Any, data: Any) -> Array:
    if not isinstance(dtype, _Type) or not isinstance(data, Span) or not isinstance(shape, tuple):
        raise TypeError
    return Array(dtype.code, shape, data)


_Instruction = Callable[[PickleReader], object]


def _payload(size_bytes: int, coding: Coding, signed: bool = False) -> _Instruction:
    return lambda r: r._span(r._number(size_bytes, signed), coding)


def _push(value: object) -> _Instruction:
    return lambda r: r._stack.append(value)


_INSTRUCTIONS: dict[bytes, _Instruction] = {
    b"\x80": lambda r: r._take(1),  # protocol
    b"\x95": lambda r: r._take(8),  # frame
    b".": PickleReader._stop,
    b"(": PickleReader._mark,
    b"N": _push(None),
    b"\x88": _push(True),
    b"\x89": _push(False),
    b"I": PickleReader._decimal,
    b"L": PickleReader._decimal,
    b"K": lambda r: r._stack.append(r._number(1)),
    b"M": lambda r: r._stack.append(r._number(2)),
    b"J": lambda r: r._stack.append(r._number(4, signed=True)),
    b"\x8a": lambda r: r._stack.append(r._number(r._number(1), signed=True)),
    b"]": lambda r: r._stack.append([]),
    b"l": PickleReader._list,
    b"a": lambda r: r._append(list(r._last(1))),
    b"e": lambda r: r._append(r._since_mark()),
    b")": _push(()),
    b"t": PickleReader._tuple,
    b"\x85": lambda r: r._stack.append(r._last(1)),
    b"\x86": lambda r: r._stack.append(r._last(2)),
    b"\x87": lambda r: r._stack.append(r._last(3)),
    b"p": lambda r: r._memoize(int(r._short_line())),
    b"q": lambda r: r._memoize(r._number(1)),
    b"r": lambda r: r._memoize(r._number(4)),
    b"\x94": lambda r: r._memoize(len(r._memo)),
    b"g": lambda r: r._recall(int(r._short_line())),
    b"h": lambda r: r._recall(r._number(1)),
    b"j": lambda r: r._recall(r._number(4)),
    b"S": PickleReader._quoted,
    b"U": _payload(1, Coding.RAW),
    b"T": _payload(4, Coding.RAW, signed=True),
    b"V": PickleReader._escaped,
    b"X": _payload(4, Coding.UTF8),
    b"\x8c": _payload(1, Coding.UTF8),
    b"\x8d": _payload(8, Coding.UTF8),
    b"C": _payload(1, Coding.RAW),
    b"B": _payload(4, Coding.RAW),
    b"\x8e": _payload(8, Coding.RAW),
    b"\x96": _payload(8, Coding.RAW),
    b"c": PickleReader._global,
    b"\x93": PickleReader._stack_global,
    b"R": PickleReader._reduce,
    b"b": PickleReader._build,
}
