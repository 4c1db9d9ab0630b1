"""Photos of the network: one GET, to the address that was checked, within time and size.

Written on http.client's response parser and a socket of our own rather than on urllib3:
what is needed is one connection to one given address, and what urllib3 adds (pools, its own
look-up of the name, proxies of the environment, decoding, redirects) would have to be turned
off one by one. Nothing here keeps cookies, decodes a body or looks a name up a second time.
"""

from __future__ import annotations

import contextlib
import http
import socket
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import cast
from urllib.parse import quote, urljoin

from facepipe.url_guard import Target, UrlRefused, UrlSettings, check_url
from facepipe.url_wire import (
    PIECE_BYTES,
    Deadline,
    Network,
    UrlFailed,
    UrlTooLarge,
    Wire,
    connect,
)

FIRST_WAIT_S = 1.0  # before a second attempt; doubled for each further one
REDIRECTS = {301, 302, 303, 307, 308}
PASSING = {429, 500, 502, 503, 504}  # worth asking again


def fetch(url: str, settings: UrlSettings, max_bytes: int) -> bytes:
    """Return the body of a URL.

    Raises OSError with words for the table: UrlRefused where it must not be fetched,
    UrlTooLarge for more than ``max_bytes``, UrlTooSlow, or what went wrong. No connection
    is made for what is refused.
    """
    return fetch_over(Network(), url, settings, max_bytes)


def fetch_over(network: Network, url: str, settings: UrlSettings, max_bytes: int) -> bytes:
    """Do what ``fetch`` does, over a given network."""
    deadline = Deadline(settings)
    for attempt in range(settings.retries + 1):
        try:
            return _follow(network, url, settings, max_bytes, deadline)
        except UrlFailed as error:
            wait_s = max(error.retry_after_s, FIRST_WAIT_S * 2**attempt)
            if attempt == settings.retries or wait_s >= deadline.left_s():
                raise
            network.wait(wait_s)
    raise AssertionError("the last attempt returns or raises")


def _follow(
    network: Network, url: str, settings: UrlSettings, max_bytes: int, deadline: Deadline
) -> bytes:
    target = check_url(url, settings)
    for _ in range(settings.max_redirects + 1):
        answer = _ask(network, target, settings, max_bytes, deadline)
        if isinstance(answer, bytes):
            return answer
        try:
            target = check_url(urljoin(target.url, answer.location), settings)
        except UrlRefused as error:
            raise UrlRefused(f"redirected; then {error}") from error
        except ValueError as error:
            raise UrlRefused("not fetched: redirected to a malformed URL") from error
    raise OSError(f"redirected more than urls.max_redirects = {settings.max_redirects} times")


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def _ask(
    network: Network, target: Target, settings: UrlSettings, max_bytes: int, deadline: Deadline
) -> bytes | _Redirect:
    """Make one request on a connection of its own."""
    request = (
        f"GET {target.request} HTTP/1.1\r\nHost: {target.authority}\r\n"
        f"User-Agent: {settings.user_agent}\r\nAccept: */*\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    with contextlib.closing(connect(network, target, settings, deadline)) as connection:
        wire = Wire(connection, deadline)
        wire.send(request.encode("ascii"))
        # The parser asks a socket for nothing but a file to read from.
        response = HTTPResponse(cast(socket.socket, wire), method="GET")
        try:
            response.begin()
            # What the framing of chunks may add, so that it cannot be sent without end.
            wire.allowed_bytes += max_bytes + max_bytes // 8 + PIECE_BYTES
            return _read(response, max_bytes)
        except (IncompleteRead, RemoteDisconnected) as error:
            raise UrlFailed("the connection was lost before the end of the answer") from error
        except (HTTPException, ValueError) as error:  # ValueError: a negative length of a chunk
            raise OSError(f"the answer is no HTTP: {type(error).__name__}") from error


def _read(response: HTTPResponse, max_bytes: int) -> bytes | _Redirect:
    if response.status in REDIRECTS and (location := response.getheader("Location")):
        # Header bytes reach us as Latin-1; whatever they encode is kept, as %xx.
        return _Redirect(quote(location.encode("latin-1"), safe=_ASCII))
    if response.status != http.HTTPStatus.OK:
        raise _failed(response)
    if (encoding := response.getheader("Content-Encoding", "identity").lower()) != "identity":
        raise OSError(f"sent with Content-Encoding {encoding[:32]!r}, which was not asked for")
    declared = response.length
    if declared is not None and declared > max_bytes:
        raise UrlTooLarge(f"{declared} bytes, where a photo may have {max_bytes}")
    body = bytearray()
    while piece := response.read(min(PIECE_BYTES, max_bytes + 1 - len(body))):
        body += piece
        if len(body) > max_bytes:
            raise UrlTooLarge(f"more bytes than the {max_bytes} that a photo may have")
    if declared is not None and len(body) != declared:
        raise UrlFailed(f"the connection was lost after {len(body)} of {declared} bytes")
    return bytes(body)


_ASCII = "".join(map(chr, range(0x20, 0x7F)))


def _failed(response: HTTPResponse) -> OSError:
    try:
        words = f"HTTP {response.status} {http.HTTPStatus(response.status).phrase}"
    except ValueError:  # a number of its own; its text is the server's and is not repeated
        words = f"HTTP {response.status}"
    if response.status not in PASSING:
        return OSError(words)
    error = UrlFailed(words)
    error.retry_after_s = _seconds(response.getheader("Retry-After", ""))
    return error


def _seconds(retry_after: str) -> float:
    """Return the wait that a Retry-After header asks for: seconds, or a date (RFC 9110)."""
    if retry_after.isdecimal():
        return float(retry_after[:12])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
