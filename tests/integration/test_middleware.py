"""`middleware` around an application, and `serve` with and without one."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

from tests.integration.apps.live import at_once
from tests.interventions import no_threads
from tests.support import TEXT, TIMEOUT, RawPeer, wait_until
from ws_hub import Hub, HubConfig, Message, middleware, serve
from ws_hub.page import script_app
from ws_hub.server import server
from ws_hub.testing import AppServer
from ws_hub.wsgi import servers

StartResponse = Callable[..., Any]


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("the application's own")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        yield made


def ask(site: server.Server, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(site.host, site.port, timeout=TIMEOUT)
    connection.request("POST" if body else "GET", path, body or None)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_one_path_is_the_hubs_and_the_rest_is_the_applications(hub: Hub) -> None:
    with serve(hub, path="/live", app=app) as site:
        assert site.url == f"ws://127.0.0.1:{site.port}/live"
        assert ask(site, "/live")[0] == 426
        assert ask(site, "/", b"said") == (200, b"said")
        assert ask(site, "/live/deeper", b"x") == (200, b"x")
        with RawPeer(site.host, site.port, "/live?token=1") as peer:
            hub.broadcast(Message("event", data="x"))
            assert peer.recv_json()["data"] == "x"


def test_without_an_application_other_paths_are_not_found(hub: Hub) -> None:
    with serve(hub) as site:
        assert ask(site, "/") == (404, b"Not found\n")


def test_an_application_that_fails_is_a_500_and_the_server_goes_on(
    hub: Hub, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(hub, app=app) as site:
        assert ask(site, "/fail")[0] == 500
        assert ask(site, "/", b"x") == (200, b"x")
    assert "the application's own" in capfd.readouterr().err


def test_refusals_and_pages_keep_the_rules_of_wsgi(hub: Hub) -> None:
    checked = validator(middleware(validator(app), hub))
    for path, status in (("/ws", "426"), ("/", "200")):
        environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "x",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        said: list[str] = []

        def start(status: str, headers: Any, exc_info: Any = None, said: list[str] = said) -> Any:
            said.append(status)
            return lambda data: None

        result = checked(environ, start)
        list(result)
        result.close()  # type: ignore[attr-defined]
        assert said[0].startswith(status)


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process forget what it has logged once."""
    monkeypatch.setattr(servers, "logged", {})


def answered(application: Any, path: str) -> tuple[list[Any], list[bytes]]:
    """Return what an application passes to `start_response`, and its body."""
    said: list[Any] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_PROTOCOL": "HTTP/1.1"}
    body = list(application(environ, lambda *args, **named: said.append((args, named))))
    return said, body


PLAIN = ("Content-Type", "text/plain")
PAGE = ("Content-Type", "text/html; charset=utf-8")


