"""The hub through its front door: a hub that a test turns, peers on socket pairs, interventions.

The only module of tests that may know private names of ws_hub's objects. Three parts:

- `SteppedHub` is a hub without a thread of its own. `turn` does one turn of the hub thread on
  the calling thread, `settle` turns until nothing is left to do.
- `Peer` is the far end of a client that has come in through `Hub.connect`, of a stepped hub or
  of one that runs. It reads what arrives as parsed messages.
- Interventions are functions that make the rare happen: the hub thread stands still, something
  of the hub's own fails, no thread is to be had, something happens between two lines.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import resource
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Self

import pytest
from websocket import ABNF
from wsproto import connection as wsproto
from wsproto.events import CloseConnection, Event, Pong, TextMessage

from tests.interventions import patched
from tests.support import CLOSE, PING, TEXT, TIMEOUT, RawPeer, fill, small_pair, wait_until
from ws_hub import Client, Hub, HubConfig, LocalBackplane, reentrant
from ws_hub.connection.connection import Connection
from ws_hub.connection.ring import Ring
from ws_hub.connection.sender import Sender
from ws_hub.hub import hub as hub_module
from ws_hub.hub import prefork, recorder, replay, shutdown
from ws_hub.hub.items import Call, Publications
from ws_hub.hub.life import Life, State
from ws_hub.protocol import compression
from ws_hub.protocol.publication import Publication
from ws_hub.protocol.requests import Subscribe
from ws_hub.reconnect import connection as reconnect_connection
from ws_hub.reconnect.stream import Stream
from ws_hub.reentrant import Event as ReentrantEvent
from ws_hub.reentrant import ReentrantQueue
from ws_hub.server import server as server_module
from ws_hub.threads import LazyCondition

__all__ = [
    "Clock",
    "End",
    "Gate",
    "Peer",
    "SteppedHub",
    "after_put",
    "at_new_life",
    "await_stalled_replays",
    "batches_every",
    "before_put",
    "callers",
    "channels_remembered",
    "connected_payers",
    "crowd",
    "delivery_fails",
    "descriptor_of",
    "end_of",
    "fork_in_gunicorns_master",
    "full_queue",
    "holding_locks",
    "housekeeping_fails",
    "is_inside_call",
    "is_locked",
    "is_pushing",
    "keep_numberings",
    "later",
    "leave_channels",
    "listeners_hold",
    "little_grace",
    "long_grace",
    "map_is_changed",
    "messages_go_to",
    "moved_clock",
    "nobody_warned_of_forks",
    "one_piece_a_turn",
    "parked",
    "parked_in_last_steps",
    "peeks_wait",
    "publish_as_it_is",
    "queue_message",
    "queued",
    "requests_fail",
    "returns_per_second",
    "ring_of",
    "seen_as_room",
    "server_waits_for_room",
    "settled_by",
    "stop_accepting",
    "subscribe_target",
    "waiting_threads",
    "waits_move_clock",
    "weight",
    "within_listen",
]

_GREETING = b"101"  # stands for the accepting answer of a handshake
_LONG = 6 * TIMEOUT  # seconds of a wait that ends when the test does


# --- a hub that a test turns ---------------------------------------------------------------


class SteppedHub(Hub):
    """A hub without a thread of its own: what the hub thread does is done by `turn`.

    It begins its life when it is made. `stop`, or leaving its `with`, has the peers leave and
    ends it, on the calling thread.

    Args:
        settings: those of `HubConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(HubConfig(**settings))
        self._peers: list[Peer] = []
        self.start()

    def start(self) -> Self:
        """Begin a life, on no thread; no change when it has begun."""
        self._begin()
        return self

    def turn(self, timeout: float = 0.0) -> None:
        """Do one turn of the hub thread; where nothing is to be done, wait for that.

        Fails when something is queued and the hub thread would not have been woken for it.
        """
        wait_until(lambda: self._is_idle() or not self._life.wakeup.empty(), what="a ring")
        with self.on_hub_thread():
            self._turn(timeout)

    def settle(self) -> None:
        """Turn until nothing is queued, and no replay can go on."""
        self.turn()
        while not self._is_idle() or self._life.replays.next_turn() < float("inf"):
            self.turn(0.01)

    def join(self, **options: Any) -> Peer:
        """Return the peer of a new client that is registered."""
        return Peer(self, **options)

    @contextlib.contextmanager
    def on_hub_thread(self) -> Iterator[None]:
        """Have the calling thread count as the hub thread meanwhile."""
        life, before = self._life, self._life.thread
        life.thread = threading.current_thread()
        try:
            yield
        finally:
            life.thread = before

    def stop(self, timeout: float | None = None) -> None:
        """Have the peers leave, and end the hub. Idempotent."""
        for peer in self._peers:
            peer.cut()
        life = self._life
        if life.state is not State.STOPPED:
            life.state = State.CLOSING
            self._loop(life)
        for peer in self._peers:
            peer.end()

    def _is_idle(self) -> bool:
        life = self._life
        return life.registers.empty() and life.unregisters.empty() and life.broadcasts.empty()


# --- the far end of a client ---------------------------------------------------------------


class Peer:
    """The far end of a client that has come in through `Hub.connect`, over a socket pair.

    Its client has a reader thread, as every client has. `with Peer(hub) as peer:` has been
    admitted; with `admitted=False` that is not waited for. Leaving the `with` cuts it.

    Args:
        hub: a stepped hub, which is turned until the client is in, or one that runs.
        admitted: whether to wait until the client is registered.
        buffer: bytes of the kernel's buffers.
        options: further ones of `Hub.connect`.

    Attributes:
        sock: the socket of this end.
        descriptor: that of the hub's end.
    """

    def __init__(
        self, hub: Hub, *, admitted: bool = True, buffer: int = 1 << 16, **options: Any
    ) -> None:
        self._hub = hub
        self._sockets = contextlib.ExitStack()
        self._near, self.sock = self._sockets.enter_context(small_pair(buffer))
        self.descriptor = self._near.fileno()
        self._parser = wsproto.Connection(wsproto.ConnectionType.CLIENT)
        self._messages: deque[Any] = deque()
        self._text = ""  # what has arrived of the next message
        self._pongs = 0
        self._closing = False  # this end has sent its Close frame
        self._close: tuple[int, str] | None = None  # the hub's
        self._over = False
        options = {"greeting": _GREETING, "remote_address": "test:1", **options}
        self._client: Client | None = None
        self._connection = hub.connect(self._near, **options)
        self._connection.start()
        if isinstance(hub, SteppedHub):
            hub._peers.append(self)
        if admitted:
            self._await_admission()

    def _await_admission(self) -> None:
        def admitted() -> bool:
            if isinstance(self._hub, SteppedHub):
                self._hub.turn(0.01)  # woken by the registration
            return any(each.id == self._connection.id for each in self._hub.all_clients())

        wait_until(admitted, what="a registered client")
        assert self.client.id == self._connection.id
        assert self.sock.recv(len(_GREETING), socket.MSG_WAITALL) == _GREETING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        if not isinstance(self._hub, SteppedHub):
            self.end()

    @property
    def client(self) -> Client:
        """The client, as callbacks get it; kept from here on."""
        if self._client is None:
            self._client = wait_until(lambda: self._connection.client, what="a client")
        return self._client

    # --- sending -----------------------------------------------------------

    def say(self, *texts: str | bytes, wait: bool = True, **fields: Any) -> None:
        """Send messages, and wait until the client's reader thread has handled them.

        They are text or binary as they are, or one JSON message of `fields`. What they have
        queued for the hub thread is done in its next turn. `wait=False` for what the hub may
        be long in handling.
        """
        for each in texts or (json.dumps(fields),):
            data = each.encode() if isinstance(each, str) else each
            self.sock.sendall(RawPeer.frame(TEXT if isinstance(each, str) else 2, data))
        if wait:
            self._pongs = 0
            self.sock.sendall(RawPeer.frame(PING, b"handled?"))
            self._read_until(lambda: bool(self._pongs) or self._over)

    def close(self) -> None:
        """Send a Close frame without a code."""
        self._closing = True
        self.sock.sendall(RawPeer.frame(CLOSE))

    # --- reading -----------------------------------------------------------

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived by now."""
        self.sock.setblocking(False)
        try:
            while not self._over:
                self._read()
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(TIMEOUT)
        found, self._messages = list(self._messages), deque()
        return found

    def message(self) -> dict[str, Any]:
        """Wait for the next message and return it."""
        self._read_until(lambda: bool(self._messages))
        found: dict[str, Any] = self._messages.popleft()
        return found

    def rest(self) -> list[Any]:
        """Read until the hub closes: the types of the messages, then the close code."""
        closed = self.closed()
        found = [each["type"] for each in self._messages]
        self._messages.clear()
        return found if closed is None else [*found, closed[0]]

    def closed(self) -> tuple[int, str] | None:
        """Read until the connection has ended, and answer the Close frame.

        Returns code and reason of that, None when the connection ended without one.
        """
        self._read_until(lambda: self._over or self._close is not None)
        if not self._over:
            if not self._closing:
                with contextlib.suppress(OSError):
                    self.close()
            self._read_until(lambda: self._over)
        return self._close

    def _read_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._read()

    def _read(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:  # it ended before all was read that this end has sent
            data = b""
        if not data:
            self._over = True
            return
        self._parser.receive_data(data)
        for event in self._parser.events():
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, TextMessage):
            self._text += event.data  # of a frame that has arrived in part, it is a part
            assert event.message_finished or not event.frame_finished, "a message in fragments"
            if event.message_finished:
                self._messages.append(json.loads(self._text))
                self._text = ""
        elif isinstance(event, CloseConnection):
            self._close = int(event.code), event.reason or ""
        elif isinstance(event, Pong):
            self._pongs += 1

    # --- ending ------------------------------------------------------------

    def fill(self) -> None:
        """Fill the kernel's buffers towards this end, with what is no message."""
        fill(self._near)

    def cut(self) -> None:
        """End the connection from this side, without a closing handshake. Idempotent."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """End the connection; returns when the hub is without its client."""

        def gone() -> bool:
            if isinstance(self._hub, SteppedHub):
                self._hub.turn(0.01)
            return all(each.id != self._connection.id for each in self._hub.all_clients())

        self.cut()
        wait_until(gone, what="a client less")

    def ended(self, timeout: float = TIMEOUT) -> bool:
        """Wait until the client's reader thread has ended; say whether it has."""
        return self._connection.join(timeout)

    def end(self) -> None:
        """Wait until the client's reader thread has ended, and close the sockets."""
        ended = self.ended()
        self._sockets.close()
        assert ended, "the reader thread of a peer has not ended"


# --- time ----------------------------------------------------------------------------------


class Clock:
    """The monotonic clock of this process, which stands still until a test moves it.

    Attributes:
        now: its time, in seconds.
        meanwhile: called when a wait has moved it; see `waits_move_clock`.
    """

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.meanwhile: Callable[[], object] = int

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds


@contextlib.contextmanager
def moved_clock() -> Iterator[Clock]:
    """Have the monotonic clock of the process stand still, but for what the test moves it by."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: clock.now)
        yield clock


@contextlib.contextmanager
def waits_move_clock() -> Iterator[Clock]:
    """Have the calling thread's waits for clients to read move the clock, and not be waited.

    Such a wait moves the clock by all of its seconds and calls `Clock.meanwhile`, which may read
    at the far end. Nothing else moves the clock, so that another thread's wait for a client ends
    only when it is woken. Applies to the clients that come in meanwhile.
    """
    here, wait = threading.get_ident(), LazyCondition.wait
    defaults = Sender.__init__.__kwdefaults__

    def move_or_wait(changed: LazyCondition, timeout: float | None = None) -> None:
        if threading.get_ident() == here:
            assert timeout is not None, "the test would wait for ever"
            clock.advance(timeout)
            clock.meanwhile()
        else:
            wait(changed, None if timeout is None else 2 * _LONG)

    with moved_clock() as clock, pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "clock", lambda: clock.now)
        patch.setattr(LazyCondition, "wait", move_or_wait)
        yield clock


# --- the hub thread ------------------------------------------------------------------------


def later(hub: Hub, call: Callable[[], object]) -> None:
    """Have the hub thread call something in its next turn, however full its queue is."""
    hub._life.broadcasts.force(Call(call))


def crowd(hub: Hub, client: Client) -> None:
    """Have a client count as one whose outbox is more than half full."""
    hub._life.pacing.mark(client.id, True)


class Gate:
    """Where a thread of the hub's stands still until the test lets it go on.

    Leaving its `with` opens it.
    """

    def __init__(self) -> None:
        self._arrived, self._opened = threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def await_arrival(self) -> None:
        """Wait until the thread stands here."""
        assert self._arrived.wait(TIMEOUT), "nobody has come to the gate"

    def open(self) -> None:
        """Let the thread go on. Idempotent."""
        self._opened.set()

    def pass_through(self) -> bool:
        """Stand still until it is open: for the thread of the hub's."""
        self._arrived.set()
        return self._opened.wait(_LONG)


@contextlib.contextmanager
def parked(hub: Hub) -> Iterator[Gate]:
    """Have the hub thread stand still in a turn meanwhile, or until the gate is opened."""
    with Gate() as gate:
        later(hub, gate.pass_through)
        gate.await_arrival()
        yield gate


# --- the queue -----------------------------------------------------------------------------


def queued(hub: Hub) -> list[Any]:
    """Take what is published and not delivered; return the data of each message.

    Fails when something is queued and the hub thread would not have been woken for it.
    """
    life, found = hub._life, []
    while not life.broadcasts.empty():
        assert not life.wakeup.empty(), "the hub thread was not woken"
        item = life.broadcasts.get_nowait()
        each: Sequence[Any] = item.each if isinstance(item, Publications) else (item,)
        found += [json.loads(publication.text)["data"] for publication in each]
    life.wakeup.wait(0)
    return found


@contextlib.contextmanager
def full_queue(hub: Hub) -> Iterator[None]:
    """Have another thread fill the queue meanwhile; what waits in it then is lost."""
    broadcasts = hub._life.broadcasts
    broadcasts.queue.extend([Call(int)] * broadcasts.maxsize)
    yield
    broadcasts.queue.clear()


def before_put(hub: Hub, act: Callable[[], object]) -> AbstractContextManager[None]:
    """Act whenever something was accepted for the queue and is about to be put there."""
    put = hub._life.broadcasts.put

    def act_and_put(*args: Any, **settings: Any) -> None:
        act()
        put(*args, **settings)

    return patched(hub._life.broadcasts, "put", act_and_put)


def after_put(hub: Hub, act: Callable[[], object]) -> AbstractContextManager[None]:
    """Act whenever something was put into the queue, before the thread that put it goes on."""
    put = hub._life.broadcasts.put

    def put_and_act(*args: Any, **settings: Any) -> None:
        put(*args, **settings)
        act()

    return patched(hub._life.broadcasts, "put", put_and_act)


def publish_as_it_is(hub: Hub, publication: Publication) -> None:
    """Queue a publication that none of the checks of `Hub` has seen."""
    hub._enqueue(publication)


def waiting_threads(of: Client | Hub | ReentrantEvent | ReentrantQueue[Any]) -> int:
    """Return how many threads wait.

    Args:
        of: an event; a queue, for room in it; a hub, for room in its queue; a client, for it to
            read.
    """
    if isinstance(of, Client):
        condition = of._link.sender._changed._condition
        return 0 if condition is None else len(condition._waiters)
    if isinstance(of, Hub):
        of = of._life.broadcasts
    modest = of._modest_gates if isinstance(of, ReentrantQueue) else []
    return len(of._gates) + len(modest)


# --- start and stop ------------------------------------------------------------------------


def stop_accepting(hub: Hub) -> None:
    """Bring a hub to the moment of its end from which on nothing is published any more."""
    hub._life.state = State.CLOSING


class End:
    """The end of a hub's present life.

    Args:
        hub: the hub.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._life: Life = hub._life

    @property
    def is_reached(self) -> bool:
        """Whether everything of that life has ended."""
        return self._life.finished.is_set()

    @property
    def waiting(self) -> int:
        """How many threads wait for it."""
        return waiting_threads(self._life.finished)

    def come_late(self) -> None:
        """Run what the threads of that life would run that come to it after its end."""
        self._hub._loop(self._life)
        self._hub._wind_down(self._life)


def end_of(hub: Hub) -> End:
    """Return the end of a hub's present life."""
    return End(hub)


def at_new_life(hub: Hub, act: Callable[[], object]) -> AbstractContextManager[None]:
    """Act whenever `start` has seen that it may, and is about to make a new life."""
    renew = hub._new_life

    def act_and_renew() -> Life:
        act()
        return renew()

    return patched(hub, "_new_life", act_and_renew)


def is_locked(hub: Hub) -> bool:
    """Say whether another thread than the calling one holds the hub's own lock."""
    if not hub._lock.acquire(blocking=False):
        return True
    hub._lock.release()
    return False


@contextlib.contextmanager
def parked_in_last_steps(hub: Hub) -> Iterator[Gate]:
    """Have a stop stand still in its last steps meanwhile, when it comes there."""
    gate = Gate()
    with pytest.MonkeyPatch.context() as patch, gate:
        patch.setattr(hub._life.poller, "join", lambda timeout: gate.pass_through())
        yield gate


def within_listen(
    hub: Hub, act: Callable[[], object], *, before: bool
) -> AbstractContextManager[None]:
    """Act within `Hub.listen`, before or after the listener may subscribe."""
    channels = hub._life.channels
    enter = channels.enter

    def act_and_enter(listener: Any) -> None:
        if before:
            act()
        enter(listener)
        if not before:
            act()

    return patched(channels, "enter", act_and_enter)


def little_grace() -> AbstractContextManager[None]:
    """Have the end of a hub wait hardly longer than its close timeout."""
    return patched(shutdown, "GRACE", 0.02)


def long_grace() -> AbstractContextManager[None]:
    """Have the end of a server wait TIMEOUT for a thread that does not end."""
    return patched(server_module, "_GRACE", TIMEOUT)


def batches_every(seconds: float) -> AbstractContextManager[None]:
    """Have `drain` rest so long between two batches."""
    return patched(shutdown, "_PACE", seconds)


def returns_per_second(clients: float) -> AbstractContextManager[None]:
    """Have `drain` spread the returns so that so many clients come back in a second."""
    return patched(shutdown, "_PER_SECOND", clients)


def fork_in_gunicorns_master() -> None:
    """Do what follows a fork in the parent, as if gunicorn's master had forked a worker."""
    eval("forked()", {"__name__": "gunicorn.arbiter", "forked": prefork._forked})


def nobody_warned_of_forks() -> AbstractContextManager[None]:
    """Have this process count as one that was not warned of hubs in a master yet."""
    return patched(prefork, "_warned", False)


# --- what fails ----------------------------------------------------------------------------


def _fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("made to fail by a test")


@contextlib.contextmanager
def full_disk(file: Path, most: int | None = None) -> Iterator[None]:
    """Have no file of this process grow beyond a size: that of a history's file, or `most`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = file.stat().st_size if most is None else most
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def channels_remembered(count: int) -> AbstractContextManager[None]:
    """Have a recorder remember of so many channels how far they are delivered."""
    return patched(recorder, "_MAX_CHANNELS", count)


@contextlib.contextmanager
def delivery_fails(hub: Hub) -> Iterator[None]:
    """Have the delivery of publications fail, by an error of the hub's own."""
    dispatcher = hub._life.dispatcher
    with patched(dispatcher, "dispatch", _fail), patched(dispatcher, "dispatch_watched", _fail):
        yield


def requests_fail(hub: Hub) -> AbstractContextManager[None]:
    """Have the handling of clients' messages fail, by an error of the hub's own."""
    return patched(hub._life.requests, "_carry_out", _fail)


@contextlib.contextmanager
def housekeeping_fails(hub: Hub) -> Iterator[None]:
    """Have everything fail that the hub thread does when it is due: pings, ends, old history."""
    life = hub._life
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (life.history, "expire"),
            (life.registry, "beat"),
            (life.clients, "expire"),
        ):
            patch.setattr(owner, name, _fail)
        yield


# --- clients and channels ------------------------------------------------------------------


def leave_channels(hub: Hub, client: Client) -> None:
    """Take a client out of all channels, as its end does while its reader still reads."""
    hub._life.channels.leave(client)


def messages_go_to(
    hub: Hub, receive: Callable[[Connection, str | bytes], None]
) -> AbstractContextManager[None]:
    """Have a function get the messages of clients that come in meanwhile, as they are."""
    return patched(hub._life, "received", receive)


def queue_message(connection: reconnect_connection.Connection, data: str | bytes) -> int:
    """Queue any message of a `ReconnectingClient`, binary ones too; return its mark for `flush`.

    It is compressed, however short, where that was agreed on.
    """
    payload = data.encode() if isinstance(data, str) else data
    opcode = ABNF.OPCODE_TEXT if isinstance(data, str) else ABNF.OPCODE_BINARY
    if connection._compression:
        payload = compression.finish(compression.begin(payload))
    frame = reconnect_connection._frame(payload, opcode, connection._compression)
    return connection._stream.append(frame)


def subscribe_target(hub: Hub, target: Any, channel: str) -> None:
    """Have an object of the test's own be delivered to, as a client is."""
    hub._life.channels.enter(target)
    hub._subscribe(target, Subscribe(channel))


def connected_payers(hub: Hub) -> set[str]:
    """Return the payers whose accounts are kept because they have a connection."""
    return set(hub._life.clients.quotas._accounts)


def seen_as_room(hub: Hub) -> AbstractContextManager[None]:
    """Have admission see room for everybody, as it does for those who come at once."""
    return patched(hub._life.clients, "has_room", lambda network, user: True)


def keep_numberings(hub: Hub, channels: int) -> None:
    """Have the history of a hub keep the numbering of so many channels without messages."""
    hub._life.history._max_channels = channels


def await_stalled_replays(hub: Hub, clients: int) -> None:
    """Wait until so many clients have replays, and none of them can be sent more.

    Each has a full socket, an outbox in use or an exhausted quota. With 0 clients, every
    replay has ended.
    """
    replays = hub._life.replays
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def look() -> None:  # on the hub thread, which is in the middle of no replay then
        answers.put(len(replays._queues) == clients and not replays._ready)

    def stalled() -> bool:
        later(hub, look)
        return answers.get(timeout=TIMEOUT)

    wait_until(stalled, what=f"{clients} clients with replays that cannot go on")


def one_piece_a_turn() -> AbstractContextManager[None]:
    """Have a turn of the hub thread end after one piece of a replay, as when each takes long."""
    return patched(replay, "_TURN", 0.0)


def listeners_hold(messages: int) -> AbstractContextManager[None]:
    """Have a listener keep so many messages that wait for its function."""
    return patched(hub_module, "_LISTENER_MESSAGES", messages)


def server_waits_for_room(seconds: float) -> AbstractContextManager[None]:
    """Have a server of ours that is full let a connection wait so long before it says so."""
    return patched(server_module, "_QUEUE", seconds)


def peeks_wait() -> AbstractContextManager[None]:
    """Have a server of ours that looks at a request before it has a thread wait for its bytes."""
    peek = server_module._peek
    return patched(server_module, "_peek", lambda sock: wait_until(lambda: peek(sock)))


def settled_by(
    connection: Connection, wait: Callable[[float], bool]
) -> AbstractContextManager[None]:
    """Have `wait(timeout)` stand for the wait of a connection's reader for the hub thread."""
    return patched(connection.membership.settled, "wait", wait)


@contextlib.contextmanager
def map_is_changed(hub: Hub) -> Iterator[None]:
    """Have the calling thread be in the middle of a change of the subscriptions."""
    with hub._life.channels._lock:
        yield


@contextlib.contextmanager
def holding_locks(hub: Hub, client: Client) -> Iterator[None]:
    """Have the calling thread hold every lock of a hub and one of its clients."""
    life = hub._life
    with contextlib.ExitStack() as stack:
        for lock in (
            hub._lock,
            life.channels._lock,
            life.registry._lock,
            life.counters._lock,
            life.clients.users._lock,
            client._link.direct.lock,
        ):
            stack.enter_context(lock)
        yield


def is_inside_call(client: Client) -> bool:
    """Say whether the calling thread is inside a call for this client, which holds its lock."""
    return client._link.direct.lock.locked()


def is_pushing(stream: Stream) -> bool:
    """Say whether a thread is in the middle of a push of a stream."""
    return stream._pushing.locked()


def callers() -> frozenset[str]:
    """Return the names of the modules that call users' functions, which may wait."""
    return reentrant._CALLERS


# --- what is kept --------------------------------------------------------------------------


def weight(thing: object, *, without: object = None) -> int:
    """Return how many objects a thing keeps, and how many places in containers; no code.

    For what must cost nothing any more: it weighs then as much as before. What is reached
    through `without` is not counted, nor are numbers.
    """
    found, waiting = {id(without)}, [thing]
    total = 0
    while waiting:
        each = waiting.pop()
        if id(each) in found or isinstance(each, _WEIGHTLESS):
            continue
        found.add(id(each))
        total += 1 + (len(each) if isinstance(each, (dict, list, set, deque)) else 0)
        waiting += gc.get_referents(each)
    return total


_WEIGHTLESS = (int, float, type, ModuleType, FunctionType, BuiltinFunctionType)


def ring_of(hub: Hub) -> Ring:
    """Return what sends broadcasts by io_uring."""
    return hub._life.ring


def descriptor_of(sock: socket.socket) -> int:
    """Return the descriptor that this process has of the far end of a connection."""
    wanted = sock.getsockname()
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # it is closed by now, or connected with nothing
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as other:
                    if other.getpeername() == wanted:
                        return number
    raise AssertionError(f"nothing here is connected with {wanted}")


def bus_connections(bus: LocalBackplane) -> list[socket.socket]:
    """Return the sockets between a backplane and the other processes."""
    exchange = bus._exchange
    assert exchange is not None
    return [peer.sock for peer in [*exchange._sending.values(), *exchange._receiving]]


def look_for_others(bus: LocalBackplane) -> None:
    """Have a backplane look for other processes now, instead of in some seconds."""
    exchange = bus._exchange
    assert exchange is not None
    exchange._next_look = 0.0
    exchange._wake.signal()
