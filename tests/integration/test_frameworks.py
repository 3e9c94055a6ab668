"""The examples for other frameworks, each under the servers that it is used with."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.launch import ROOT, Running, command
from tests.support import TEXT, TIMEOUT, RawPeer, wait_until
from ws_hub import Hub, Message, middleware

MOST_LINES = 40
GUNICORN = [
    "-m", "gunicorn", "--bind", "127.0.0.1:0", "--worker-class", "gthread", "--threads", "2",
    "--no-control-socket", "--chdir", "examples",
]  # fmt: skip
# Bottle's `run()` says no port of the system's choice.
WSGIREF = """
import sys, threading
from wsgiref.simple_server import make_server
sys.path.insert(0, "examples")
from {name} import application, hub
server = make_server("127.0.0.1", 0, application)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
hub.stop()
"""
SERVERS = {
    "django, runserver": ["examples/django_app.py", "runserver", "--noreload", "127.0.0.1:0"],
    "django, reloader": ["examples/django_app.py", "runserver", "127.0.0.1:0"],
    "django, gunicorn": [*GUNICORN, "--preload", "django_app:application"],
    "bottle, wsgiref": ["-c", WSGIREF.format(name="bottle_app")],
    "bottle, gunicorn": [*GUNICORN, "bottle_app:application"],
    "pyramid, gunicorn": [*GUNICORN, "pyramid_app:application"],
    "falcon, gunicorn": [*GUNICORN, "falcon_app:application"],
}


@pytest.mark.parametrize("kind", SERVERS)
def test_an_example_pushes_from_a_request_to_every_client(kind: str) -> None:
    with command([sys.executable, *SERVERS[kind]]) as running:
        _push(running)


def test_fault_110_djangos_server_carries_websockets() -> None:
    """What its server has read beyond the handshake is the hub's, too."""
    with command([sys.executable, *SERVERS["django, runserver"]]) as running:
        _push(running)  # first, because it counts who is connected
        with RawPeer(running.host, running.port, handshake=False) as peer:
            early = peer.frame(TEXT, b'{"type": "ping", "id": 1}')
            peer.send_raw(peer.request() + early)
            assert peer.read_response().status == 101
            assert peer.recv_json()["type"] == "pong"


def _push(running: Running) -> None:
    with (
        RawPeer(running.host, running.port) as one,
        RawPeer(running.host, running.port) as two,
    ):
        for peer in (one, two):
            peer.send_text('{"type": "ping"}')
            assert peer.recv_json()["type"] == "pong"
        request = urllib.request.Request(
            f"http://{running.host}:{running.port}/say",
            json.dumps("hello").encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            assert json.loads(response.read()) == {"listening": 2}
        for peer in (one, two):
            assert peer.recv_json()["data"] == {"event": "said", "data": "hello"}
        assert one.close() == (1000, "")


@pytest.mark.parametrize("name", ["django", "bottle", "pyramid", "falcon"])
def test_an_example_is_short(name: str) -> None:
    text = Path(ROOT, "examples", f"{name}_app.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES


# --- the start with the first request ------------------------------------------------------


def page(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"a page"]


def get(application: Any) -> bytes:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_PROTOCOL": "HTTP/1.1"}
    return b"".join(application(environ, lambda status, headers: None))


def test_the_middleware_starts_a_hub_once_where_it_is_asked_to() -> None:
    hub = Hub()
    assert get(middleware(page, hub)) == b"a page"
    assert not hub.running
    application = middleware(page, hub, start=True)
    assert not hub.running
    together = threading.Barrier(4)

    def visit() -> None:
        together.wait(TIMEOUT)
        assert get(application) == b"a page"

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(TIMEOUT)
    assert [each.name for each in threading.enumerate()].count("ws-hub:run") == 1
    hub.broadcast(Message("event"))
    hub.stop()
    get(application)
    assert not hub.running
    wait_until(lambda: "ws-hub:run" not in [each.name for each in threading.enumerate()])
