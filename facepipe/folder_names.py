"""Folder names for people who may be called anything, on any file system.

A name keeps its letters and digits of every script, and `` ' ( ) + , - . _`` and blanks inside;
every other character becomes the %XX of its UTF-8 bytes, as in URLs, and so do a dot or blank at
either end and the first letter of what Windows keeps for devices (CON, NUL ...). Names that the
file systems of macOS or Windows would not tell apart, in case or in the composition of accents,
get ``~2``, ``~3`` ... in the order of the names. All that can be undone with `person_of`; only a
name over MAX_BYTES is cut, and ends with ``~`` and a digest of the whole.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

MAX_BYTES = 200  # of the 255 that file systems allow: room for what tools add
EMPTY = "%"  # the folder of the name that is empty
_PLAIN = set(" '()+,-._")
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[\d¹²³]|lpt[\d¹²³])(\..*)?", re.IGNORECASE
)
_DIGEST_CHARS = 16


def folder_names(people: Iterable[str]) -> list[str]:
    """Return a folder name for each person, in order; all differ, also to careless systems.

    ``people`` are distinct. The names of the others matter only where two are alike.
    """
    given: dict[str, int] = {}
    names = []
    for person in people:
        name = escaped(person)
        alike = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        given[alike] = given.get(alike, 0) + 1
        names.append(name if given[alike] == 1 else f"{name}~{given[alike]}")
    return names


def escaped(person: str) -> str:
    """Return the folder name of a person as if there were no other."""
    name = "".join(c if c.isalnum() or c in _PLAIN else _percent(c) for c in person)
    if not name:
        return EMPTY
    if name[0] in " .-" or _DEVICE.fullmatch(name):  # a leading - is an option to many tools
        name = _percent(name[0]) + name[1:]
    if name[-1] in " .":
        name = name[:-1] + _percent(name[-1])
    if len(name.encode()) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(person.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{_cut(name, MAX_BYTES - _DIGEST_CHARS - 1)}~{digest}"


def person_of(folder: str) -> str | None:
    """Return whose folder it is; None for a name that was cut: labels.csv has it."""
    name, _, mark = folder.partition("~")
    if len(mark) == _DIGEST_CHARS:
        return None
    return "" if name == EMPTY else unquote_to_bytes(name).decode()


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _cut(name: str, size: int) -> str:
    """Return the start of a name, no character and no %XX in halves."""
    start = name.encode()[:size].decode(errors="ignore")
    return re.sub(r"%[0-9A-F]?$", "", start).rstrip(" .")
