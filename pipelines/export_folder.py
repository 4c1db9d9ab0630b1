"""A folder that appears under its name at once, with all that belongs in it, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facepipe.errors import StoreFull, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}


def check_new(out: str) -> Path:
    """Return where a folder will be. Raises UsageError unless it is absent or empty."""
    if not out.strip():
        raise UsageError("--out is empty: give a new folder")
    path = Path(out).resolve()
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {out} is a file: give a new folder")
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(f"--out {out} is not empty: give a new folder, nothing is written over")
    return path


@contextmanager
def new_folder(out: str) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``, which takes its name when the block ends well.

    After an error or Ctrl-C it is removed; a process that is killed leaves it under a name with
    a dot. Raises UsageError as `check_new`, StoreFull where it cannot be written.
    """
    final = check_new(out)
    with _explained(out):
        final.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{final.name[:100]}.", dir=final.parent))
        try:
            yield folder
            folder.chmod(0o777 & ~_umask())
            os.sync()  # one call for what may be millions of small files
            folder.rename(final)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def _explained(out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _TAKEN:
            raise UsageError(f"--out {out} was filled meanwhile: give another folder") from error
        full = error.errno in _FULL
        remedy = "free some space" if full else "give another folder or change its permissions"
        raise StoreFull(
            f"--out {out} cannot be written ({error.strerror or error}): {remedy} and run the "
            "same command again; nothing was left there"
        ) from error
