"""Fetching from real servers on loopback, and from many that must never see a connection."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import pytest

from facepipe.source_url import fetch, fetch_over
from facepipe.url_guard import Address, UrlRefused, UrlSettings, refused_as
from facepipe.url_wire import Network, UrlFailed, UrlTooLarge, UrlTooSlow

BODY = bytes(range(256)) * 1000
MAX_BYTES = 1_000_000
HOST = "photos.example.org"
LOOPBACK = ipaddress.ip_address("127.0.0.1")

# Every look-up and every connection of this process is seen here, whoever makes it.
SEEN: list[tuple[str, object]] = []
OF_THE_NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if event in OF_THE_NETWORK:
        SEEN.append((event, arguments[1] if event == "socket.connect" else arguments[0]))


sys.addaudithook(_record)


@dataclass
class Server:
    """A server whose answers are written byte by byte; ``asked`` has the heads of requests."""

    port: int
    routes: dict[str, Callable[[socket.socket], None]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    accepted: int = 0

    def says(self, path: str, head: str, body: bytes = b"") -> None:
        data = f"HTTP/1.1 {head}\r\n\r\n".replace("|", "\r\n").encode("latin-1") + body
        self.routes[path] = lambda connection: connection.sendall(data)

    def url(self, path: str = "/", scheme: str = "http", host: str = HOST) -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server.accepted += 1
            with contextlib.suppress(OSError):
                connection = self.request
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                head = b""
                while b"\r\n\r\n" not in head and (more := connection.recv(65536)):
                    head += more
                server.asked.append(head.decode("latin-1"))
                if b"\r\n\r\n" in head:
                    server.routes[head.split(b" ")[1].decode()](connection)
                connection.close()

    class Threads(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        request_queue_size = 64

    with Threads(("127.0.0.1", 0), Handler) as threads:
        server = Server(port=threads.server_address[1])
        running = threading.Thread(target=threads.serve_forever, args=(0.01,), daemon=True)
        running.start()
        yield server
        threads.shutdown()
        running.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.says("/a.jpg", f"200 OK|Content-Length: {len(BODY)}", BODY)
        yield server


def settings(server: Server, **more: object) -> UrlSettings:
    given = {"allow": (HOST,), "allow_http": True, "ports": (server.port,), "timeout_s": 20}
    return UrlSettings.model_validate(given | {"retries": 0} | more)


def to_loopback(*answers: str) -> Network:
    """A network whose names are all on this machine, and that is let there."""
    found: list[Address] = [ipaddress.ip_address(a) for a in answers or ("127.0.0.1",)]
    return Network(
        look_up=lambda host, port, timeout_s: found,
        refused_as=lambda a: None if a == LOOPBACK else refused_as(a),
        wait=lambda seconds: None,
    )


def get(server: Server, path: str = "/a.jpg", max_bytes: int = MAX_BYTES, **more: object) -> bytes:
    return fetch_over(to_loopback(), server.url(path), settings(server, **more), max_bytes)


def test_a_photo_arrives_whole_by_one_plain_request(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    SEEN.clear()
    assert get(server) == BODY
    assert SEEN == [("socket.connect", ("127.0.0.1", server.port))]  # and the name is not asked
    assert server.asked == [
        f"GET /a.jpg HTTP/1.1\r\nHost: {HOST}:{server.port}\r\nUser-Agent: facepipe\r\n"
        "Accept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    ]


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (*chunks, b""))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("200 OK", BODY),  # the end of the connection is the end of the photo
        ("200 OK|Transfer-Encoding: chunked", chunked(BODY[:9], BODY[9:70_000], BODY[70_000:])),
        (f"200 |content-length: {len(BODY)}|Set-Cookie: a=b", BODY + b"more"),
        ("200 OK|Content-Encoding: identity|Content-Length: x", BODY),
        ("100 Continue||HTTP/1.1 200 OK", BODY),
    ],
    ids=["until the end", "chunked", "bytes after the end", "a length that is none", "continue"],
)
def test_each_way_to_say_where_a_photo_ends(server: Server, head: str, body: bytes) -> None:
    server.says("/a.jpg", head, body)
    assert get(server) == BODY


REDIRECTED = {
    "relative": "b.jpg",
    "rooted": "/b.jpg",
    "same scheme": "//{host}:{port}/b.jpg",
    "whole": "http://{host}:{port}/b.jpg#part",
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", REDIRECTED.values(), ids=REDIRECTED)
def test_a_redirect_within_what_is_allowed_is_followed(
    server: Server, to: str, status: int
) -> None:
    to = to.format(host=HOST, port=server.port)
    server.says("/a.jpg", f"{status} Moved|Location: {to}|Set-Cookie: session=1")
    server.says("/b.jpg", "200 OK", b"here")
    assert get(server) == b"here"
    assert "Cookie" not in server.asked[1]


def test_header_bytes_beyond_ascii_are_quoted(server: Server) -> None:
    location = "/grün.jpg".encode().decode("latin-1")  # UTF-8, as servers send it
    server.says("/a.jpg", f"302 Found|Location: {location}")
    server.says("/gr%C3%BCn.jpg", "200 OK", b"green")
    assert get(server) == b"green"


# --- what must not be connected to: the port of each is a real listener's ---

PRIVATE = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "::1",
           "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]  # fmt: skip
DIRECT = {
    "loopback": "http://127.0.0.1:{port}/",
    "loopback, full-width": "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "loopback, decimal": "http://2130706433:{port}/",
    "loopback, hexadecimal": "http://0x7f.1:{port}/",
    "loopback, octal": "http://0177.0.0.1:{port}/",
    "loopback, short": "http://127.1:{port}/",
    "loopback, by name": "http://localhost:{port}/",
    "any address": "http://0.0.0.0:{port}/",
    "v6 loopback": "http://[::1]:{port}/",
    "v4 in v6": "http://[::ffff:127.0.0.1]:{port}/",
    "link-local v6": "http://[fe80::1%25lo]:{port}/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata v6": "http://[fd00:ec2::254]/latest/meta-data/",
    "another host": "http://elsewhere.example.org:{port}/",
    "user name": f"http://{HOST}@127.0.0.1:{{port}}/",
    "user name of the host": f"http://me:secret@{HOST}:{{port}}/",
    "backslash": f"http://127.0.0.1:{{port}}\\@{HOST}/",
    "line break": f"http://{HOST}:{{port}}/\r\nHost: evil",
    "another port": f"http://{HOST}:22/",
    "https is plain": f"gopher://{HOST}:{{port}}/_GET",
    "file": "file:///etc/hostname",
    "ftp": f"ftp://{HOST}:{{port}}/a.jpg",
    "data": "data:image/png;base64,iVBORw0KGgo=",
}
LETTING = ("127.0.0.1", "169.254.169.254", "0.0.0.0", "::1".join("[]"), "[::ffff:127.0.0.1]",
           "[fd00:ec2::254]", HOST)  # fmt: skip


@pytest.mark.parametrize("url", DIRECT.values(), ids=DIRECT)
def test_no_connection_is_made_for_a_url_that_is_refused(server: Server, url: str) -> None:
    """Also where the host's address is on the list: only public ones can be let."""
    SEEN.clear()
    with pytest.raises(UrlRefused, match="not fetched"):
        given = settings(server, allow=LETTING, ports=(80, server.port), retries=3)
        fetch(url.format(port=server.port), given, MAX_BYTES)
    assert (SEEN, server.accepted) == ([], 0)


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("beside", [(), ("8.8.8.8",)], ids=["alone", "beside a public one"])
def test_no_connection_is_made_to_a_name_with_a_private_address(
    server: Server, address: str, beside: tuple[str, ...]
) -> None:
    found: list[Address] = [ipaddress.ip_address(a) for a in (*beside, address)]
    network = Network(look_up=lambda host, port, timeout_s: found)
    SEEN.clear()
    with pytest.raises(UrlRefused, match=f"host {HOST} has the address"):
        fetch_over(network, server.url(), settings(server, retries=3), MAX_BYTES)
    assert (SEEN, server.accepted) == ([], 0)


