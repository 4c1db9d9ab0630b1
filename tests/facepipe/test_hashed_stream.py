"""Size and hash of what goes through a stream."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest

from facepipe.hashed_stream import HashedStream


@pytest.mark.parametrize(
    "parts", [[], [b""], [b"ab", b"", b"c"], [np.arange(6, dtype="<i4").reshape(2, 3).data]]
)
def test_what_is_written_is_counted(parts: list[bytes | memoryview]) -> None:
    target = io.BytesIO()
    stream = HashedStream(target)
    assert [stream.write(part) for part in parts] == [memoryview(p).nbytes for p in parts]
    data = b"".join(bytes(part) for part in parts)
    assert target.getvalue() == data
    file = stream.file()
    assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert not target.closed


def test_empty_arrays_are_no_trouble() -> None:
    stream = HashedStream(io.BytesIO())
    assert stream.write(np.empty((0, 5), np.float16).data) == 0
    assert stream.write(np.empty((5, 0), np.float16).data) == 0
    assert stream.file().bytes == 0
