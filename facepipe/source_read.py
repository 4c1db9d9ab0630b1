"""Reads photos wherever they are: files, objects, members of containers, allowed URLs."""

from __future__ import annotations

from facepipe.containers import Container, Member
from facepipe.source_kinds import LIST, open_container
from facepipe.source_list import read_listed
from facepipe.sources import Entry, SourceSettings, read_bytes
from facepipe.url_guard import UrlSettings


class PhotoReader:
    """Reads one photo after the other; keeps the last container open between them."""

    def __init__(self, sources: SourceSettings, urls: UrlSettings) -> None:
        """Set how containers are opened and which URLs may be fetched."""
        self._sources = sources
        self._urls = urls
        self._uri = ""
        self._container: Container | None = None

    def read(self, entry: Entry, max_bytes: int) -> bytes:
        """Return a photo's bytes, at most ``max_bytes`` + 1 of them.

        Raises OSError, with words for the table, where they cannot be had.
        """
        if entry.problem is not None:
            raise OSError(entry.problem)
        if entry.member is not None:
            return self._opened(entry).read(_member(entry), max_bytes)
        if entry.kind == LIST:
            return read_listed(entry.uri, self._urls, max_bytes)
        return read_bytes(entry, max_bytes)

    def close(self) -> None:
        """Close the container that is open."""
        container, self._container = self._container, None
        if container is not None:
            container.close()

    def _opened(self, entry: Entry) -> Container:
        if self._container is None or self._uri != entry.uri:
            self.close()
            self._container = open_container(entry, self._sources, self._urls)
            self._uri = entry.uri
        return self._container


def _member(entry: Entry) -> Member:
    return Member(
        name=entry.member or "", offset=entry.offset, bytes=entry.bytes, label=entry.source_label
    )