def test_the_systems_own_answer_is_checked(server: Server) -> None:
    """localhost by the real resolver, where the list lets the name."""
    SEEN.clear()
    with pytest.raises(UrlRefused, match=r"loopback|not global"):
        given = settings(server, allow=("localhost",))
        fetch(server.url(host="localhost"), given, MAX_BYTES)
    assert SEEN == [("socket.getaddrinfo", "localhost")]
    assert server.accepted == 0


def test_a_name_whose_second_answer_is_another_gains_nothing(server: Server) -> None:
    """DNS rebinding: a hop asks once, and connects to what it was told then."""
    answers = iter(["127.0.0.1", "10.0.0.1"])
    network = Network(
        look_up=lambda host, port, timeout_s: [ipaddress.ip_address(next(answers))],
        refused_as=to_loopback().refused_as,
    )
    SEEN.clear()
    assert fetch_over(network, server.url("/a.jpg"), settings(server), MAX_BYTES) == BODY
    with pytest.raises(UrlRefused, match=r"10\.0\.0\.1 \(private\)"):
        fetch_over(network, server.url("/a.jpg"), settings(server), MAX_BYTES)
    assert SEEN == [("socket.connect", ("127.0.0.1", server.port))]


HOPS = DIRECT | {
    "https to a port not let": f"https://{HOST}:8443/",
    "IPv6 without a scheme": "//[::1]:{port}/",
    "private without a scheme": "//10.0.0.1/",
    "malformed": "http://[::1:{port}/",
}
del HOPS["line break"]  # a header cannot hold one
del HOPS["another port"]


