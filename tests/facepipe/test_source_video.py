"""Frames of videos made here, each of which says its number in black and white blocks."""

from __future__ import annotations

import io
import itertools
import math
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facepipe.containers import Container, Member
from facepipe.source_video import is_video, open_video, time_name

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'facepipe[video]'")

BLOCK_PX, BITS = 16, 8
WIDTH_PX, HEIGHT_PX = BITS * BLOCK_PX, 64
MANY = 10_000
MAX_BYTES = 1 << 30


def picture(number: int) -> NDArray[np.uint8]:
    """Return a frame: its number in blocks along the top, black below but for a red corner."""
    pixels = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            pixels[:BLOCK_PX, bit * BLOCK_PX : (bit + 1) * BLOCK_PX] = 255
    pixels[-BLOCK_PX:, :BLOCK_PX] = (255, 0, 0)
    return pixels


def number_of(png: bytes) -> int:
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert pixels[-8, 8, 0] > 150 > 100 > pixels[-8, 8, 2]  # red, not blue
    return sum(int(pixels[8, bit * BLOCK_PX + 8].mean() > 128) << bit for bit in range(BITS))


def video(
    times_ms: Sequence[int | Fraction],
    format: str = "mp4",
    codec: str = "mpeg4",
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    rate: int = 1000,
    muxer: dict[str, str] | None = None,
    path: Path | None = None,
    **options: str,
) -> bytes:
    stream: Any = io.BytesIO() if path is None else str(path)
    with av.open(stream, "w", format=format, container_options=muxer or {}) as output:
        if codec not in av.codecs_available:
            pytest.skip(f"this build of FFmpeg does not encode {codec}")
        track = output.add_stream(codec, rate=rate, options=options)
        track.time_base = track.codec_context.time_base = Fraction(1, rate)
        pixels = pictures or [picture(n % 256) for n in range(len(times_ms))]
        track.width, track.height = pixels[0].shape[1], pixels[0].shape[0]
        track.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        track.codec_context.thread_count = 1
        for time_ms, image in zip(times_ms, pixels, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = int(time_ms * rate / 1000), Fraction(1, rate)
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    return stream.getvalue() if path is None else path.read_bytes()


def opened(data: bytes, rate: float = 1, most: int = MANY, **more: int) -> Container:
    return open_video(io.BytesIO(data), rate, most, **more)


def numbers(data: bytes, rate: float = 1) -> list[tuple[int, int]]:
    """Return (time in ms, number) of the frames at a rate."""
    container = opened(data, rate)
    members = list(container.members())
    assert [m.problem for m in members] == [None] * len(members)
    assert [m.name for m in members] == [time_name(m.offset) for m in members]
    return [(m.offset // 1000, number_of(container.read(m, MAX_BYTES))) for m in members]


def expected(times_ms: Sequence[int | Fraction], rate: Fraction) -> list[tuple[int, int]]:
    """The definition: for each k the first frame at or after k / rate, none of them twice."""
    start, found = times_ms[0], {}
    for k in range(math.floor(Fraction(times_ms[-1] - start, 1000) * rate) + 1):
        later = [n for n, t in enumerate(times_ms) if Fraction(t - start, 1000) >= k / rate]
        found[later[0]] = times_ms[later[0]] - start
    return [(int(time_ms), number) for number, time_ms in found.items()]


EVEN = list(range(0, 2000, 40))  # 25 a second
UNEVEN = [0, 10, 20, 35, 90, 400, 410, 1000, 1001, 1500, 3100, 3110, 3120, 4999, 5001]
KINDS = {
    "mp4 mpeg4": ("mp4", "mpeg4", 1000, {"g": "12"}),
    "mp4 h264 with B-frames": ("mp4", "libx264", 1000, {"bf": "3", "b-adapt": "0", "g": "12"}),
    "mp4 in fragments": ("mp4", "mpeg4", 1000, {"g": "5"}),
    "mov mjpeg": ("mov", "mjpeg", 1000, {}),
    "mkv h264 with B-frames": ("matroska", "libx264", 1000, {"bf": "3", "b-adapt": "0"}),
    "mkv ffv1": ("matroska", "ffv1", 1000, {}),
    "webm vp8 with hidden frames": (
        "webm",
        "libvpx",
        25,
        {"auto-alt-ref": "1", "lag-in-frames": "10"},
    ),
    "webm vp9 with hidden frames": (
        "webm",
        "libvpx-vp9",
        25,
        {"auto-alt-ref": "1", "lag-in-frames": "10"},
    ),
    "webm av1": ("webm", "libsvtav1", 25, {"preset": "12"}),
    "ts mpeg2 with B-frames": ("mpegts", "mpeg2video", 25, {"bf": "2"}),
    "ts h264 with B-frames": ("mpegts", "libx264", 25, {"bf": "3", "b-adapt": "0"}),
    "ps mpeg2": ("mpeg", "mpeg2video", 25, {"bf": "2"}),
    "avi mpeg4 with B-frames": ("avi", "mpeg4", 25, {"bf": "2"}),
    "avi mjpeg": ("avi", "mjpeg", 25, {}),
    "avi h264": ("avi", "libx264", 25, {"bf": "0"}),
    "flv": ("flv", "flv", 25, {}),
    "wmv": ("asf", "wmv2", 25, {}),
}
_MADE: dict[str, bytes] = {}


def made(kind: str) -> bytes:
    if kind not in _MADE:
        format, codec, rate, options = KINDS[kind]
        whole = {"movflags": "frag_keyframe+empty_moov"} if "fragments" in kind else {}
        _MADE[kind] = video(EVEN, format, codec, rate=rate, muxer=whole, **options)
    return _MADE[kind]


@pytest.mark.parametrize("rate", [Fraction(1), Fraction(3), Fraction(25), Fraction(1, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_time_has_its_frame(kind: str, rate: Fraction) -> None:
    data = made(kind)
    assert is_video(data[:256], "x")
    assert numbers(data, float(rate)) == expected(EVEN, rate)


@pytest.mark.parametrize("rate", [1, 2, 0.5, 10, 1000])
@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_variable_frame_rate(format: str, rate: float) -> None:
    data = video(UNEVEN, format, "mjpeg")
    assert numbers(data, rate) == expected(UNEVEN, Fraction(rate))


@pytest.mark.parametrize("rate", [3, 6, 7, 10, 15, 29, 30])
def test_times_that_are_no_whole_microseconds(rate: int) -> None:
    thirtieths = [Fraction(1000 * n, 30) for n in range(70)]
    data = video(thirtieths, "mov", "mjpeg", rate=30)
    assert numbers(data, rate) == expected(thirtieths, Fraction(rate))


def test_a_start_that_is_not_zero() -> None:
    late = [5000 + t for t in EVEN]
    for format in ("matroska", "mpegts"):
        data = video(late, format, "mpeg2video", rate=25)
        assert numbers(data, 2) == expected(late, Fraction(2))


def test_nothing_is_read_before_it_is_asked_for() -> None:
    stream = io.BytesIO(made("mp4 mpeg4"))
    container: Container = open_video(stream, 1, MANY)
    assert stream.tell() == 0
    assert container.sequential
    list(container.members())
    assert not stream.closed
    container.close()
    assert stream.closed


@pytest.mark.parametrize("kind", ["mp4 h264 with B-frames", "webm vp9 with hidden frames"])
def test_a_frame_is_the_same_whatever_was_read_before(kind: str) -> None:
    data = made(kind)
    container = opened(data, 5)
    members = list(container.members())
    in_order = [container.read(m, MAX_BYTES) for m in members]
    assert [opened(data, 5).read(m, MAX_BYTES) for m in members] == in_order
    assert [container.read(m, MAX_BYTES) for m in reversed(members)] == in_order[::-1]
    assert [container.read(m, MAX_BYTES) for m in (members[3], members[3])] == [in_order[3]] * 2
    while_listing = opened(data, 5)
    assert [while_listing.read(m, MAX_BYTES) for m in while_listing.members()] == in_order
    assert container.read(members[0], 10) == in_order[0][:11]


TURNS = {  # orientation of EXIF -> a, b, c, d of the matrix that shows it upright
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_rotation_is_applied(orientation: int) -> None:
    """The matrix in the header of the track, as phones write it; Pillow turns the reference."""
    from PIL import ImageOps

    data = video([0], "mp4", "mpeg4")
    plain = Image.open(io.BytesIO(first(data)))
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = TURNS[orientation]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    assert data[at : at + 36] == struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = np.asarray(Image.open(io.BytesIO(first(data[:at] + matrix + data[at + 36 :]))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain.info["exif"] = exif.tobytes()
    plain.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(turned, np.asarray(ImageOps.exif_transpose(plain)))


def first(data: bytes, rate: float = 1) -> bytes:
    container = opened(data, rate)
    return container.read(next(container.members()), MAX_BYTES)


def test_pixels_are_made_square() -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as output:
        track = output.add_stream("mpeg4", rate=25)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.codec_context.sample_aspect_ratio = Fraction(3, 2)
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
        output.mux(track.encode(frame))
        output.mux(track.encode(None))
    image = Image.open(io.BytesIO(first(stream.getvalue())))
    assert image.size == (96, 48)


def test_colours_arrive() -> None:
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:, :32], colours[:, 32:] = (200, 40, 40), (40, 60, 200)
    for codec in ("ffv1", "mjpeg", "libx264"):
        png = first(video([0], "matroska", codec, [colours]))
        pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
        assert np.abs(pixels[24, 8] - colours[24, 8]).max() <= 8, codec
        assert np.abs(pixels[24, 56] - colours[24, 56]).max() <= 8, codec


# --- damage ---


def problems(data: bytes, rate: float = 1, most: int = MANY, **more: int) -> list[Member]:
    """Return the members, of which only the last has a problem."""
    members = list(opened(data, rate, most, **more).members())
    assert [m.problem is None for m in members] == [True] * (len(members) - 1) + [False]
    return members


def test_a_video_that_is_cut_off_keeps_its_beginning(tmp_path: Path) -> None:
    muxer = {"movflags": "faststart"}  # the index first, for which the file is written twice
    data = video(EVEN, "mp4", "mjpeg", muxer=muxer, path=tmp_path / "v.mp4")
    *kept, missing = problems(data[: len(data) * 6 // 10], 25)
    assert 10 < len(kept) < 40
    assert missing.problem == f"damaged: {50 - len(kept)} of 50 frames are missing"
    container = opened(data[: len(data) * 6 // 10], 25)
    assert [number_of(container.read(m, MAX_BYTES)) for m in kept[:-1]] == list(
        range(len(kept) - 1)
    )
    whole = list(opened(data, 25).members())
    with pytest.raises(OSError, match="damaged: no frame decodes"):
        container.read(whole[-1], MAX_BYTES)
    assert number_of(container.read(whole[3], MAX_BYTES)) == 3  # and it can be read on


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
def test_a_cut_of_any_format_gives_what_there_is_or_says_so(kind: str, keep: float) -> None:
    data = made(kind)
    data = data[: int(len(data) * keep)]
    container = opened(data, 5)
    for member in container.members():
        if member.problem is None:
            try:
                number = number_of(container.read(member, MAX_BYTES))
            except OSError as error:
                assert "damaged" in str(error)
            else:
                assert abs(number * 40 - member.offset / 1000) <= 200


def test_a_frame_that_does_not_decode_is_replaced_by_the_next() -> None:
    data = bytearray(video(EVEN, "mov", "mjpeg"))
    with av.open(io.BytesIO(bytes(data))) as container:
        places = [(p.pos, p.size) for p in container.demux() if p.size]
    for broken in (25, 26):
        place, size = places[broken]
        data[place : place + size] = bytes(size)
    assert numbers(bytes(data), 1) == [(0, 0), (1000, 27)]
    container = opened(bytes(data), 25)
    members = list(container.members())
    assert number_of(container.read(members[24], MAX_BYTES)) == 24
    with pytest.raises(OSError, match=r"no frame decodes near 00:00:01\.000"):
        container.read(members[25], MAX_BYTES)
    assert number_of(container.read(members[27], MAX_BYTES)) == 27


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_ends_in_words(seed: int) -> None:
    kinds = sorted(KINDS)
    data = bytearray(made(kinds[seed % len(kinds)]))
    random = np.random.default_rng([3, seed])
    for place in random.integers(0, len(data), 30):
        data[place] = random.integers(256)
    container = opened(bytes(data), 10, max_pixels=1_000_000)
    for member in itertools.islice(container.members(), 100):
        try:
            png = container.read(member, MAX_BYTES)
        except OSError as error:
            assert str(error)
        else:
            Image.open(io.BytesIO(png)).load()


# --- limits and refusals ---


def test_the_limit_of_frames_is_said() -> None:
    *kept, cut = problems(made("mp4 mpeg4"), 25, 7)
    assert len(kept) == 7
    assert cut.problem == "more than 7 frames: left out from here on"
    assert cut.offset == 280_000
    assert len(list(opened(made("mp4 mpeg4"), 25, 50).members())) == 50


def test_the_limit_of_pixels_is_kept() -> None:
    size = WIDTH_PX * HEIGHT_PX
    (refused,) = problems(made("mp4 mpeg4"), max_pixels=size - 1)
    assert refused.problem is not None
    assert f"more than {size - 1} pixels" in refused.problem
    assert len(list(opened(made("mp4 mpeg4"), max_pixels=size).members())) == 2


def test_frames_that_grow_past_the_limit_are_no_frames() -> None:
    """Two transport streams, one after the other: the second is not what the first announced."""
    later = [2000 + t for t in EVEN]
    large = [np.zeros((256, 256, 3), np.uint8)] * len(later)
    data = video(EVEN, "mpegts", "mpeg2video", rate=25)
    data += video(later, "mpegts", "mpeg2video", large, rate=25)
    for limit, readable in ((256 * 256, 4), (256 * 256 - 1, 2)):
        container = opened(data, 1, max_pixels=limit)
        members = list(container.members())
        assert [m.offset // 1_000_000 for m in members] == [0, 1, 2, 3]
        for member in members[:readable]:
            assert container.read(member, MAX_BYTES)
        for member in members[readable:]:
            with pytest.raises(OSError, match="damaged: no frame"):
                container.read(member, MAX_BYTES)


OTHERS = {
    "nothing": b"",
    "text": b"hello" * 100,
    "HLS playlist": b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n",
    "concat script": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "DASH": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>',
    "SDP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(300),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF of many": b"\0\0\0\x18ftypavis\0\0\0\0avifavis",
    "raw photo": b"\0\0\0\x18ftypcrx \0\0\0\0crx isom",
    "audio": b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom",
    "WAV": b"RIFF\0\0\0\0WAVEfmt ",
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_what_is_no_video_is_not_opened(data: bytes) -> None:
    assert not is_video(data[:256], "x.mp4")
    (refused,) = problems(data)
    assert refused.problem == "no video format that is read"
    with pytest.raises(OSError, match="no video format"):
        opened(data).read(Member(name="x", offset=0), 10)


@pytest.mark.parametrize(
    "head",
    [b"\0\0\0\x18ftypisom", b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0AVI ", b"FLV\x01", b"\0\0\1\xba"],
)
def test_a_header_with_nothing_behind_it(head: bytes) -> None:
    (refused,) = problems(head + bytes(1000))
    assert refused.problem is not None


def test_sound_alone_is_no_video() -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as output:
        track = output.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        output.mux(track.encode(sound))
    (refused,) = problems(stream.getvalue())
    assert refused.problem == "there is no video in it"


def test_sound_beside_the_frames_is_passed_over() -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as output:
        sound = output.add_stream("aac", rate=8000)
        track = output.add_stream("mpeg4", rate=25)
        track.width, track.height, track.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for n in range(50):
            frame = av.VideoFrame.from_ndarray(picture(n), format="rgb24")
            output.mux(track.encode(frame))
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.float32), "fltp", "mono")
            noise.sample_rate = 8000
            output.mux(sound.encode(noise))
        output.mux(track.encode(None))
        output.mux(sound.encode(None))
    assert numbers(stream.getvalue(), 2) == expected(EVEN, Fraction(2))


def test_a_codec_that_is_not_on_the_list() -> None:
    (refused,) = problems(video([0, 40], "avi", "ffvhuff", rate=25))
    assert refused.problem == "its codec is not read: ffvhuff"


def test_without_pyav_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made("mp4 mpeg4")
    monkeypatch.setitem(sys.modules, "av", None)
    (refused,) = problems(data)
    assert refused.problem == "PyAV is not installed: pip install 'facepipe[video]'"
    with pytest.raises(OSError, match="pip install"):
        opened(data).read(Member(name="x", offset=0), 10)
    assert is_video(data[:256], "x")


def test_names_of_times() -> None:
    assert time_name(0) == "00:00:00.000"
    assert time_name(62_500_999) == "00:01:02.500"
    assert time_name(100 * 3_600_000_000) == "100:00:00.000"
