"""What stands for the hub where one connection is tested alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ws_hub import threads
from ws_hub.access.quotas import Flood
from ws_hub.config import HubConfig
from ws_hub.connection.connection import Connection
from ws_hub.connection.fast_send import send_to_each
from ws_hub.connection.receiver import End, Receiver
from ws_hub.connection.sender import Sender
from ws_hub.connection.transport import Transport
from ws_hub.hub.items import Item, Queues
from ws_hub.hub.subscriptions import ChannelMap
from ws_hub.protocol.message import Encoder
from ws_hub.protocol.publication import Batch, Publication
from ws_hub.reentrant import ReentrantQueue, Wakeup

__all__ = ["LoneHub", "deliver", "hub_queues", "receive"]


@dataclass
class _Peer:
    """The peer of a connection that is received from alone."""

    is_ready: Callable[[], bool]
    take: Callable[[str | bytes], None]
    charge: Callable[[float, float, int, int], float | Flood]
    count: Callable[[str], object]
    will_wait: Callable[[], object]


def receive(
    transport: Transport,
    sender: Sender,
    config: HubConfig,
    *,
    received: Callable[[str | bytes], None],
    charge: Callable[[float, float, int, int], float | Flood],
    count: Callable[[str], object],
    ready: Callable[[], bool] = lambda: True,
) -> End:
    """Handle the input of a connection until it ends."""
    peer: Any = _Peer(ready, received, charge, count, lambda: None)
    return Receiver(transport, sender, config, peer).run()


class LoneHub:
    """A hub that admits its connection, keeps what it counts, and starts no writer.

    Each connection has a thread of its own.

    Attributes:
        admits: whether it admits it.
        closed: the connections that have begun their closing handshake.
        counted: the names of what was counted.
        put_off: what is to be called on the hub thread.
        channels: its subscriptions.
        on_connect, on_disconnect: the callbacks for its connection.
        encoder: encodes what is sent by it.
    """

    readers = None

    def __init__(self) -> None:
        self.encoder = Encoder()
        self.admits = True
        self.closed: list[Connection] = []
        self.counted: list[str] = []
        self.put_off: list[Callable[[], object]] = []
        self.channels: ChannelMap[Any] = ChannelMap()
        self.on_connect: Sequence[Callable[..., Any]] = ()
        self.on_disconnect: Sequence[Callable[..., Any]] = ()

    def opened(self, connection: Connection) -> bool:
        return True

    def admitted(self, connection: Connection, patience: float | None = None) -> bool:
        membership = connection.membership
        if not self.admits:
            membership.refuse()
        elif membership.admit():
            connection.accept()
        return membership.admitted

    def received(self, connection: Connection, data: str | bytes) -> None:
        pass

    def left(self, connection: Connection, *, wait: bool) -> None:
        pass

    def reader_ended(self, connection: Connection) -> None:
        pass

    def call(self, function: Callable[..., Any], *args: Any, connection: Connection) -> Any:
        return function(*args)

    def closing(self, connection: Connection) -> None:
        self.closed.append(connection)

    def subscriptions(self, connection: Connection) -> list[str]:
        return self.channels.of(connection)

    def count(self, name: str, times: int = 1) -> None:
        self.counted.extend([name] * times)

    def crowded(self, number: int, crowded: bool) -> None:
        pass

    def start_later(
        self, name: str, target: Callable[[], None], step: Callable[[], bool]
    ) -> threads.DeferredThread | None:
        """Return a writer that a test steps."""
        return threads.DeferredThread(name, target, step)

    def call_later(self, call: Callable[[], object]) -> None:
        self.put_off.append(call)


def hub_queues() -> Queues:
    """Return queues without a bound, which a test empties in the place of the hub thread."""
    wakeup = Wakeup()
    registers, unregisters = ReentrantQueue[Any](wakeup), ReentrantQueue[Any](wakeup)
    intake = wakeup, ReentrantQueue[Item](wakeup)
    return Queues(wakeup, registers, unregisters, ReentrantQueue(wakeup), intake)


def deliver(connection: Connection, batch: Batch) -> Sequence[Publication]:
    """Deliver straight, and else by way of the outbox; return what was refused."""
    refused: list[Publication] = []

    def begun(connection: Connection, sent: int) -> None:
        refused.extend(connection.begin_locked(batch, sent))

    for each in send_to_each([connection], batch.frames, begun):
        refused.extend(each.deliver(batch))
    return refused
