"""The one connection of a fetch: to an address that was checked, under a deadline.

The name of a host is looked up once and what the answer says is both checked and connected
to, so that a second answer (DNS rebinding) has no use; TLS then checks that the host is the
one that the URL names. Proxies of the environment are not asked.
"""

from __future__ import annotations

import contextlib
import functools
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from facepipe.url_guard import Address, Target, UrlRefused, UrlSettings, refused_as

PIECE_BYTES = 65536
MAX_HEADER_BYTES = 131072  # twice what servers commonly accept; read ahead of the body included


class UrlTooLarge(OSError):
    """More bytes than a photo may have."""


class UrlTooSlow(OSError):
    """Not there within urls.timeout_s."""


class UrlFailed(OSError):
    """What may pass: a lost connection, an overloaded server; asked again urls.retries times."""

    retry_after_s: float = 0


class Deadline:
    """The moment at which one photo has taken long enough."""

    def __init__(self, settings: UrlSettings) -> None:
        """Start the clock."""
        self._limit_s = settings.timeout_s
        self._at_s = time.monotonic() + settings.timeout_s

    def left_s(self) -> float:
        """Return the seconds left, more than 0. Raises UrlTooSlow where there are none."""
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            self.missed()
        return left_s

    def missed(self) -> NoReturn:
        """Raise UrlTooSlow."""
        raise UrlTooSlow(f"not fetched within urls.timeout_s = {self._limit_s:g}")


def look_up(host: str, port: int, timeout_s: float) -> list[Address]:
    """Return the addresses of a host, in the system's order. Raises OSError.

    In a thread, since the system's resolver takes no time limit.
    """
    answers: queue.SimpleQueue[list[Address] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            unique = dict.fromkeys(str(item[4][0]) for item in found)
            answers.put([ipaddress.ip_address(text) for text in unique])
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty as error:
        raise UrlFailed(f"host {host} was not looked up within {timeout_s:.3g} s") from error
    if isinstance(answer, OSError):
        raise UrlFailed(f"host {host} has no address: {answer.strerror}") from answer
    return answer


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # some 10 ms: it reads every certificate authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The door outside. No setting changes it: only a caller in Python can pass another."""

    look_up: Callable[[str, int, float], list[Address]] = look_up
    refused_as: Callable[[Address], str | None] = refused_as
    tls: Callable[[], ssl.SSLContext] = _tls
    wait: Callable[[float], None] = time.sleep


def connect(
    network: Network, target: Target, settings: UrlSettings, deadline: Deadline
) -> socket.socket:
    """Open a connection to an address of the host, all of whose addresses must be public.

    Raises UrlRefused, UrlFailed, UrlTooSlow, or OSError for a certificate that is not the host's.
    """
    try:
        addresses = [ipaddress.ip_address(target.host)]
    except ValueError:
        addresses = network.look_up(target.host, target.port, deadline.left_s())
    for address in addresses:  # one that is not public makes the others suspect as well
        if (what := network.refused_as(address)) is not None:
            raise UrlRefused(f"not fetched: host {target.host} has the address {address} ({what})")
    failure = UrlFailed(f"host {target.host} has no address")
    for address in addresses:
        try:
            return _open(
                network, address, target, min(settings.connect_timeout_s, deadline.left_s())
            )
        except ssl.SSLCertVerificationError as error:
            raise OSError(f"host {target.host}: certificate: {error.verify_message}") from error
        except UrlTooSlow:
            raise
        except OSError as error:
            failure = UrlFailed(f"host {target.host} cannot be reached: {_words(error)}")
            failure.__cause__ = error
    raise failure


def _open(network: Network, address: Address, target: Target, timeout_s: float) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        until_s = time.monotonic() + timeout_s
        connection.settimeout(timeout_s)
        connection.connect((str(address), target.port))
        if target.scheme == "http":
            return connection
        connection.settimeout(max(until_s - time.monotonic(), 0.001))
        # The certificate must be the name's, which stands in the URL, not the address's.
        return network.tls().wrap_socket(connection, server_hostname=target.host)
    except BaseException:
        connection.close()
        raise


class Wire(io.RawIOBase):
    """A connection under a deadline and a limit of bytes, as a file that a response reads."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        """Take a connection; at first no more than headers may come."""
        self._connection, self._deadline = connection, deadline
        self.allowed_bytes = MAX_HEADER_BYTES

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what an HTTPResponse reads from, as a socket does."""
        return io.BufferedReader(self, PIECE_BYTES)

    def readable(self) -> bool:
        """Return True."""
        return True

    def send(self, data: bytes) -> None:
        """Send all of the data. Raises UrlFailed or UrlTooSlow."""
        with self._named():
            self._connection.settimeout(self._deadline.left_s())
            self._connection.sendall(data)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Receive what there is. Raises UrlTooLarge, UrlFailed or UrlTooSlow."""
        if self.allowed_bytes <= 0:
            raise UrlTooLarge("the answer has more headers or framing than any photo needs")
        with self._named():
            # Set before each read: a byte now and then gains a slow server no time.
            self._connection.settimeout(self._deadline.left_s())
            count = self._connection.recv_into(buffer[: self.allowed_bytes])
        self.allowed_bytes -= count
        return count

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what a socket raises into the errors of this module."""
        try:
            yield
        except UrlTooSlow:
            raise
        except TimeoutError:
            self._deadline.missed()
        except OSError as error:
            raise UrlFailed(f"the connection was lost: {_words(error)}") from error


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'failed'}"  # its text has a line of OpenSSL's source
    return error.strerror or str(error) or type(error).__name__
