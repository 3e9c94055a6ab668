"""The whole way of a frame to the kernel, whatever that takes of it: client, sender, outbox.

Nothing runs by itself here: the test is the hub's thread, the others that send, and the
writer, one step at a time, and the kernel as well.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.delivery import LoneHub, deliver
from tests.interventions import kernel_send, without_libc_send
from tests.support import messages_in, small_pair
from ws_hub.config import HubConfig
from ws_hub.connection.connection import Connection
from ws_hub.connection.transport import Transport
from ws_hub.errors import SendTimeout
from ws_hub.protocol.frames import pong_frame
from ws_hub.protocol.message import Message
from ws_hub.protocol.publication import Batch, publish

GREETING = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
WAYS = ("libc", "portable")


class Kernel:
    """What takes a part of what it is given, or nothing, as it was told; and keeps it."""

    def __init__(self, appetite: list[int]) -> None:
        self.taken = b""
        self._appetite = itertools.cycle([*appetite, 1 << 20])  # some time it takes all

    def libc(self, fd: int, data: bytes, size: int, flags: int) -> int:
        """Stand for send(2): -1 is EAGAIN, after which the portable way is tried."""
        assert size == len(data)
        return self.take(data) or -1

    def take(self, data: bytes) -> int:
        part = data[: next(self._appetite)]
        self.taken += part
        return len(part)


class Socket(socket.socket):
    """One end of a pair whose `send` is the kernel's."""

    kernel: Kernel

    def send(self, data: Any, flags: int = 0) -> int:
        taken = self.kernel.take(data)
        if not taken:
            raise BlockingIOError
        return taken


@dataclass
class Rig:
    """A connection that is not started, and what its peer is to get."""

    connection: Connection
    kernel: Kernel
    numbers: Iterator[int] = field(default_factory=itertools.count)
    accepted: list[str] = field(default_factory=list)
    controls: list[bytes] = field(default_factory=list)

    def text(self, size: int) -> str:
        return f"{next(self.numbers)}:{'x' * size}"

    # --- what may happen -------------------------------------------------------------------

    def deliver(self, sizes: list[int]) -> None:
        """The hub's thread has a burst for it."""
        texts = [self.text(size) for size in sizes]
        batch = Batch([publish(text.encode(), "", "drop") for text in texts])
        refused = deliver(self.connection, batch)
        self.accepted += texts[: len(texts) - len(refused)]

    def send(self, sizes: list[int]) -> None:
        """Another thread has messages for this client alone."""
        for size in sizes:
            message = Message(self.text(size))
            with contextlib.suppress(SendTimeout):
                self.connection.send(message, timeout=0)
                self.accepted.append(message.type)

    def ping(self, sizes: list[int]) -> None:
        self.connection.ping()
        self.controls.append(b"")

    def pong(self, sizes: list[int]) -> None:
        """The peer has pinged."""
        payload = str(next(self.numbers)).encode()
        self.connection.sender.control(pong_frame(payload))
        self.controls.append(payload)

    def write(self, sizes: list[int]) -> None:
        """The writer has a few turns, while there is anything to write."""
        for _ in sizes:
            if self.connection.waiting[1]:
                assert self.connection.sender.turn()

    def drain(self, sizes: Sequence[int] = ()) -> None:
        """The writer has turns until nothing waits."""
        while self.connection.waiting[1]:
            assert self.connection.sender.turn()

    # --- what came of it -------------------------------------------------------------------

    def received(self) -> list[object]:
        """Let the writer finish; return what the peer makes of it all."""
        self.drain()
        assert self.kernel.taken.startswith(GREETING)
        return messages_in(self.kernel.taken[len(GREETING) :])


@contextlib.contextmanager
def rig(way: str, appetite: list[int]) -> Iterator[Rig]:
    kernel = Kernel(appetite)
    config = HubConfig(outbox_messages=12, outbox_bytes=4000)
    sending = kernel_send(kernel.libc) if way == "libc" else without_libc_send()
    with sending, small_pair() as (left, _):
        with Socket(fileno=left.detach()) as near:
            near.kernel = kernel
            transport = Transport(near, max_message_size=1000, max_fragments=10)
            connection = Connection(1, transport, config, LoneHub(), greeting=GREETING)
            yield Rig(connection, kernel)
            connection.abort()
            transport.close()


def text_of(message: object) -> object:
    """What a message was accepted as: what is sent alone is stamped on its way."""
    if isinstance(message, str) and message.startswith("{"):
        return message.split('"')[3]
    return message


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "deliver", "send", "ping", "pong", "write", "drain", "drain"]),
        st.lists(st.integers(0, 700), min_size=1, max_size=5),
    ),
    max_size=40,
)
APPETITE = st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 50, 125, 130, 700, 5000]), max_size=30)


def happen(steps: list[tuple[str, list[int]]], found: Rig) -> None:
    for name, sizes in steps:
        getattr(found, name)(sizes)
        # Frames go straight to the kernel when nothing waits, and never else.
        if found.connection.waiting[1]:
            assert found.connection.direct.fd == -1


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(WAYS), APPETITE, STEPS)
def test_accepted_messages_arrive_once_whole_and_in_order(
    way: str, appetite: list[int], steps: list[tuple[str, list[int]]]
) -> None:
    with rig(way, appetite) as found:
        happen(steps, found)
        found.connection.close(4000, "bye")
        found.deliver([1])  # to one who is going: no loss, and nothing is written
        received = found.received()
    assert received.pop() == 4000
    texts = [text_of(each) for each in received if isinstance(each, str)]
    assert texts == found.accepted[:-1]
    # Between frames; of each kind in order, and a newer one stands for those before it.
    controls = [each for each in received if isinstance(each, bytes)]
    for kind in (bool, operator.not_):  # pongs, pings
        mine = list(filter(kind, found.controls))
        came = list(filter(kind, controls))
        assert came[-1:] == mine[-1:]
        left = iter(mine)
        assert all(each in left for each in came)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.sampled_from(WAYS), APPETITE, STEPS)
def test_a_disconnected_client_got_whole_frames_without_a_gap(
    way: str, appetite: list[int], steps: list[tuple[str, list[int]]]
) -> None:
    with rig(way, appetite) as found:
        happen(steps, found)
        begun = len(found.kernel.taken)
        found.connection.evict("too slow")
        received = found.received()
    assert len(found.kernel.taken) > begun
    assert received.pop() == 1013
    texts = [text_of(each) for each in received if isinstance(each, str)]
    assert texts == found.accepted[: len(texts)]
