"""The frames of a video stream with their times, by FFmpeg's libraries through PyAV.

Only the given stream is read: the demuxer is named and not guessed, FFmpeg knows no file
name, and whatever it asks to have opened besides is refused. One thread decodes, from the
start, so that a frame is the same whichever frames were asked for before it.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from facepipe.video_picture import encode_png, turn_upright

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MICROSECONDS = 1_000_000
REORDERED = 64  # packets; H.264 and HEVC show a frame at most 16 (32 fields) later than sent
NO_PYAV = "PyAV is not installed: pip install 'facepipe[video]'"
_UNTIMED = ("avi",)  # its packets say when to decode, not when to show
MAX_STRETCH = 8  # of pixels that are not square; what is beyond is a damaged header

# What FFmpeg may run on a file that strangers made.
_CODECS = frozenset(
    {
        *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mpeg1video", "mpeg2video"),
        *("mjpeg", "h263", "flv", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "wmv3", "vc1"),
        *("prores", "dnxhd", "dvvideo", "ffv1", "theora"),
    }
)


class OpenedVideo:
    """A video stream on its way from the start to the end, once: its times or its frames."""

    def __init__(self, stream: BinaryIO, demuxer: str, max_pixels: int) -> None:
        """Open it. Raises OSError with words for the table."""
        try:
            import av
        except ImportError as error:
            raise OSError(NO_PYAV) from error
        self.damage: str | None = None  # what was found to be missing
        self._max_pixels, self._timed = max_pixels, demuxer not in _UNTIMED
        # PyAV raises FFmpegError for data; ValueError and the like for what it cannot map.
        self._broken = (av.FFmpegError, OSError, ValueError, RuntimeError)
        try:
            self._container = av.open(
                _Nameless(stream),
                "r",
                format=demuxer,
                options=_limits(max_pixels) | {"codec_whitelist": ",".join(sorted(_CODECS))},
                metadata_errors="replace",
                io_open=_refuse,
            )
        except self._broken as error:
            raise OSError(f"cannot be opened: {_words(error)}") from error
        try:
            self._video = self._choose()
            self._start = (self._video.start_time or 0) if self._timed else None
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> OpenedVideo:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the demuxer; the stream stays open."""
        self._container.close()

    def times_us(self) -> Iterator[int]:
        """Yield the rising times of the frames: by their packets, else by decoding them.

        A packet may turn out to hold no frame that decodes. Afterwards ``damage`` says what
        is missing, if anything is.
        """
        if not self._timed:
            yield from (time_us for time_us, _ in self.frames())
            return
        waiting: list[int] = []
        packets, last = 0, -1
        for packet in self._packets():
            packets += packet.size > 0
            time_us = self._time_us(packet.pts)
            if packet.size > 0 and not packet.is_discard and time_us is not None:
                heapq.heappush(waiting, time_us)
            if len(waiting) > REORDERED and (first := heapq.heappop(waiting)) > last:
                last = first
                yield last
        yield from (time_us for time_us in sorted(set(waiting)) if time_us > last)
        declared = self._video.frames  # 0 where the format does not say
        if self.damage is None and packets < declared:
            self.damage = f"damaged: {declared - packets} of {declared} frames are missing"

    def frames(self) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (time, frame) of each whole frame, by rising time."""
        last = -1
        for frame in self._decoded():
            time_us = self._time_us(frame.dts if frame.pts is None else frame.pts)
            if time_us is not None and time_us > last and not frame.is_corrupt:
                last = time_us
                yield time_us, frame

    def encoded(self, frame: VideoFrame) -> bytes:
        """Return a frame as PNG, upright and in square pixels. Raises OSError."""
        from av.video.reformatter import Interpolation

        # The same bytes on every processor, which swscale's fast paths do not give.
        flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        try:
            width = self._square_width(frame)
            pixels = frame.to_ndarray(format="rgb24", width=width, interpolation=flags, threads=1)
        except self._broken as error:
            raise OSError(f"the frame cannot be converted: {_words(error)}") from error
        upright = turn_upright(np.asarray(pixels, np.uint8), matrix and bytes(matrix))
        return encode_png(upright)

    def _choose(self) -> VideoStream:
        """Return the first video stream that is no cover picture, set to decode."""
        import av.stream

        cover = av.stream.Disposition.attached_pic
        video = next((s for s in self._container.streams.video if not s.disposition & cover), None)
        if video is None:
            raise OSError("there is no video in it")
        context: VideoCodecContext | None = video.codec_context  # None: no decoder for it
        if context is None or context.codec.name not in _CODECS:
            name = "an unknown one" if context is None else context.codec.name
            raise OSError(f"its codec is not read: {name}")
        # FFmpeg, which is told the limit too, takes away the size of what is over it.
        if not 0 < context.width * context.height <= self._max_pixels:
            raise OSError(f"its frames have more than {self._max_pixels} pixels, or no size")
        context.thread_count, context.thread_type = 1, "NONE"
        context.options = _limits(self._max_pixels)  # a frame may be larger than the header says
        return video

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        try:
            yield from self._container.demux(self._video)
        except self._broken as error:
            self.damage = f"damaged: {_words(error)}"

    def _decoded(self) -> Iterator[VideoFrame]:
        """Yield every frame that decodes; what does not is passed over."""
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._broken:
                continue
            yield from frames
        if self.damage is not None:  # else the last packet was the one that empties the decoder
            with contextlib.suppress(*self._broken):
                yield from self._video.codec_context.decode(None)

    def _time_us(self, pts: int | None) -> int | None:
        """Return a time from the start of the video, None before it and where there is none.

        Where packets have times the start is the demuxer's, so that it does not depend on
        which frames decode; else it is the first frame that does.
        """
        if pts is None:
            return None
        if self._start is None:
            self._start = pts
        base = self._video.time_base or Fraction(1, MICROSECONDS)
        time_us = (pts - self._start) * base.numerator * MICROSECONDS // base.denominator
        return time_us if time_us >= 0 else None

    def _square_width(self, frame: VideoFrame) -> int:
        """Return the width that makes a frame's pixels square, as players show them."""
        ratio = self._video.codec_context.sample_aspect_ratio
        if not ratio or not 1 / MAX_STRETCH <= ratio <= MAX_STRETCH:
            return frame.width
        width = max(1, round(frame.width * ratio))
        return width if width * frame.height <= self._max_pixels else frame.width


class _Nameless:
    """A stream with a position of its own and no file name for FFmpeg to start from."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._at = stream, 0

    def read(self, count: int) -> bytes:
        self._stream.seek(self._at)
        data = self._stream.read(count)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._at)[whence] if whence < 2 else self._stream.seek(0, 2)
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at


def _limits(max_pixels: int) -> dict[str, str]:
    return {"max_pixels": str(max_pixels), "threads": "1"}


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a video may not open other files")


def _words(error: Exception) -> str:
    """Return what went wrong, without the numbers and names around it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
