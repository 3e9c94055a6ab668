"""Starts a WSGI server with an application of the tests, in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gunicorn.config import KNOWN_SETTINGS

from tests.support import TIMEOUT, wait_until

ROOT = Path(__file__).resolve().parents[3]
CERTIFICATE = Path(__file__).with_name("localhost.pem")
START = 40  # seconds: for a Python process on a busy machine

GUNICORN = {
    "gthread": ["--worker-class", "gthread", "--threads", "2"],
    "sync": ["--worker-class", "sync"],
    "gevent": ["--worker-class", "gevent"],
    "preload": ["--worker-class", "gthread", "--threads", "2", "--preload"],
}
_COMPLAINT = re.compile(r"warning|error|critical|traceback|exception", re.IGNORECASE)


class Running:
    """A server that runs. What it wrote to stderr is `log()`."""

    def __init__(
        self, process: subprocess.Popen[bytes], output: Path, scheme: str = "http"
    ) -> None:
        self.process = process
        self.host = "127.0.0.1"
        self.port = 0
        self.scheme = scheme
        self._output = output

    @property
    def url(self) -> str:
        return f"{self.scheme.replace('http', 'ws')}://{self.host}:{self.port}/ws"

    def log(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    def complaints(self) -> list[str]:
        """Return the lines of the log that somebody would be woken up for."""
        return [line for line in self.log().splitlines() if _COMPLAINT.search(line)]

    def get(self, path: str) -> http.client.HTTPResponse:
        connection: http.client.HTTPConnection
        if self.scheme == "https":
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=TIMEOUT, context=client_context()
            )
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            response.body = response.read()  # type: ignore[attr-defined]
            return response

    def state(self) -> dict[str, Any]:
        response = self.get("/state")
        assert response.status == 200, response.status
        return json.loads(response.body)  # type: ignore[attr-defined, no-any-return]

    def await_accepted(self) -> None:
        """Wait until gunicorn's main thread is done with the connections that it has accepted.

        A gthread worker's handlers of SIGINT and SIGQUIT wait for ever where they come while
        that thread hands a connection to another one. The same thread ends a connection.
        """
        with socket.create_connection((self.host, self.port), TIMEOUT) as plain:
            tls = client_context() if self.scheme == "https" else None
            sock = tls.wrap_socket(plain, server_hostname=self.host) if tls else plain
            with sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                while sock.recv(65536):
                    pass

    @contextlib.contextmanager
    def held(self) -> Iterator[socket.socket]:
        """Yield the connection of a request that is answered when one byte is sent."""
        head = b"POST /hold HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1\r\n"
        head += b"Expect: 100-continue\r\n\r\n"
        with socket.create_connection((self.host, self.port), TIMEOUT) as held:
            held.sendall(head)
            assert held.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
            yield held

    def settled(self) -> dict[str, Any]:
        """Return the state once every client is gone."""
        return wait_until(
            lambda: (state := self.state())["clients"] == 0 and not hub_threads(state) and state,
            what="all clients gone",
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(START)


def hub_threads(state: dict[str, Any]) -> list[str]:
    """Return the threads of a server that belong to connections."""
    return [name for name in state["threads"] if re.match("ws-hub:(reader|writer):", name)]


def client_context() -> ssl.SSLContext:
    """Return what trusts the certificate of the tests."""
    return ssl.create_default_context(cafile=str(CERTIFICATE))


@contextlib.contextmanager
def command(
    argv: list[str], *, scheme: str = "http", cwd: Path = ROOT, **env: str
) -> Iterator[Running]:
    """Run a server; yield it when it has said at which port it listens."""
    with tempfile.TemporaryDirectory(prefix="ws-hub-test-") as folder:
        output = Path(folder, "stderr")
        with output.open("wb") as stderr:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
            )
        running = Running(process, output, scheme)
        with process:
            try:
                running.port = wait_until(
                    lambda: _port(running), START, what="the server says its port"
                )
                yield running
            finally:
                _end(process)


def _port(running: Running) -> int:
    assert running.process.poll() is None, running.log()
    found = re.search(r"^(\d+)$|https?://[\d.]+:(\d+)", running.log(), re.MULTILINE)
    return int(found[1] or found[2]) if found else 0


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    if {"gunicorn", "flask", "runserver"} & set(process.args):  # type: ignore[arg-type]
        process.terminate()
    try:
        process.wait(START)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@contextlib.contextmanager
def server(
    kind: str,
    *,
    tls: bool = False,
    options: list[str] | None = None,
    app: str = "demo",
    **env: str,
) -> Any:
    """Serve the demo application, or with gunicorn another one, with a server of one kind."""
    scheme = "https" if tls else "http"
    if kind not in GUNICORN:
        argv = [sys.executable, "-m", "tests.integration.apps.serve", kind]
        argv += [str(CERTIFICATE)] if tls else []
    else:
        argv = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"]
        argv += [*GUNICORN[kind], "--graceful-timeout", "10", *(options or [])]
        if any(setting.name == "control_socket_disable" for setting in KNOWN_SETTINGS):
            argv += ["--no-control-socket"]  # newer ones would make one in the home directory
        if tls:
            argv += ["--certfile", str(CERTIFICATE), "--keyfile", str(CERTIFICATE)]
        argv += [f"tests.integration.apps.{app}:application"]
    with command(argv, scheme=scheme, **env) as running:
        yield running
