"""Bursts to a reader that stops and goes: whole and in order by every way of sending.

Real sockets with the smallest buffers that the kernel gives, so that nothing fits at once;
what the fast way needs is taken away, one thing at a time, for a whole hub.
"""

from __future__ import annotations

import contextlib
import functools
import json
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.live import at_once
from tests.interventions import (
    io_uring_for_all,
    sends_by_libc,
    short_writes,
    without_libc,
    without_socket_flag,
)
from tests.support import messages_in, reset, small_pair, tcp_pair, wait_until
from ws_hub import Hub, HubConfig, Message
from ws_hub.connection.connection import Connection

GREETING = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
THREADS, EACH, WAVES = 3, 60, 3
SMALLEST = 1  # of a kernel buffer: the kernel makes the least of it that it can


# --- ways to the kernel --------------------------------------------------------------------


@contextlib.contextmanager
def without_poll() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(select, "poll")
        yield


# The name, how it is made, and whether frames then go by libc.
WAYS: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[Any]], bool]] = {
    "as_it_is": (contextlib.nullcontext, True),
    "without_the_symbol": (lambda: without_libc(AttributeError), False),
    "without_dontwait": (lambda: without_socket_flag("MSG_DONTWAIT"), False),
    "without_nosignal": (lambda: without_socket_flag("MSG_NOSIGNAL"), True),
    "without_poll": (without_poll, True),
    "by_io_uring": (io_uring_for_all, True),
    "in_pieces": (lambda: short_writes(seed=7, most=900), True),
}


# --- connections ---------------------------------------------------------------------------

Pair = tuple[socket.socket, socket.socket]
OpenPair = Callable[[], contextlib.AbstractContextManager[Pair]]


@contextlib.contextmanager
def plain_pair() -> Iterator[Pair]:
    with small_pair(SMALLEST) as pair:
        yield pair


@contextlib.contextmanager
def network_pair() -> Iterator[Pair]:
    # The smallest window would do, but that TCP then sends a few hundred bytes each 200 ms.
    with tcp_pair(sndbuf=SMALLEST, rcvbuf=16 * 1024) as pair:
        yield pair


@contextlib.contextmanager
def tls_pair(certificate: Path) -> Iterator[Pair]:
    """Yield both ends of a TLS connection over the smallest buffers."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    ends: list[ssl.SSLSocket] = []
    with small_pair(SMALLEST) as (near, far):
        with at_once(lambda: ends.append(server.wrap_socket(near, server_side=True))):
            ends.append(client.wrap_socket(far, server_hostname="localhost"))
        with ends[0], ends[1]:
            near, far = sorted(ends, key=lambda each: not each.server_side)
            yield near, far


class Reader:
    """The peer of one client, and what it has read."""

    def __init__(self, hub: Hub, pair: Pair) -> None:
        near, self.far = pair
        self.client: Connection = hub.connect(near, greeting=GREETING)
        self.client.start()
        self.data = bytearray()

    def read_to(self, end: str, *amounts: int) -> None:
        """Read up to a message, so much at a time, and the last amount from then on."""
        for amount in amounts:
            self.data += self.far.recv(amount)
        while not (end.encode() in self.data[-200:] and self.data.endswith(b'"}')):
            self.data += self.far.recv(amounts[-1])

    def messages(self) -> list[Any]:
        assert self.data.startswith(GREETING)
        texts = messages_in(bytes(self.data[len(GREETING) :]))
        return [json.loads(str(each))["data"] for each in texts]


@contextlib.contextmanager
def readers(pair: OpenPair) -> Iterator[tuple[Hub, Reader, Reader, Reader]]:
    """Yield a hub with three clients that listen to "news"."""
    config = HubConfig(close_timeout=0.2)
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(pair()) for _ in range(3)]
        hub = stack.enter_context(Hub(config))
        found = [Reader(hub, each) for each in pairs]
        wait_until(lambda: hub.client_count() == 3, what="three clients")
        for client in hub.all_clients():
            hub.subscribe(client, "news")
        yield hub, found[0], found[1], found[2]
        for reader in found:
            reader.client.abort()


def size_of(number: int) -> int:
    return (0, 90, 130, 700, 1500)[number % 5]


def publish(hub: Hub, thread: int, wave: int) -> None:
    """Publish a burst to all and to a channel."""
    for number in range(wave * EACH, (wave + 1) * EACH):
        message = Message("event", data=[thread, number, "x" * size_of(number)])
        if number % 3:
            hub.broadcast(message)
        else:
            hub.send_to_channel("news", message)


def publish_from_threads(hub: Hub, wave: int) -> str:
    """Publish from several threads at once; return what comes last."""
    work = [functools.partial(publish, hub, thread, wave) for thread in range(THREADS)]
    with at_once(*work):
        pass
    end = f"end of {wave}"
    hub.send_to_channel("news", Message("event", data=end))
    return end


def check_bursts(pair: OpenPair) -> None:
    """Publish to one who reads, to one who stops and goes, and to one who leaves."""
    with readers(pair) as (hub, quick, slow, leaving):
        for wave in range(WAVES):
            end = f"end of {wave}"
            with at_once(lambda end=end: quick.read_to(end, 4096)):
                if not wave:
                    leaving.data += leaving.far.recv(100)
                    reset(leaving.far)
                assert publish_from_threads(hub, wave) == end
                # It has stopped, and so there is a backlog; now it goes.
                wait_until(lambda: slow.client.waiting[0], what="a backlog")
            slow.read_to(end, *[1] * 500, 333)
        got = quick.messages()
        assert slow.messages() == got
        assert [each for each in got if isinstance(each, str)] == [
            f"end of {wave}" for wave in range(WAVES)
        ]
        for thread in range(THREADS):
            own = [each[1:] for each in got if each[0] == thread]
            assert own == [[number, "x" * size_of(number)] for number in range(WAVES * EACH)]
        assert len(got) == THREADS * WAVES * EACH + WAVES
        assert hub.stats().dropped == 0


@pytest.mark.parametrize("way", WAYS)
def test_bursts_are_whole_and_in_order(way: str) -> None:
    intervention, by_libc = WAYS[way]
    with intervention():
        assert sends_by_libc() == by_libc
        check_bursts(plain_pair)


@pytest.mark.parametrize("way", ["as_it_is", "by_io_uring"])
def test_bursts_are_whole_and_in_order_over_the_network(way: str) -> None:
    with WAYS[way][0]():
        check_bursts(network_pair)


@pytest.mark.parametrize("way", ["as_it_is", "by_io_uring"])
def test_bursts_are_whole_and_in_order_under_tls(way: str, certificate: Path) -> None:
    with WAYS[way][0]():
        check_bursts(lambda: tls_pair(certificate))
