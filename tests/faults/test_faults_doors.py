"""Faults at the doors: refused upgrades, who may ask, what is listed, what is believed.

Each is numbered as in the list of faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from flask import Flask

from tests.harness import server_waits_for_room
from tests.integration.apps.launch import (
    CERTIFICATE,
    START,
    Running,
    client_context,
    server,
)
from tests.integration.apps.launch import command as cli_server
from tests.integration.apps.live import live
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import AuthResult, ConfigError, Hub, HubConfig, Server, middleware, serve, threads
from ws_hub.flask import HubExtension
from ws_hub.server.viewer import page_app

# --- 122: nothing is served behind a refused upgrade -----------------------------------------

Case = tuple[str, int, list[tuple[str, str]], dict[str, str], bytes]

SERVERS = ["gthread", "sync", "werkzeug", "wsgiref", "embedded", "gevent"]
TLS = ["gthread", "sync", "werkzeug", "wsgiref", "embedded"]
COUNT = b"GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = [("Content-Length", "4")]
CHUNKS = [("Transfer-Encoding", "chunked")]


@contextlib.contextmanager
def serving(kind: str, *, tls: bool = False) -> Iterator[Running]:
    if kind == "gevent" and importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    options = ["--access-logfile", "-"] if kind in ("gthread", "sync", "gevent") else None
    with server(kind, tls=tls, options=options) as made:
        made.get("/")
        yield made


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param) as made:
        yield made


@pytest.fixture(scope="module", params=TLS)
def secure(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param, tls=True) as made:
        yield made


REFUSALS: list[Case] = [
    ("/ws", 400, [("Sec-WebSocket-Key", "x")], {}, b""),
    ("/ws", 400, BODY, {}, b"body"),
    ("/ws", 405, [], {"method": "POST"}, b""),
    ("/ws", 405, BODY, {"method": "POST"}, b"body"),
    ("/ws", 405, CHUNKS, {"method": "POST"}, b"4\r\nbody\r\n0\r\n\r\n"),
    ("/ws", 405, [], {"method": "HEAD"}, b""),
    ("/ws", 426, [("Sec-WebSocket-Version", "8")], {}, b""),
    ("/ws", 426, [("Upgrade", "")], {}, b""),
    ("/ws", 403, [("Origin", "https://evil.example")], {}, b""),
    ("/guarded", 401, [], {}, b""),
    ("/guarded", 403, [("X-User", "mallory")], {}, b""),
    ("/closed", 503, [], {}, b""),
]


def refused_and_ended(running: Running, case: Case, *, at_once: bool) -> None:
    """Send an upgrade that is refused and a request behind it: only one may be answered."""
    path, status, headers, options, body = case
    context = client_context() if running.scheme == "https" else None
    before = running.state()["counted"]
    with RawPeer(
        running.host, running.port, path=path, handshake=False, ssl_context=context
    ) as sly:
        request = sly.request(headers, **options) + body
        sly.send_raw(request + COUNT if at_once else request)
        if options.get("method") == "HEAD":
            assert sly.recv_eof().partition(b"\r\n\r\n")[2] == b""
        else:
            answer = sly.read_response()
            assert answer.status == status
            assert answer.body and answer.headers["content-type"].startswith("text/plain")
        with contextlib.suppress(OSError):  # a reset says as much as an end
            if not at_once:
                sly.send_raw(COUNT)
            assert sly.recv_eof() == b""
    assert running.state()["counted"] == before


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, False], ids=["same packet", "later"])
@pytest.mark.parametrize("case", REFUSALS, ids=[f"{c[1]}-{n}" for n, c in enumerate(REFUSALS)])
def test_fault_122_no_request_behind_a_refused_upgrade_is_served(
    running: Running,
    case: Case,
    at_once: bool,
) -> None:
    if "gevent" in running.process.args:  # type: ignore[operator]
        case = (case[0], 503, *case[2:])  # no hub starts there (row 127)
    refused_and_ended(running, case, at_once=at_once)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, False], ids=["same packet", "later"])
@pytest.mark.parametrize("case", REFUSALS, ids=[f"{c[1]}-{n}" for n, c in enumerate(REFUSALS)])
def test_fault_122_nor_under_tls(
    secure: Running,
    case: Case,
    at_once: bool,
) -> None:
    refused_and_ended(secure, case, at_once=at_once)


@pytest.mark.slow
def test_fault_122_nor_behind_too_many_connections_of_a_user(running: Running) -> None:
    user = [("X-User", "ann")]
    if "gevent" in running.process.args:  # type: ignore[operator]
        return
    with RawPeer(running.host, running.port, path="/guarded", headers=user):
        for at_once in (True, False):
            refused_and_ended(running, ("/guarded", 429, user, {}, b""), at_once=at_once)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, False])
def test_fault_122_nor_where_the_server_cannot_keep_a_websocket(at_once: bool) -> None:
    with serving("sync", tls=True) as running:  # its only thread would have to stay
        refused_and_ended(running, ("/ws", 501, [], {}, b""), at_once=at_once)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gthread", "sync"])
def test_fault_122_the_access_log_has_the_status_of_the_refusal(kind: str) -> None:
    with serving(kind) as running:
        refused_and_ended(running, ("/guarded", 401, [], {}, b""), at_once=True)
        wait_until(lambda: '"GET /guarded HTTP/1.1" 401 ' in running.log())
        (line,) = running.complaints()
        assert "handshake refused with 401" in line


# --- 127: gevent and eventlet ----------------------------------------------------------------

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "gevent threads": "from gevent import monkey; monkey.patch_thread()",
    "gevent sockets": "from gevent import monkey; monkey.patch_socket()",
    "gevent time": "from gevent import monkey; monkey.patch_time()",
    "gevent select": "from gevent import monkey; monkey.patch_select()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "eventlet threads": "import eventlet; eventlet.monkey_patch(all=False, thread=True)",
}
STARTS = """
import threading, ws_hub
hub = ws_hub.Hub()
for start in (hub.start, hub.run, lambda: ws_hub.serve(hub)):
    try:
        start()
    except ws_hub.ConfigError as error:
        print(error)
