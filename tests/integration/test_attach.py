"""`hub.attach`: connections that simple_websocket has accepted, as flask-sock's routes get them."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import logging
import select
import socket
import ssl
import struct
import termios
import threading
import weakref
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import simple_websocket

from tests.integration.apps.launch import client_context, server
from tests.integration.apps.live import subscribe
from tests.integration.apps.sock import Site, serve_routes
from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATE,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    RawPeer,
    messages_in,
    wait_until,
)
from ws_hub import AdoptionError, AuthResult, Client, Hub, HubConfig, InvalidName, Message

ALICE = ("X-User", "alice")
REQUEST = b"GET /page HTTP/1.1\r\nHost: h\r\n\r\n"


def by_header(environ: Any) -> AuthResult:
    """Believe `X-User`, but not that it is mallory who may come in."""
    user = environ.get("HTTP_X_USER")
    return AuthResult(user not in (None, "mallory"), user, forbidden=user == "mallory")


def ask(peer: RawPeer, number: object) -> None:
    peer.send_json({"type": "ask", "data": number, "id": 1})


def ask_all(peer: RawPeer, numbers: Iterable[int]) -> None:
    for number in numbers:
        ask(peer, number)


def ping_all(peer: RawPeer, payloads: list[bytes]) -> None:
    for payload in payloads:
        peer.send_frame(PING, payload)


def ping_until_full(peer: RawPeer) -> None:
    """Send pings until the connection ends."""
    with contextlib.suppress(OSError):
        while True:
            peer.send_frame(PING, b"x" * 125)


def buffered(sock: socket.socket) -> tuple[int, ...]:
    """Return how many bytes have come and are not read, and how many are not acknowledged."""
    counts = (termios.FIONREAD, termios.TIOCOUTQ)
    return tuple(struct.unpack("i", fcntl.ioctl(sock, each, b"\0" * 4))[0] for each in counts)


def answer(peer: RawPeer) -> Any:
    return peer.recv_json()["data"]["echo"]


def parsed(ws: Any, messages: int = 1) -> None:
    """Wait until simple_websocket has parsed so many messages; at least a part of one for 0."""
    wait_until(
        lambda: (
            len(ws.input_buffer) >= max(messages, 1)
            or (not messages and ws.incoming_message_len > 0)
        )
    )


def beside(*arguments: Any) -> threading.Thread:
    """Run a function on a thread of its own."""
    thread = threading.Thread(target=arguments[0], args=arguments[1:])
    thread.start()
    return thread


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "simple_websocket" in thread.name]


def refused(site: Site, code: int, **options: Any) -> str:
    """Connect; return the reason of the Close frame that comes at once."""
    with site.peer(**options) as peer:
        heard, reason = peer.recv_close()
        assert heard == code, reason
        peer.send_close(code)
        assert peer.recv_eof() == b""
    assert site.result() is None
    return reason


# --- a life --------------------------------------------------------------------------------


def test_an_attached_connection_is_a_client_from_its_connect_to_its_disconnect() -> None:
    with serve_routes() as site:
        site.options = {"user_id": "ann", "claims": {"role": "admin"}}
        with site.peer() as peer:
            client = site.client()
            assert site.notes.next() == ("connect", client.id)
            assert (client.user_id, dict(client.claims)) == ("ann", {"role": "admin"})
            assert client.remote_address.startswith("127.0.0.1")
            site.hub.broadcast(Message("event", data="first"))
            site.hub.send_to_user("ann", Message("event", data="second"))
            assert [peer.recv_json()["data"] for _ in range(2)] == ["first", "second"]
            subscribe(peer, "news")
            site.hub.send_to_channel("news", Message("event", data="third"))
            assert peer.recv_json()["data"] == "third"
            ask(peer, 4)
            assert answer(peer) == 4
            peer.send_close(4001, "enough")
            assert peer.recv_close() == (4001, "")
            assert peer.recv_eof() == b""
        assert site.notes.next() == ("disconnect", client.id, 4001, "enough")
        assert site.result() is None
        assert site.hub.client_count() == 0
        assert site.notes.seen == [
            ("connect", client.id),
            ("disconnect", client.id, 4001, "enough"),
        ]


def test_a_number_as_user_id_means_its_text() -> None:
    with serve_routes() as site:
        site.options = {"user_id": 7}
        with site.peer():
            assert site.client().user_id == "7"


def test_a_silent_client_gets_what_is_published_before_it_ever_sends_a_byte() -> None:
    with serve_routes() as site, site.peer() as peer:
        site.client()
        for number in range(100):
            site.hub.broadcast(Message("event", data=number))
        assert [peer.recv_json()["data"] for _ in range(100)] == list(range(100))


def test_the_thread_of_simple_websocket_ends_with_the_first_bytes() -> None:
    before = readers()
    with serve_routes() as site, site.peer() as peer:
        site.client()
        ask(peer, 1)
        assert answer(peer) == 1
        assert readers() == before


def test_attached_ws_is_closed_for_the_route_and_other_threads() -> None:
    with serve_routes() as site, site.peer() as peer:
        ws = site.came.get(timeout=TIMEOUT)
        site.client()
        for use in (lambda: ws.send("x"), ws.receive, ws.close):
            with pytest.raises(simple_websocket.ConnectionClosed):
                use()
        site.hub.broadcast(Message("event", data="whole"))
        assert peer.recv_json()["data"] == "whole"


def test_thread_that_waits_in_receive_is_woken() -> None:
    with serve_routes() as site:
        peer, ws = site.held()
        woken = threading.Event()

        def wait() -> None:
            with contextlib.suppress(simple_websocket.ConnectionClosed):
                ws.receive()
            woken.set()

        thread = threading.Thread(target=wait)
        thread.start()
        site.gate.set()
        with peer:
            assert woken.wait(TIMEOUT)
            thread.join(TIMEOUT)


def test_nothing_follows_the_close_frame() -> None:
    # FAULTS 11: flask-sock's response.
    with serve_routes() as site, site.peer() as peer:
        site.client()
        peer.send_close()
        assert peer.recv_close() == (1000, "")
        assert peer.recv_eof() == b""
        assert site.result() is None


@contextlib.contextmanager
def serve_without_response() -> Iterator[tuple[Site, list[str]]]:
    """Serve an application after which Werkzeug goes on with the connection's next request.

    Yields the paths of all requests, too.
    """
    paths: list[str] = []
    sites: list[Site] = []

    def application(environ: Any, start_response: Any) -> Any:
        paths.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/ws":
            sites[0].attach(simple_websocket.Server.accept(environ))
        raise ConnectionError("no response")

    with serve_routes(wrap=lambda app: application) as site:
        sites.append(site)
        yield site, paths


def test_a_request_behind_the_close_frame_is_none() -> None:
    # FAULTS 10: a proxy that passes the connection on has not seen that request.
    with serve_without_response() as (site, paths):
        with site.peer() as peer:
            ask(peer, 1)
            assert answer(peer) == 1  # from here on the hub reads, a KiB at once
            close = RawPeer.frame(CLOSE, b"\x03\xe8")
            peer.send_raw(close.ljust(1024) + REQUEST * 10)
            assert peer.recv_close() == (1000, "")
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv_eof() == b""
        site.settle()
        assert paths == ["/ws"]


def test_a_request_in_the_packet_of_the_handshake_is_none() -> None:
    with serve_without_response() as (site, paths):
        with site.peer(handshake=False) as peer:
            peer.send_raw(peer.request() + REQUEST)
            assert peer.read_response().status == 101
            site.client()
            peer.send_close()
            assert peer.recv_close() == (1000, "")
            assert peer.recv_eof() == b""
        site.settle()
        assert paths == ["/ws"]


def test_a_connection_that_breaks_ends_with_1006() -> None:
    with serve_routes() as site, site.peer() as peer:
        site.client()
        peer.reset()
        assert site.notes.end()[0] == 1006
        assert site.result() is None


def test_the_application_closes_a_client_and_the_route_returns() -> None:
    with serve_routes() as site, site.peer() as peer:
        site.client().close(4000, "as you wish")
        assert peer.recv_close() == (4000, "as you wish")
        peer.send_close(4000)
        assert peer.recv_eof() == b""
        assert site.notes.end() == (4000, "as you wish")
        assert site.result() is None


def test_a_plain_wsgi_application_attaches_its_own_server_object() -> None:
    attached: list[str] = []

    def wrap(app: Any) -> Any:
        def application(environ: Any, start_response: Any) -> Any:
            ws = simple_websocket.Server.accept(environ)
            sites[0].hub.attach(ws, user_id="plain")
            attached.append("returned")
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"which nobody is to read"]

        return application

    sites: list[Site] = []
    with serve_routes(wrap=wrap) as site:
        sites.append(site)
        with site.peer() as peer:
            assert site.client().user_id == "plain"
            site.hub.broadcast(Message("event", data="hello"))
            assert peer.recv_json()["data"] == "hello"
            peer.send_close(1000)
            assert peer.recv_close() == (1000, "")
            assert peer.recv_eof() == b""
        wait_until(lambda: attached)


def test_fifty_at_once() -> None:
    with serve_routes() as site, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(site.peer()) for _ in range(50)]
        wait_until(lambda: site.hub.client_count() == 50)
        for number in range(20):
            site.hub.broadcast(Message("event", data=number))
        for peer in peers:
            assert [peer.recv_json()["data"] for _ in range(20)] == list(range(20))
            ask(peer, 1)
        assert [answer(peer) for peer in peers] == [1] * 50


# --- what came before ----------------------------------------------------------------------


def test_messages_that_came_before_are_delivered_first_and_in_order() -> None:
    with serve_routes() as site:
        peer, ws = site.held()
        with peer:
            for number in range(200):
                ask(peer, number)
            parsed(ws, 200)
            site.gate.set()
            for number in range(200, 300):
                ask(peer, number)
            assert [answer(peer) for _ in range(300)] == list(range(300))


def test_messages_that_come_while_it_is_attached_are_neither_lost_nor_swapped() -> None:
    with serve_routes() as site:
        for _ in range(10):
            peer, ws = site.held()
            with peer:
                sent = beside(ask_all, peer, range(300))
                parsed(ws)
                site.gate.set()
                assert [answer(peer) for _ in range(300)] == list(range(300))
                sent.join(TIMEOUT)


def test_a_frame_of_which_a_part_came_before_is_finished() -> None:
    frame = RawPeer.frame(TEXT, b'{"type":"ask","data":"' + b"x" * 5000 + b'","id":1}')
    with serve_routes() as site:
        for cut in (1, 3, 7, 8, 12, 4096, len(frame) - 1):
            peer, ws = site.held()
            with peer:
                ask(peer, 0)
                peer.send_raw(frame[:cut])
                parsed(ws)
                site.gate.set()
                assert answer(peer) == 0
                peer.send_raw(frame[cut:])
                assert answer(peer) == "x" * 5000


@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_a_message_of_which_fragments_came_before_is_finished(kind: int) -> None:
    whole = '{"type":"ask","data":"zwölf Boxkämpfer","id":1}'.encode()
    with serve_routes(lenient=True) as site:
        for fragments in (1, 2, 3):
            peer, ws = site.held()
            with peer:
                for number in range(fragments):
                    piece = whole[number * 5 : number * 5 + 5]
                    peer.send_frame(CONTINUATION if number else kind, piece, fin=False)
                parsed(ws, 0)
                site.gate.set()
                peer.send_frame(PING, b"between")
                assert peer.recv_frame().payload == b"between"
                peer.send_frame(CONTINUATION, whole[fragments * 5 :])
                assert answer(peer) == "zwölf Boxkämpfer"


def test_compression_goes_on_with_the_window_that_was_begun() -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)

    def packed(number: int) -> bytes:
        text = b'{"type":"ask","data":%d,"id":1}' % number
        return (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]

    with serve_routes() as site:
        site.gate.clear()
        with site.peer(headers=DEFLATE) as peer:
            assert peer.response is not None
            assert "permessage-deflate" in peer.response.headers["sec-websocket-extensions"]
            ws = site.came.get(timeout=TIMEOUT)
            for number in range(3):
                peer.send_frame(TEXT, packed(number), rsv=4)
            parsed(ws, 3)
            site.gate.set()
            for number in range(3, 6):
                peer.send_frame(TEXT, packed(number), rsv=4)
            assert [answer(peer) for _ in range(6)] == list(range(6))


def test_what_a_peer_sent_before_it_left_is_delivered_between_its_callbacks() -> None:
    heard: list[Any] = []
    with serve_routes(on_message=lambda client, message: heard.append(message.data)) as site:
        peer, ws = site.held()
        with peer:
            ask(peer, "saved")
            peer.close(4002, "gone")
        wait_until(lambda: not ws.thread.is_alive())
        site.gate.set()
        assert site.notes.next()[0] == "connect"
        assert site.notes.end() == (4002, "gone")
        assert heard == ["saved"]
        assert site.result() is None


def test_a_connection_that_was_lost_before_ends_with_1006() -> None:
    heard: list[Any] = []
    with serve_routes(on_message=lambda client, message: heard.append(message.data)) as site:
        peer, ws = site.held()
        ask(peer, "saved")
        parsed(ws)
        peer.sock.close()
        wait_until(lambda: not ws.thread.is_alive())
        site.gate.set()
        assert site.notes.end()[0] == 1006
        assert heard == ["saved"]
        assert site.result() is None


def test_a_connection_that_the_route_has_closed_is_no_client() -> None:
    def close_and_attach(ws: Any) -> None:
        ws.close(4003, "never mind")
        site.attach(ws)

    with serve_routes() as site:
        site.route = close_and_attach
        with site.peer() as peer:
            assert peer.recv_close() == (4003, "never mind")
            assert peer.recv_eof() == b""
        assert site.result() is None
        assert site.notes.seen == []


def test_from_another_thread_after_the_end_it_returns_at_once() -> None:
    with serve_routes() as site:
        site.route = lambda ws: ws.close()
        with site.peer() as peer:
            ws = site.came.get(timeout=TIMEOUT)
            assert peer.recv_close()[0] == 1000
            assert site.result() is None
            peer.send_close(1000)
            other = threading.Thread(target=lambda: site.hub.attach(ws))
            other.start()
            other.join(TIMEOUT)
            assert not other.is_alive()


# --- writes --------------------------------------------------------------------------------


def test_pings_that_are_answered_meanwhile_tear_no_frame() -> None:
    with serve_routes(max_control_rate=1e6, control_burst=1_000_000) as site:
        for _ in range(5):
            peer, _ = site.held()
            with peer:
                payloads = [b"%0120d" % number for number in range(300)]
                flood = beside(ping_all, peer, payloads)
                site.gate.set()
                site.client()
                for number in range(50):
                    site.hub.broadcast(Message("event", data=number))
                flood.join(TIMEOUT)
                ask(peer, "last")
                stream = b""
                while b'"last"' not in stream:
                    stream += peer.sock.recv(65536)
                found = messages_in(stream)
                pongs = [each for each in found if isinstance(each, bytes) and each]
                assert pongs == sorted(pongs)
                assert pongs[-1] == payloads[-1]
                peer.send_close()
                assert site.result() is None


def test_a_peer_that_takes_no_answer_is_cut_before_it_is_a_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serve_routes(write_timeout=0.2) as site, caplog.at_level(logging.INFO, "ws_hub"):
        site.gate.clear()
        peer = site.peer(rcvbuf=2048)
        with peer:
            ws = site.came.get(timeout=TIMEOUT)
            ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            flood = beside(ping_until_full, peer)
            seen: list[tuple[int, ...]] = []

            def stuck() -> bool:
                """Say whether it has read and written nothing for as long as ten looks take."""
                writable = select.select([], [ws.sock], [], 0)[1]
                seen.append((0, len(seen)) if writable else buffered(ws.sock))
                return len(seen) > 10 and len(set(seen[-10:])) == 1 and seen[-1][0] > 0

            wait_until(stuck)
            site.gate.set()
            assert site.result() is None
            peer.sock.close()
            flood.join(TIMEOUT)
        assert "took no answer" in caplog.text
        assert site.notes.seen == []


def test_a_write_of_another_thread_is_whole_before_the_first_of_the_hub() -> None:
    def greet(client: Client) -> None:
        for number in range(50):
            client.send(Message("event", data=number))

    with serve_routes(on_connect=greet) as site:
        site.gate.clear()
        with site.peer(rcvbuf=4096) as peer:
            ws = site.came.get(timeout=TIMEOUT)
            ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            writing = beside(ws.send, "x" * 1_000_000)
            wait_until(lambda: not select.select([], [ws.sock], [], 0)[1])
            site.gate.set()
            wait_until(lambda: not ws.connected)  # what greets would be under way by now
            assert peer.recv_frame().payload == b"x" * 1_000_000
            assert [peer.recv_json()["data"] for _ in range(50)] == list(range(50))
            writing.join(TIMEOUT)


def test_pings_of_simple_websocket_are_over_and_the_hubs_go_on() -> None:
    options = {"ping_interval": 1.0}  # so long it waits for a pong, also on a busy machine
    settings = {"heartbeat_interval": 0.2, "pong_timeout": TIMEOUT}
    with serve_routes(server_options=options, **settings) as site:
        peer, ws = site.held()
        with peer:
            assert peer.recv_frame().opcode == PING
            peer.send_frame(PONG)
            site.gate.set()
            site.client()
            # It would close with 1008 for want of a pong.
            wait_until(lambda: not ws.thread.is_alive())
            site.hub.broadcast(Message("event", data="still here"))
            frames = [peer.recv_frame()]
            while frames[-1].opcode != TEXT:
                frames.append(peer.recv_frame())
            assert peer.recv_frame().opcode == PING
            peer.send_frame(PONG)
            ask(peer, 1)
            assert answer(peer) == 1


def test_a_client_that_reads_nothing_is_disconnected_and_the_others_go_on() -> None:
    with serve_routes(outbox_messages=64, outbox_bytes=64 * 1024, close_timeout=0.2) as site:
        with site.peer(rcvbuf=4096), site.peer() as other:
            wait_until(lambda: site.hub.client_count() == 2)
            for number in range(400):
                site.hub.broadcast(
                    Message("event", data=[number, "x" * 32 * 1024]), timeout=TIMEOUT
                )
                assert other.recv_json()["data"][0] == number
            assert site.notes.end()[0] == 1013
            assert site.hub.stats().slow_disconnects == 1


# --- limits --------------------------------------------------------------------------------


def test_a_message_over_the_limit_is_1009() -> None:
    with serve_routes(max_message_size=1024) as site:
        with site.peer() as peer:
            site.client()
            peer.send_text("x" * 1025)
            assert peer.recv_close() == (1009, "message over 1024 bytes")
        assert site.notes.end()[0] == 1009
        peer, ws = site.held()
        with peer:
            peer.send_text("x" * 1025)
            parsed(ws)
            site.gate.set()
            assert peer.recv_close()[0] == 1009
        assert site.hub.stats().oversized_messages == 2


def test_what_inflates_to_too_much_is_1009() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = (bomb.compress(b"x" * 64 * 1024 * 1024) + bomb.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with serve_routes() as site, site.peer(headers=DEFLATE) as peer:
        site.client()
        with contextlib.suppress(ConnectionError):  # it is closed before all of it is there
            peer.send_frame(TEXT, data, rsv=4)
        assert peer.recv_close()[0] == 1009


def test_endless_fragments_are_1008() -> None:
    with serve_routes(max_fragments=16) as site, site.peer() as peer:
        site.client()
        peer.send_frame(TEXT, fin=False)
        for _ in range(17):
            peer.send_frame(CONTINUATION, fin=False)
        assert peer.recv_close()[0] == 1008
        assert site.hub.stats().fragmented_messages == 1


def test_broken_frames_are_1002() -> None:
    with serve_routes() as site, site.peer() as peer:
        site.client()
        peer.send_frame(TEXT, b"unmasked", mask=None)
        assert peer.recv_close()[0] == 1002
        peer.sock.close()
        assert site.notes.end()[0] == 1002


def test_attached_client_that_answers_no_ping_is_disconnected() -> None:
    with serve_routes(heartbeat_interval=0.05, pong_timeout=1.5) as site, site.peer() as peer:
        assert peer.recv_frame().opcode == PING
        code, reason = site.notes.end()
        assert (code, "pong timeout" in reason) == (1006, True)
        assert site.hub.stats().pong_timeouts == 1
        assert site.result() is None


# --- admission -----------------------------------------------------------------------------


def test_a_foreign_origin_is_4403_and_counted() -> None:
    with serve_routes() as site:
        site.options = {"user_id": "ann"}
        reason = refused(site, 4403, headers=[("Origin", "https://evil.example")])
        assert "Origin" in reason
        assert site.hub.stats().foreign_origins == 1
        assert site.notes.seen == []
        with site.peer(headers=[("Origin", f"http://127.0.0.1:{site.port}")]):
            site.client()


def test_an_allowed_origin_is_let_in() -> None:
    with serve_routes(allowed_origins=["https://good.example"]) as site:
        with site.peer(headers=[("Origin", "https://good.example")]):
            site.client()


def test_cookie_authentication_needs_an_origin() -> None:
    with serve_routes() as site:
        site.options = {"user_id": "ann"}
        refused(site, 4403, headers=[("Cookie", "session=1")])
        own = ("Origin", f"http://127.0.0.1:{site.port}")
        with site.peer(headers=[own, ("Cookie", "session=1")]):
            site.client()


def test_authenticator_is_asked_unless_the_route_names_the_user() -> None:
    with serve_routes(authenticator=by_header) as site:
        refused(site, 4401)
        refused(site, 4403, headers=[("X-User", "mallory")])
        assert site.hub.stats().unauthenticated == 2
        with site.peer(headers=[ALICE]):
            assert site.client().user_id == "alice"
        wait_until(lambda: site.hub.client_count() == 0)
        site.options = {"user_id": "ann"}
        with site.peer(headers=[("X-User", "mallory")]):
            assert site.client().user_id == "ann"


def test_attached_client_may_authenticate_by_its_first_message() -> None:
    def by_token(environ: Any) -> AuthResult:
        token = environ.get("ws_hub.token")
        return AuthResult(token == "secret", "bob")

    with serve_routes(authenticator=by_token, auth_by_message=True) as site:
        with site.peer() as peer:
            peer.send_json({"type": "auth", "data": "secret", "id": 1})
            assert peer.recv_json()["data"] == {"user": "bob"}
            assert site.client().user_id == "bob"
        with site.peer() as peer:
            peer.send_json({"type": "auth", "data": "wrong", "id": 1})
            assert peer.recv_close()[0] == 4401


def test_what_expires_ends_with_4401() -> None:
    with serve_routes() as site:
        site.options = {"user_id": "ann", "claims": {"exp": 1}}
        with site.peer() as peer:
            assert peer.recv_close()[0] == 4401
            peer.send_close(4401)
        assert site.hub.stats().expired == 1


def test_a_stopped_hub_is_1013() -> None:
    with serve_routes(running=False) as site:
        assert refused(site, 1013) == "the hub is not running"
        assert site.notes.seen == []


@pytest.mark.parametrize("told", [True, False])
def test_a_full_hub_is_1013(told: bool) -> None:
    callbacks = {} if told else {"on_connect": None, "on_disconnect": None}
    with serve_routes(max_connections=1, **callbacks) as site, site.peer() as first:
        site.client()
        if told:
            assert site.notes.next()[0] == "connect"
        assert refused(site, 1013) == "the hub takes no more"
        assert site.hub.stats().refused == 1
        site.hub.broadcast(Message("event", data="still here"))
        assert first.recv_json()["data"] == "still here"
        assert len(site.notes.seen) == int(told)


def test_too_many_from_one_address_are_1008_and_counted_behind_proxies() -> None:
    with serve_routes(
        max_connections_per_address=1, trusted_proxies=["127.0.0.1"], authenticator=None
    ) as site:
        here = {"headers": [("X-Forwarded-For", "192.0.2.1")]}
        there = {"headers": [("X-Forwarded-For", "192.0.2.2")]}
        with site.peer(**here):
            assert "192.0.2.1" in site.client().remote_address
            assert "too many" in refused(site, 1008, **here)
            with site.peer(**there):
                wait_until(lambda: site.hub.client_count() == 2)
        assert site.hub.stats().crowded_addresses == 1


def test_too_many_of_one_user_are_1008() -> None:
    with serve_routes(max_connections_per_user=1) as site:
        site.options = {"user_id": "ann"}
        with site.peer():
            site.client()
            assert "too many" in refused(site, 1008)
            assert site.hub.stats().crowded_users == 1
        wait_until(lambda: site.hub.client_count() == 0)
        with site.peer():
            site.client()


def test_a_refused_peer_that_never_answers_holds_its_route_for_a_moment_only() -> None:
    with serve_routes(running=False) as site, site.peer() as peer:
        assert peer.recv_close()[0] == 1013
        assert site.result() is None
        assert peer.recv_eof() == b""


# --- the end of the hub --------------------------------------------------------------------


def test_a_stop_closes_with_1001_and_waits_for_the_last_callback() -> None:
    gone: list[Any] = []
    with serve_routes(on_disconnect=lambda *end: gone.append(end[1:])) as site:
        with site.peer() as peer, site.peer() as other:
            wait_until(lambda: site.hub.client_count() == 2)
            ask(other, 1)  # with which the thread of simple_websocket ends; not the other's
            assert answer(other) == 1
            stopping = threading.Thread(target=site.hub.stop)
            stopping.start()
            for each in (peer, other):
                assert each.recv_close()[0] == 1001
                each.send_close(1001)
            stopping.join(TIMEOUT)
            assert [code for code, _ in gone] == [1001, 1001]
            assert site.result() is None
            assert site.result() is None


def test_a_stop_within_a_callback_does_not_wait_for_itself() -> None:
    def stop(client: Any, message: Message) -> None:
        client_hub[0].stop()

    client_hub: list[Hub] = []
    with serve_routes(on_message=stop) as site, site.peer() as peer:
        client_hub.append(site.hub)
        ask(peer, 1)
        assert peer.recv_close()[0] == 1001
        peer.send_close(1001)
        assert site.result() is None


def test_drain_closes_attached_clients_with_1012_and_admits_none() -> None:
    with serve_routes() as site, site.peer() as peer:
        site.client()
        site.hub.drain(timeout=0)
        assert peer.recv_close()[0] == 1012
        assert refused(site, 1013) == "the server restarts"
        peer.send_close(1012)
        assert site.notes.end()[0] == 1012


# --- errors of the caller ------------------------------------------------------------------


def test_the_same_connection_twice_is_a_value_error() -> None:
    with serve_routes() as site, site.peer() as peer:
        ws = site.came.get(timeout=TIMEOUT)
        site.client()
        with pytest.raises(ValueError, match="attached already"):
            site.hub.attach(ws)
        ask(peer, 1)
        assert answer(peer) == 1
        peer.close()
        assert site.result() is None
        with pytest.raises(ValueError, match="attached already"):
            site.hub.attach(ws)


@pytest.mark.parametrize(
    ("ws", "told"),
    [
        (None, "NoneType"),
        (object(), "builtins.object"),
        (simple_websocket.Client.__new__(simple_websocket.Client), "Client, the client's side"),
        (simple_websocket.AioServer.__new__(simple_websocket.AioServer), "AioServer, of asyncio"),
        (simple_websocket.AioClient.__new__(simple_websocket.AioClient), "AioClient, of asyncio"),
    ],
    ids=["None", "object", "Client", "AioServer", "AioClient"],
)
def test_what_is_no_connection_of_a_route_is_a_type_error(ws: Any, told: str) -> None:
    with pytest.raises(TypeError, match="takes a simple_websocket.Server") as raised:
        Hub(HubConfig()).attach(ws)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"user_id": " "}, InvalidName, "blank"),
        ({"user_id": ""}, InvalidName, "blank"),
        ({"user_id": True}, TypeError, "must be text"),
        ({"user_id": b"ann"}, TypeError, "must be text"),
        ({"claims": {"a": 1}}, ValueError, "claims need the user_id"),
        ({"user_id": "ann", "claims": 3}, TypeError, "claims must be a mapping"),
    ],
)
def test_a_bad_user_is_refused_before_the_connection_is_touched(
    options: Any, kind: type[Exception], told: str
) -> None:
    def attach(ws: Any) -> None:
        with pytest.raises(kind, match=told):
            site.hub.attach(ws, **options)
        ws.send("still the route's")

    with serve_routes() as site:
        site.route = attach
        with site.peer() as peer:
            assert peer.recv_text() == "still the route's"
            assert site.result() is None


# --- servers -------------------------------------------------------------------------------


@pytest.mark.slow
def test_under_tls_of_the_server(certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=str(certificate))
    with serve_routes(certificate=certificate) as site:
        for _ in range(3):
            site.gate.clear()
            with site.peer(ssl_context=trust) as peer:
                ws = site.came.get(timeout=TIMEOUT)
                ask(peer, "x" * 20_000)  # more than it reads at once
                parsed(ws, 0)
                site.gate.set()
                assert answer(peer) == "x" * 20_000  # the ping before it is answered
                site.client()
                for number in range(50):
                    site.hub.broadcast(Message("event", data=number))
                assert [peer.recv_json()["data"] for _ in range(50)] == list(range(50))
                peer.send_close(4001)
                assert peer.recv_close() == (4001, "")
            assert site.notes.end()[0] == 4001
            assert site.result() is None
        with site.peer(ssl_context=trust) as peer:  # which does not answer the ping
            assert peer.recv_frame().opcode == PING
            site.hub.stop()
            assert peer.recv_close() == (1013, "the hub is not running")
            peer.send_close(1013)
            assert site.result() is None
        with site.peer(ssl_context=trust) as peer:
            assert peer.recv_close()[0] == 1013
            peer.send_close(1013)
            assert site.result() is None
        assert [event[0] for event in site.notes.seen] == ["connect", "disconnect"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_under_gunicorn_with_threads(tls: bool) -> None:
    context = client_context() if tls else None
    with server("gthread", tls=tls, app="sock", options=["--threads", "8"]) as running:
        files = running.state()["files"]
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                peers = [
                    stack.enter_context(RawPeer(running.host, running.port, ssl_context=context))
                    for _ in range(4)
                ]
                # The second is there for the hub alone: the first may have come before it.
                for number, peer in itertools.product((1, 2), peers):
                    ask(peer, number)
                    assert answer(peer) == number
                assert running.state()["users"] == ["ann"] * 4
                assert not any("simple_websocket" in name for name in running.state()["threads"])
                assert running.get("/broadcast?data=all").status == 200
                for peer in peers:
                    assert peer.recv_json()["data"] == "all"
                    assert peer.close(1000)[0] == 1000
            wait_until(lambda: running.state()["clients"] == 0)
        wait_until(lambda: running.state()["files"] <= files)
        assert running.stop() == 0
        assert running.complaints() == [], running.log()


@pytest.mark.slow
def test_gunicorns_hooks_end_attached_clients_too() -> None:
    options = ["--config", "python:ws_hub.gunicorn", "--threads", "4"]
    with server("gthread", app="sock", options=options) as running:
        with RawPeer(running.host, running.port) as peer:
            wait_until(lambda: running.state()["clients"] == 1)
            running.process.terminate()
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)
            assert running.process.wait(TIMEOUT) == 0
        assert running.complaints() == [], running.log()


@pytest.mark.slow
def test_gunicorns_sync_worker_is_refused_by_name() -> None:
    with server("sync", app="sock") as running:
        with RawPeer(running.host, running.port) as peer:
            assert peer.recv_close() == (1013, "the server has only one thread")
            peer.send_close(1013)
            assert b"HTTP" not in peer.recv_eof()
        wait_until(lambda: "AdoptionError" in running.log())
        assert "--worker-class gthread" in running.log()
        assert running.state()["clients"] == 0


def test_one_thread_is_an_adoption_error() -> None:
    def wrap(app: Any) -> Any:
        def application(environ: Any, start_response: Any) -> Any:
            environ["gunicorn.socket"] = environ["werkzeug.socket"]
            return app({**environ, "wsgi.multithread": False}, start_response)

        return application

    with serve_routes(wrap=wrap) as site, site.peer() as peer:
        assert peer.recv_close()[0] == 1013
        assert isinstance(site.result(), AdoptionError)


def test_nothing_refers_to_an_ended_connection() -> None:
    with serve_routes() as site:
        with site.peer() as peer:
            ws = weakref.ref(site.came.get(timeout=TIMEOUT))
            client = weakref.ref(site.client())
            peer.close()
        assert site.result() is None

        def freed() -> bool:
            gc.collect()  # flask-sock makes a class for each response, which is a circle
            return ws() is None and client() is None

        wait_until(freed)
