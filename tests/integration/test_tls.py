"""WebSocket under TLS that the server itself ends: the request thread stays.

The independent client here is websocket-client: the threaded one of `websockets` reads
and writes one TLS socket from two threads, and hangs now and then with any server.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from websocket import WebSocket, create_connection

from tests.harness import long_grace
from tests.integration.apps.launch import CERTIFICATE, Running, client_context, server
from tests.integration.apps.live import at_once
from tests.interventions import no_threads
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import Client, Hub, HubConfig, Message, serve

KINDS = ["werkzeug", "gthread", "embedded", "wsgiref"]


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    options = ["--threads", "8"] if request.param == "gthread" else None
    with server(request.param, tls=True, options=options) as made:
        made.get("/")
        yield made


@contextlib.contextmanager
def client(running: Running, **options: Any) -> Iterator[WebSocket]:
    trust = {"context": client_context()}
    made = create_connection(running.url, timeout=TIMEOUT, sslopt=trust, **options)
    with contextlib.closing(made):
        yield made


def raw(running: Running, **options: Any) -> RawPeer:
    peer = RawPeer(running.host, running.port, ssl_context=client_context(), **options)
    assert isinstance(peer.sock, ssl.SSLSocket)
    peer.sock.suppress_ragged_eofs = False  # an end without TLS's own close is an error
    return peer


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def one_at_a_time(running: Running) -> bool:
    """Whether a WebSocket that stays takes the server's only thread."""
    return "wsgiref" in running.process.args  # type: ignore[operator]


def test_large_messages_go_both_ways_under_tls(running: Running) -> None:
    text = "äx" * 1_000_000
    with raw(running) as talking:
        for number in range(2):
            request = {"type": "say", "data": text, "id": number}
            talking.send_text(json.dumps(request, ensure_ascii=False))
            answer = talking.recv_json()
            assert (answer["id"], answer["data"]) == (number, {"echo": text})


def test_under_tls_many_threads_of_the_hub_write_while_one_reads() -> None:
    """They share OpenSSL's state, which two threads must not use at once."""
    with (
        Hub(HubConfig(on_message=lambda client, message: message.data)) as hub,
        serve(hub, ssl_context=server_context()) as site,
        RawPeer(site.host, site.port, ssl_context=client_context()) as peer,
    ):

        def publish() -> None:
            for number in range(200):
                hub.broadcast(Message("event", data=[number, "x" * 3000]))

        with at_once(publish, publish):
            for number in range(200):
                peer.send_json({"type": "ask", "data": "y" * 3000, "id": number})
            got = [peer.recv_json() for _ in range(600)]
        assert [each["id"] for each in got if each["type"] == "ack"] == list(range(200))
        assert sum(each["type"] == "event" for each in got) == 400
        assert peer.close() == (1000, "")


def test_under_tls_both_sides_can_close(running: Running) -> None:
    with raw(running) as closing:
        assert closing.close(1000, "bye") == (1000, "")
    with raw(running) as closed:
        closed.send_json({"type": "close-me"})
        assert closed.recv_close() == (4000, "as you wish")
        closed.send_close(4000)
        assert closed.recv_eof() == b""  # ended by TLS's own close, not torn


def test_fault_06_under_tls_no_http_follows_the_close_frame(running: Running) -> None:
    with raw(running) as leaving:
        leaving.send_close(1000)
        assert leaving.recv_close() == (1000, "")
        assert leaving.recv_eof() == b""


def test_under_tls_refusals_are_those_of_plain_http(running: Running) -> None:
    assert running.get("/ws").status == 426
    for status, headers in ((400, [("Sec-WebSocket-Key", "x")]), (403, [("Origin", "https://e")])):
        with raw(running, handshake=False) as bad:
            bad.send_raw(bad.request(headers))
            assert bad.read_response().status == status


def test_fault_03_under_tls_the_own_origin_is_https(running: Running) -> None:
    with client(running, origin=f"https://{running.host}:{running.port}"):
        pass
    with raw(running, handshake=False) as plain:
        plain.send_raw(plain.request([("Origin", f"http://{running.host}:{running.port}")]))
        assert plain.read_response().status == 403


def test_under_tls_a_frame_in_the_same_packet_is_not_lost(running: Running) -> None:
    with raw(running, handshake=False) as hasty:
        frame = hasty.frame(1, b'{"type":"ping","id":"early"}')
        hasty.send_raw(hasty.request() + frame)
        assert hasty.read_response().status == 101
        assert hasty.recv_json()["id"] == "early"
        assert hasty.close() == (1000, "")


