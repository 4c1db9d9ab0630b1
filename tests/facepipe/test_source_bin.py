"""Reading verification sets: every protocol, the real file, and pickles that mean harm."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepipe import bin_pickle
from facepipe.bin_pickle import PickleReader
from facepipe.containers import Member
from facepipe.forward_window import ForwardWindow
from facepipe.source_bin import BinContainer, is_bin, open_bin, pairs

LIMIT = 1 << 20
IMAGES = [b"\xff\xd8\xff" + bytes(range(256)) * n + b"\n\\'\"\r\0\x1a" for n in range(1, 7)]
SAME = [True, False, True]
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def contents(data: bytes) -> list[bytes]:
    container = open_bin(io.BytesIO(data))
    return [container.read(m, LIMIT) for m in container.members() if m.problem is None]


def problems(data: bytes) -> list[str]:
    return [m.problem for m in open_bin(io.BytesIO(data)).members() if m.problem is not None]


def python2(protocol: int, images: list[bytes], flags: list[bool]) -> bytes:
    """Write what cPickle of Python 2 writes, where bytes are str; from the protocol's text."""

    def text(data: bytes) -> bytes:
        if protocol == 0:
            escaped = repr(data)[1:]  # as Python 2: \\x.., \\n, \\r, \\t, and one kind of quote
            return b"S" + escaped.encode() + b"\n"
        short = len(data) < 256
        return (b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))) + data

    def boolean(value: bool) -> bytes:
        if protocol < 2:
            return b"I01\n" if value else b"I00\n"
        return b"\x88" if value else b"\x89"

    if protocol == 0:
        first = b"".join(text(image) + b"a" for image in images)
        return (
            b"((lp1\n" + first + b"(lp2\n" + b"".join(boolean(f) + b"a" for f in flags) + b"tp3\n."
        )
    head = b"(" if protocol == 1 else b"\x80\x02"
    body = b"]q\x01(" + b"".join(map(text, images)) + b"e]q\x02("
    tail = b"tq\x03." if protocol == 1 else b"\x86q\x03."
    return head + body + b"".join(map(boolean, flags)) + b"e" + tail


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "kind", [bytes, bytearray, lambda x: np.frombuffer(x, np.uint8), lambda x: x.decode("latin-1")]
)
def test_every_protocol_and_kind_of_bytes(protocol: int, kind: type[bytes]) -> None:
    data = pickle.dumps(([kind(image) for image in IMAGES], SAME), protocol=protocol)
    assert is_bin(data[:1024], "lfw.bin")
    assert contents(data) == IMAGES
    assert pairs(io.BytesIO(data)) == SAME
    assert problems(data) == []


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python_2(protocol: int) -> None:
    data = python2(protocol, IMAGES, SAME)
    # The standard library agrees that this is what Python 2 means.
    assert pickle.loads(data, encoding="bytes") == (IMAGES, SAME)
    assert is_bin(data[:1024], "lfw.bin")
    assert contents(data) == IMAGES
    assert pairs(io.BytesIO(data)) == SAME


def test_old_numpy_names_and_columns() -> None:
    column = np.frombuffer(IMAGES[0], np.uint8).reshape(-1, 1)
    data = pickle.dumps(([column, column], [True]), protocol=2)
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != data
    assert contents(old) == [IMAGES[0]] * 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "flags", [np.array(SAME), [np.bool_(v) for v in SAME], tuple(SAME), [1, 0, 2]]
)
def test_flags_of_every_kind(protocol: int, flags: object) -> None:
    data = pickle.dumps((IMAGES, flags), protocol=protocol)
    assert pairs(io.BytesIO(data)) == SAME


def test_the_real_set(assets: Path) -> None:
    path = assets / "faces" / "insightface_small_lfw.bin"
    data = path.read_bytes()
    # An independent reading: the payloads in the order of the instructions, as pickletools says.
    arguments = [a for _, a, _ in pickletools.genops(data) if isinstance(a, bytes) and len(a) > 1]
    assert len(arguments) == 20
    assert is_bin(data[:1024], path.name)
    with path.open("rb") as stream:
        container = open_bin(stream)
        members = list(container.members())
        assert [container.read(m, LIMIT) for m in members] == arguments
    assert [m.name for m in members] == [f"{n:05d}" for n in range(20)]
    assert [m.bytes for m in members] == [len(a) for a in arguments]
    assert {(m.label, m.problem) for m in members} == {(None, None)}
    assert all(a.startswith(b"\xff\xd8\xff") for a in arguments)
    assert pairs(io.BytesIO(data)) == [True] * 10


