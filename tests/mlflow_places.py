"""Where tests track runs: a database of their own, a real MLflow server on loopback, and a gate.

A new database takes MLflow seconds of migrations, so one is made and copied. The gate stands
before the server and can be shut, which is what a server that has gone away looks like.
"""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

# MLflow uses what its libraries are about to remove; that is no business of ours.
OWN_WARNINGS = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

START_S = 120  # until a server that does not start is given up
POLL_S = 0.2


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database with its tables and nothing in them; only to be copied."""
    pytest.importorskip("mlflow", reason="mlflow, of [train], is missing")
    from training.tracker import open_client

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    open_client(f"sqlite:///{path}")
    return path


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a test's user have data and a cache of their own; return where."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return tmp_path


@pytest.fixture
def database(own_folders: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a new database, which MLFLOW_TRACKING_URI names too."""
    path = own_folders / "mlflow.db"
    shutil.copyfile(empty_database, path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """Return the address of an MLflow server; runs and models stay from test to test."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_database, folder / "mlflow.db")
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it would take its time to end in peace
        process.wait()


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(round(START_S / POLL_S)):
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            pass
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"the MLflow server does not start: {log.read_text()[-2000:]}")


class Gate:
    """Passes requests on to a server, or hangs up on them while it is shut."""

    def __init__(self, target: str) -> None:
        gate = self
        self.shut = False

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gate._pass_on(self, target)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _pass_on(self, asked: http.server.BaseHTTPRequestHandler, target: str) -> None:
        asked.close_connection = True
        body = asked.rfile.read(int(asked.headers.get("Content-Length", 0)))
        if self.shut:
            return
        headers = {k: v for k, v in asked.headers.items() if k.lower() in _PASSED}
        request = urllib.request.Request(
            target + asked.path, data=body or None, headers=headers, method=asked.command
        )
        try:
            with urllib.request.urlopen(request) as answer:
                status, kind, data = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, kind, data = error.code, error.headers["Content-Type"], error.read()
        asked.send_response(status)
        asked.send_header("Content-Type", kind or "application/octet-stream")
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        asked.wfile.write(data)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


_PASSED = {"content-type", "accept", "user-agent"}


@pytest.fixture
def gate(server: str, own_folders: Path) -> Iterator[Gate]:
    """Return a gate before the server."""
    opened = Gate(server)
    yield opened
    opened.close()