assert not hub.running and not [t for t in threading.enumerate() if t.name.startswith("ws-hub")]
"""
RECEIVES = """
import sys, ws_hub
try:
    with ws_hub.ReconnectingClient(sys.argv[1]) as client:
        client.subscribe("process:b", since=0)
        print([next(iter(client)).data for _ in range(3)])
except ws_hub.ConfigError as error:
    print(error)
"""


def patched(how: str, program: str, *arguments: str) -> str:
    """Run a program in a process that is monkey-patched first; return what it prints."""
    library = how.split()[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{PATCHES[how]}\n{program}", *arguments],
        capture_output=True,
        text=True,
        timeout=START,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", PATCHES)
def test_fault_127_a_hub_refuses_to_start_where_threads_or_sockets_are_patched(how: str) -> None:
    said = patched(how, STARTS).splitlines()
    assert len(said) == 3
    assert all(how.split()[0] in each and "gthread" in each for each in said)


@pytest.mark.slow
def test_fault_127_a_library_that_is_imported_and_patches_nothing_is_no_hindrance() -> None:
    pytest.importorskip("gevent")
    program = "import gevent.monkey, ws_hub; ws_hub.Hub().start().stop(); print('ran')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=START)
    assert run.stdout == b"ran\n"


@pytest.mark.slow
def test_fault_127_a_client_works_under_a_whole_patch_and_refuses_a_part_of_one() -> None:
    with live() as hub:
        for number in range(3):
            hub.hub.send_process_output("b", f"line {number}")
        expected = "['line 0', 'line 1', 'line 2']\n"
        assert patched("gevent", RECEIVES, hub.server.url) == expected
        for how in ("gevent threads", "gevent sockets", "eventlet"):
            if importlib.util.find_spec(how.split()[0]) is not None:
                assert "gevent.monkey.patch_all()" in patched(how, RECEIVES, hub.server.url)


def test_fault_127_pages_of_flask_are_served_where_the_hub_cannot_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(what: str) -> None:
        raise ConfigError(f"{what} needs real threads")

    monkeypatch.setattr(threads, "check_real", refuse)
    app = Flask("app")
    HubExtension(app)
    page = app.test_client()
    assert [page.get("/").status_code for _ in range(2)] == [404, 404]
    assert page.get("/ws", headers={"Upgrade": "websocket"}).status_code == 503
    assert caplog.text.count("needs real threads") == 1  # and not at every request


# --- 123: DNS rebinding ----------------------------------------------------------------------

EVIL = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0:{port}"]
OURS = ["localhost:{port}", "127.0.0.1", "x.localhost:1", "[::1]:{port}", "127.0.0.9"]


@contextlib.contextmanager
def paged(
    host: str = "127.0.0.1",
    allowed_hosts: Sequence[str] = (),
    hub: Hub | None = None,
    **settings: Any,
) -> Iterator[Server]:
    """Serve a hub and its page, as the command line does."""
    hub = hub or Hub(HubConfig(**settings))
    with serve(hub, host, app=page_app(hub), allowed_hosts=allowed_hosts) as made:
        yield made


def ask(made: Server, path: str, host: str, *, ws: bool = False, origin: str = "own") -> int:
    """Return the status that a request for a host gets."""
    with RawPeer("127.0.0.1", made.port, handshake=False) as peer:
        host = host.format(port=made.port)
        headers = [("Host", host)]
        if ws:
            headers.append(("Origin", f"http://{host}" if origin == "own" else origin))
            peer.path = path
            peer.send_raw(peer.request(headers))
        else:
            line = f"Host: {host}\r\n" if host else ""
            peer.send_raw(f"GET {path} HTTP/1.1\r\n{line}\r\n".encode())
        answer = peer.read_response()
        assert answer.status == 101 or (answer.body and answer.headers["content-length"])
        return answer.status


@pytest.mark.parametrize("host", EVIL)
def test_fault_123_a_foreign_name_of_this_machine_gets_neither_page_nor_websocket(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with paged() as made:
        for path in ("/", "/api/channels", "/ws_hub.js", "/nothing"):
            assert ask(made, path, host) == 403
        assert ask(made, "/ws", host, ws=True) == 403
    assert "allowed_hosts" in caplog.text


@pytest.mark.parametrize("host", OURS)
def test_fault_123_this_machine_is_answered_by_its_own_names(host: str) -> None:
    with paged() as made:
        assert ask(made, "/", host) == 200
        assert ask(made, "/api/channels", host) == 200
        assert ask(made, "/ws", host, ws=True) == 101


def test_fault_123_what_a_page_says_of_a_proxy_does_not_count() -> None:
    with paged(trusted_proxies=["127.0.0.1"]) as made:
        with RawPeer("127.0.0.1", made.port, handshake=False) as peer:
            forged = [("Host", "evil.example"), ("X-Forwarded-Host", "localhost")]
            peer.send_raw(peer.request(forged))
            assert peer.read_response().status == 403


def test_fault_123_an_origin_of_https_is_not_taken_for_http_on_this_machine() -> None:
    with paged(allowed_hosts=["hub.example"]) as made:
        own = f"localhost:{made.port}"
        assert ask(made, "/ws", own, ws=True, origin=f"https://{own}") == 403
        assert ask(made, "/ws", own, ws=True, origin=f"http://{own}") == 101
        # A tunnel may end TLS for the name that it was given.
        assert ask(made, "/ws", "hub.example", ws=True, origin="https://hub.example") == 101


def test_fault_123_names_can_be_allowed() -> None:
    with paged(allowed_hosts=["hub.example", "*.lan"]) as made:
        for host in ("hub.example", "a.lan:1", "localhost"):
            assert ask(made, "/", host) == 200
        assert ask(made, "/", "evil.example") == 403


def test_fault_123_bound_elsewhere_names_restrict() -> None:
    with paged("0.0.0.0") as made:
        assert ask(made, "/", "any.example") == 200
    with paged("0.0.0.0", allowed_hosts=["hub.example"]) as made:
        assert ask(made, "/", "hub.example") == 200
        assert ask(made, "/", "any.example") == 403


@pytest.mark.parametrize("host", ["", "a, b", "http://localhost", "localhost\r\nHost: localhost"])
def test_fault_123_and_130_a_host_that_is_missing_or_none_is_400(host: str) -> None:
    for bound in ("127.0.0.1", "0.0.0.0"):
        with paged(bound) as made:
            assert ask(made, "/", host) == 400


def test_fault_130_a_request_older_than_http_1_1_needs_no_host() -> None:
    for bound, status in (("127.0.0.1", 400), ("0.0.0.0", 200)):
        with paged(bound) as made, RawPeer("127.0.0.1", made.port, handshake=False) as peer:
            peer.send_raw(b"GET / HTTP/1.0\r\n\r\n")
            assert peer.read_response().status == status


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "run"])
def test_fault_123_the_command_line_allows_names(command: str) -> None:
    program = ["--wait", "--", "true"] if command == "run" else []
    argv = [sys.executable, "-m", "ws_hub", command, "--port", "0", "--allow-host", "hub.example"]
    with cli_server([*argv, *program]) as running:
        for host, status in (("hub.example", 200), ("localhost", 200), ("evil.example", 403)):
            with RawPeer("127.0.0.1", running.port, handshake=False) as peer:
                peer.send_raw(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert peer.read_response().status == status
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(START) in (0, 130)  # of the program, or of the signal


# --- 130: threads, hosts, bodies -------------------------------------------------------------


def request_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("ws-hub:request")]


@pytest.mark.slow
def test_fault_130_a_server_that_closes_ends_the_tls_handshakes_that_stall() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with contextlib.ExitStack() as stack:
        with Hub() as hub, serve(hub, ssl_context=context) as made:
            for _ in range(200):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", made.port)))
                sock.settimeout(TIMEOUT)
            wait_until(lambda: len(request_threads()) == 200)
        wait_until(lambda: not request_threads())
        assert sock.recv(1) == b""


def test_fault_130_idle_connections_take_no_more_threads_than_they_may() -> None:
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(paged(max_handshakes=10, max_connections=10))
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", made.port)))
            for _ in range(40)
        ]
        wait_until(lambda: len(request_threads()) == 10)
        idle[-1].settimeout(TIMEOUT)
        answer = idle[-1].recv(65536)
        assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer
        assert len(request_threads()) == 10
        for sock in idle:
            sock.close()
        wait_until(lambda: not request_threads())
        assert ask(made, "/", "localhost") == 200


def test_fault_130_a_connection_waits_for_room_and_is_served_then() -> None:
    with server_waits_for_room(TIMEOUT), paged(max_handshakes=1) as made:
        with RawPeer("127.0.0.1", made.port, handshake=False) as first:
            wait_until(request_threads)
            with RawPeer("127.0.0.1", made.port, handshake=False) as second:
                second.send_raw(second.request())
                first.sock.close()
                assert second.read_response().status == 101


def test_fault_130_a_server_that_is_full_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Its 503s were in no counter and no log; a warning for each would be a flood itself."""
    hub = Hub(HubConfig(max_handshakes=1))
    with server_waits_for_room(0.01), paged(hub=hub) as made:
        for time in (1, 2):
            with RawPeer("127.0.0.1", made.port, handshake=False):
                wait_until(request_threads)
                for _ in range(3):
                    with RawPeer("127.0.0.1", made.port, handshake=False) as late:
                        assert late.read_response().status == 503
            wait_until(lambda: not request_threads())
            assert ask(made, "/", "localhost") == 200
            wait_until(lambda: not request_threads())
            assert hub.stats().crowded_handshakes == 3 * time
            assert caplog.text.count("max_handshakes") == time


