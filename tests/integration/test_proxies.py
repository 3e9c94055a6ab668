"""A hub behind nginx and Caddy, configured as docs/security.md says."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.launch import ROOT, START
from tests.integration.apps.live import Notes, at_once, subscribe
from tests.nginx import arguments
from tests.support import PING, TIMEOUT, RawPeer, free_port, wait_until
from ws_hub import ConnectionState, Hub, HubConfig, Message, ReconnectingClient, Server, serve

DOCUMENT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
HEARTBEAT = 0.2  # seconds; the proxy's patience is ten of them
IDLE = 2
PROGRAMS = {"nginx": shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")}
PROGRAMS["caddy"] = shutil.which("caddy")


def snippet(language: str, word: str) -> str:
    """The one block of a language in the document that has a word in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return str(found)


def nginx(folder: Path, port: int, backend: str) -> list[str]:
    text = snippet("nginx", "proxy_pass").replace("127.0.0.1:8000", backend)
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
    text = text.replace("proxy_read_timeout 90s", f"proxy_read_timeout {IDLE}s")
    text = text.replace("/var/log/nginx/access.log", f"{folder}/access.log")
    return arguments(folder, text)


def caddy(folder: Path, port: int, backend: str) -> list[str]:
    text = snippet("text", "reverse_proxy").replace("127.0.0.1:8000", backend)
    (folder / "Caddyfile").write_text(
        text.replace(":8080", f"http://127.0.0.1:{port}"), encoding="utf-8"
    )
    return ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


ARGUMENTS: dict[str, Callable[[Path, int, str], list[str]]] = {"nginx": nginx, "caddy": caddy}


