"""A store as pyarrow's datasets see it: files to read, under their keys."""

from __future__ import annotations

from typing import Any, BinaryIO, NoReturn, Protocol

import pyarrow as pa
from pyarrow import fs


class Readable(Protocol):
    """What is needed of a store."""

    @property
    def uri(self) -> str:
        """Return the prefix."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Return a key as a seekable file. Raises FileNotFoundError."""
        ...

    def size(self, key: str) -> int:
        """Return the bytes of a key. Raises FileNotFoundError."""
        ...


def arrow_files(store: Readable) -> fs.FileSystem:
    """Return a store as a file system of pyarrow that reads the files it is told of."""
    return fs.PyFileSystem(_Files(store))


class _Files(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow is not annotated
    """Opens files by key; committed files are named by records, so that it lists nothing."""

    def __init__(self, store: Readable) -> None:
        self.store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Files) and other.store.uri == self.store.uri

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        return "facepipe"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        try:
            return fs.FileInfo(path, fs.FileType.File, size=self.store.size(path))
        except FileNotFoundError:
            return fs.FileInfo(path, fs.FileType.NotFound)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(self.store.open(path), mode="r")

    open_input_stream = open_input_file

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("a store is read, not changed, through pyarrow")

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = _refuse
    delete_root_dir_contents = delete_file = move = copy_file = _refuse
    open_output_stream = open_append_stream = _refuse
