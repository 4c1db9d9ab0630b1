"""The exception tree: what went wrong, which thing, which remedy.

    FacepipeError            1  something failed
    |-- UsageError           2  the command, a setting or a path is wrong
    |   |-- ConfigError         an unknown key, a value out of range
    |   |-- SourceNotFound      a folder of photos that is not there
    |   `-- ModelNotFound       no such pack, or a pack without a detector
    |-- ModelUnreadable      1  a model file that cannot be opened
    |-- ModelMismatch        1  data made with one model, asked for with another
    |-- StoreError           1  a dataset or index that cannot be read or written
    |   |-- DatasetNotFound     no dataset, or not this step of it yet
    |   |-- CorruptData         bytes whose checksum or schema is wrong
    |   `-- StoreFull           no space left, or no permission to write
    |-- QuarantineExceeded   3  finished, but more was quarantined than allowed
    `-- GateFailed           4  a check that was asked for did not hold

Bad *data* (a broken photo, a crop that does not decode) never raises: it becomes a row
with a status. The number is the process exit code.
"""

from __future__ import annotations

from typing import ClassVar


class FacepipeError(Exception):
    """Root of every error facepipe raises on purpose; the message names the remedy."""

    exit_code: ClassVar[int] = 1


class UsageError(FacepipeError):
    """The command line, a setting or a path is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A settings file or --set has an unknown key or a value that is not allowed."""


class SourceNotFound(UsageError):
    """A source of photos does not exist or cannot be listed."""


class ModelNotFound(UsageError):
    """A model pack is missing, or lacks a detector or a recogniser."""


class ModelUnreadable(FacepipeError):
    """A model file exists but cannot be opened or does not have the expected outputs."""


class ModelMismatch(FacepipeError):
    """Data made with one model is asked for with another."""


class StoreError(FacepipeError):
    """A dataset or an index cannot be read or written."""


class DatasetNotFound(StoreError):
    """There is no dataset here, or the step that is asked for has not run yet."""


class CorruptData(StoreError):
    """Stored bytes do not match their checksum or their schema."""


class StoreFull(StoreError):
    """No space is left, or writing is not permitted."""


class QuarantineExceeded(FacepipeError):
    """The run finished, but more inputs were quarantined than the settings allow."""

    exit_code = 3


class GateFailed(FacepipeError):
    """A check that was asked for did not hold."""

    exit_code = 4
