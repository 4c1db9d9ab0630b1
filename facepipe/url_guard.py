"""Which URLs may be fetched: the settings, and the checks that each hop has to pass.

A list of photos is written by strangers, and whoever fetches what it names lends them its
own network (server-side request forgery). So a URL passes three checks, each time anew for
each redirect: its spelling, its host against the list of allowed hosts, and every address
that its host has. Only then is there an address to connect to, and no name is looked up twice.

What counts as a host follows the WHATWG URL standard: a host whose last label is a number is
an IPv4 address, whatever its notation.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

SCHEMES = ("http", "https")
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_CHARS = 8192  # RFC 9110, section 4.1: at least 8000 are to be supported
MAX_HOST_CHARS = 253  # RFC 1035, section 2.3.4, less the two bytes of the wire format

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")  # with the underscore that hosts do have
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?")  # host, port
_REFUSED = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")  # a backslash is to some a slash
_KEPT = "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"  # not to be quoted a second time

# IANA's registries of special-purpose addresses (RFC 6890 and later), written out so that
# the answer does not change with the version of Python. What is not meant for one public
# host is refused, also where a packet to it would only be lost.
_REFUSED_V4 = tuple(
    (ipaddress.IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),  # and Alibaba's metadata, 100.100.100.200
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),  # and the metadata of most clouds, 169.254.169.254
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),  # and Oracle's metadata, 192.0.0.192
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),  # and broadcast
        ("168.63.129.16/32", "cloud metadata"),  # Azure's WireServer, public by its number only
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all else is not global unicast: RFC 4291
_REFUSED_V6 = tuple(
    (ipaddress.IPv6Network(network), what)
    for network, what in (
        ("2001::/32", "Teredo"),  # wraps an IPv4 address
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),  # wraps an IPv4 address
        ("3fff::/20", "documentation"),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: how IPv6-only networks reach IPv4

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class UrlRefused(OSError):
    """A URL that must not be fetched; no connection was made for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL that passed: what to look up, to connect to and to ask for."""

    scheme: Literal["http", "https"]
    host: str  # lower case, ASCII, no trailing dot; an IPv6 address without brackets
    port: int
    request: str  # path and query, ASCII

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the URL as it is fetched, the base of a relative redirect."""
        return f"{self.scheme}://{self.authority}{self.request}"