def test_under_tls_requests_are_answered_beside_websockets(running: Running) -> None:
    if one_at_a_time(running):
        pytest.skip("a server with one thread")
    running.settled()  # of the tests above
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(raw(running)) for _ in range(4)]
        running.get("/broadcast?data=hello")
        assert [peer.recv_json()["data"] for peer in peers] == ["hello"] * 4
        assert running.state()["clients"] == 4


def test_under_tls_nothing_is_left_and_nothing_logged(running: Running) -> None:
    before = running.settled()
    logged = len(running.complaints())  # of handshakes that the tests above have refused
    for _ in range(5):
        with client(running) as good:
            good.send(json.dumps({"type": "shout", "data": "x", "id": 1}))
            good.recv()
        with raw(running) as tab:
            tab.send_json({"type": "subscribe", "channel": "news"})
        with raw(running) as torn:
            torn.send_raw(torn.frame(1, b"x" * 100)[:50])
            torn.reset()
    wait_until(lambda: running.settled()["files"] <= before["files"], what="descriptors back")
    assert running.complaints()[logged:] == [], running.log()


def test_gunicorns_sync_worker_says_why_it_cannot() -> None:
    with server("sync", tls=True) as running:
        with raw(running, handshake=False) as peer:
            peer.send_raw(peer.request())
            response = peer.read_response()
            assert response.status == 501 and b"gthread" in response.body
        assert running.get("/").status == 200


def test_fault_42_max_connections_keeps_threads_free_under_tls() -> None:
    context = server_context()
    with Hub(HubConfig(max_connections=1)) as hub, serve(hub, ssl_context=context) as site:
        trust = client_context()
        with RawPeer(site.host, site.port, ssl_context=trust):
            with RawPeer(site.host, site.port, ssl_context=trust, handshake=False) as late:
                late.send_raw(late.request())
                assert late.read_response().status == 503
        assert site.url.startswith("wss://")


def test_fault_42_under_tls_a_connection_without_a_thread_just_ends() -> None:
    """A 503 would have to wait for a handshake, on the thread that accepts."""
    with Hub() as hub, serve(hub, ssl_context=server_context()) as site:
        with (
            no_threads("ws-hub:accept"),
            socket.create_connection((site.host, site.port)),  # has the last thread
            pytest.raises(OSError),
        ):
            RawPeer(site.host, site.port, ssl_context=client_context())
        with RawPeer(site.host, site.port, ssl_context=client_context()) as peer:
            assert peer.close() == (1000, "")


@pytest.mark.parametrize("tls", [True, False])
def test_the_end_of_a_server_does_not_wait_for_clients_of_a_hub_that_goes_on(tls: bool) -> None:
    entered, release = threading.Event(), threading.Event()

    def on_connect(client: Client) -> None:
        entered.set()
        assert release.wait(TIMEOUT)

    context = server_context() if tls else None
    with Hub(HubConfig(on_connect=on_connect)) as hub, long_grace():
        with serve(hub, ssl_context=context) as site:
            trust = client_context() if tls else None
            with RawPeer(site.host, site.port, ssl_context=trust) as peer:
                assert entered.wait(TIMEOUT)
                with at_once(site.close):
                    pass
                release.set()
                peer.send_json({"type": "ping"})
                assert peer.recv_json()["type"] == "pong"


def test_stop_says_1001_under_tls_and_the_request_threads_end() -> None:
    context = server_context()
    hub = Hub()
    with serve(hub, ssl_context=context) as site, contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(RawPeer(site.host, site.port, ssl_context=client_context()))
            for _ in range(3)
        ]
        hub.broadcast(Message("event", data="x"))
        with at_once(site.close):
            for peer in peers:
                assert peer.recv_json()["data"] == "x"
                assert peer.recv_close()[0] == 1001
                peer.send_close(1001)
                assert peer.recv_eof() == b""


def test_plain_http_to_a_tls_port_and_silence_are_quiet() -> None:
    context = server_context()
    with Hub() as hub, serve(hub, ssl_context=context) as site:
        with RawPeer(site.host, site.port, handshake=False) as plain:
            plain.send_raw(plain.request())
            with contextlib.suppress(ConnectionError):
                plain.recv_eof()
        with RawPeer(site.host, site.port, handshake=False):
            pass
        with RawPeer(site.host, site.port, ssl_context=client_context()) as good:
            assert good.close() == (1000, "")