@pytest.mark.parametrize("to", HOPS.values(), ids=HOPS)
def test_a_redirect_is_checked_as_the_first_url(server: Server, to: str) -> None:
    with serving() as inner:
        to = to.format(port=inner.port).encode().decode("latin-1")
        server.says("/a.jpg", f"302 Found|Location: {to}")
        given = settings(server, allow=LETTING, ports=(80, server.port, inner.port))
        SEEN.clear()
        with pytest.raises(UrlRefused, match="redirected"):
            fetch_over(to_loopback(), server.url("/a.jpg"), given, MAX_BYTES)
        assert SEEN == [("socket.connect", ("127.0.0.1", server.port))]
        assert inner.accepted == 0


def test_a_redirect_to_a_name_with_a_private_address_is_refused(server: Server) -> None:
    with serving() as inner:
        server.says("/a.jpg", f"302 Found|Location: http://inner.example.org:{inner.port}/")
        known = {HOST: "127.0.0.1", "inner.example.org": "127.0.0.2"}
        network = Network(
            look_up=lambda host, port, timeout_s: [ipaddress.ip_address(known[host])],
            refused_as=to_loopback().refused_as,
        )
        given = settings(server, allow=("*.example.org",), ports=(server.port, inner.port))
        with pytest.raises(UrlRefused, match=r"127\.0\.0\.2 \(loopback\)"):
            fetch_over(network, server.url("/a.jpg"), given, MAX_BYTES)
        assert inner.accepted == 0


@pytest.mark.parametrize("most", [0, 1, 4])
def test_a_loop_of_redirects_ends(server: Server, most: int) -> None:
    server.says("/a.jpg", "302 Found|Location: /a.jpg")
    with pytest.raises(OSError, match=f"max_redirects = {most} times"):
        get(server, max_redirects=most)
    assert server.accepted == most + 1


# --- servers that do not end, lie, or send what was not asked for ---


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:  # until the client hangs up
            connection.sendall(piece)

    return send


OK = b"HTTP/1.1 200 OK\r\n"
FLOODS = {
    "body": endless(OK + b"\r\n", b"x" * 65536),
    "chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"4000\r\n%s\r\n" % bytes(16384)),
    "one chunk": endless(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"x" * 65536),
    "a negative chunk": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"x" * 65536),
    "chunk extensions": endless(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1;%s\r\nx\r\n" % (b"e" * 60_000)
    ),
    "trailers": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 1000),
    "headers": endless(OK, b"a: b\r\n" * 1000),
    "one header": endless(OK + b"a: ", b"x" * 65536),
    "large headers": endless(OK, b"a: " + b"b" * 60_000 + b"\r\n"),
    "continues": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "status line": endless(b"HTTP/1.1 200 ", b"O" * 65536),
    "no HTTP": endless(b"", b"\x00" * 65536),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_what_is_sent_without_end_is_cut_off(
    server: Server, flood: Callable[[socket.socket], None]
) -> None:
    """Each ends by a limit of bytes: the time that is let would take gigabytes."""
    server.routes["/a.jpg"] = flood
    with pytest.raises(OSError) as caught:
        get(server, timeout_s=600)
    assert not isinstance(caught.value, UrlTooSlow)


