"""Files without a name: gone with the process that writes them, however it ends, unless named.

Linux makes a file in a folder that is in no listing of it (O_TMPFILE), and gives it a name when
it is complete: nothing is written twice and nothing is left behind. Where the file system knows
no such files, the name is taken away at once, and what is to be kept has to be copied.

Source: open(2) and linkat(2) of the Linux manual.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

_CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV}


def open_nameless(folder: Path | None, size_bytes: int = 0) -> BinaryIO:
    """Open a nameless file to write, read and map; ``folder``: None for the system's own.

    size_bytes: reserved on the disk, since a full one ends a process that writes to a map. Raises
    OSError, ENOSPC where there is not so much.
    """
    file = _open(folder or Path(tempfile.gettempdir()))
    try:
        if size_bytes:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            file.close()
            raise
    return file


def _open(folder: Path) -> BinaryIO:
    try:
        # Not what tempfile opens: O_EXCL says that it will never have a name.
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except (AttributeError, OSError):  # another system, another file system
        return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))
    return os.fdopen(handle, "w+b")


def give_name(file: BinaryIO, path: Path) -> bool:
    """Give a nameless file a name that is free; False where that cannot be done.

    path: on the file system of the folder it was opened in. What was written is flushed, and not
    synchronised with the disk. Raises OSError, also FileExistsError.
    """
    file.flush()
    folder = os.open(
        path.parent, os.O_RDONLY
    )  # without one Python calls link(2), which follows none
    try:
        os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=folder)
    except FileExistsError:
        raise
    except OSError:  # no /proc, or its name was taken away for good
        return False
    finally:
        os.close(folder)
    return True