def test_fault_130_websockets_take_no_place_of_a_request() -> None:
    with paged(max_handshakes=1) as made, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(RawPeer("127.0.0.1", made.port))
        assert ask(made, "/", "localhost") == 200


@pytest.mark.slow
def test_fault_130_handshakes_without_a_host_are_400_under_every_server(running: Running) -> None:
    with RawPeer(running.host, running.port, handshake=False) as peer:
        peer.send_raw(peer.request([("Host", "")]))
        assert peer.read_response().status in (400, 503)  # 503: gevent, where no hub runs


@pytest.mark.parametrize(
    ("path", "status"), [("/ws", 501), ("/guarded", 401), ("/closed", 503), ("/ws-426", 426)]
)
def test_fault_130_refusals_have_a_body_by_way_of_asgi_too(path: str, status: int) -> None:
    a2wsgi = pytest.importorskip("a2wsgi")
    upgrade = {} if status == 426 else {b"upgrade": b"websocket", b"connection": b"Upgrade"}
    headers = {
        b"host": b"x", b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
        b"sec-websocket-version": b"13", **upgrade,
    }  # fmt: skip
    scope = {
        "type": "http", "method": "GET", "path": path.removesuffix("-426"), "http_version": "1.1",
        "query_string": b"", "headers": list(headers.items()),
    }  # fmt: skip
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        said.append(event)

    denied = Hub(HubConfig(authenticator=lambda environ: AuthResult(False)))
    with Hub() as hub, denied:
        app = middleware(middleware(hub.handler(), denied, "/guarded"), Hub(), "/closed")
        asyncio.run(a2wsgi.WSGIMiddleware(app)(scope, receive, send))
    body = b"".join(each["body"] for each in said[1:])
    assert said[0]["status"] == status and body
    assert (b"content-length", str(len(body)).encode()) in said[0]["headers"]


