"""Faults of writing: reused descriptors, slow and stalled peers, bounds, and the pace of loops."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.delivery import LoneHub, deliver, hub_queues, receive
from tests.harness import Clock, Peer, SteppedHub, waiting_threads, waits_move_clock
from tests.integration.apps.fork import in_child
from tests.integration.apps.live import Live, at_once, live, subscribe
from tests.interventions import without_libc_send
from tests.support import (
    PING,
    PONG,
    TIMEOUT,
    RawPeer,
    fill,
    messages_in,
    small_pair,
    tcp_pair,
    tls_pair,
    wait_until,
)
from ws_hub import (
    AuthResult,
    ChannelRule,
    ConnectionClosed,
    Hub,
    HubConfig,
    HubFull,
    Message,
    SendTimeout,
    serve,
    threads,
)
from ws_hub.access.admission import Decision
from ws_hub.connection.connection import Connection
from ws_hub.connection.outbox import Outbox
from ws_hub.connection.progress import measure
from ws_hub.connection.sender import Sender
from ws_hub.connection.transport import Transport
from ws_hub.hub.registry import Registry
from ws_hub.hub.stats import Counters
from ws_hub.protocol.handshake import Answer, refusal
from ws_hub.protocol.message import encode
from ws_hub.protocol.publication import Batch, publish
from ws_hub.testing import FaultProxy

SECRET = refusal("503 Service Unavailable", "not for other connections")


# --- fault 65: a descriptor is closed, and its number reused --------------------------------


@contextlib.contextmanager
def reused(number: int) -> Iterator[socket.socket]:
    """Open another connection on a descriptor that was closed; yield its far end."""
    near, far = socket.socketpair()
    if far.fileno() == number:
        near, far = far, near
    with near, far:
        far.settimeout(TIMEOUT)
        if near.fileno() != number:
            os.dup2(near.fileno(), number)
        try:
            yield far
        finally:
            if near.fileno() != number:
                os.close(number)


def expect_nothing(number: int, far: socket.socket) -> None:
    """Fail if anything was sent to the other connection, or if that was ended."""
    os.write(number, b"marker")
    assert far.recv(1000) == b"marker"


USES: dict[str, Callable[[Connection], object]] = {
    "refuse": lambda client: client.refuse(SECRET),
    "accept": lambda client: client.accept(),
    "ping": lambda client: client.ping(),
    "evict": lambda client: client.evict("slow"),
    "close": lambda client: client.close(1001, "bye"),
    "expire": lambda client: client.expire(),
    "abort": lambda client: client.abort(),
    "notify": lambda client: client.notify(Message("x")),
    "reply": lambda client: client.reply(Message("x")),
    "offer": lambda client: client.offer(b"frame", 1),
    "deliver": lambda client: deliver(client, Batch([publish(encode(Message("x")), "", "drop")])),
    "answer_close": lambda client: client.sender.answer_close(1000),
    "drain": lambda client: client.sender.drain(),
    "a turn of the writer": lambda client: client.waiting[1] and client.sender.turn(),
    "linger": lambda client: client.transport.linger(0),
    "open": lambda client: client.direct.open(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("state", ["open", "behind a backlog", "closing"])
def test_fault_65_nothing_is_sent_to_a_descriptor_that_was_closed_and_reused(
    use: str, state: str
) -> None:
    with Hub() as hub, small_pair() as (near, far):
        client = hub.connect(near, greeting=b"101 ")
        client.accept()
        number = near.fileno()
        if state == "behind a backlog":
            fill(near)
            client.offer(b"waits", 1)
        elif state == "closing":
            client.close()
        client.transport.close()
        with reused(number) as other:
            USES[use](client)
            assert client.direct.fd == -1
            expect_nothing(number, other)


class LateHub(LoneHub):
    """A hub whose queues the test empties, in the place of a hub thread that is late.

    A reader that leaves is held before its departure is queued.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gone, self.released = threading.Event(), threading.Event()
        self.config = HubConfig(close_timeout=0.01)
        self.on_disconnect = (lambda *about: None,)
        self.queues = hub_queues()
        self.registry = Registry(
            self.config,
            queues=self.queues,
            enter=lambda client: None,
            refuse=lambda client: client.refuse(SECRET),
            leave=lambda client: None,
            counters=Counters(),
        )

    def opened(self, connection: Connection) -> bool:
        return self.registry.open(connection)

    def admitted(self, connection: Connection, patience: float | None = None) -> bool:
        return self.registry.admitted(connection, patience)

    def left(self, connection: Connection, *, wait: bool) -> None:
        self.gone.set()
        self.released.wait(TIMEOUT)
        self.registry.dismiss(connection, wait)


