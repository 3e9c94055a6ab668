"""A hub in the test's own process, served over real sockets, and what it called back."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import Client, Hub, HubConfig, Server, serve
from ws_hub.connection.connection import Connection
from ws_hub.testing import FaultProxy


class Live:
    """A served hub. Its callbacks are noted unless a test brings its own."""

    def __init__(self, hub: Hub, server: Server, notes: Notes) -> None:
        self.hub = hub
        self.server = server
        self.notes = notes

    def peer(self, *, through: FaultProxy | None = None, **options: Any) -> RawPeer:
        port = self.server.port if through is None else through.port
        return RawPeer("127.0.0.1", port, **options)

    def subscribed(self, *channels: str, **options: Any) -> RawPeer:
        peer = self.peer(**options)
        try:
            for channel in channels:
                subscribe(peer, channel)
        except BaseException:
            peer.sock.close()
            raise
        return peer

    def client(self) -> Client:
        """Return the newest client, once it is there."""
        return wait_until(self.hub.all_clients, what="a client")[-1]

    def connection(self) -> Connection:
        """Return the newest client's connection, once it is there."""
        return wait_until(self.hub._life.registry.connections, what="a connection")[-1]

    def empty(self) -> None:
        wait_until(lambda: self.hub.client_count() == 0, what="all clients gone")


class Notes:
    """Callbacks of a hub that write down what they are called with."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[Any, ...]] = queue.Queue()  # guards: itself.
        self.seen: list[tuple[Any, ...]] = []

    def on_connect(self, client: Client) -> None:
        self.note("connect", client.id)

    def on_disconnect(self, client: Client, code: int, reason: str) -> None:
        self.note("disconnect", client.id, code, reason)

    def note(self, *event: Any) -> None:
        self.seen.append(event)
        self.events.put(event)

    def next(self) -> tuple[Any, ...]:
        return self.events.get(timeout=TIMEOUT)

    def end(self) -> tuple[int, str]:
        """Return code and reason of the next disconnect."""
        while True:
            event = self.next()
            if event[0] == "disconnect":
                return event[2], event[3]


@contextlib.contextmanager
def live(**settings: Any) -> Iterator[Live]:
    """Serve a hub with these settings.

    What a program uses is not told, unless a setting says so: it has no number, and how often it
    comes between numbered messages depends on the machine.
    """
    notes = Notes()
    settings = {"usage_interval": 0, **settings}
    callbacks = {"on_connect": notes.on_connect, "on_disconnect": notes.on_disconnect}
    with Hub(HubConfig(**{**callbacks, **settings})) as hub, serve(hub) as server:
        yield Live(hub, server, notes)


def subscribe(peer: RawPeer, channel: str, **position: Any) -> Any:
    """Subscribe a peer that nobody talks to yet; return the ack's data."""
    peer.send_json({"type": "subscribe", "channel": channel, "id": channel, **position})
    answer = peer.recv_json()
    assert (answer["type"], answer["id"]) == ("ack", channel), answer
    return answer["data"]


@contextlib.contextmanager
def at_once(*functions: Any) -> Iterator[None]:
    """Run functions on threads of their own beside the block; raise what they raised."""
    failed: list[BaseException] = []

    def run(function: Any) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    threads = [
        threading.Thread(target=run, args=(function,), name="test:beside", daemon=True)
        for function in functions
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(6 * TIMEOUT)
    assert not any(thread.is_alive() for thread in threads), "a thread of the test hangs"
    if failed:
        raise failed[0]
