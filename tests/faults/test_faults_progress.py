"""Faults of writing: reused descriptors, slow and stalled peers, bounds, and the pace of loops."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.delivery import deliver
from tests.integration.apps.fork import in_child
from tests.support import TIMEOUT, fill, small_pair, tcp_pair, wait_until
from ws_hub import Client, ConnectionClosed, Hub, HubConfig, Message, workers
from ws_hub.handshake import refusal
from ws_hub.message import encode
from ws_hub.outbox import Outbox
from ws_hub.progress import measure
from ws_hub.publication import Batch, publish
from ws_hub.receiver import receive
from ws_hub.sender import Sender
from ws_hub.transport import Transport

SECRET = refusal("503 Service Unavailable", "not for strangers")


# --- fault 65: a descriptor's number outlives the connection --------------------------------


@contextlib.contextmanager
def stepped(**settings: Any) -> Iterator[Hub]:
    """A hub whose thread is held: it moves when a test calls `_turn`."""
    hub = Hub(HubConfig(**settings))
    hub._begin()
    try:
        yield hub
    finally:
        hub._end()


@contextlib.contextmanager
def stranger_at(number: int) -> Iterator[socket.socket]:
    """Open a connection of somebody else's on a descriptor; yield its far end."""
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
    """Fail if anything was sent to a stranger, or if its connection was ended."""
    os.write(number, b"marker")
    assert far.recv(1000) == b"marker"


