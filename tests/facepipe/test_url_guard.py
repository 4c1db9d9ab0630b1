"""Which URLs pass: every spelling, host and address that must not is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from facepipe.url_guard import (
    UrlRefused,
    UrlSettings,
    check_url,
    normal_host,
    refused_as,
)

ALLOW = ("photos.example.org", "*.cdn.example.org", "bücher.example", "8.8.8.8", "127.0.0.1")
SETTINGS = UrlSettings(allow=ALLOW)
HTTP = UrlSettings(allow=ALLOW, allow_http=True)


@pytest.mark.parametrize(
    ("url", "host", "port", "request_line"),
    [
        ("https://photos.example.org/a.jpg", "photos.example.org", 443, "/a.jpg"),
        ("HTTPS://Photos.EXAMPLE.org./a.jpg#top", "photos.example.org", 443, "/a.jpg"),
        ("https://photos.example.org", "photos.example.org", 443, "/"),
        ("https://photos.example.org:/?w=1&h=2", "photos.example.org", 443, "/?w=1&h=2"),
        ("https://photos.example.org:80/x", "photos.example.org", 80, "/x"),
        ("https://a.b.cdn.example.org/x", "a.b.cdn.example.org", 443, "/x"),
        ("https://photos.example.org/ä b%20c", "photos.example.org", 443, "/%C3%A4%20b%20c"),
        ("https://BÜCHER.example/x", "xn--bcher-kva.example", 443, "/x"),
        ("https://xn--bcher-kva.example/x", "xn--bcher-kva.example", 443, "/x"),
        ("https://photos。example。org/x", "photos.example.org", 443, "/x"),  # UTS 46 full stops
        ("https://8.8.8.8/x", "8.8.8.8", 443, "/x"),
    ],
)
def test_what_is_allowed_has_one_spelling(
    url: str, host: str, port: int, request_line: str
) -> None:
    target = check_url(url, SETTINGS)
    assert (target.host, target.port, target.request) == (host, port, request_line)
    assert check_url(target.url, SETTINGS) == target


SPELLINGS = {
    "not asked for": ("https://elsewhere.example.org/", "not in urls.allow"),
    "the domain itself is not below *.": ("https://cdn.example.org/", "not in urls.allow"),
    "a suffix that is no label": ("https://evilcdn.example.org/", "not in urls.allow"),
    "allowed name as a prefix": ("https://photos.example.org.evil.com/", "not in urls.allow"),
    "allowed name as a user": ("https://photos.example.org@evil.com/", "user name"),
    "a user of the allowed host": ("https://me:secret@photos.example.org/", "user name"),
    "an empty user": ("https://@photos.example.org/", "user name"),
    "backslash as slash": ("https://evil.com\\@photos.example.org/", "backslash"),
    "http": ("http://photos.example.org/", "allow_http"),
    "file": ("file:///etc/passwd", "scheme"),
    "file with a host": ("file://photos.example.org/etc/passwd", "scheme"),
    "ftp": ("ftp://photos.example.org/a.jpg", "scheme"),
    "gopher": ("gopher://photos.example.org:70/_x", "scheme"),
    "data": ("data:image/png;base64,iVBORw0KGgo=", "scheme"),
    "javascript": ("javascript:alert(1)", "scheme"),
    "no scheme": ("//photos.example.org/a.jpg", "scheme"),
    "a nested scheme": ("url:https://photos.example.org/", "scheme"),
    "port of a shell": ("https://photos.example.org:22/", "port 22"),
    "port of a metadata service": ("https://photos.example.org:9090/", "port 9090"),
    "port 0": ("https://photos.example.org:0/", "port 0"),
    "port too large": ("https://photos.example.org:65979/", "port 65979"),
    "port that is no number": ("https://photos.example.org:4x/", "malformed"),
    "port in other digits": ("https://photos.example.org:\uff14\uff14\uff13/", "malformed"),
    "line break in the host": ("https://photos.example.org\r\nHost: evil.com/", "control"),
    "line break in the path": ("https://photos.example.org/\r\nX: y", "control"),
    "tab in the scheme": ("ht\ttps://photos.example.org/", "control"),
    "NUL": ("https://photos.example.org\x00.evil.com/", "control"),
    "a lone surrogate": ("https://photos.example.org/\udcff", "control"),
    "very long": ("https://photos.example.org/" + "a" * 9000, "characters"),
    "a very long host": ("https://" + "a." * 4000 + "org/", "no host name"),
    "a long host beyond ASCII": ("https://" + "ü" * 3000 + "/", "no host name"),
    "no host": ("https:///a.jpg", "no host name"),
    "an empty label": ("https://photos..example.org/", "no host name"),
    "two trailing dots": ("https://photos.example.org../", "no host name"),
    "percent in the host": ("https://photos%2eexample.org/", "no host name"),
    "space in the host": ("https://photos.example.org .evil.com/", "no host name"),
    "a slash that NFKC makes": ("https://photos.example.org\uff0fx@evil.com/", "malformed"),
    "two hosts": ("https://photos.example.org,evil.com/", "no host name"),
}


@pytest.mark.parametrize(("url", "words"), SPELLINGS.values(), ids=SPELLINGS)
def test_a_spelling_is_refused_and_says_why(url: str, words: str) -> None:
    with pytest.raises(UrlRefused, match=words) as caught:
        check_url(url, SETTINGS)
    assert "secret" not in str(caught.value)


ADDRESSES = {
    "loopback": "127.0.0.1",
    "loopback, another": "127.8.9.10",
    "any": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172.16": "172.31.255.254",
    "private 192.168": "192.168.1.1",
    "carrier-grade NAT": "100.64.0.1",
    "Alibaba metadata": "100.100.100.200",
    "link-local": "169.254.1.1",
    "metadata of most clouds": "169.254.169.254",
    "ECS task metadata": "169.254.170.2",
    "Oracle metadata": "192.0.0.192",
    "Azure WireServer": "168.63.129.16",
    "documentation": "203.0.113.9",
    "benchmarking": "198.19.255.255",
    "6to4 relay": "192.88.99.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 loopback": "::1",
    "v6 any": "::",
    "v6 link-local": "fe80::1",
    "v6 link-local with a card": "fe80::1%eth0",
    "v6 public with a card": "2606:4700::1%eth0",
    "v6 unique local": "fd12:3456::1",
    "v6 AWS metadata": "fd00:ec2::254",
    "v6 GCP metadata": "fd20:ce::254",
    "v6 site-local": "fec0::1",
    "v6 multicast": "ff02::1",
    "v6 documentation": "2001:db8::1",
    "v6 documentation, newer": "3fff::1",
    "v6 discard": "100::1",
    "v4-mapped loopback": "::ffff:127.0.0.1",
    "v4-mapped public": "::ffff:8.8.8.8",
    "v4-compatible": "::8.8.8.8",
    "v4-translated": "::ffff:0:127.0.0.1",
    "NAT64 of loopback": "64:ff9b::127.0.0.1",
    "NAT64 of metadata": "64:ff9b::a9fe:a9fe",
    "NAT64 of local use": "64:ff9b:1::8.8.8.8",
    "6to4 of loopback": "2002:7f00:1::",
    "6to4 of a public host": "2002:808:808::1",
    "Teredo": "2001:0:53aa:64c:0:0:80ff:fffe",
    "ORCHID": "2001:20::1",
}


@pytest.mark.parametrize("text", ADDRESSES.values(), ids=ADDRESSES)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    assert refused_as(ipaddress.ip_address(text)) is not None


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "168.63.129.15", "100.63.255.255", "172.32.0.1", "223.255.255.1",
             "2606:4700:4700::1111", "2a00:1450:4001::1", "64:ff9b::8.8.8.8"],
)  # fmt: skip
def test_a_public_address_passes(text: str) -> None:
    assert refused_as(ipaddress.ip_address(text)) is None


@given(st.ip_addresses())
def test_what_passes_is_public_by_the_standard_librarys_judgement_too(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if refused_as(address) is None and address not in ipaddress.ip_network("64:ff9b::/96"):
        assert address.is_global
        assert not address.is_multicast


NUMBERS = {
    "hexadecimal with dots": "0x7f.0.0.1",
    "hexadecimal, short": "0x7f.1",
    "hexadecimal number": "0x7f000001",
    "decimal number": "2130706433",
    "octal": "0177.0.0.1",
    "octal number": "017700000001",
    "leading zeros": "127.000.000.001",
    "two parts": "127.1",
    "three parts": "127.0.1",
    "five parts": "127.0.0.0.1",
    "over 255": "127.0.0.256",
    "an empty hexadecimal": "127.0.0.0x",
    "a name that ends in a number": "photos.example.1",
}


@pytest.mark.parametrize("host", NUMBERS.values(), ids=NUMBERS)
def test_an_address_in_another_notation_is_refused_not_interpreted(host: str) -> None:
    with pytest.raises(UrlRefused, match="spelt unusually"):
        normal_host(host)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127.0.0.1"),  # full-width digits
        ("①②⑦.⓪.⓪.①", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("[::FFFF:7F00:1]", "::ffff:127.0.0.1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
    ],
)
def test_other_alphabets_are_seen_through(text: str, address: str) -> None:
    assert ipaddress.ip_address(normal_host(text)) == ipaddress.ip_address(address)


@pytest.mark.parametrize("text", ["[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1", "[v1.x]", "[]"])
def test_odd_brackets_are_refused(text: str) -> None:
    with pytest.raises(UrlRefused):
        normal_host(text)


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "https://127.0.0.1./", "https://①②⑦.⓪.⓪.①/"])
def test_not_even_the_allow_list_opens_a_private_address(url: str) -> None:
    with pytest.raises(UrlRefused, match="loopback"):
        check_url(url, SETTINGS)


def test_nothing_is_allowed_at_first() -> None:
    with pytest.raises(UrlRefused, match=r"photos.example.org is not in urls.allow"):
        check_url("https://photos.example.org/", UrlSettings())


def test_http_and_more_ports_only_when_asked_for() -> None:
    assert check_url("http://photos.example.org/", HTTP).port == 80
    more = UrlSettings(allow=ALLOW, ports=(8443,))
    assert check_url("https://photos.example.org:8443/", more).authority.endswith(":8443")
    with pytest.raises(UrlRefused, match="port 443"):
        check_url("https://photos.example.org/", more)


@pytest.mark.parametrize(
    "pattern",
    ["*", "*.org", "*.", "", "https://example.org", "example.org/x", "example.org:443", "a*.org",
     "*.*.org", "*.8.8.8.8", "0x7f.1", "me@example.org"],
)  # fmt: skip
def test_a_pattern_that_is_no_host_or_too_wide_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match=r"is no host|is too wide"):
        UrlSettings(allow=(pattern,))


def test_patterns_are_compared_in_one_spelling() -> None:
    settings = UrlSettings(allow=("*.BÜCHER.example.", "Photos.Example.ORG"))
    assert settings.allow == ("*.xn--bcher-kva.example", "photos.example.org")


@pytest.mark.parametrize("setting", [{"ports": (0,)}, {"timeout_s": 0}, {"user_agent": "a\r\nb"}])
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        UrlSettings.model_validate(setting)


@given(st.text(max_size=60))
def test_any_text_passes_or_is_refused_in_words(text: str) -> None:
    for url in (text, "https://" + text, "https://photos.example.org" + text):
        try:
            target = check_url(url, SETTINGS)
        except UrlRefused:
            continue
        assert target.host in {*SETTINGS.allow} or target.host.endswith(".cdn.example.org")
        target.url.encode("ascii")
        assert not {" ", "\r", "\n"} & set(target.request)