# --- 114: the absolute form ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/ws", 101),
        ("HTTP://LOCALHOST:1/ws?token=x", 101),
        ("https://127.0.0.1/ws", 101),
        ("http://evil.example/ws", 403),  # it counts, and not the header
        ("http:///ws", 400),
        ("http://user@localhost/ws", 400),
        ("http://localhost/nothing", 404),
        ("http://localhost", 200),
        ("http://localhost?x", 200),
    ],
)
def test_fault_114_the_absolute_form_is_taken_for_its_path_and_host(
    target: str, status: int
) -> None:
    with paged() as made, RawPeer("127.0.0.1", made.port, handshake=False) as peer:
        peer.path = target
        peer.send_raw(peer.request())
        assert peer.read_response().status == status


def test_fault_114_the_origin_is_compared_with_the_host_of_the_target() -> None:
    with paged() as made:
        for origin, status in (("http://localhost:7", 101), ("http://127.0.0.1", 403)):
            with RawPeer("127.0.0.1", made.port, handshake=False) as peer:
                peer.path = "http://localhost:7/ws"
                peer.send_raw(peer.request([("Host", "127.0.0.1"), ("Origin", origin)]))
                assert peer.read_response().status == status


def test_fault_114_without_a_host_header_it_is_400_all_the_same() -> None:
    with paged() as made, RawPeer("127.0.0.1", made.port, handshake=False) as peer:
        peer.send_raw(b"GET http://localhost/ HTTP/1.1\r\n\r\n")
        assert peer.read_response().status == 400


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("http://localhost:{port}/ws", [], 101),
        ("HTTP://LOCALHOST/ws?token=x", [], 101),
        ("http://localhost:7/ws", [("Origin", "http://localhost:7")], 101),
        ("http://localhost:7/ws", [("Origin", "http://localhost:{port}")], 403),
        ("http://localhost/nothing", [], 404),
        ("http:///ws", [], 404),
        ("http://user@localhost/ws", [], 404),
    ],
)
def test_fault_114_the_absolute_form_under_a_server_that_passes_it_on(
    target: str, headers: list[tuple[str, str]], status: int
) -> None:
    with serving("wsgiref") as running:
        with RawPeer("127.0.0.1", running.port, handshake=False) as peer:
            peer.path = target.format(port=running.port)
            own = ("Host", f"localhost:{running.port}")
            rest = [(name, value.format(port=running.port)) for name, value in headers]
            peer.send_raw(peer.request([own, *rest]))
            assert peer.read_response().status == status