@pytest.mark.parametrize("admit", [True, False])
def test_fault_65_a_late_refusal_does_not_reach_a_reused_descriptor(admit: bool) -> None:
    """The hub thread decides about a client whose connection is closed by then."""
    hub = LateHub()
    with contextlib.ExitStack() as stack:
        near, far = socket.socketpair()
        stack.enter_context(near)
        stack.enter_context(far)
        number = near.fileno()
        transport = Transport(near, max_message_size=1000, max_fragments=10)
        client = Connection(1, transport, hub.config, hub, greeting=b"101 ")
        client.start()
        far.close()
        assert hub.gone.wait(TIMEOUT)
        assert near.fileno() == -1
        with reused(number) as other:
            hub.registry.register(hub.queues.registers.get_nowait(), admit=admit)
            assert not client.membership.admitted and not len(hub.registry)
            expect_nothing(number, other)
        hub.released.set()
        assert client.join(TIMEOUT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("use", ["send", "refuse", "close", "waiting", "wait_for_room"])
def test_fault_65_a_forked_child_cannot_send_to_its_parents_descriptor(use: str) -> None:
    with Hub() as hub, small_pair() as (near, far):
        client = hub.connect(near, greeting=b"101 ")
        client.accept()
        number = near.fileno()

        def child() -> None:
            assert near.fileno() == -1
            with reused(number) as other:
                if use == "send":
                    with pytest.raises(ConnectionClosed, match="parent process"):
                        client.send(Message("x"))
                elif use == "refuse":
                    client.refuse(SECRET)
                elif use == "close":
                    client.close()
                elif use == "waiting":
                    assert client.waiting == (0, 0)
                else:
                    assert client.wait_for_room(0)
                expect_nothing(number, other)

        with client.transport.lock:  # held by a thread that the child does not have
            in_child(child)
        client.send(Message("still the parent's"))
        assert b"still" in far.recv(1000)


def test_fault_65_a_borrowed_tls_socket_is_not_used_after_its_connection(certificate: Path) -> None:
    """The server goes on using the descriptor, for the throw-away."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with tcp_pair() as (near, far), Hub() as hub:
        tls: list[ssl.SSLSocket] = []
        shake = threading.Thread(
            target=lambda: tls.append(context.wrap_socket(near, server_side=True))
        )
        shake.start()
        with trusting.wrap_socket(far, server_hostname="localhost") as peer:
            shake.join(TIMEOUT)
            with tls[0] as sock:
                client = hub.connect(sock, greeting=b"101 ", borrowed=True)
                client.accept()
                assert peer.recv(100) == b"101 "
                client.transport.close()
                for use in ("refuse", "ping", "close", "abort", "offer", "linger"):
                    USES[use](client)
                sock.setblocking(True)
                sock.send(b"marker")
                assert peer.recv(100) == b"marker"


def test_fault_65_a_descriptor_is_not_closed_while_a_writer_waits_on_it() -> None:
    looked = threading.Event()

    class Looked(socket.socket):
        """Notes that the writer asks for the descriptor, under the lock, to wait on it."""

        def fileno(self) -> int:
            if threading.current_thread().name == "writer":
                looked.set()
            return super().fileno()

    with Hub() as hub, small_pair() as (left, far), Looked(fileno=left.detach()) as near:
        client = hub.connect(near)
        fill(near)
        transport = client.transport
        waiter = threading.Thread(
            target=transport.wait_writable, args=(TIMEOUT,), name="writer", daemon=True
        )
        waiter.start()
        assert looked.wait(TIMEOUT)
        transport.close()
        assert near.fileno() >= 0
        far.close()  # wakes the writer
        waiter.join(TIMEOUT)
        assert near.fileno() == -1
        assert transport.wait_writable(0)


def test_fault_65_a_connection_that_could_not_be_started_is_refused_and_closed() -> None:
    with Hub() as hub, small_pair() as (near, far):
        client = hub.connect(near, greeting=b"101 ")
        client.refuse(SECRET)
        client.discard()
        assert near.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            client.direct.send(b"x")
        assert far.recv(1000) == SECRET.to_bytes()


# --- faults 118 and 124: slow is not stalled -----------------------------------------------


class Slow:
    """A sender over TCP, whose writer a test steps, by a clock of its own."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.now = 1000.0
        self.far = far
        self.transport = Transport(near, max_message_size=1000, max_fragments=10)
        self.transport.wait_writable = lambda timeout: False  # type: ignore[method-assign]
        self.sender = Sender(
            self.transport,
            Outbox(100_000, 32 << 20),
            write_timeout=10,
            close_timeout=5,
            start=lambda *about: threads.DeferredThread("writer", *about),
            clock=lambda: self.now,
        )

    def measured(self) -> tuple[int, int]:
        with self.transport.lock:
            measured = self.transport.measure_locked(0)
        assert measured is not None
        return measured

    def step(self) -> bool:
        """Let the writer do what it can; say whether the connection goes on."""
        for _ in range(100):
            before = self.sender.waiting
            if not before[1]:
                break  # a turn would wait for work
            self.sender.turn()
            if self.sender.waiting == before:
                break
        return self.sender.cause is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux tells of a connection")
@pytest.mark.parametrize("rcvbuf", [None, 4096])
def test_fault_118_a_peer_that_reads_5_kb_a_second_is_not_cut(rcvbuf: int | None) -> None:
    with tcp_pair(rcvbuf=rcvbuf) as (near, far):
        slow = Slow(near, far)
        for _ in range(4096):
            slow.sender.offer(b"x" * 2048, 1)
        assert slow.sender.waiting[1] > 1 << 20
        read, before, since = 0, slow.measured()[0], slow.now
        while read < 2_000_000:  # for 400 seconds
            slow.now += 0.5
            read += len(far.recv(2_500))
            if before != (acknowledged := slow.measured()[0]):
                before, since = acknowledged, slow.now
            elif slow.now - since > 20:  # the kernel may be late, in time that is not this clock's
                with contextlib.suppress(AssertionError):
                    wait_until(lambda: slow.measured()[0] != before, 0.1)  # noqa: B023
                since = slow.now
            assert slow.step(), (slow.sender.cause, read)


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux tells of a connection")
@pytest.mark.parametrize("before", [0, 2 << 20])
def test_fault_118_a_peer_that_stops_reading_is_cut_in_bounded_time(before: int) -> None:
    with tcp_pair() as (near, far):
        slow = Slow(near, far)
        for _ in range(12_000):  # 24 MB: more than the kernels take, whatever they make room for
            slow.sender.offer(b"x" * 2048, 1)
        while before > 0:
            before -= len(far.recv(1 << 16))
            slow.step()
        began = slow.now
        # The kernels may go on for a while, in time that is not this clock's.
        quiet, before = began, slow.measured()[0]
        while slow.step():
            if before != (acknowledged := slow.measured()[0]):
                quiet, before = slow.now, acknowledged
            slow.now += 2.5
            assert slow.now - quiet <= 80
        assert slow.now - began >= 10
        assert slow.sender.stalled


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux tells of a connection")
def test_fault_124_a_silent_peer_that_reads_a_backlog_counts_as_alive() -> None:
    with tcp_pair(rcvbuf=4096) as (near, far):
        slow = Slow(near, far)
        taken = fill(near)  # all in the kernel, so that no writer looks
        slow.sender.ping()
        while taken:
            slow.now += 30
            before = slow.measured()[0]
            while taken and slow.measured()[0] == before:
                taken -= len(far.recv(min(taken, 1 << 16)))
            slow.sender.ping()
            slow.now += 29
            assert slow.sender.is_acknowledged(60)
        for _ in range(4):  # a program that hangs: its kernel takes each ping
            wait_until(lambda: not slow.measured()[1])
            slow.now += 30
            slow.sender.ping()
        assert not slow.sender.is_acknowledged(60)


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux tells of a connection")
def test_fault_30_a_ping_whose_acknowledgement_is_delayed_is_no_sign_of_life() -> None:
    """As a kernel delays it when its program sends nothing: by 40 ms, on any network."""
    with tcp_pair() as (near, far):
        slow = Slow(near, far)
        for _ in range(30):  # the first sixteen are acknowledged at once
            wait_until(lambda: not slow.measured()[1])
            slow.now += 30
            slow.sender.ping()
        # Each look meets the next ping on its way, as where one interval follows the other.
        for _ in range(4):
            assert wait_until(lambda: slow.measured()[1]) > 0
            assert not slow.sender.is_acknowledged(60)
            wait_until(lambda: not slow.measured()[1])
            slow.now += 30
            slow.sender.ping()


def test_fault_124_a_peer_that_acknowledges_nothing_does_not_count_as_alive() -> None:
    with tcp_pair(rcvbuf=4096) as (near, far):
        slow = Slow(near, far)
        fill(near)
        for _ in range(3):
            slow.sender.ping()
            slow.now += 60
        assert not slow.sender.is_acknowledged(60)


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux tells of a connection")
def test_fault_124_a_link_with_a_long_queue_is_kept_beyond_the_pong_timeout() -> None:
    """The reader thread's own silence, ended by acknowledged bytes alone; then by nothing."""
    looks, now = threading.Semaphore(0), [0.0]

    class Reading(Sender):
        __slots__ = ("left",)

        def is_acknowledged(self, timeout: float) -> bool:
            now[0] += 1.0  # since the last look
            if self.left:
                self.left -= 1
                before = measure(near, 0)
                while measure(near, 0) == before:  # its peer reads some, and says nothing
                    far.recv(1 << 16)
            looks.release()
            return super().is_acknowledged(timeout)

    with tcp_pair(sndbuf=1 << 20, rcvbuf=1 << 17) as (near, far):
        transport = Transport(near, max_message_size=1000, max_fragments=10)
        sender = Reading(
            transport,
            Outbox(100, 1 << 20),
            write_timeout=0.001,
            close_timeout=TIMEOUT,
            start=lambda *about: threads.DeferredThread("writer", *about),
            clock=lambda: now[0],
        )
        sender.left = 5
        fill(near)
        near.setblocking(True)
        sender.ping()
        end = receive(
            transport,
            sender,
            HubConfig(heartbeat_interval=0.01, pong_timeout=0.02),
            received=lambda data: None,
            charge=lambda *about: 0.0,
            count=lambda name: None,
        )
        assert end.reason == "pong timeout: nothing received for 0.02 s"
        assert not sender.left
        assert all(looks.acquire(timeout=0) for _ in range(6))


# --- faults 74, 116 and 129: the outbox is bounded, and discarded messages are counted -------


def said(data: Any) -> Message:
    return Message("event", data=data)


def test_fault_74_a_burst_that_begins_a_backlog_is_bounded() -> None:
    settings = {"outbox_bytes": 1 << 20, "outbox_messages": 100}
    with Hub(HubConfig(**settings)) as hub, small_pair() as (near, _):
        client = hub.connect(near)
        client.accept()
        batch = Batch([publish(encode(said(["x" * 1000, n])), "", "drop") for n in range(30_000)])
        refused = deliver(client, batch)
        messages, size = client.waiting
        assert messages <= 100
        assert size <= 1 << 20
        assert client.dropped == len(refused) > 29_000
        client.transport.close()


@pytest.mark.parametrize("backlog", [False, True])
def test_fault_74_a_burst_without_libc_send_is_bounded(backlog: bool) -> None:
    with (
        without_libc_send(),
        Hub(HubConfig(outbox_messages=100)) as hub,
        small_pair() as (near, far),
    ):
        client = hub.connect(near)
        client.accept()
        if backlog:
            fill(near)
        batch = Batch([publish(encode(said(["x" * 1000, n])), "", "drop") for n in range(3000)])
        refused = deliver(client, batch)
        assert client.waiting[0] <= 100
        size = sum(map(len, batch.each[: 3000 - len(refused)]))
        data = b""
        while len(data) < size:  # the writer is at work
            data += far.recv(1 << 20).lstrip(b"x" if not data else b"")
        assert len(messages_in(data)) == 3000 - len(refused)
        assert client.waiting == (0, 0)
        client.discard()


@pytest.mark.slow
def test_fault_74_the_part_of_a_burst_that_does_not_fit_is_reported_as_lagged() -> None:
    rules = [ChannelRule(pattern="process:*", history_messages=10)]
    with live(outbox_messages=50, rules=rules, on_connect=None) as hub:
        with hub.subscribed("process:p", rcvbuf=4096) as peer:
            hub.hub.send_process_lines("p", ["x" * 1000] * 30_000)
            client = hub.connection()
            wait_until(lambda: client.dropped, what="a full outbox")
            assert client.waiting[0] <= 51
            while (message := peer.recv_json())["type"] != "lagged":
                last = message["seq"]
            assert message["seq"] == last  # nothing was skipped before it is told


@pytest.mark.slow
def test_fault_116_messages_of_the_hubs_own_are_bounded_in_bytes() -> None:
    patient = {"write_timeout": 300.0}  # on a busy machine it takes long to fill the outbox
    with live(outbox_bytes=1 << 20, **patient) as hub, hub.peer(rcvbuf=4096) as peer:
        big = "x" * 60_000
        subscribe(peer, "a")
        for _ in range(200):
            hub.hub.send_to_channel("a", said(big))
        client = hub.connection()
        ask = {"type": "subscribe", "channel": "a", "id": "i" * 100, "data": None}
        with contextlib.suppress(OSError):
            for _ in range(20_000):
                peer.send_json(ask)
                assert client.waiting[1] <= (1 << 20) + (256 << 10) + (1 << 10)
                if hub.hub.stats().slow_disconnects:
                    break
        assert wait_until(lambda: hub.hub.stats().slow_disconnects) == 1
        with contextlib.suppress(ConnectionError, EOFError):  # on a busy machine: cut, it is slow
            while peer.recv_frame().opcode == 1:
                pass
    assert hub.notes.end()[0] == 1013


@pytest.mark.parametrize("what", ["unsubscribe", "recheck"])
def test_fault_116_a_full_outbox_has_room_for_messages_of_the_hubs_own(what: str) -> None:
    """One `unsubscribe` of a client that read steadily: 1013, "answers are not read"."""
    allowed = [True]
    authoriser = lambda client, channel: allowed[0]  # noqa: E731
    with live(outbox_messages=100, channel_authoriser=authoriser) as hub:
        with hub.subscribed("feed", rcvbuf=4096) as peer:
            client = hub.client()
            with hub.hub.unpaced():
                while not client.dropped:
                    hub.hub.send_to_channel("feed", said("x" * 1000))
            if what == "unsubscribe":
                peer.send_json({"type": "unsubscribe", "channel": "feed", "id": "end"})
                told = "ack"
            else:
                allowed[0] = False
                assert hub.hub.recheck(client) == ["feed"]
                told = "error"
            while peer.recv_json()["type"] != told:
                pass
            peer.send_json({"type": "ping", "id": 1})
            assert peer.recv_json()["type"] == "pong"
            assert hub.hub.stats().slow_disconnects == 0


def test_fault_129_the_log_counts_all_messages_that_an_evicted_client_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It said "0 messages are lost" of one whose messages had found no room."""
    with Hub() as hub, small_pair() as (near, _):
        client = hub.connect(near)
        client.accept()
        client.count_skipped(7)
        client.evict("too slow")
        assert "too slow; 7 messages are lost" in caplog.text
        client.discard()


def fill_until_cut(site: Live) -> None:
    """Publish to a client that reads nothing until the write timeout has cut it."""
    client = site.connection()

    def fill_more_or_see_it_cut() -> int:
        # It may be cut before there is so much, and the kernel may take what there is.
        while client.waiting[1] < 1 << 20 and not site.hub.stats().write_timeouts:
            site.hub.broadcast(said("x" * 10_000))
        return site.hub.stats().write_timeouts

    wait_until(fill_more_or_see_it_cut)


def test_fault_129_the_log_counts_all_messages_that_a_write_timeout_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live(write_timeout=0.05) as hub, hub.peer(rcvbuf=4096):
        client = hub.connection()
        client.count_skipped(7)
        fill_until_cut(hub)
        hub.empty()
        assert client.dropped > client.sender.dropped > 0
        assert f"; {client.dropped} messages are lost" in caplog.text


def test_fault_129_messages_that_an_eviction_discards_are_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live(outbox_bytes=256_000, close_timeout=0.1) as hub, hub.peer(rcvbuf=4096) as peer:
        client = hub.connection()
        sent = 0
        while not hub.hub.stats().slow_disconnects:
            hub.hub.broadcast(said([sent, "x" * 1000]))
            sent += 1
        hub.empty()
        got = 0
        with contextlib.suppress(ConnectionError, EOFError):
            while peer.recv_frame().opcode == 1:
                got += 1
    lost = client.dropped
    assert lost == hub.hub.stats().dropped
    assert lost > 100
    said_so = [record.getMessage() for record in caplog.records if "too slow" in record.message]
    assert len(said_so) == 1
    assert "messages are lost" in said_so[0]


def test_fault_129_messages_that_a_write_timeout_discards_are_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live(write_timeout=0.05) as hub, hub.peer(rcvbuf=4096):
        client = hub.connection()
        fill_until_cut(hub)
        hub.empty()
        assert client.dropped
        wait_until(lambda: hub.hub.stats().dropped == client.dropped)
        assert hub.hub.stats().write_timeouts == 1
    assert [r for r in caplog.records if "nothing acknowledged" in r.getMessage()]


# --- fault 126: a loop keeps the pace of the clients that read well -------------------------


PADDING = "x" * 16_000


def storm(hub: Hub, count: int) -> None:
    for number in range(count):
        hub.send_event("storm", [number, PADDING])


def read_storm(peer: RawPeer, count: int) -> None:
    """Read a storm whole and in order."""
    for number in range(count):
        assert peer.recv_json()["data"]["data"][0] == number


@pytest.mark.parametrize("beside", ["nobody", "a client that never reads"])
def test_fault_126_a_storm_reaches_five_readers_whole(beside: str) -> None:
    count = 1500
    with live(outbox_bytes=1 << 20, pace_bytes=50_000, publish_timeout=60.0) as hub:
        with contextlib.ExitStack() as stack:
            if beside != "nobody":
                stack.enter_context(hub.peer(rcvbuf=4096))
            peers = [stack.enter_context(hub.peer()) for _ in range(5)]
            wait_until(lambda: hub.hub.client_count() == 5 + (beside != "nobody"))
            reads = [functools.partial(read_storm, peer, count) for peer in peers]
            with at_once(*reads):
                storm(hub.hub, count)
        assert hub.hub.stats().slow_disconnects == (beside != "nobody")


@contextlib.contextmanager
def over_tls(certificate: Path, **settings: Any) -> Iterator[tuple[Hub, Callable[[int], RawPeer]]]:
    """A hub that is served over TLS, and what makes a client with such a receive buffer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    trust = ssl.create_default_context(cafile=str(certificate))
    hub = Hub(HubConfig(**settings))
    with serve(hub, ssl_context=context) as server:
        yield (
            hub,
            lambda rcvbuf: RawPeer("localhost", server.port, rcvbuf=rcvbuf, ssl_context=trust),
        )


def test_fault_126_messages_beyond_the_kernels_buffers_arrive_over_tls(certificate: Path) -> None:
    """A retry with fewer bytes than the first attempt ended the connection."""
    ends: list[object] = []
    with over_tls(certificate, on_disconnect=lambda *about: ends.append(about)) as (hub, connect):
        with connect(4096) as peer:
            wait_until(lambda: hub.client_count() == 1)
            (client,) = hub.all_clients()
            texts = [f"{number}:" + "x" * 1_000_000 for number in range(4)]
            for text in texts:
                client.send(Message("event", data=text))
            assert [peer.recv_json()["data"] for _ in texts] == texts
            assert ends == []
        assert hub.stats().dropped == 0


def test_fault_126_a_pong_over_tls_follows_the_write_that_has_begun(certificate: Path) -> None:
    """It was sent ahead of a burst that OpenSSL had taken, but the kernel had not."""
    with over_tls(certificate) as (hub, connect), connect(4096) as peer:
        wait_until(lambda: hub.client_count() == 1)
        texts = [f"{number}:" + "x" * 200_000 for number in range(20)]
        for number, text in enumerate(texts):
            hub.broadcast(Message("event", data=text))
            peer.send_frame(PING, b"%d" % number)
        got, pongs = [], 0
        while len(got) < len(texts) or not pongs:
            received = peer.recv_frame()
            if received.opcode == PONG:
                pongs += 1
            else:
                got.append(json.loads(received.payload)["data"])
        assert got == texts


def test_fault_121_a_reader_that_is_long_inside_tls_delays_no_other_client(
    certificate: Path,
) -> None:
    """Records without data (KeyUpdate) keep it there for as long as its peer sends them."""
    with over_tls(certificate) as (hub, connect), tls_pair(certificate, 4096, 4096) as (near, far):
        client = hub.connect(near, greeting=b"101 ")
        client.start()
        wait_until(lambda: hub.client_count() == 1)
        assert far.recv(4) == b"101 "
        held = RawPeer.on(far)
        with connect(4096) as free:
            wait_until(lambda: hub.client_count() == 2)
            assert client.direct.tls is not None
            with client.direct.tls:
                for number in range(100):
                    hub.broadcast(Message("event", data=number))
                assert [free.recv_json()["data"] for _ in range(100)] == list(range(100))
                client.send(Message("event", data=100), timeout=0)
                assert client.waiting[0] == 101
            assert [held.recv_json()["data"] for _ in range(101)] == list(range(101))
        client.abort()
        assert client.join(TIMEOUT)


def test_fault_126_a_storm_reaches_a_slow_link_whole() -> None:
    count = 400
    with live(outbox_bytes=1 << 20, pace_bytes=20_000, publish_timeout=60.0) as hub:
        with FaultProxy("127.0.0.1", hub.server.port) as proxy:
            proxy.rate = 8_000_000
            with hub.peer(through=proxy) as peer:
                hub.client()
                with at_once(functools.partial(read_storm, peer, count)):
                    storm(hub.hub, count)
        assert hub.hub.stats().dropped == 0


OUTBOX = 1 << 20
# The hub's queue holds what these tests publish: a wait is one for a client.
PACED = {"outbox_bytes": OUTBOX, "queue_bytes": OUTBOX, "publish_timeout": 1000.0}


@contextlib.contextmanager
def crowded(**settings: Any) -> Iterator[tuple[SteppedHub, Peer, Clock]]:
    """A hub, its one client, which is crowded, and a clock that is moved by waits for it.

    The client is a connection of the user "ann" and subscribed to "news".
    """
    settings = {**PACED, **settings}
    with SteppedHub(**settings) as hub, waits_move_clock() as clock:
        with hub.join(decision=connection_of("ann")) as peer:
            hub.subscribe(peer.client, "news")
            hub.turn()
            crowd(peer)
            yield hub, peer, clock


def connection_of(user: str) -> Decision:
    return Decision(Answer("101"), AuthResult(True, user), payer=f"user:{user}")


def crowd(peer: Peer) -> None:
    """Fill the kernel's buffers and somewhat more than half of the outbox."""
    peer.fill()
    while peer.client.waiting[1] * 2 <= OUTBOX:
        peer.client.send(said(PADDING))


def read_all(peer: Peer) -> None:
    """Read until nothing waits in the outbox."""
    while peer.client.waiting[1]:  # the writer is at work
        peer.sock.recv(1 << 16)


def loop(publish: Callable[[], object]) -> None:
    """Publish in a loop: one message more than a thread may publish without a wait."""
    for _ in range(129):
        publish()


def seconds_of(clock: Clock, act: Callable[[], object]) -> float:
    before = clock.now
    act()
    return clock.now - before


def loop_to_all(hub: Hub) -> None:
    loop(lambda: hub.send_event("x"))


def loop_unpaced(hub: Hub) -> None:
    with hub.unpaced():
        loop_to_all(hub)


def loop_on_hub_thread(hub: SteppedHub) -> None:
    with hub.on_hub_thread():
        loop_to_all(hub)


WAITING: dict[str, Callable[[SteppedHub], object]] = {
    "to everybody": loop_to_all,
    "to its channel": lambda hub: loop(lambda: hub.send_event("x", channel="news")),
    "to its user": lambda hub: loop(lambda: hub.send_to_user("ann", said(0))),
}
NOT_WAITING: dict[str, Callable[[SteppedHub], object]] = {
    "to another channel": lambda hub: loop(lambda: hub.send_event("x", channel="other")),
    "to another user": lambda hub: loop(lambda: hub.send_to_user("bob", said(0))),
    "without time": lambda hub: loop(lambda: hub.broadcast(said(0), timeout=0)),
    "unpaced": loop_unpaced,
    "on the hub thread": loop_on_hub_thread,
}


@pytest.mark.parametrize("how", WAITING)
def test_fault_126_a_loop_waits_for_a_crowded_receiver(how: str) -> None:
    with crowded() as (hub, _, clock):
        assert seconds_of(clock, lambda: WAITING[how](hub)) == pytest.approx(1.0)


@pytest.mark.parametrize("how", NOT_WAITING)
def test_fault_126_a_loop_does_not_wait_for_other_clients_or_where_it_must_not(how: str) -> None:
    with crowded() as (hub, _, clock):
        assert seconds_of(clock, lambda: NOT_WAITING[how](hub)) == 0
        assert seconds_of(clock, lambda: loop_to_all(hub)) == pytest.approx(1.0)


@pytest.mark.parametrize("whom", ["everybody", "a channel", "a user"])
def test_fault_126_the_hubs_queue_is_bounded_in_bytes(whom: str) -> None:
    with SteppedHub(queue_bytes=100_000) as hub:
        message = said("x" * 10_000)
        with pytest.raises(HubFull):
            for _ in range(20):
                if whom == "a user":
                    hub.send_to_user("ann", message, timeout=0)
                elif whom == "a channel":
                    hub.send_to_channel("a", message, timeout=0)
                else:
                    hub.broadcast(message, timeout=0)
        assert hub.stats().queued == 10
        hub.turn()
        hub.broadcast(message, timeout=0)


def test_fault_126_a_single_large_message_does_not_wait() -> None:
    with crowded() as (hub, _, clock):
        large = said("x" * 100_000)
        assert seconds_of(clock, lambda: hub.broadcast(large)) == 0
        assert seconds_of(clock, lambda: hub.broadcast(large)) == pytest.approx(1.0)


@pytest.mark.parametrize("read", [0, 1024])
def test_fault_126_a_client_that_reads_too_slowly_is_waited_for_once(read: int) -> None:
    """A second and not the publish timeout; and not again until nothing waits for it."""
    with crowded(pace_bytes=10_000) as (hub, peer, clock):
        clock.meanwhile = lambda: peer.sock.recv(read)
        assert seconds_of(clock, lambda: loop_to_all(hub)) == pytest.approx(1.0)
        assert seconds_of(clock, lambda: loop_to_all(hub)) == 0
        for _ in range(2):
            peer.client.send(said(PADDING))
        assert seconds_of(clock, lambda: loop_to_all(hub)) == 0
        read_all(peer)
        crowd(peer)
        hub.turn()
        assert seconds_of(clock, lambda: loop_to_all(hub)) == pytest.approx(1.0)


def test_fault_126_a_client_that_reads_well_is_waited_for_within_the_publish_timeout() -> None:
    with crowded(publish_timeout=10.0, pace_bytes=1000) as (hub, peer, clock):
        clock.meanwhile = lambda: peer.sock.recv(2048)
        for _ in range(2):
            # A tenth of it is kept for the hub's queue: there is no HubFull.
            assert seconds_of(clock, lambda: loop_to_all(hub)) == pytest.approx(9.0)
        assert hub.stats().queued == 2 * 129


@pytest.mark.parametrize("how", ["it has read", "it is gone"])
def test_fault_126_a_loop_goes_on_when(how: str) -> None:
    with crowded() as (hub, peer, _):
        with at_once(functools.partial(loop_to_all, hub)):
            wait_until(lambda: waiting_threads(peer.client))
            assert hub.stats().queued == 128
            if how == "it is gone":
                peer.client.abort()
            else:
                read_all(peer)
        assert hub.stats().queued == 129


def test_fault_126_a_signal_handler_within_a_call_of_the_hub_does_not_wait() -> None:
    """Its thread may hold the lock that a wait for the client would need."""
    waited: list[float] = []
    with crowded() as (hub, peer, clock):

        def handle(*_: object) -> None:
            waited.append(seconds_of(clock, lambda: loop_to_all(hub)))

        before = signal.signal(signal.SIGTERM, handle)
        try:
            clock.meanwhile = lambda: signal.raise_signal(signal.SIGTERM)
            with pytest.raises(SendTimeout):
                peer.client.send(said("x" * OUTBOX), timeout=0.5)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert waited == [0.0]
        clock.meanwhile = int
        assert seconds_of(clock, lambda: loop_to_all(hub)) > 0


def test_fault_126_wait_for_room_without_a_channel_waits_for_all_clients() -> None:
    found: list[bool] = []
    with Hub(HubConfig(outbox_bytes=OUTBOX)) as hub, waits_move_clock(), Peer(hub) as peer:
        assert hub.wait_for_room()
        crowd(peer)
        assert not hub.wait_for_room(timeout=1.0)
        assert hub.wait_for_room("news", TIMEOUT)  # it is not subscribed to that
        with at_once(lambda: found.append(hub.wait_for_room())):
            wait_until(lambda: waiting_threads(peer.client))
            read_all(peer)
    assert found == [True]


def test_fault_126_a_program_without_backpressure_is_not_slowed() -> None:
    """A publisher that waited for this client would wait until the client is gone."""
    code = "for _ in range(1000): print('x' * 1000)"
    config = HubConfig(outbox_bytes=OUTBOX, broadcast_overflow="drop")
    with Hub(config) as hub, waits_move_clock() as clock:
        with Peer(hub) as peer:
            hub.subscribe(peer.client, "process:p")
            crowd(peer)
            assert hub.run_process([sys.executable, "-c", code], "p").wait(2 * TIMEOUT) == 0
            assert seconds_of(clock, lambda: loop_to_all(hub)) == pytest.approx(1.0)


def seconds_for_a_stalled_client(hub: SteppedHub, clock: Clock, user: str) -> float:
    """Return for how long a loop waits for a new connection of a user that reads nothing."""
    with hub.join(decision=connection_of(user)) as peer:
        crowd(peer)
        waited = seconds_of(clock, lambda: loop_to_all(hub))
        peer.leave()
    return waited


def test_fault_126_a_payer_that_stalls_is_not_waited_for_on_each_new_connection() -> None:
    """Five stalled connections a second held a loop for all of its time."""
    with SteppedHub(**PACED) as hub, waits_move_clock() as clock:
        found = [seconds_for_a_stalled_client(hub, clock, "ann") for _ in range(5)]
        assert found == pytest.approx([1.0, 1.0, 1.0, 0.0, 0.0])
        assert seconds_for_a_stalled_client(hub, clock, "bob") == pytest.approx(1.0)
        clock.advance(60)
        assert seconds_for_a_stalled_client(hub, clock, "ann") == pytest.approx(1.0)