def drip(head: bytes) -> Callable[[socket.socket], None]:
    """Send a head, then a byte each 20 ms: never long enough silent to be given up."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        connection.settimeout(0.02)
        while True:
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1):
                    return  # the client hung up
            connection.sendall(b"x")

    return send


DRIPS = {
    "status line": drip(b""),
    "header": drip(OK + b"a: "),
    "body": drip(OK + b"Content-Length: 100000\r\n\r\n"),
    "chunk": drip(OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n"),
    "trailer": drip(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\na: "),
    "nothing at all": lambda connection: (connection.recv(1), None)[1],
}


@pytest.mark.parametrize("slow", DRIPS.values(), ids=DRIPS)
def test_a_slow_drip_gains_no_time(server: Server, slow: Callable[[socket.socket], None]) -> None:
    server.routes["/a.jpg"] = slow
    with pytest.raises(UrlTooSlow, match=r"urls.timeout_s = 0.3"):
        get(server, timeout_s=0.3, retries=5)


def test_redirects_share_one_limit_of_time(server: Server) -> None:
    def slowly(connection: socket.socket) -> None:
        connection.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            connection.recv(1)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /a.jpg\r\n\r\n")

    server.routes["/a.jpg"] = slowly
    with pytest.raises(UrlTooSlow):
        get(server, timeout_s=0.5, max_redirects=10_000)


def test_a_length_over_the_limit_is_not_read(server: Server) -> None:
    sent: list[bytes] = []

    def claim(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: 1000001\r\n\r\n")
        sent.append(connection.recv(1))  # returns as soon as the client hangs up

    server.routes["/a.jpg"] = claim
    with pytest.raises(UrlTooLarge, match="1000001 bytes"):
        get(server)


@pytest.mark.parametrize("head", ["200 OK|Content-Length: {n}", "200 OK"])
@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_of_bytes_is_exact(server: Server, head: str, over: int) -> None:
    body = bytes(5000 + over)
    server.says("/a.jpg", head.format(n=len(body)), body)
    if over:
        with pytest.raises(UrlTooLarge):
            get(server, max_bytes=5000)
    else:
        assert get(server, max_bytes=5000) == body


@pytest.mark.parametrize(
    ("head", "body", "error", "words"),
    [
        ("200 OK|Content-Length: 900", b"short", UrlFailed, "after 5 of 900 bytes"),
        ("200 OK|Transfer-Encoding: chunked", b"9\r\nshort", UrlFailed, "before the end"),
        ("200 OK|Content-Encoding: gzip", b"\x1f\x8b", OSError, "'gzip', which was not asked"),
        ("206 Partial Content", b"x", OSError, "HTTP 206 Partial Content"),
        ("204 No Content", b"", OSError, "HTTP 204"),
        ("302 Found", b"", OSError, "HTTP 302 Found"),
        ("404 nothing <b>here</b>", b"", OSError, "^HTTP 404 Not Found$"),
        ("799 Mine", b"", OSError, "^HTTP 799$"),
        ("abc", b"", OSError, "no HTTP: BadStatusLine"),
        ("200 OK" + "|a: b" * 200, b"", OSError, "no HTTP: HTTPException"),
        ("200 OK|a: " + "b" * 70_000, b"", OSError, "no HTTP: LineTooLong"),
    ],
)
def test_each_answer_that_is_no_photo_has_its_words(
    server: Server, head: str, body: bytes, error: type[OSError], words: str
) -> None:
    server.says("/a.jpg", head, body)
    with pytest.raises(OSError, match=words) as caught:
        get(server)
    assert type(caught.value) is error


# --- asking again ---


def in_turn(server: Server, *heads: str) -> None:
    answers = iter(heads)

    def answer(connection: socket.socket) -> None:
        head = next(answers).replace("|", "\r\n")
        connection.sendall(f"HTTP/1.1 {head}\r\n\r\n".encode() if head else b"")

    server.routes["/a.jpg"] = answer


def test_what_may_pass_is_asked_again_after_the_wait_that_is_asked_for(server: Server) -> None:
    in_turn(server, "503 Busy|Retry-After: 7", "429 Slow|Retry-After: 0", "", "200 OK")
    waits: list[float] = []
    network = replace(to_loopback(), wait=waits.append)
    assert fetch_over(network, server.url("/a.jpg"), settings(server, retries=3), 10) == b""
    assert waits == [7, 2, 4]


def test_a_wait_until_a_date(server: Server) -> None:
    now = datetime.datetime.now(datetime.UTC)
    later, before = now + datetime.timedelta(hours=1), now - datetime.timedelta(hours=1)
    in_turn(server, f"503 Busy|Retry-After: {format_datetime(before, usegmt=True)}", "200 OK")
    assert get(server, retries=1) == b""
    in_turn(server, f"503 Busy|Retry-After: {format_datetime(later, usegmt=True)}", "200 OK")
    with pytest.raises(UrlFailed, match="HTTP 503"):
        get(server, retries=1)


@pytest.mark.parametrize("wait", ["21", "9" * 400])
def test_a_wait_past_the_limit_of_time_is_not_waited(server: Server, wait: str) -> None:
    in_turn(server, f"429 Slow|Retry-After: {wait}")
    with pytest.raises(UrlFailed, match="HTTP 429 Too Many Requests"):
        get(server, retries=9, timeout_s=20)
    assert server.accepted == 1


@pytest.mark.parametrize("wait", ["-5", "soon", "1e9", "²", "Thu, 99 Foo 2000 00:00:00 GMT"])
def test_a_wait_that_is_none_is_passed_over(server: Server, wait: str) -> None:
    server.says("/a.jpg", f"503 Busy|Retry-After: {wait}")
    with pytest.raises(UrlFailed, match="HTTP 503"):
        get(server, retries=2)
    assert server.accepted == 3


def test_what_does_not_pass_is_asked_once(server: Server) -> None:
    server.says("/a.jpg", "404 Not Found")
    with pytest.raises(OSError, match="HTTP 404"):
        get(server, retries=5)
    assert server.accepted == 1


def test_the_next_address_is_tried_where_one_does_not_answer(server: Server) -> None:
    """Nothing listens on 127.0.0.3, and both are let."""
    network = Network(
        look_up=to_loopback("127.0.0.3", "127.0.0.1").look_up, refused_as=lambda address: None
    )
    assert fetch_over(network, server.url("/a.jpg"), settings(server), MAX_BYTES) == BODY
    only = Network(look_up=to_loopback("127.0.0.3").look_up, refused_as=lambda address: None)
    with pytest.raises(UrlFailed, match=f"host {HOST} cannot be reached: Connection refused"):
        fetch_over(only, server.url("/a.jpg"), settings(server), MAX_BYTES)


def test_a_name_without_address(server: Server) -> None:
    none = Network(look_up=lambda host, port, timeout_s: [])
    with pytest.raises(UrlFailed, match="has no address"):
        fetch_over(none, server.url(), settings(server), MAX_BYTES)


# --- TLS ---


@dataclass
class Authority:
    """A certificate authority of this test's own."""

    file: Path
    context: Callable[..., ssl.SSLContext]  # of a server, by the names of its certificate


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    pytest.importorskip("cryptography", reason="no cryptography: no certificates can be made")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "made root")])

    def signed(
        name: x509.Name, key: ec.EllipticCurvePrivateKey, names: list[str], days: int, root: bool
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(root_key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)

    def context(*names: str, days: int = 36_500) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "made server")])
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file = folder / f"{'-'.join(names)}-{days}.pem"
        file.write_bytes(private + signed(subject, key, list(names), days, False))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    root = folder / "root.pem"
    root.write_bytes(signed(root_name, root_key, [], 36_500, True))
    return Authority(root, context)


