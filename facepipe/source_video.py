"""Videos: their frames at a rate, as photos.

Sample times are k / rate from the start of the video; each gives the first frame at or after
it, and no frame is given twice. Times are whole microseconds, rounded down.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO

from facepipe.containers import Member
from facepipe.image_header import sniff
from facepipe.video_frames import MICROSECONDS, OpenedVideo

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

HEAD_BYTES = 256  # what is_video needs
MAX_PIXELS = 64_000_000  # of a frame, as decode.max_pixels

# First bytes -> FFmpeg's demuxer: few of its hundreds, and none that follows references.
_MAGICS = (
    (b"\x1aE\xdf\xa3", "matroska"),  # and WebM
    (b"\x00\x00\x01\xba", "mpeg"),  # a program stream
    (b"FLV\x01", "flv"),
    (b"0&\xb2u\x8ef\xcf\x11", "asf"),  # and WMV
)
_ISO_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip")  # how QuickTime begins without ftyp
_ISO_OTHERS = (b"M4A ", b"M4B ", b"M4P ", b"crx ", b"mif1", b"msf1", b"miaf", b"jpx ", b"jp2 ")
_TS_PACKET_BYTES = 188


def is_video(head: bytes, name: str) -> bool:
    """Return whether a file is a video that is read, by its first 256 bytes."""
    return _demuxer(head) is not None


def open_video(
    stream: BinaryIO, frames_per_s: float, max_frames: int, max_pixels: int = MAX_PIXELS
) -> Video:
    """Return the frames of a video as a container; nothing is read yet.

    At most ``max_frames`` are listed; a video of frames over ``max_pixels`` is refused.
    """
    return Video(stream, frames_per_s, max_frames, max_pixels)


class Video:
    """A video as a container: a member is a frame, named by its time, read as a PNG.

    A member's offset is its time in microseconds. Where its frame does not decode, it is the
    next one that does before the next sample time.
    """

    sequential = True

    def __init__(
        self, stream: BinaryIO, frames_per_s: float, max_frames: int, max_pixels: int
    ) -> None:
        """Take a stream and what to take of it."""
        self._stream, self._max_frames, self._max_pixels = stream, max_frames, max_pixels
        smallest = Fraction(1, MICROSECONDS)
        self._rate = max(smallest, Fraction(frames_per_s).limit_denominator(MICROSECONDS))
        self._opened: OpenedVideo | None = None
        self._frames: Iterator[tuple[int, VideoFrame]] = iter(())
        self._next: tuple[int, VideoFrame] | None = None
        self._passed_us = -1  # the last frame that is gone

    def members(self) -> Iterator[Member]:
        """Yield a Member for each sample time with a frame; few formats are decoded for it."""
        time_us = 0
        try:
            with self._open() as video:
                for count, time_us in enumerate(self._sampled(video.times_us())):
                    if count == self._max_frames:
                        raise OSError(f"more than {count} frames: left out from here on")
                    yield Member(name=time_name(time_us), offset=time_us)
                if video.damage is not None:
                    raise OSError(video.damage)
        except OSError as error:
            yield Member(name=time_name(time_us), offset=time_us, problem=str(error))

    def read(self, member: Member, max_bytes: int) -> bytes:
        """Return a frame as PNG, upright and in square pixels. Raises OSError for a damaged one."""
        if member.problem is not None:
            raise OSError(member.problem)
        if self._opened is None or member.offset <= self._passed_us:
            self._rewind()
        assert self._opened is not None
        while self._next is None or self._next[0] < member.offset:
            if self._next is not None:
                self._passed_us = self._next[0]
            self._next = next(self._frames, None)
            if self._next is None:
                raise OSError(f"damaged: no frame decodes from {time_name(member.offset)} on")
        time_us, frame = self._next
        if self._sample(time_us) != self._sample(member.offset):
            raise OSError(f"damaged: no frame decodes near {time_name(member.offset)}")
        return self._opened.encoded(frame)[: max_bytes + 1]

    def close(self) -> None:
        """Close the video."""
        if self._opened is not None:
            self._opened.close()
        self._stream.close()

    def _open(self) -> OpenedVideo:
        self._stream.seek(0)
        demuxer = _demuxer(self._stream.read(HEAD_BYTES))
        if demuxer is None:
            raise OSError("no video format that is read")
        return OpenedVideo(self._stream, demuxer, self._max_pixels)

    def _rewind(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        self._opened = self._open()
        self._frames, self._next, self._passed_us = self._opened.frames(), None, -1

    def _sampled(self, times_us: Iterable[int]) -> Iterator[int]:
        """Yield, of rising times, the first at or after each sample time."""
        wanted = 0
        for time_us in times_us:
            sample = self._sample(time_us)
            if sample >= wanted:
                yield time_us
                wanted = sample + 1

    def _sample(self, time_us: int) -> int:
        """Return the number of the last sample time at or before a time.

        The largest k with floor(k / rate) <= time, in microseconds: a frame at a third of a
        second is at sample 1 of rate 3, though its 333333 us are less than a third.
        """
        rate = self._rate
        return ((time_us + 1) * rate.numerator - 1) // (rate.denominator * MICROSECONDS)


def time_name(time_us: int) -> str:
    """Return a time as 00:01:02.500."""
    milliseconds = time_us // 1000
    hours, minutes = milliseconds // 3_600_000, milliseconds // 60_000 % 60
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"


def _demuxer(head: bytes) -> str | None:
    """Return the name of the demuxer that a file's first bytes ask for, None for no video."""
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[4:8] == b"ftyp":
        return None if sniff(head) or head[8:12] in _ISO_OTHERS else "mov"
    if head[4:8] in _ISO_BOXES:
        return "mov"
    second = head[_TS_PACKET_BYTES : _TS_PACKET_BYTES + 1]
    return "mpegts" if head[:1] == second == b"G" else None
