"""A real S3 server on loopback: moto's, one request at a time, with a record of each.

S3 decides conditional puts one after the other; moto checks and writes in two steps, so
that requests are let in singly. A test may make requests fail (`fail`) or lose answers
(`lose_answer`).
"""

from __future__ import annotations

import http.server
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret-at-all",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the server saw it, and what it answered."""

    method: str
    path: str
    query: str
    range: str
    status: int


class S3Server:
    """Moto on a port of its own; `requests` grows with every request it answers."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):
            def log(self, *_: object) -> None:
                """Say nothing."""

        self.requests: list[Request] = []
        self.answered = threading.Condition()
        self.fail: Callable[[str, str], int | None] = lambda method, path: None
        self.lose_answer: Callable[[str, str], bool] = lambda method, path: False
        self._app = DomainDispatcherApplication(create_backend_app)
        self._one = threading.Lock()
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def counts(self) -> Counter[str]:
        """Return the requests since the last `forget`, by method."""
        return Counter(request.method for request in self.requests)

    def forget(self) -> None:
        self.requests.clear()

    def wait_for(self, true: Callable[[list[Request]], bool]) -> None:
        """Wait until something is true of the requests, or fail after a minute."""
        with self.answered:
            assert self.answered.wait_for(lambda: true(self.requests), 60), self.requests[-20:]

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        asked = environ.get("HTTP_RANGE", "")
        statuses: list[str] = []

        def started(status: str, headers: list[tuple[str, str]], *rest: object) -> Any:
            statuses.append(status)
            return None if lost else start(status, headers, *rest)

        with self._one:
            lost = self.lose_answer(method, path)
            failure = self.fail(method, path)
            if failure is None:
                answer = self._app(environ, started)
                body = b"".join(answer)
                getattr(answer, "close", lambda: None)()
            else:
                lost, body = True, b""
            status = failure or int(statuses[0].split()[0])
            with self.answered:
                self.requests.append(Request(method, path, environ["QUERY_STRING"], asked, status))
                self.answered.notify_all()
        if lost:
            start(f"{failure or 500} Lost", [("Content-Length", "0")])
            return [b""]
        return [body]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Run one server for the session."""
    pytest.importorskip("moto", reason="moto[server], the S3 server of the tests, is missing")
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Return the server, set in the environment, and nothing else of the person's own."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": s3_server.url}.items():
        monkeypatch.setenv(name, value)
    s3_server.forget()
    yield s3_server
    s3_server.fail = lambda method, path: None
    s3_server.lose_answer = lambda method, path: False


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """Return the uri of an empty bucket."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    raw_put(s3, f"/{name}")
    s3.forget()
    return f"s3://{name}"


def raw_put(server: S3Server, path: str, data: bytes = b"") -> None:
    """Put what no facepipe would, past its client."""
    from urllib.parse import quote
    from urllib.request import Request as Put
    from urllib.request import urlopen

    with urlopen(Put(server.url + quote(path), data=data, method="PUT")) as answer:
        assert answer.status == 200


class Generations(http.server.BaseHTTPRequestHandler):
    """As much of Google's XML interface as conditional puts need: generations, and 412.

    A stand-in for the server that Google documents, not a copy of it: it shows what is sent.
    """

    objects: dict[str, tuple[int, bytes]] = {}  # noqa: RUF012 - the tests' one bucket

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        before = self.objects.get(self.path, (0, b""))[0]
        asked = self.headers.get("x-goog-if-generation-match")
        if asked is not None and int(asked) != before:
            self._answer(412, {})
            return
        after = max(before, 1_700_000_000_000_000) + 1
        self.objects[self.path] = (after, data)
        self._answer(200, {"ETag": f'"{after:x}"', "x-goog-generation": str(after)})

    def do_GET(self) -> None:
        if self.path not in self.objects:
            self._answer(404, {})
            return
        generation, data = self.objects[self.path]
        names = {"ETag": f'"{generation:x}"', "x-goog-generation": str(generation)}
        self._answer(200, {**names, "Last-Modified": "Sun, 22 Nov 2026 03:08:29 GMT"}, data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