class UrlSettings(BaseModel):
    """Which URLs of a list are fetched, and how long one may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: tuple[str, ...] = Field(
        (),
        description="hosts that photos are fetched from, as example.org, or *.example.org for "
        "all below it; with none, no URL is fetched",
    )
    allow_http: bool = Field(False, description="fetch http too, which anyone on the way can alter")
    ports: tuple[int, ...] = Field((80, 443), description="ports that may be connected to")
    timeout_s: float = Field(
        60, gt=0, description="for one photo in all: redirects, retries and waits included"
    )
    connect_timeout_s: float = Field(10, gt=0, description="for one connection with its TLS")
    max_redirects: int = Field(3, ge=0, description="followed, each checked as the first URL")
    retries: int = Field(
        2, ge=0, description="after 429, 5xx or a lost connection; Retry-After is kept to"
    )
    user_agent: str = Field(
        "facepipe", pattern=r"^[\x20-\x7e]+$", description="how the fetching names itself"
    )

    @field_validator("allow")
    @classmethod
    def _hosts(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_pattern(pattern) for pattern in patterns)

    @field_validator("ports")
    @classmethod
    def _ports(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 < port < 65536 for port in ports):
            raise ValueError("a port is a number from 1 to 65535")
        return ports


def check_url(url: str, settings: UrlSettings) -> Target:
    """Return what a URL asks for, or raise UrlRefused, with words for the table.

    Looks nothing up and connects to nothing. The words name the host at most, since the
    rest of a URL may hold a secret.
    """
    if len(url) > MAX_URL_CHARS:
        raise UrlRefused(f"not fetched: the URL has more than {MAX_URL_CHARS} characters")
    if _REFUSED.search(url):
        raise UrlRefused("not fetched: the URL has a control character or a backslash")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UrlRefused("not fetched: the URL is malformed") from error
    if parts.scheme not in SCHEMES:
        raise UrlRefused(f"not fetched: the scheme is {parts.scheme[:32]!r}, not https")
    if parts.scheme == "http" and not settings.allow_http:
        raise UrlRefused("not fetched: http, where urls.allow_http is off")
    if "@" in parts.netloc:
        raise UrlRefused("not fetched: the URL holds a user name or a password")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if authority is None:
        raise UrlRefused("not fetched: the URL is malformed")
    host = normal_host(authority[1])
    port = int(authority[2] or DEFAULT_PORTS[parts.scheme])
    if port not in settings.ports:
        raise UrlRefused(f"not fetched: port {port} is not in urls.ports")
    if not any(_matches(host, pattern) for pattern in settings.allow):
        raise UrlRefused(f"not fetched: host {host} is not in urls.allow")
    address = _literal(host)
    if address is not None:
        check_address(address)
    path = quote(parts.path or "/", safe=_KEPT) + (
        "?" + quote(parts.query, safe=_KEPT) if parts.query else ""
    )
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return Target(scheme=scheme, host=host, port=port, request=path)


def normal_host(text: str) -> str:
    """Return a host in its one spelling: lower case, ASCII, no trailing dot, no brackets.

    Internationalised names become their xn-- form (IDNA 2008 with the mapping of UTS 46).
    Raises UrlRefused for what is no host name and no plain IP address: 127.1, 0x7f.0.0.1,
    0177.0.0.1 and 2130706433 are refused, not interpreted.
    """
    if text.startswith("[") and text.endswith("]"):
        try:
            address = ipaddress.IPv6Address(text[1:-1])
        except ValueError as error:
            raise UrlRefused("not fetched: the host is no IPv6 address") from error
        if address.scope_id is not None:
            raise UrlRefused("not fetched: the host is an address of one network card")
        return address.compressed
    if len(text) > MAX_HOST_CHARS + 1:
        raise UrlRefused("not fetched: the URL's host is no host name")
    host = (text if text.isascii() else _to_ascii(text)).lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefused("not fetched: the URL's host is no host name")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return ipaddress.IPv4Address(host).compressed
        except ValueError as error:
            raise UrlRefused(f"not fetched: {host} is an IP address spelt unusually") from error
    return host


def check_address(address: Address) -> None:
    """Raise UrlRefused for an address that is not a public host's."""
    what = refused_as(address)
    if what is not None:
        raise UrlRefused(f"not fetched: {address} is no public address ({what})")


def refused_as(address: Address) -> str | None:
    """Return why an address must not be connected to, None for a public host's."""
    if isinstance(address, ipaddress.IPv4Address):
        return _first(address, _REFUSED_V4)
    if address.scope_id is not None:
        return "link-local"
    if address in _NAT64:
        return refused_as(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if address not in _PUBLIC_V6:
        return "not global unicast"
    return _first(address, _REFUSED_V6)


def _first(
    address: Address,
    networks: Iterable[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]],
) -> str | None:
    return next((what for network, what in networks if address in network), None)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and _literal(host) is None
    return host == pattern


def _pattern(text: str) -> str:
    """Return an allowed host as it is compared. Raises ValueError with the remedy."""
    star, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        host = normal_host(name)
    except UrlRefused as error:
        raise ValueError(
            f"{text!r} is no host: give a name as example.org or *.example.org, without scheme, "
            "port or path"
        ) from error
    if star and ("." not in host or _literal(host) is not None):
        raise ValueError(f"{text!r} is too wide: name at least two labels, as *.example.org")
    return star + host


def _to_ascii(host: str) -> str:
    try:
        import idna
    except ImportError as error:  # comes with requests, which a model library brings
        raise UrlRefused("not fetched: for a host beyond ASCII, pip install idna") from error
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except UnicodeError as error:  # idna.IDNAError is one
        raise UrlRefused("not fetched: the URL's host is no host name") from error
