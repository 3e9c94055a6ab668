"""A hub in every server that WebSocket works under, over real sockets.

Each server runs in a process of its own and serves `apps/demo.py`; an independent
client and a bare socket look at it from outside.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.integration.apps.launch import Running, server
from tests.support import TIMEOUT, RawPeer, wait_until

KINDS = ["werkzeug", "werkzeug-one-thread", "gthread", "sync", "preload", "wsgiref", "embedded"]


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with server(request.param) as made:
        made.get("/")  # the hub's own threads are there from now on
        yield made


def client(running: Running, **options: Any) -> ClientConnection:
    return connect(running.url, proxy=None, compression=None, open_timeout=TIMEOUT, **options)


def subscribe(socket: ClientConnection, channel: str) -> None:
    socket.send(json.dumps({"type": "subscribe", "channel": channel, "id": 1}))
    answer = receive(socket)
    assert answer["type"] == "ack" and answer["id"] == 1, answer


def receive(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(TIMEOUT))


def raw(running: Running, **options: Any) -> RawPeer:
    return RawPeer(running.host, running.port, **options)


# --- what must work ------------------------------------------------------------------------


def test_a_client_subscribes_receives_and_leaves(running: Running) -> None:
    with client(running) as viewer:
        subscribe(viewer, "news")
        running.get("/send?channel=news&data=hello")
        message = receive(viewer)
        assert message["channel"] == "news" and message["data"] == "hello"
        viewer.close(1000, "bye")
        assert viewer.close_code == 1000
    assert running.settled()["channels"] == []


def test_a_request_is_answered_with_the_result_of_on_message(running: Running) -> None:
    with client(running) as asking:
        asking.send(json.dumps({"type": "shout", "data": "Grüße", "id": "a"}))
        answer = receive(asking)
    assert (answer["type"], answer["id"], answer["data"]) == ("ack", "a", "GRÜSSE")


def test_decorated_functions_are_called(running: Running) -> None:
    room = f"room:{time.monotonic_ns()}"
    with client(running) as talking:
        subscribe(talking, room)
        assert receive(talking)["data"] == "welcome"
        talking.send(json.dumps({"type": "whisper", "data": "Grüße", "id": "a"}))
        answer = receive(talking)
    assert (answer["type"], answer["id"], answer["data"]) == ("ack", "a", "grüße")
    assert running.settled()["departures"][-1] == room


def test_the_server_closes_with_code_and_reason(running: Running) -> None:
    with client(running) as closed:
        closed.send(json.dumps({"type": "close-me"}))
        with pytest.raises(ConnectionClosed):
            closed.recv(TIMEOUT)
        assert (closed.close_code, closed.close_reason) == (4000, "as you wish")


def test_large_messages_go_both_ways(running: Running) -> None:
    text = "x" * 3_000_000
    with client(running, max_size=None) as talking:
        talking.send(json.dumps({"type": "say", "data": text, "id": 1}))
        assert receive(talking)["data"] == {"echo": text}


def test_ordinary_requests_are_answered_beside_websockets(running: Running) -> None:
    running.settled()  # of the tests above
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(client(running))
        for _ in range(5):
            assert running.get("/").status == 200
        assert running.state()["clients"] == 5
        assert running.get("/nowhere").status == 404


def test_a_frame_in_the_same_packet_as_the_handshake_is_not_lost(running: Running) -> None:
    with raw(running, handshake=False) as hasty:
        frame = hasty.frame(1, b'{"type":"ping","id":"early"}')
        hasty.send_raw(hasty.request() + frame)
        assert hasty.read_response().status == 101
        assert hasty.recv_json()["id"] == "early"
        assert hasty.close() == (1000, "")


# --- FAULTS 1.10, 1.11 and 6: the end of a connection --------------------------------------


def test_fault_06_after_the_close_handshake_the_tcp_connection_is_closed(
    running: Running,
) -> None:
    with raw(running) as leaving:
        leaving.send_close(1000)
        assert leaving.recv_close() == (1000, "")
        assert leaving.recv_eof() == b""  # and no HTTP bytes in the stream


def test_fault_06_http_behind_a_close_frame_is_not_answered(running: Running) -> None:
    with raw(running) as sly:
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        sly.send_raw(sly.frame(8, b"\x03\xe8") + request)
        assert sly.recv_close() == (1000, "")
        with contextlib.suppress(ConnectionError):  # an RST answers bytes that nobody reads
            assert sly.recv_eof() == b""


def test_a_close_by_the_server_ends_the_tcp_connection(running: Running) -> None:
    with raw(running) as closed:
        closed.send_json({"type": "close-me"})
        assert closed.recv_close() == (4000, "as you wish")
        closed.send_close(4000)
        assert closed.recv_eof() == b""


# --- what is refused -----------------------------------------------------------------------


def test_plain_http_to_the_websocket_is_refused(running: Running) -> None:
    response = running.get("/ws")
    assert response.status == 426
    assert response.headers["Sec-WebSocket-Version"] == "13"
    assert b"WebSocket" in response.body  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "headers", "options"),
    [
        (426, [("Sec-WebSocket-Version", "8")], {}),
        (426, [("Upgrade", "")], {}),
        (400, [("Connection", "keep-alive")], {}),
        (400, [("Sec-WebSocket-Key", "short")], {}),
        (400, [("Sec-WebSocket-Key", "")], {}),
        (405, [("Content-Length", "0")], {"method": "POST"}),
        (400, [], {"version": "HTTP/1.0"}),
    ],
)
def test_fault_04_a_bad_upgrade_is_refused(
    running: Running, status: int, headers: list[tuple[str, str]], options: dict[str, str]
) -> None:
    with raw(running, handshake=False) as bad:
        bad.send_raw(bad.request(headers, **options))
        assert bad.read_response().status == status


def test_fault_04_an_upgrade_with_a_body_is_refused(running: Running) -> None:
    with raw(running, handshake=False) as bad:
        bad.send_raw(bad.request([("Content-Length", "4")]) + b"body")
        assert bad.read_response().status == 400


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1:1"],
)
def test_fault_01_a_foreign_origin_is_refused(running: Running, origin: str) -> None:
    with raw(running, handshake=False) as foreign:
        foreign.send_raw(foreign.request([("Origin", origin)]))
        assert foreign.read_response().status == 403


def test_fault_03_the_requests_own_origin_is_accepted(running: Running) -> None:
    with client(running, origin=f"HTTP://{running.host}:{running.port}"):
        pass


def test_fault_03_two_origin_headers_are_refused(running: Running) -> None:
    own = f"http://{running.host}:{running.port}"
    with raw(running, handshake=False) as bad:
        bad.send_raw(bad.request([("Origin", own), ("Origin", own)]))
        assert bad.read_response().status in (400, 403)


# --- what is left behind -------------------------------------------------------------------


def test_closed_connections_leave_nothing_and_log_nothing(running: Running) -> None:
    with raw(running):  # after the first one gunicorn's process keeps a descriptor
        pass
    before = running.settled()
    logged = len(running.complaints())
    for _ in range(5):
        with client(running) as good:
            subscribe(good, "news")
        with raw(running) as tab:  # a browser tab: FIN without a word
            tab.send_json({"type": "subscribe", "channel": "news"})
        with raw(running) as torn:
            torn.send_raw(torn.frame(1, b"x" * 100)[:50])
            torn.reset()
        with raw(running, handshake=False) as half:  # gone before its handshake is whole
            half.send_raw(half.request()[:40])
        with raw(running, handshake=False) as hasty:  # gone before the answer
            hasty.send_raw(hasty.request())
            hasty.reset()
    wait_until(lambda: running.settled()["files"] <= before["files"], what="descriptors back")
    after = running.state()
    assert len(after["threads"]) <= len(before["threads"]) + 2, after["threads"]  # request pool
    assert running.complaints()[logged:] == []


def test_normal_connections_log_no_warning(running: Running) -> None:
    # The handshakes that the tests above have refused are no normal ones.
    assert [each for each in running.complaints() if "handshake refused" not in each] == []


@pytest.mark.parametrize("kind", ["gthread", "sync"])
def test_gunicorn_logs_each_websocket_once_and_keeps_nothing_alive(kind: str) -> None:
    form = "%(s)s %(r)s"
    options = ["--access-logfile", "-", "--access-logformat", form, "--log-level", "debug"]
    with server(kind, options=options) as running:
        for number in range(5):
            with raw(running, path=f"/ws?n={number}") as peer:
                peer.send_json({"type": "subscribe", "channel": "news", "id": 1})
                assert peer.recv_json()["type"] == "ack"
        with raw(running, path="/ws?n=x", handshake=False) as refused:
            refused.send_raw(refused.request([("Origin", "https://evil.example")]))
            assert refused.read_response().status == 403
            assert refused.recv_eof() == b""
        expected = [f"101 GET /ws?n={number} HTTP/1.1" for number in range(5)]
        expected.append("403 GET /ws?n=x HTTP/1.1")

        def logged() -> list[str]:
            return sorted(re.findall(r"^\d+ GET /ws.*$", running.log(), re.MULTILINE))

        wait_until(lambda: len(logged()) >= len(expected))
        running.settled()
        log = running.log()
        assert logged() == sorted(expected)
        assert "[ERROR]" not in log and "Traceback" not in log
        # What ends a kept-alive connection without a request.
        assert "No more data" not in log and "Ignoring connection reset" not in log
        assert running.get("/").status == 200


# --- sockets do not hold threads -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["gthread", "sync"])
def test_fault_42_three_hundred_sockets_leave_the_request_threads_free(kind: str) -> None:
    count = 300
    with server(kind) as running, contextlib.ExitStack() as stack:
        with raw(running):  # after the first one the process keeps a descriptor
            pass
        before = running.settled()
        peers = [stack.enter_context(raw(running)) for _ in range(count)]
        began = time.monotonic()
        assert running.get("/").status == 200
        assert time.monotonic() - began < TIMEOUT, "an ordinary request had to wait"
        state = running.state()
        assert state["clients"] == count
        others = [name for name in state["threads"] if not name.startswith("ws-hub:")]
        assert len(others) <= 4, others
        running.get("/broadcast?data=to-all")
        assert [peer.recv_json()["data"] for peer in peers] == ["to-all"] * count
        for peer in peers[::2]:
            assert peer.close() == (1000, "")
        for peer in peers[1::2]:
            peer.reset()
        wait_until(lambda: running.settled()["files"] <= before["files"], what="files back")
        assert running.complaints() == []


def no_more_threads(pid: int) -> tuple[int, int]:
    """Leave a process no address space for one more stack; return its former limits."""
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (size + 6 * 1024 * 1024, limits[1]))
    return limits


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux")
def test_fault_42_a_process_without_threads_serves_on() -> None:
    """The kernel refuses: there is no address space for one more stack."""
    with server("gthread") as running, contextlib.ExitStack() as stack:
        first = [stack.enter_context(raw(running)) for _ in range(2)]
        with running.held():  # gunicorn starts a thread when all it has are busy
            pid = running.state()["pid"]
        limits = no_more_threads(pid)

        # A connection needs none, and a message neither.
        peers = [*first, *(stack.enter_context(raw(running)) for _ in range(20))]
        for peer in peers:
            peer.send_json({"type": "ping"})
            assert peer.recv_json()["type"] == "pong"
        assert running.get("/").status == 200
        assert running.get("/broadcast?data=x").status == 200
        assert [peer.recv_json()["data"] for peer in peers] == ["x"] * 22
        resource.prlimit(pid, resource.RLIMIT_AS, limits)
        with raw(running) as again:
            assert again.close() == (1000, "")
        assert all("can't start new thread" in line for line in running.complaints())


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux")
def test_fault_42_with_the_hooks_gunicorn_has_its_threads_before_they_run_out() -> None:
    """Without, it ends the worker when a busy moment asks for one more."""
    with server("gthread", options=["--config", "python:ws_hub.gunicorn"]) as running:
        pid = running.state()["pid"]  # one request, which no second had to wait for
        limits = no_more_threads(pid)
        with contextlib.ExitStack() as stack:
            for _ in range(8):  # whatever stacks there still are
                peer = stack.enter_context(raw(running, handshake=False))
                peer.send_raw(peer.request())
                peer.read_response()
            stack.enter_context(running.held())
            assert running.state()["pid"] == pid
        resource.prlimit(pid, resource.RLIMIT_AS, limits)
        assert all("can't start new thread" in line for line in running.complaints())


# --- a server that gives no socket ---------------------------------------------------------


def test_a_server_without_a_socket_is_answered_with_501() -> None:
    with server("waitress") as running:
        for _ in range(2):
            with raw(running, handshake=False) as peer:
                peer.send_raw(peer.request())
                response = peer.read_response()
                assert response.status == 501
                assert b"gunicorn" in response.body and b"Werkzeug" in response.body
        assert running.get("/").status == 200
        said = [line for line in running.log().splitlines() if "gives no socket" in line]
        assert len(said) == 1, running.log()  # once, not once a client


def test_a_request_that_is_not_http_1_1_is_refused_and_keeps_its_socket() -> None:
    from ws_hub import Hub
    from ws_hub.wsgi.app import handle

    near, far = socket.socketpair()
    with near, far, Hub() as hub:
        environ = {
            "REQUEST_METHOD": "GET",
            "SERVER_PROTOCOL": "HTTP/2.0",
            "HTTP_VERSION": "2",
            "HTTP_HOST": "x",
            "HTTP_UPGRADE": "websocket",
            "HTTP_CONNECTION": "Upgrade",
            "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
            "HTTP_SEC_WEBSOCKET_VERSION": "13",
            "gunicorn.socket": near,
        }
        said: list[str] = []
        list(handle(hub, environ, lambda status, headers: said.append(status)))
        assert said == ["400 Bad Request"]
        near.sendall(b"still the server's")
        assert far.recv(100) == b"still the server's"
        assert hub.client_count() == 0


def test_two_requests_at_once_are_two_connections(running: Running) -> None:
    together = threading.Barrier(8)
    failed: list[BaseException] = []

    def visit(name: str) -> None:
        try:
            together.wait(TIMEOUT)
            with client(running) as viewer:
                subscribe(viewer, name)
                viewer.send(json.dumps({"type": "shout", "data": name, "id": 2}))
                assert receive(viewer)["data"] == name.upper()
        except BaseException as error:  # noqa: BLE001 - shown by the test's thread
            failed.append(error)

    threads = [threading.Thread(target=visit, args=(f"c{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT)
    assert failed == []