USES: dict[str, Callable[[Client], object]] = {
    "refuse": lambda client: client.refuse(SECRET),
    "welcome": lambda client: client.welcome(),
    "ping": lambda client: client.ping(),
    "evict": lambda client: client.evict("slow"),
    "close": lambda client: client.close(1001, "bye"),
    "expire": lambda client: client.expire(),
    "abort": lambda client: client.abort(),
    "tell": lambda client: client.tell(Message("x")),
    "reply": lambda client: client.reply(Message("x")),
    "offer": lambda client: client.offer(b"frame", 1),
    "deliver": lambda client: deliver(client, Batch([publish(encode(Message("x")), "", "drop")])),
    "answer_close": lambda client: client._sender.answer_close(1000),
    "drain": lambda client: client._sender.drain(),
    "a turn of the writer": lambda client: client.waiting[1] and client._sender._turn(),
    "linger": lambda client: client._transport.linger(0),
    "open": lambda client: client.direct.open(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("state", ["open", "behind a backlog", "closing"])
def test_fault_65_nothing_is_sent_by_a_number_that_was_given_back(use: str, state: str) -> None:
    with stepped() as hub, small_pair() as (near, far):
        client = hub.connect(near, greeting=b"101 ")
        client.welcome()
        number = near.fileno()
        if state == "behind a backlog":
            fill(near)
            client.offer(b"waits", 1)
        elif state == "closing":
            client.close()
        client._transport.close()
        with stranger_at(number) as other:
            USES[use](client)
            assert client.direct.fd == -1
            expect_nothing(number, other)


def test_fault_65_a_late_refusal_does_not_reach_a_reused_descriptor() -> None:
    """The hub thread is late by more than a peer stays; then it refuses who was there."""
    gone = threading.Event()
    settings: dict[str, Any] = {"on_disconnect": lambda *about: None, "close_timeout": TIMEOUT}
    with stepped(**settings) as hub, contextlib.ExitStack() as stack:
        near, far = socket.socketpair()
        stack.enter_context(near)
        stack.enter_context(far)
        number = near.fileno()
        client = hub.connect(near, greeting=b"101 ")
        dismiss = hub._roster.dismiss
        object.__setattr__(hub._hooks, "gone", lambda *about: (gone.set(), dismiss(*about)))
        client.start()
        far.close()
        wait_until(lambda: near.fileno() == -1, what="the reader closes its socket")
        assert not gone.is_set()  # it waits to hear whether it was let in
        with stranger_at(number) as other:
            hub._admitting = False
            hub._turn(0)
            assert hub.stats().refused == 1
            expect_nothing(number, other)
        assert client.join(TIMEOUT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("use", ["send", "refuse", "close", "waiting", "wait_for_room"])
def test_fault_65_a_forked_child_cannot_send_by_its_parents_number(use: str) -> None:
    with stepped() as hub, small_pair() as (near, far):
        client = hub.connect(near, greeting=b"101 ")
        client.welcome()
        number = near.fileno()

        def child() -> None:
            assert near.fileno() == -1
            with stranger_at(number) as other:
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

        with client._transport.lock:  # held by a thread that the child does not have
            in_child(child)
        client.send(Message("still the parent's"))
        assert b"still" in far.recv(1000)


def test_fault_65_a_borrowed_tls_socket_is_forgotten_too(certificate: Path) -> None:
    """The descriptor lives on in the server's hands, with a throw-away behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with tcp_pair() as (near, far), stepped() as hub:
        tls: list[ssl.SSLSocket] = []
        shake = threading.Thread(
            target=lambda: tls.append(context.wrap_socket(near, server_side=True))
        )
        shake.start()
        with trusting.wrap_socket(far, server_hostname="localhost") as peer:
            shake.join(TIMEOUT)
            with tls[0] as sock:
                client = hub.connect(sock, greeting=b"101 ", borrowed=True)
                client.welcome()
                assert peer.recv(100) == b"101 "
                client._transport.close()
                for use in ("refuse", "ping", "close", "abort", "offer", "linger"):
                    USES[use](client)
                sock.setblocking(True)
                sock.send(b"marker")
                assert peer.recv(100) == b"marker"


def test_fault_65_a_descriptor_is_not_closed_under_a_writer_that_waits_on_it() -> None:
    with stepped() as hub, small_pair() as (near, far):
        client = hub.connect(near)
        fill(near)
        transport = client._transport
        waiter = threading.Thread(target=transport.wait_writable, args=(TIMEOUT,))
        waiter.start()
        wait_until(lambda: transport._watched)
        transport.close()
        assert near.fileno() >= 0
        far.close()  # wakes the writer
        waiter.join(TIMEOUT)
        assert near.fileno() == -1
        assert transport.wait_writable(0)


def test_fault_65_a_client_that_could_not_be_started_is_answered_and_forgotten() -> None:
    with stepped() as hub, small_pair() as (near, far):
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
            Outbox(100_000, 8 << 20),
            write_timeout=10,
            close_timeout=5,
            start=lambda *about: workers.Later("writer", *about),
            clock=lambda: self.now,
        )

    def measured(self) -> tuple[int, bool]:
        with self.transport.lock:
            measured = self.transport.measure_locked(0)
        assert measured is not None
        return measured

    def step(self) -> bool:
        """Let the writer do what it can; say whether the connection goes on."""
        for _ in range(100):
            before = self.sender.waiting
            self.sender._turn()
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
        read = 0
        while read < 2_000_000:  # for 400 seconds
            slow.now += 0.5
            read += len(far.recv(2_500))
            assert slow.step(), (slow.sender.cause, read)


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux tells of a connection")
@pytest.mark.parametrize("before", [0, 2 << 20])
def test_fault_118_a_peer_that_stops_reading_is_cut_in_bounded_time(before: int) -> None:
    with tcp_pair() as (near, far):
        slow = Slow(near, far)
        for _ in range(4096):
            slow.sender.offer(b"x" * 2048, 1)
        while before > 0:
            before -= len(far.recv(1 << 16))
            slow.step()
        began = slow.now
        while slow.step():
            slow.now += 2.5
            assert slow.now - began <= 80
        assert slow.now - began >= 10
        assert slow.sender.stalled


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux tells of a connection")
def test_fault_124_a_peer_that_reads_a_backlog_lives_although_it_says_nothing() -> None:
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


def test_fault_124_a_peer_that_takes_nothing_is_not_alive() -> None:
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
    looks = threading.Semaphore(0)

    class Reading(Sender):
        __slots__ = ("left",)

        def is_acknowledged(self, timeout: float) -> bool:
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
            start=lambda *about: workers.Later("writer", *about),
        )
        sender.left = 5
        fill(near)
        near.setblocking(True)
        sender.ping()
        end = receive(
            transport,
            sender,
            HubConfig(heartbeat_interval=0.01, pong_timeout=0.02),
            ready=lambda: True,
            received=lambda data: None,
            count=lambda name: None,
        )
        assert end.reason == "pong timeout: nothing received for 0.02 s"
        assert not sender.left
        assert all(looks.acquire(timeout=0) for _ in range(6))