class Site:
    """A hub in this process with a proxy in front of it."""

    def __init__(self, kind: str, folder: Path, server: Server, hub: Hub, notes: Notes) -> None:
        self.kind, self.folder, self.hub, self.notes = kind, folder, hub, notes
        self.port = free_port()
        program = PROGRAMS[kind]
        assert program is not None
        arguments = ARGUMENTS[kind](folder, self.port, f"127.0.0.1:{server.port}")
        environment = {**os.environ, "HOME": str(folder)}  # where Caddy keeps what it keeps
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [program, *arguments], env=environment, stdout=output, stderr=output
            )
        wait_until(self._listens, START, what=f"{kind} listens")

    def _listens(self) -> bool:
        assert self.process.poll() is None, (self.folder / "output").read_text(encoding="utf-8")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def peer(self, path: str = "/ws", **options: Any) -> RawPeer:
        return RawPeer("127.0.0.1", self.port, path, **options)

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.body = response.read()  # type: ignore[attr-defined]
            return response

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(START)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    names = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_HOST")
    body = json.dumps({name: environ.get(name) for name in names}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture(params=ARGUMENTS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    kind = request.param
    if PROGRAMS[kind] is None:
        pytest.skip(f"no {kind} on this machine")
    notes = Notes()
    config = HubConfig(
        heartbeat_interval=HEARTBEAT,
        on_disconnect=notes.on_disconnect,
        on_message=lambda client, message: message.data,
    )
    with Hub(config) as hub, serve(hub, app=app) as server:
        made = Site(kind, tmp_path, server, hub, notes)
        try:
            yield made
        finally:
            made.stop()


def test_a_client_behind_a_proxy_is_as_good_as_any(site: Site) -> None:
    own = ("Origin", f"http://127.0.0.1:{site.port}")
    with site.peer(headers=[own]) as peer:
        subscribe(peer, "a")
        site.hub.send_to_channel("a", Message("event", data="down"))
        assert peer.recv_json()["data"] == "down"
        large = "x" * 60_000
        peer.send_json({"type": "up", "id": 1, "data": large})
        assert peer.recv_json()["data"] == large
        assert peer.close(1000, "bye") == (1000, "")
        assert site.notes.end() == (1000, "bye")
    with site.peer(handshake=False) as foreign:
        foreign.send_raw(foreign.request([("Origin", "http://evil.example")]))
        assert foreign.read_response().status == 403
    assert site.get("/ws").status == 426


def test_fault_52_a_token_in_a_query_is_not_in_the_log_of_a_proxy(site: Site) -> None:
    with site.peer("/ws?token=SECRET") as peer:
        assert peer.close() == (1000, "")
    assert site.get("/?token=SECRET").status == 200
    site.stop()  # which writes what it has buffered
    files = [path.read_bytes() for path in site.folder.iterdir() if path.is_file()]
    assert not any(b"SECRET" in each for each in files)
    assert site.kind != "nginx" or b'"GET /ws" 101' in b"".join(files)


def test_fault_51_what_a_client_claims_to_be_forwarded_for_is_replaced(site: Site) -> None:
    response = site.get("/", **{"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"})
    assert json.loads(response.body) == {  # type: ignore[attr-defined]
        "HTTP_X_FORWARDED_FOR": "127.0.0.1",
        "HTTP_X_FORWARDED_PROTO": "http",
        "HTTP_HOST": f"127.0.0.1:{site.port}",
    }


def test_fault_61_pings_keep_a_silent_connection_through_a_proxy(site: Site) -> None:
    with site.peer() as peer:
        for _ in range(int(1.4 * IDLE / HEARTBEAT)):  # longer than the proxy's patience
            assert peer.recv_frame().opcode == PING  # unanswered: nothing goes up
        site.hub.broadcast(Message("event", data="still here"))
        assert peer.recv_json()["data"] == "still here"


def test_a_hub_that_stops_says_so_through_a_proxy(site: Site) -> None:
    with site.peer() as peer, at_once(site.hub.stop):
        assert peer.recv_close() == (1001, "server going away")
        peer.send_close(1001)
        assert peer.recv_eof() == b""
    assert site.get("/").status == 200
    with site.peer(handshake=False) as late:
        late.send_raw(late.request())
        response = late.read_response()
        assert response.status == 503 and "retry-after" in response.headers


def test_a_proxy_that_stops_is_noticed_on_both_sides(site: Site) -> None:
    told: list[tuple[Any, ...]] = []
    url = f"ws://127.0.0.1:{site.port}/ws"
    client = ReconnectingClient(url, on_disconnect=lambda *how: told.append(how))
    with client, site.peer() as peer:
        wait_until(lambda: client.state is ConnectionState.CONNECTED)
        site.stop()
        with contextlib.suppress(ConnectionError, EOFError):
            while peer.recv_frame():
                pass
        # nginx just ends. Caddy says goodbye, to us in a frame without a mask, and to clients,
        # whose answer may be there before it.
        expected = {"nginx": {1006}, "caddy": {1001, 1002, 1006}}[site.kind]
        assert {site.notes.end()[0] for _ in range(2)} <= expected
        wait_until(lambda: told)
        assert told[0][2] is True  # and it comes back
    assert site.hub.client_count() == 0


def test_fault_51_nginx_bounds_the_clients_of_one_address(tmp_path: Path) -> None:
    if PROGRAMS["nginx"] is None:
        pytest.skip("no nginx on this machine")
    pinging = HubConfig(heartbeat_interval=HEARTBEAT)  # otherwise the first may be cut by then
    with Hub(pinging) as hub, serve(hub) as server, contextlib.ExitStack() as stack:
        site = Site("nginx", tmp_path, server, hub, Notes())
        stack.callback(site.stop)
        for _ in range(50):
            stack.enter_context(site.peer())
        with site.peer(handshake=False) as beyond:
            beyond.send_raw(beyond.request())
            assert beyond.read_response().status == 503
        assert hub.client_count() == 50


def test_what_the_deployment_page_says_of_nginx_is_what_is_tested() -> None:
    tested = snippet("nginx", "proxy_pass")
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    for line in block.splitlines()[1:-1]:
        assert line.strip() in tested, line