# --- 106: a host that is not set is not every address ----------------------------------------


@pytest.mark.parametrize("host", ["", " ", None, 0, b""], ids=repr)
def test_fault_106_a_host_that_is_not_set_is_refused(host: Any) -> None:
    hub = Hub()
    with pytest.raises(ConfigError, match="host must be an address or a name.*0.0.0.0 for all"):
        serve(hub, host)
    assert not hub.running


def test_fault_106_the_command_line_refuses_an_empty_host() -> None:
    command = [sys.executable, "-m", "ws_hub", "serve", "--host", "", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode != 0 and "host must be an address" in done.stderr
    assert "Traceback" not in done.stderr


# --- 111: origins that are not of a web page --------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        (["tauri://localhost"], "tauri://localhost", 101),
        (["tauri://localhost"], "tauri://evil", 403),
        (["null"], "null", 101),
        (["file://"], "null", 101),
        ([], "null", 403),
        ([], "tauri://127.0.0.1:{port}", 403),  # a scheme of its own is not ours
        (["https://*.example.com"], "https://a.b.example.com", 101),
        (["https://*.example.com"], "https://evilexample.com", 403),
    ],
)
def test_fault_111_an_origin_that_is_listed_may_connect_and_no_other(
    allowed: list[str], origin: str, status: int
) -> None:
    with paged(allowed_origins=allowed) as made:
        origin = origin.format(port=made.port)
        assert ask(made, "/ws", f"127.0.0.1:{made.port}", ws=True, origin=origin) == status


def test_fault_127_a_server_whose_hub_does_not_start_leaves_no_port_and_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(hub: Hub) -> Hub:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Hub, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        serve(Hub())