def over_tls(authority: Authority | None) -> Network:
    file = authority.file if authority else None
    return replace(to_loopback(), tls=partial(ssl.create_default_context, cafile=file))


def test_tls_names_the_host_and_wants_its_certificate(authority: Authority) -> None:
    tls, asked = authority.context(HOST), []
    tls.sni_callback = lambda connection, name, context: asked.append(name)
    with serving(tls) as server:
        server.says("/a.jpg", "200 OK", b"safe")
        url, given = server.url("/a.jpg", "https"), settings(server, allow_http=False)
        assert fetch_over(over_tls(authority), url, given, MAX_BYTES) == b"safe"
        assert asked == [HOST]


@pytest.mark.parametrize(
    ("names", "days", "known", "words"),
    [
        (["other.example.org"], 36_500, True, "certificate: Hostname mismatch"),
        (["127.0.0.1.example.org"], 36_500, True, "certificate: Hostname mismatch"),
        ([HOST], 30, True, "certificate: certificate has expired"),
        ([HOST], 36_500, False, "certificate: unable to get local issuer"),
    ],
)
def test_a_certificate_that_is_not_the_hosts_ends_it(
    authority: Authority, names: list[str], days: int, known: bool, words: str
) -> None:
    with serving(authority.context(*names, days=days)) as server:
        given = settings(server, retries=5)
        network = over_tls(authority if known else None)
        with pytest.raises(OSError, match=words):
            fetch_over(network, server.url("/a.jpg", "https"), given, MAX_BYTES)
        assert server.accepted == 1  # not asked again
        assert server.asked == []  # and nothing was asked for


def test_a_server_without_tls_is_not_talked_to(server: Server) -> None:
    given = settings(server, connect_timeout_s=0.2)  # it waits for a request, as we for TLS
    with pytest.raises(UrlFailed, match="cannot be reached"):
        fetch_over(to_loopback(), server.url("/a.jpg", "https"), given, MAX_BYTES)


def test_a_handshake_that_never_ends_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server(port=silent.getsockname()[1])
        given = settings(server, connect_timeout_s=0.1)
        with pytest.raises(UrlFailed, match="cannot be reached"):
            fetch_over(to_loopback(), server.url(scheme="https"), given, MAX_BYTES)