@pytest.mark.parametrize("path", ["/ws_hub.js", "/js/ws_hub.js", "/ws_hub_log.js"])
@pytest.mark.parametrize(("status", "header"), [("404 Not Found", PLAIN), ("200 OK", PAGE)])
@pytest.mark.usefixtures("unwarned")
def test_a_script_that_the_application_has_not_is_logged_once_with_what_serves_it(
    path: str, status: str, header: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    def none(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [header], exc_info=None)
        return [b"nothing"]

    application = middleware(none, Hub())
    assert answered(application, "/ws_hub.css") == answered(none, "/ws_hub.css")
    assert not caplog.records
    for _ in range(2):
        assert answered(application, path) == answered(none, path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith(f"{path!r} was asked for, and the answer is {status!r}: ")
    assert "middleware(script_app(hub, fallback=app), hub)" in text
    assert "from ws_hub.page import script_app" in text


@pytest.mark.parametrize(
    ("status", "header"),
    [("200 OK", ("content-type", "text/javascript")), ("302 Found", PAGE), ("304 Not", PAGE)],
)
@pytest.mark.usefixtures("unwarned")
def test_a_script_that_the_application_has_is_not_logged(
    status: str, header: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    def own(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [header])
        return []

    hub = Hub()
    for application in middleware(own, hub), middleware(script_app(hub), hub):
        answered(application, "/ws_hub.js")
    assert not caplog.records


@pytest.mark.usefixtures("unwarned")
def test_a_websocket_at_another_path_is_logged_once_with_the_hubs(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(hub, path="/live") as site:
        for _ in range(2):
            with RawPeer(site.host, site.port, "/ws", handshake=False) as peer:
                peer.send_raw(peer.request())
                assert peer.read_response().status == 404
        assert ask(site, "/ws")[0] == 404
    (text,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert text.startswith("a WebSocket at '/ws' was asked for, and the answer is '404 Not Found'")
    assert text.endswith("the hub's is at '/live'")


@pytest.mark.usefixtures("unwarned")
def test_a_handler_that_is_asked_for_the_script_logs_what_serves_it(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    said, _ = answered(hub.handler(), "/ws_hub.js")
    assert said[0][0][0] == "426 Upgrade Required"
    (record,) = caplog.records
    assert "from ws_hub.page import script_app" in record.getMessage()


def test_serve_starts_a_hub_and_ends_what_it_started() -> None:
    hub = Hub()
    with serve(hub) as site:
        assert hub.running
        with RawPeer(site.host, site.port) as peer, at_once(site.close):
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)
    assert not hub.running
    site.close()


def test_serve_leaves_a_hub_that_ran_before_and_its_connections(hub: Hub) -> None:
    site = serve(hub)
    with RawPeer(site.host, site.port) as peer:
        site.close()
        hub.broadcast(Message("event", data="still"))
        assert peer.recv_json()["data"] == "still"
        assert peer.close() == (1000, "")


def test_an_address_in_use_is_told_and_starts_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        hub = Hub()
        with pytest.raises(OSError, match="in use"):
            serve(hub, port=taken.getsockname()[1])
        assert not hub.running


@pytest.mark.parametrize(
    ("host", "shown"), [("::1", "[::1]"), ("::", "[::1]"), ("0.0.0.0", "127.0.0.1")]
)
def test_serve_listens_where_it_is_told(hub: Hub, host: str, shown: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6")
    with serve(hub, host) as site:
        assert site.host == host and site.url == f"ws://{shown}:{site.port}/ws"
        with RawPeer(shown.strip("[]"), site.port) as peer:
            assert peer.close() == (1000, "")


# --- FAULTS of the embedded server ---------------------------------------------------------


def test_fault_07_a_request_that_drips_in_is_cut_and_others_are_served() -> None:
    with (
        Hub(HubConfig(handshake_timeout=3.0)) as hub,
        serve(hub, app=app) as site,
        RawPeer(site.host, site.port, handshake=False) as slow,
    ):
        cut = threading.Event()

        def drip() -> None:
            for byte in slow.request():
                try:
                    slow.send_raw(bytes([byte]))
                except OSError:
                    break
                if cut.wait(0.05):  # never sooner than the timeout in all
                    break

        with at_once(drip):
            try:
                with RawPeer(site.host, site.port) as other:
                    assert other.close() == (1000, "")
                try:
                    assert b"101" not in slow.recv_eof()
                except ConnectionError:
                    pass
            finally:
                cut.set()
        wait_until(lambda: hub.stats().slow_handshakes == 1)


def test_fault_07_a_silent_peer_is_cut_whatever_timeout_other_sockets_have() -> None:
    with Hub(HubConfig(handshake_timeout=0.5)) as hub, serve(hub) as site:
        socket.setdefaulttimeout(600.0)
        try:
            with RawPeer(site.host, site.port, handshake=False) as silent:
                assert silent.recv_eof() == b""
                wait_until(lambda: hub.stats().slow_handshakes == 1)
        finally:
            socket.setdefaulttimeout(None)


def test_a_websocket_outlives_the_time_of_its_request() -> None:
    with (
        Hub(HubConfig(handshake_timeout=2.0)) as hub,
        serve(hub) as site,
        RawPeer(site.host, site.port) as peer,
    ):
        peer.sock.settimeout(2.5)
        with pytest.raises(TimeoutError):
            peer.recv_frame()
        hub.broadcast(Message("event", data="x"))
        peer.sock.settimeout(TIMEOUT)
        assert peer.recv_json()["data"] == "x"


def test_a_request_line_without_end_is_refused(hub: Hub) -> None:
    with serve(hub) as site, RawPeer(site.host, site.port, handshake=False) as bad:
        bad.send_raw(b"GET /" + b"x" * 70_000)
        try:
            assert bad.recv_eof().startswith(b"HTTP/1.0 414")
        except ConnectionError:
            pass  # the rest of the line met a closed socket


def test_fault_43_without_descriptors_it_waits_and_recovers(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ws_hub")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serve(hub) as site:
        with socket.socket() as waiting:
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                waiting.connect((site.host, site.port))
                wait_until(lambda: "cannot accept" in caplog.text)
                assert len(caplog.records) < 10  # it does not spin
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with RawPeer(site.host, site.port) as peer:
            assert peer.close() == (1000, "")


def test_a_request_does_not_carry_the_environment_of_the_process(hub: Hub) -> None:
    # A variable HTTP_PROXY of the process would pass for a header of the request.
    seen: list[set[str]] = []

    def note(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        seen.append(set(environ))
        return app(environ, start_response)

    with serve(hub, app=note) as site:
        assert ask(site, "/")[0] == 200
    assert "PATH" in os.environ and "PATH" not in seen[0]


@pytest.mark.parametrize("kind", ["embedded", "werkzeug"])
def test_fault_43_connections_leave_descriptors_to_everything_else(
    hub: Hub, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With its last descriptors gone, Werkzeug's own accept loop would spin."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with served(kind, hub) as (host, port), contextlib.ExitStack() as stack:
        # Not connected yet: what a peer of the test's has is a descriptor of this process too.
        waiting = [stack.enter_context(socket.socket()) for _ in range(40)]
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 48, hard))
        try:
            admitted = []
            for each in waiting:
                answer = handshake(each, host, port)
                if answer.startswith(b"HTTP/1.1 101"):
                    admitted.append(each)
                else:
                    assert answer.startswith(b"HTTP/1.1 503") and b"\r\nRetry-After: " in answer
            assert 10 < len(admitted) < 40
            # The others are there, and so are pages, and files.
            assert hub.client_count() == len(admitted)
            with open(__file__, encoding="utf-8"), RawPeer(host, port, handshake=False) as page:
                page.send_raw(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert page.read_response().status == 426
            hub.broadcast(Message("event", data="x"))
            for each in admitted:
                assert each.recv(1) == b"\x81"
                each.close()
            wait_until(lambda: hub.client_count() == 0)
            with RawPeer(host, port) as again:
                assert again.close() == (1000, "")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ERROR" not in caplog.text


@contextlib.contextmanager
def served(kind: str, hub: Hub) -> Iterator[tuple[str, int]]:
    """Serve a hub in this process with our own server, or Werkzeug's."""
    if kind == "embedded":
        with serve(hub) as site:
            yield site.host, site.port
        return
    with AppServer(hub.handler()) as made:
        yield made.host, made.port


def handshake(sock: socket.socket, host: str, port: int) -> bytes:
    """Connect a socket that is there already; return the answer, to the end of a refusal."""
    sock.settimeout(TIMEOUT)
    sock.connect((host, port))
    sock.sendall(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = sock.recv(4096)
    while not answer.startswith(b"HTTP/1.1 101") and (more := sock.recv(4096)):
        answer += more
    return answer


def test_fault_42_without_threads_a_connection_is_refused_and_the_others_live(hub: Hub) -> None:
    hub.on_connect(lambda client: None)  # which no thread is needed for
    with serve(hub) as site, RawPeer(site.host, site.port) as first:
        with (
            served("werkzeug", hub) as (host, port),
            RawPeer(host, port, handshake=False) as refused,
            no_threads("ws-hub:reader"),
        ):
            # What has come behind the request may take its time.
            refused.send_raw(refused.request() + RawPeer.frame(TEXT, b"{}"))
            response = refused.read_response()
            assert response.status == 503 and "retry-after" in response.headers
            assert refused.recv_eof() == b""
            with RawPeer(host, port):
                wait_until(lambda: hub.client_count() == 2)
        # Nor for a request that is late: one has to wait for it.
        with (
            serve(hub) as other,
            no_threads("ws-hub:accept"),
            RawPeer(other.host, other.port, handshake=False),  # has the last thread
            RawPeer(other.host, other.port, handshake=False) as refused,
        ):
            response = refused.read_response()
            assert response.status == 503 and "retry-after" in response.headers
        wait_until(lambda: hub.client_count() == 1)
        with RawPeer(site.host, site.port):
            hub.broadcast(Message("event", data="x"))
            assert first.recv_json()["data"] == "x"


@pytest.mark.parametrize("line", ["GET /ws?token=SECRET HTTP/1.1", "GET /?a=b'SECRET", "?SECRET"])
def test_fault_52_a_token_in_a_query_is_not_in_the_log(
    hub: Hub, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(hub) as site, RawPeer(site.host, site.port, handshake=False) as peer:
        peer.send_raw(line.encode() + b"\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            peer.recv_eof()
    assert caplog.records and "SECRET" not in caplog.text


def test_fault_54_what_a_peer_sends_is_logged_as_a_repr(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(hub) as site:
        with RawPeer(site.host, site.port, "/ws?\x1b[31mred", handshake=False) as bad:
            bad.send_raw(bad.request([("Origin", "http://evil\x1b[2J")]))
            bad.read_response()
        with RawPeer(site.host, site.port) as peer:
            peer.send_json({"type": "subscribe", "channel": "a\r\nERROR forged\x1b[31m"})
            peer.recv_json()
            peer.close(1000, "bye\r\nERROR forged")
        wait_until(lambda: hub.client_count() == 0)
    for record in caplog.records:
        text = record.getMessage()
        assert "\x1b" not in text and "\r" not in text and "\n" not in text, text