def test_reading_stops_after_the_limit() -> None:
    for protocol in PROTOCOLS:
        container = open_bin(io.BytesIO(pickle.dumps((IMAGES, SAME), protocol=protocol)))
        member = list(container.members())[2]
        for limit in (0, 1, 50, 254, 255, 256, 257, 258, 500, len(IMAGES[2]), LIMIT):
            assert container.read(member, limit) == IMAGES[2][: limit + 1], (protocol, limit)
        assert container.sequential is False
        with pytest.raises(OSError, match="none with this number"):
            container.read(Member(name="x", offset=6), 1)


def test_what_is_no_image_is_a_problem_in_its_place() -> None:
    odd = [b"", None, np.zeros((2, 2), np.uint8), np.zeros(3, np.int16), 5, [b"x"], "\u0100", b"ok"]
    container = open_bin(io.BytesIO(pickle.dumps((odd, []), protocol=4)))
    members = list(container.members())
    assert [m.problem is None for m in members] == [False] * 6 + [True, True]
    with pytest.raises(OSError, match="does not stand for bytes"):
        container.read(members[6], LIMIT)
    assert container.read(members[7], LIMIT) == b"ok"


class Calls:
    """Pickles to a call of anything."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("before", [[], IMAGES])
def test_nothing_in_the_file_is_called(protocol: int, before: list[bytes], tmp_path: Path) -> None:
    target = tmp_path / "called"
    for evil in (
        Calls(os.system, f"touch {target}"),
        Calls(eval, f"open({str(target)!r}, 'w')"),
        Calls(open, str(target), "w"),
        Calls(getattr, 1, "real"),
    ):
        data = pickle.dumps(([*before, evil], SAME), protocol=protocol)
        with pytest.raises(OSError, match="no verification set needs"):
            pairs(io.BytesIO(data))
        if before:
            assert contents(data) == IMAGES
            assert "no verification set needs" in problems(data)[0]
        else:
            with pytest.raises(OSError, match="no verification set needs"):
                open_bin(io.BytesIO(data))
    assert not target.exists()


def test_no_module_is_imported() -> None:
    data = b"\x80\x02](cantigravity\nfly\n)Re]\x86."
    with pytest.raises(OSError, match=r"antigravity\.fly"):
        open_bin(io.BytesIO(data))
    assert "antigravity" not in sys.modules


LIST = b"\x80\x04]("


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x04N.",
        b"\x80\x04]].",
        b"\x80\x04K\x01K\x02\x86.",
        LIST + b"e].",  # two values are left
        LIST + b"B\xff\xff\xff\xff",
        LIST + b"\x8e" + b"\xff" * 8,
        LIST + b"T\xff\xff\xff\xff",
        LIST + b"h\x05e.",
        LIST + b"j\xff\xff\xff\xffe.",
        LIST + b"\x8a\xff" + b"\x01" * 255 + b"2",  # DUP
        LIST + b"I" + b"9" * 100_000 + b"\n",
        LIST + b"Sx\n",
        LIST + b"S'\n",
        LIST + b"cnumpy\n" + b"a" * 5000 + b"\n",
        LIST + b"cnumpy.core.multiarray\n_reconstruct\nR",
        LIST + b"cnumpy\ndtype\n(K\x01tR",
        LIST + b"c_codecs\nencode\n(X\x01\0\0\0aX\x03\0\0\0rottR",
        LIST + b"cnumpy\ndtype\n)Rb",
        b"a" * 100,
        b"e" * 100,
        b"t" * 100,
        b"\x86" * 100,
    ],
)
def test_damage_and_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(OSError, match=r".") as refused:
        open_bin(io.BytesIO(data))
    assert len(str(refused.value)) < 5400


@pytest.mark.parametrize(
    "bomb",
    [
        b"(" * 100_000,
        b"]" * 100_000,
        b")" + b"\x85" * 100_000 + b"0",
        b"".join(b"]\x94" for _ in range(50_000)),
        b"]\x94" + b"(h\x00h\x00e" * 20_000,  # a list in itself
        b"\x95" + b"\xff" * 8 + b"N" * 1000,
    ],
)
def test_bombs_are_small(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bin_pickle, "MAX_INSTRUCTIONS", 90_000)
    with pytest.raises(OSError, match=r"instruction|ends within|does not fit"):
        open_bin(io.BytesIO(LIST + bomb))


def test_a_memo_that_doubles_is_not_expanded() -> None:
    # 2**60 items if it were copied: each list holds the one before it twice.
    doubled = b"]\x94" + b"".join(b"](h%ch%ce\x94" % (n, n) for n in range(60))
    reader = PickleReader(ForwardWindow(io.BytesIO(b"\x80\x04(" + doubled + b"l.")))
    assert len(reader.value()) == 61


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("numpy", [False, True])
def test_a_cut_keeps_what_came_before(protocol: int, numpy: bool) -> None:
    images = [np.frombuffer(i, np.uint8) for i in IMAGES] if numpy else IMAGES
    data = pickle.dumps((images, SAME), protocol=protocol)
    counts = []
    for cut in range(400, len(data), 97):
        try:
            container = open_bin(io.BytesIO(data[:cut]))
        except OSError:
            counts.append(0)
            continue
        members = list(container.members())
        whole = [m for m in members if m.problem is None]
        assert [container.read(m, LIMIT) for m in whole] == IMAGES[: len(whole)]
        assert len(members) == len(whole) + 1
        assert "ends within the pickle" in (members[-1].problem or "")
        counts.append(len(whole))
    assert counts == sorted(counts) and counts[-1] >= 5


def test_unequal_flags_are_refused() -> None:
    for flags in (SAME[:2], None, [None] * 3, b"abc", [[1]] * 3):
        with pytest.raises(OSError, match=r"pairs"):
            pairs(io.BytesIO(pickle.dumps((IMAGES, flags))))


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (pickle.dumps(([], [])), "lfw.bin", True),
        (pickle.dumps(([], [])), "LFW.BIN", True),
        (pickle.dumps(([], [])), "lfw.pkl", False),
        (pickle.dumps({}), "model.bin", False),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "pytorch_model.bin", False),
        (b"PK\x03\x04", "pytorch_model.bin", False),
        (b"", "empty.bin", False),
        (b"\xff\xd8\xff", "photo.bin", False),
    ],
)
def test_is_bin(head: bytes, name: str, expected: bool) -> None:
    assert is_bin(head, name) is expected


def survivors(data: bytes) -> list[bytes]:
    try:
        container: BinContainer = open_bin(io.BytesIO(data))
    except OSError:
        return []
    found = []
    for member in container.members():
        if member.problem is None:
            try:
                found.append(container.read(member, LIMIT))
            except OSError:
                continue
    return found


SMALL = [b"\xff\xd8\xff" + bytes([n]) * 9 for n in range(4)]


@given(st.data(), st.sampled_from(list(PROTOCOLS)), st.booleans())
def test_flips_end(drawn: st.DataObject, protocol: int, numpy: bool) -> None:
    images = [np.frombuffer(i, np.uint8) for i in SMALL] if numpy else SMALL
    data = bytearray(pickle.dumps((images, [True, False]), protocol=protocol))
    for place in drawn.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4)):
        data[place] = drawn.draw(st.integers(0, 255))
    assert len(survivors(bytes(data))) <= len(data)


@given(st.data(), st.sampled_from([3, 4, 5]), st.booleans())
def test_what_is_overwritten_costs_nothing_before_it(
    drawn: st.DataObject, protocol: int, numpy: bool
) -> None:
    images = [np.frombuffer(i, np.uint8) for i in SMALL] if numpy else SMALL
    data = pickle.dumps((images, [True, False]), protocol=protocol)
    places = [p for p in range(len(data)) if data[p : p + 3] == b"\xff\xd8\xff"]
    assert len(places) == len(SMALL)
    first = drawn.draw(st.integers(places[1], len(data) - 1))
    end = drawn.draw(st.integers(first, len(data)))
    # 0xff is no instruction, and more than any length.
    found = survivors(data[:first] + b"\xff" * (end - first) + data[end:])
    before = sum(place <= first for place in places[1:])
    assert found[:before] == SMALL[:before]


@given(st.binary(max_size=200))
def test_any_bytes_end(data: bytes) -> None:
    survivors(LIST + data)


def test_a_large_set_takes_little_memory() -> None:
    import tracemalloc

    image = random.Random(0).randbytes(100_000)
    stream = io.BytesIO(pickle.dumps(([image + b"%d" % n for n in range(300)], []), protocol=4))
    tracemalloc.start()
    container = open_bin(stream)
    assert sum(m.bytes for m in container.members()) > 30_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20
