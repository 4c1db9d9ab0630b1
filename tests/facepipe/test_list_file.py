"""Lists on disk: laid out as said, and refused wherever they are not."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe.errors import CorruptData
from facepipe.list_file import ListLayout, lay_out, list_runs, read_sizes, scan_blocks

SCANNED = ListLayout(template="a1" * 8, lists=5, code_bytes=4, block=32, rows=0)
PLAIN = ListLayout(template="a1" * 8, lists=5, code_bytes=24, block=1, rows=0)
ODD = ListLayout(template="a1" * 8, lists=5, code_bytes=7, block=8, rows=0)
LAYOUTS = {"scanned": SCANNED, "plain": PLAIN, "odd": ODD}
SIZES = [3, 0, 40, 32, 1]


def made(
    path: Path, layout: ListLayout, sizes: list[int]
) -> tuple[ListLayout, NDArray[np.uint8], NDArray[np.int64]]:
    """Write a file of lists and return its layout, codes and ids, list by list."""
    rng = np.random.default_rng(sum(sizes))
    layout = replace(layout, rows=sum(sizes), lists=len(sizes))
    codes = rng.integers(0, 256, (layout.rows, layout.code_bytes), np.uint8)
    ids = rng.permutation(layout.rows)
    sizes_L, starts = np.array(sizes, np.int64), [0, *np.cumsum(sizes).tolist()]
    body = []
    for first, last in list_runs(sizes_L, 20):
        own = slice(starts[first], starts[last])
        body.append(lay_out(layout, sizes_L[first:last], codes[own], ids[own]))
    path.write_bytes(layout.start(sizes_L) + b"".join(part.tobytes() for part in body))
    return layout, codes, ids


def expected_scan(codes: NDArray[np.uint8]) -> bytes:
    """Pack one list by the words of the docstring, a number at a time."""
    padded = np.zeros((-(-len(codes) // 32) * 32, codes.shape[1]), np.uint8)
    padded[: len(codes)] = codes
    order = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
    out = bytearray()
    for block in padded.reshape(-1, 32, codes.shape[1]).tolist():
        for byte in range(codes.shape[1]):
            for shift in (0, 4):
                for place in order:
                    low = block[place][byte] >> shift & 15
                    high = block[place + 16][byte] >> shift & 15
                    out.append(low | high << 4)
    return bytes(out)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("sizes", [SIZES, [0, 0], [100], [0, 64, 0]], ids=str)
def test_the_file_is_what_its_description_says(tmp_path: Path, kind: str, sizes: list[int]) -> None:
    path = tmp_path / "codes"
    layout, codes, ids = made(path, LAYOUTS[kind], sizes)
    block = layout.block
    expected = b"FPLISTS1" + b"a1" * 8
    expected += struct.pack("<4Q", len(sizes), layout.code_bytes, block, sum(sizes)) + bytes(8)
    expected += struct.pack(f"<{len(sizes)}I", *sizes)
    expected += bytes(-len(expected) % 32)
    done = 0
    for place, size in enumerate(sizes):
        assert layout.offsets(np.array(sizes, np.int64))[place] == len(expected)
        own = codes[done : done + size]
        expected += expected_scan(own) if kind == "scanned" else own.tobytes()
        expected += bytes(-size % block * layout.code_bytes) if kind != "scanned" else b""
        expected += struct.pack(f"<{size}q", *ids[done : done + size])
        expected += bytes(-len(expected) % 32)
        done += size
    assert path.read_bytes() == expected
    assert read_sizes(path, layout).tolist() == sizes


def test_a_scanned_block_holds_all_of_its_codes() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (64, 3), np.uint8)
    assert scan_blocks(codes).tobytes() == expected_scan(codes)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_truncation_and_every_longer_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "codes"
    layout, _, _ = made(path, LAYOUTS[kind], SIZES)
    data = path.read_bytes()
    for length in [*range(0, 100, 3), *range(100, len(data), 53), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CorruptData, match=r"codes .*facepipe index build|codes: .*build"):
            read_sizes(path, layout)
    path.write_bytes(data + b"\0")
    with pytest.raises(CorruptData, match="bytes and not"):
        read_sizes(path, layout)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_no_flipped_bit_of_the_structure_gets_through(tmp_path: Path, kind: str) -> None:
    """Of header and sizes every bit counts; ids must be rows; codes may be anything."""
    path = tmp_path / "codes"
    layout, _, _ = made(path, LAYOUTS[kind], SIZES)
    data = path.read_bytes()
    sizes = np.array(SIZES, np.int64)
    structure = set(range(56)) | set(range(64, 64 + 4 * len(SIZES)))
    middles = layout.offsets(sizes)[:-1] + layout.capacities(sizes) * layout.code_bytes
    for middle, size in zip(middles.tolist(), SIZES, strict=True):
        structure |= set(range(middle, middle + 8 * size, 5))
    for place in sorted(structure):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(CorruptData):
            read_sizes(path, layout)


@pytest.mark.parametrize(
    "other",
    [{"template": "b2" * 8}, {"lists": 4}, {"code_bytes": 5}, {"block": 64}, {"rows": 75}],
    ids=str,
)
def test_a_file_of_another_template_or_shard_is_refused(
    tmp_path: Path, other: dict[str, int]
) -> None:
    path = tmp_path / "codes"
    layout, _, _ = made(path, SCANNED, SIZES)
    with pytest.raises(CorruptData, match="not a list file of this template and shard"):
        read_sizes(path, replace(layout, **other))


@pytest.mark.parametrize("wrong", [-1, 76, 2**40, -(2**63)])
def test_ids_are_rows_each_once(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "codes"
    layout, _, ids = made(path, PLAIN, SIZES)
    data = path.read_bytes()
    at = data.index(struct.pack("<3q", *ids[:3]))
    for value in (wrong, int(ids[1])):  # the second: one twice, another missing
        path.write_bytes(data[:at] + struct.pack("<q", value) + data[at + 8 :])
        with pytest.raises(CorruptData, match="ids are not the rows"):
            read_sizes(path, layout)
        assert read_sizes(path, layout, check_ids=False).tolist() == SIZES


def test_sizes_that_only_look_right_are_refused(tmp_path: Path) -> None:
    """Two sizes swapped add up, and may even fill the file: the ids give them away."""
    path = tmp_path / "codes"
    layout, _, _ = made(path, PLAIN, [3, 5, 2])
    data = bytearray(path.read_bytes())
    data[64:72] = struct.pack("<2I", 5, 3)
    path.write_bytes(data)
    with pytest.raises(CorruptData):
        read_sizes(path, layout)


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match="cannot be read"):
        read_sizes(tmp_path / "none", PLAIN)


@pytest.mark.parametrize("sizes", [[1], [0], [5, 0, 0, 7], [100, 1, 1, 100], [0, 0, 50, 0]])
@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_runs_cover_all_lists_in_order(sizes: list[int], rows: int) -> None:
    runs = list(list_runs(np.array(sizes, np.int64), rows))
    assert [i for first, last in runs for i in range(first, last)] == list(range(len(sizes)))
    assert all(first < last for first, last in runs)
